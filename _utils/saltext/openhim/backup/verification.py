"""The record of one verification of a restore point: who restored it, when, and what came of it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from saltext.openhim.backup.manifest import (
    MALFORMED,
    DamagedManifest,
    ManifestError,
    NewerFormat,
    canonical,
    checked,
    digest,
)

FORMAT = 1

#: What the secret signs is this kind of record and no other text.
_PURPOSE = b"saltext-openhim verification 1\n"


class NotSigned(ManifestError):
    """The record does not come from who may call a restore point good."""


@dataclass(frozen=True)
class Verification:
    """Kept as a small snapshot beside the point's parts; never inside the manifest, which is final.

    manifest_sha256: of the manifest that was restored from; a record of another one says nothing.
    ok: everything compared as equal and every assertion held. sampled: only a part was compared.
    at: ISO 8601, UTC. details: what was compared and asserted, for a person.
    """

    point: str
    stack: str
    manifest_sha256: str
    ok: bool
    at: str
    by: str
    host: str
    milliseconds: int = 0
    sampled: bool = False
    reasons: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def time(self) -> datetime:
        """``at`` as a time."""
        return datetime.fromisoformat(self.at.replace("Z", "+00:00"))

    def to_json(self, secret: str = "") -> bytes:
        """The file: ``{"verification": …, "sha256": …}``, and ``hmac`` where there is a secret."""
        content = json.loads(json.dumps(asdict(self)))
        whole = {"verification": content, "sha256": digest(content)}
        if secret:
            whole["hmac"] = _signature(secret, content)
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, secret: str = "") -> Verification:
        """Read a record; a damaged or a newer one raises as a manifest's does.

        secret: with it :class:`NotSigned` is raised for a record of somebody who does not have it.
        """
        try:
            whole = json.loads(data)
            content, recorded = whole["verification"], whole["sha256"]
            found = content["format"]
        except MALFORMED as error:
            raise DamagedManifest("the verification record is damaged; verify again") from error
        if found != FORMAT:
            raise NewerFormat(
                f"the verification record has format {found}; this version of saltext-openhim "
                "reads "
                f"{FORMAT}. Upgrade it, or verify again"
            )
        try:
            if digest(content) != recorded:
                raise ValueError("its contents do not match the SHA-256 that it carries")
            signature = str(whole.get("hmac", "")).encode()
            if secret and not hmac.compare_digest(signature, _signature(secret, content).encode()):
                raise NotSigned(
                    "the verification record is not signed with "
                    "openhim:backup:verification_secret, so anybody may have written it; verify "
                    "again"
                )
            values = checked(cls, content)
            record = cls(**{**values, "reasons": tuple(map(str, values.get("reasons", ())))})
            if record.time.tzinfo is None:
                raise ValueError("a time without its zone")
            return record
        except MALFORMED as error:
            raise DamagedManifest(
                f"the verification record is damaged ({error}); verify again"
            ) from error


def _signature(secret: str, content: Any) -> str:
    return hmac.new(secret.encode(), _PURPOSE + canonical(content), hashlib.sha256).hexdigest()
