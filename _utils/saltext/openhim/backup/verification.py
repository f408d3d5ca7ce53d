"""The record of one verification of a restore point: who restored it, when, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from saltext.openhim.backup.manifest import (
    MALFORMED,
    DamagedManifest,
    NewerFormat,
    checked,
    digest,
)

FORMAT = 1


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

    def to_json(self) -> bytes:
        """The file: ``{"verification": …, "sha256": …}``."""
        content = json.loads(json.dumps(asdict(self)))
        whole = {"verification": content, "sha256": digest(content)}
        return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Verification:
        """Read a record; a damaged or a newer one raises as a manifest's does."""
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
            values = checked(cls, content)
            datetime.fromisoformat(values["at"].replace("Z", "+00:00")).astimezone(timezone.utc)
            return cls(**{**values, "reasons": tuple(map(str, values.get("reasons", ())))})
        except MALFORMED as error:
            raise DamagedManifest(
                f"the verification record is damaged ({error}); verify again"
            ) from error
