"""The record of one verification of a restore point: who restored it, when, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from saltext.openhim.backup.manifest import DamagedManifest, NewerFormat, digest

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
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedManifest("the verification record is damaged; verify again") from error
        if found != FORMAT:
            raise NewerFormat(
                f"the verification record has format {found}; this version of saltext-openhim "
                "reads "
                f"{FORMAT}. Upgrade it, or verify again"
            )
        if digest(content) != recorded:
            raise DamagedManifest("the verification record is damaged; verify again")
        names = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in content.items() if name in names}
        return cls(**{**values, "reasons": tuple(values.get("reasons", ()))})
