"""The manifest of a restore point: what it holds, written last, and read back for years.

Format 1 is described in docs/reference/restore-point-format.md. A manifest is canonical JSON and
carries its own SHA-256, so that a damaged one is never taken for a whole one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from typing import Any

from bson import json_util
from saltext.openhim.errors import OpenHIMError

#: The version that is written.
FORMAT = 1
#: The versions that are read.
READABLE = (1,)

#: What the manifest is called inside its snapshot.
FILENAME = "manifest.json"

#: No manifest is larger; what is, was not written by us.
LARGEST = 256 * 1024 * 1024


#: What Python says of JSON that is not of the form that it should have.
MALFORMED = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


class ManifestError(OpenHIMError):
    """This manifest cannot be used; the message says why, and what to do."""


class DamagedManifest(ManifestError):
    """It is not what was written."""


class OlderFormat(ManifestError):
    """Its format is older than any that this version reads."""


class NewerFormat(ManifestError):
    """Its format is newer than this version knows."""


class WrongStack(ManifestError):
    """It belongs to another stack."""


@dataclass(frozen=True)
class Namespace:
    """A collection, view or time series of the dump.

    ``count`` is documents, ``bytes`` their BSON, ``digest`` the content hash independent of order.
    ``options`` and ``indexes`` are MongoDB Extended JSON (canonical) as text, because the order of
    keys carries meaning in them and canonical JSON sorts keys.
    """

    db: str
    collection: str
    type: str
    count: int
    bytes: int
    digest: str
    options: str = "{}"
    indexes: str = "[]"
    uuid: str | None = None
    #: False where it could not be read at T and was read a little later (capped collections).
    snapshot: bool = True

    @classmethod
    def of(cls, found: Any) -> Namespace:
        """From what a dump tells of a namespace; options and indexes may be documents there."""
        return cls(
            db=found.db,
            collection=found.collection,
            type=found.type,
            count=int(found.count),
            bytes=int(found.bytes),
            digest=found.digest,
            options=extended_json(found.options or {}),
            indexes=extended_json(list(found.indexes or [])),
            uuid=str(found.uuid) if found.uuid else None,
            snapshot=bool(getattr(found, "snapshot", True)),
        )


@dataclass(frozen=True)
class ReplicaSet:
    """One replica set as dumped: ``at`` is the cluster time T as (seconds, increment).

    ``part`` is where its archive is. ``at`` is None where the server knows no cluster time, ``fcv``
    where the user may not ask for it. ``left_out``: collections that were made after T.
    """

    name: str
    at: tuple[int, int] | None
    server_version: str
    fcv: str | None
    part: str
    namespaces: tuple[Namespace, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, part: str, dumped: Any) -> ReplicaSet:
        """From what a dump tells: ``at`` (a BSON timestamp), versions, namespaces."""
        return cls(
            name=name,
            at=(int(dumped.at.time), int(dumped.at.inc)) if dumped.at else None,
            server_version=dumped.server_version,
            fcv=dumped.fcv,
            part=part,
            namespaces=tuple(Namespace.of(found) for found in dumped.namespaces),
            left_out=tuple(getattr(dumped, "left_out", ())),
        )


@dataclass(frozen=True)
class File:
    """A file of the files part; ``size`` in bytes, ``mode`` in octal such as ``0600``."""

    path: str
    size: int
    sha256: str
    mode: str
    user: str
    group: str


@dataclass(frozen=True)
class Part:
    """One part as it is stored: which snapshot of the repository, which file in it, its contents.

    ``tree`` is restic's own hash over contents and name; it stays the same in a copy.
    """

    name: str
    filename: str
    snapshot: str
    tree: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A restore point. Times are ISO 8601 in UTC; ``milliseconds`` is how long taking it lasted."""

    stack: str
    point: str
    epoch: int
    replica_sets: tuple[ReplicaSet, ...]
    files: tuple[File, ...]
    parts: tuple[Part, ...]
    by: str
    host: str
    why: str
    started: str
    finished: str
    milliseconds: int
    #: The ID of the epoch, where the stack was ever recovered.
    epoch_id: str | None = None
    #: Versions of what wrote it, by name.
    software: Mapping[str, str] | None = None
    #: Whether it is what a restore was about to replace: kept for a while, and no backup.
    aside: bool = False
    #: In a copy: the repository's ID, the manifest's SHA-256 there, and when it was copied.
    copied_from: Mapping[str, str] | None = None
    format: int = FORMAT

    def part(self, name: str) -> Part:
        """The part of that name."""
        for part in self.parts:
            if part.name == name:
                return part
        raise ManifestError(
            f"restore point {self.point} has no part {name!r}; it has "
            + ", ".join(part.name for part in self.parts)
        )

    def times(self) -> dict[str, tuple[int, int]]:
        """The cluster time T by replica set."""
        return {one.name: one.at for one in self.replica_sets if one.at is not None}

    def to_json(self) -> bytes:
        """The file: ``{"manifest": …, "sha256": …}`` in canonical JSON."""
        content = self._content()
        return canonical({"manifest": content, "sha256": digest(content)})

    def sha256(self) -> str:
        """The hash that the file carries."""
        return digest(self._content())

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(canonical(asdict(self)))
        if not self.aside:  # as every backup was written before there was such a thing
            del content["aside"]
        return content


def from_json(data: bytes, *, stack: str | None = None, where: str = "the manifest") -> Manifest:
    """Read a manifest and refuse what is not one of ours.

    stack: the stack that it must belong to; None reads any.
    where: what to call it in messages.

    Raises :class:`NewerFormat`, :class:`OlderFormat`, :class:`DamagedManifest`,
    :class:`WrongStack`.
    """
    content, recorded = _unwrapped(data, where)
    _check_format(content.get("format"), where)
    try:
        if recorded != digest(content):
            raise DamagedManifest(
                f"{where} is damaged: its contents do not match the SHA-256 that it carries. "
                "Use the same restore point from another repository, or another restore point"
            )
        manifest = _built(content)
    except MALFORMED as error:
        raise DamagedManifest(
            f"{where} is not a manifest of format {FORMAT}: {error!r} is missing or wrong in it. "
            "Use the same restore point from another repository, or another restore point"
        ) from error
    if stack is not None and manifest.stack != stack:
        raise WrongStack(
            f"{where} belongs to the stack {manifest.stack!r}, and this is {stack!r}. Name that "
            "stack "
            "if you mean it, or use the repository of this one"
        )
    return manifest


def digest(content: Any) -> str:
    """The SHA-256 of canonical JSON."""
    return hashlib.sha256(canonical(content)).hexdigest()


def extended_json(document: Any) -> str:
    """Canonical Extended JSON as text, its keys in the order of the document."""
    if isinstance(document, str):
        return document
    return json_util.dumps(
        document, json_options=json_util.CANONICAL_JSON_OPTIONS, separators=(",", ":")
    )


def utc(time: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, such as ``2026-11-22T07:34:05.123Z``."""
    text = time.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def canonical(content: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces between tokens, no floating-point specials."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode("utf-8", "surrogatepass")


def _unwrapped(data: bytes, where: str) -> tuple[dict[str, Any], str]:
    try:
        whole = json.loads(data.decode("utf-8", "surrogatepass"))
        content, recorded = whole["manifest"], whole["sha256"]
        if not isinstance(content, dict) or not isinstance(recorded, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedManifest(
            f"{where} is damaged: {len(data)} bytes that are no manifest. "
            "Use the same restore point from another repository, or another restore point"
        ) from error
    return content, recorded


def _check_format(found: Any, where: str) -> None:
    if found in READABLE and isinstance(found, int) and not isinstance(found, bool):
        return
    if isinstance(found, int) and not isinstance(found, bool) and found > max(READABLE):
        raise NewerFormat(
            f"{where} has format {found}; this version of saltext-openhim reads up to "
            f"{max(READABLE)}. Upgrade saltext-openhim on this host and try again"
        )
    if isinstance(found, int) and not isinstance(found, bool):
        raise OlderFormat(
            f"{where} has format {found}, which no released version wrote; this one reads from "
            f"{min(READABLE)}. Use another restore point"
        )
    raise DamagedManifest(f"{where} is damaged: its format is {found!r}, expected a whole number")


def _built(content: Mapping[str, Any]) -> Manifest:
    values = _known(Manifest, content)
    values["replica_sets"] = tuple(
        ReplicaSet(
            **{
                **_known(ReplicaSet, entry),
                "at": _time(entry["at"]),
                "left_out": tuple(entry.get("left_out") or ()),
                "namespaces": tuple(
                    Namespace(**_known(Namespace, found)) for found in entry["namespaces"]
                ),
            }
        )
        for entry in content["replica_sets"]
    )
    values["files"] = tuple(File(**_known(File, entry)) for entry in content["files"])
    values["parts"] = tuple(Part(**_known(Part, entry)) for entry in content["parts"])
    manifest = Manifest(**values)
    names = [part.name for part in manifest.parts]
    if len(set(names)) != len(names):
        raise ValueError("a part that is named twice")
    if unknown := {one.part for one in manifest.replica_sets} - set(names):
        raise ValueError(f"the part {sorted(unknown)[0]}")
    return manifest


def _known(kind: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The members that we know: a later release may add some without a new format."""
    return checked(kind, entry)


def checked(kind: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The members of an entry that a dataclass has; raises ValueError for one of another type."""
    found = {}
    for one in fields(kind):
        if one.name in entry:
            value = found[one.name] = entry[one.name]
            wanted = _PLAIN.get(str(one.type))
            if wanted and type(value) not in wanted:
                raise ValueError(f"{one.name} {value!r}"[:100])
    return found


#: By annotation, the types that a value read from JSON may have.
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "str | None": (str, type(None)),
}


def _time(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    seconds, increment = value
    return int(seconds), int(increment)
