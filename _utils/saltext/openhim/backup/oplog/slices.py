"""A slice: a stretch of a replica set's oplog, raw, in one file that says what it holds.

The file is a sequence of BSON documents, which ``bsondump`` reads too: the header first, then the
oplog's entries as the server sent them. A slice covers what comes after the position ``previous``,
up to and with ``last``; so the next one's ``previous`` is this one's ``last``, and what is missing
is seen from the headers alone.

Two kinds of records have no entries: a ``gap`` says that what it covers was never archived, and a
``void`` takes back a slice that turned out to be damaged where nothing may be deleted.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, BinaryIO
from urllib.parse import quote

import bson
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from saltext.openhim.backup.digest import Digest
from saltext.openhim.backup.oplog.entry import Entry, NoEntry
from saltext.openhim.errors import OpenHIMError

#: The version of the format that is written; what is newer is refused.
FORMAT = 1
SLICE, GAP, VOID = "slice", "gap", "void"

_MAGIC = "saltext-openhim oplog slice"
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_HEADER_LIMIT = 1 << 16
#: An entry of the oplog holds a document of up to 16 MB and what is said about it.
_ENTRY_LIMIT = 17 << 20
_READ = 1 << 20
_length = struct.Struct("<i")


class DamagedSlice(OpenHIMError):
    """A slice does not hold what its header says."""


@dataclass(frozen=True, order=True)
class Position:
    """One entry of an oplog: its cluster time and the term in which it was written."""

    time: int
    inc: int
    term: int = -1

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Position:
        """The position of an oplog entry."""
        ts = entry["ts"]
        return cls(ts.time, ts.inc, entry.get("t", -1))

    @classmethod
    def at(cls, entry: Entry) -> Position:
        """The position of an entry that is bytes."""
        return cls(entry.time, entry.inc, entry.term)

    @classmethod
    def parse(cls, text: str) -> Position:
        """What :meth:`__str__` wrote."""
        found = re.fullmatch(r"(\d+)-(\d+)-(\d+|x)", text)
        if not found:
            raise DamagedSlice(f"{text!r} is no position in an oplog")
        return cls(int(found[1]), int(found[2]), -1 if found[3] == "x" else int(found[3]))

    @property
    def ts(self) -> Timestamp:
        """Its cluster time."""
        return Timestamp(self.time, self.inc)

    @property
    def words(self) -> str:
        """Its cluster time for a person."""
        return words(self.ts)

    def __str__(self) -> str:
        """Zero-padded, so that names sort as times do."""
        term = f"{self.term:010d}" if self.term >= 0 else "x"
        return f"{self.time:010d}-{self.inc:010d}-{term}"


def words(ts: Timestamp) -> str:
    """A cluster time for a person."""
    return f"{ts.as_datetime():%Y-%m-%dT%H:%M:%SZ} ({ts.time}.{ts.inc})"


def moment(at: datetime) -> Timestamp:
    """The cluster time before everything that was written in the second ``at``, or later.

    "Restore to 12:00:00" gives what there was as 12:00:00 began. ``at`` needs its zone.
    """
    if at.tzinfo is None:
        raise OpenHIMError(f"{at} has no zone; say which one is meant, such as {at}Z")
    return Timestamp(int(at.timestamp()), 0)


@dataclass(frozen=True)
class Timeline:
    """One history. A new epoch starts one, and so does a set that left what was archived.

    term: that in which it began. parent: epoch and term of the timeline that it came from, and
    branch: the last position that both share; None where it began with no past in the archive.
    """

    epoch: int
    term: int
    parent: tuple[int, int] | None = None
    branch: Position | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Epoch and term: what tells timelines apart, and which of two is the newer one."""
        return (self.epoch, self.term)


@dataclass(frozen=True)
class Header:
    """What a slice says of itself.

    It covers ``previous`` (not with it) to ``last`` (with it). first: its first entry. last_wall:
    the server's clock at its last entry. size: bytes of the entries. digest: of the entries, as in
    :mod:`saltext.openhim.backup.digest`. reason: of a gap or a void; voids: the name of the slice
    that a void takes back. attempt: how often what it covers was archived under that name before,
    and taken back; so the good copy is not taken back with the damaged one.
    """

    stack: str
    replica_set: str
    timeline: Timeline
    previous: Position
    last: Position
    last_wall: datetime
    kind: str = SLICE
    first: Position | None = None
    count: int = 0
    size: int = 0
    digest: str = f"{0:064x}"
    reason: str | None = None
    voids: str | None = None
    attempt: int = 0
    format: int = field(default=FORMAT)

    @functools.cached_property
    def name(self) -> str:
        """Unique, and sorted by set, timeline and time."""
        line = f"e{self.timeline.epoch:010d}.t{max(self.timeline.term, 0):010d}"
        again = f".a{self.attempt}" if self.attempt else ""
        covered = f"{line}.{self.previous}.{self.last}{again}"
        return f"{_file_name(self.replica_set)}.{covered}.{self.kind}"

    def document(self) -> dict[str, Any]:
        """As it stands in the file."""
        line = self.timeline
        return {
            "saltext-openhim": _MAGIC,
            "format": self.format,
            "kind": self.kind,
            "stack": self.stack,
            "replica_set": self.replica_set,
            "epoch": bson.Int64(line.epoch),
            "term": bson.Int64(line.term),
            "parent": [bson.Int64(each) for each in line.parent] if line.parent else None,
            "branch": str(line.branch) if line.branch else None,
            "previous": str(self.previous),
            "first": str(self.first) if self.first else None,
            "last": str(self.last),
            "last_wall": self.last_wall,
            "count": bson.Int64(self.count),
            "bytes": bson.Int64(self.size),
            "digest": self.digest,
            "reason": self.reason,
            "voids": self.voids,
            **({"attempt": self.attempt} if self.attempt else {}),
        }

    def encode(self) -> bytes:
        """The header's bytes: the first document of the file."""
        return bson.encode(self.document())

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """A header from its bytes.

        Raises :class:`DamagedSlice` for what is none, and OpenHIMError for a newer format.
        """
        try:
            found = bson.decode(data, _AWARE)
        except BSONError as error:
            raise DamagedSlice(f"this is no header of an oplog slice: {error}") from error
        if found.get("saltext-openhim") != _MAGIC:
            raise DamagedSlice("this is no oplog slice of this package")
        if not isinstance(found.get("format"), int) or found["format"] > FORMAT:
            raise OpenHIMError(
                f"this oplog slice has the format {found.get('format')!r}, and this version of "
                f"saltext-openhim reads up to {FORMAT}; read it with the version that wrote it, or "
                "a newer one"
            )
        try:
            return cls._from(found)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedSlice(f"the header of an oplog slice is incomplete: {error!r}") from error

    @classmethod
    def _from(cls, found: Mapping[str, Any]) -> Header:
        def position(name: str) -> Position | None:
            return Position.parse(found[name]) if found[name] else None

        parent = found["parent"]
        line = Timeline(
            int(found["epoch"]),
            int(found["term"]),
            (int(parent[0]), int(parent[1])) if parent else None,
            position("branch"),
        )
        return cls(
            stack=found["stack"],
            replica_set=found["replica_set"],
            timeline=line,
            previous=Position.parse(found["previous"]),
            last=Position.parse(found["last"]),
            last_wall=found["last_wall"],
            kind=found["kind"],
            first=position("first"),
            count=int(found["count"]),
            size=int(found["bytes"]),
            digest=found["digest"],
            reason=found["reason"],
            voids=found["voids"],
            attempt=int(found.get("attempt", 0)),
            format=found["format"],
        )


@functools.lru_cache(maxsize=64)
def _file_name(replica_set: str) -> str:
    return quote(replica_set, safe="").replace(".", "%2E")


class Collector:
    """Entries on their way into a slice: checked to follow each other, counted and hashed.

    previous: the position of the last entry before them. What is held is ``size`` bytes; the caller
    decides when that is enough.
    """

    def __init__(self, previous: Position):
        self.previous = previous
        self.last = previous
        self.first: Position | None = None
        self.first_wall: datetime | None = None
        self.last_wall: datetime | None = None
        self._digest = Digest()
        self._entries: list[bytes] = []

    @property
    def size(self) -> int:
        """Bytes of the entries so far."""
        return self._digest.bytes

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._digest.count

    def add(self, entry: bytes) -> None:
        """Takes one entry of the oplog, as it was read.

        Raises :class:`DamagedSlice` when it does not come after the one before.
        """
        found = Entry(entry)
        position = Position.at(found)
        if position.ts <= self.last.ts or position.term < self.last.term:
            raise DamagedSlice(f"the oplog gave {position} after {self.last}")
        wall = found.wall
        self.first = self.first or position
        self.first_wall = self.first_wall or wall
        self.last, self.last_wall = position, wall
        self._digest.update([entry])
        self._entries.append(entry)

    def header(self, stack: str, replica_set: str, timeline: Timeline) -> Header:
        """The header of the slice that these entries make."""
        if self.last_wall is None:
            raise OpenHIMError("a slice without entries says nothing; there is none to write")
        return Header(
            stack=stack,
            replica_set=replica_set,
            timeline=timeline,
            previous=self.previous,
            first=self.first,
            last=self.last,
            last_wall=self.last_wall,
            count=self._digest.count,
            size=self._digest.bytes,
            digest=self._digest.hex(),
        )

    def chunks(self, header: Header) -> Iterator[bytes]:
        """The bytes of the whole file, in pieces."""
        yield header.encode()
        yield from self._entries


def read_header(stream: BinaryIO) -> Header:
    """The header at the beginning of a slice's file."""
    data = _one(stream.read, _HEADER_LIMIT)
    if data is None:
        raise DamagedSlice("an oplog slice is empty")
    return Header.decode(data)


def read(stream: BinaryIO, expected: Header | None = None) -> Iterator[bytes]:
    """The entries of a slice, one after the other; its header is read and checked first.

    expected: what the store's listing said of it.

    Raises :class:`DamagedSlice`, at the latest after the last entry, when the file is not what its
    header says. Entries that were given out before are then not to be trusted.
    """
    return (entry.raw for entry in read_entries(stream, expected))


def read_entries(stream: BinaryIO, expected: Header | None = None) -> Iterator[Entry]:
    """As :func:`read`, with each entry's fields found."""
    header = read_header(stream)
    name = header.name
    if expected is not None and header != expected:
        raise DamagedSlice(f"{expected.name} holds another slice, {name}")
    digest = Digest()
    last = (header.previous.time, header.previous.inc)
    for raw in _documents(stream, name):
        entry = _entry(raw, name)
        at = (entry.time, entry.inc)
        if at <= last:
            raise DamagedSlice(f"{name}: {Position.at(entry)} comes after {last[0]}-{last[1]}")
        if not digest.count and Position.at(entry) != header.first:
            raise DamagedSlice(f"{name} begins with {Position.at(entry)} and not {header.first}")
        last = at
        digest.update([raw])
        yield entry
    found = (digest.count, digest.bytes, digest.hex())
    if found != (header.count, header.size, header.digest):
        raise DamagedSlice(
            f"{name} is damaged or cut off: expected {header.count} entries of "
            f"{header.size} bytes in all, found {digest.count} of {digest.bytes}"
            + (" with another content" if digest.bytes == header.size else "")
        )
    if digest.count and last != (header.last.time, header.last.inc):
        raise DamagedSlice(f"{name} ends with {last[0]}-{last[1]} and not {header.last}")


def verify(stream: BinaryIO, expected: Header | None = None) -> None:
    """Reads a slice to its end and throws it away; raises :class:`DamagedSlice` as ``read``."""
    for _ in read(stream, expected):
        pass


def position_of(entry: bytes) -> Position:
    """The position of a raw entry."""
    return Position.at(Entry(entry))


def _entry(raw: bytes, name: str) -> Entry:
    try:
        return Entry(raw)
    except NoEntry as error:
        raise DamagedSlice(f"{name}: {error}") from error


def split(batch: bytes) -> Iterator[bytes]:
    """The documents of a batch, as ``find_raw_batches`` gives it."""
    at = 0
    while at < len(batch):
        end = at + _length.unpack_from(batch, at)[0]
        yield batch[at:end]
        at = end


def _documents(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """BSON documents from a stream, read in pieces of a megabyte."""
    held = bytearray()
    while True:
        at = 0
        while len(held) - at >= 4:
            (size,) = _length.unpack_from(held, at)
            if not 5 <= size <= _ENTRY_LIMIT:
                raise DamagedSlice(f"{name}: an entry claims to have {size} bytes")
            if len(held) - at < size:
                break
            yield bytes(held[at : at + size])
            at += size
        del held[:at]
        more = stream.read(_READ)
        if not more:
            break
        held += more
    if held:
        raise DamagedSlice(f"{name} is cut off within an entry")


def _one(take: Any, limit: int) -> bytes | None:
    """One BSON document from a stream that may give less than it was asked for."""

    def exactly(size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = take(size - len(parts))
            if not part:
                break
            parts += part
        return parts

    head = exactly(4)
    if not head:
        return None
    size = _length.unpack(head)[0] if len(head) == 4 else 0
    if not 5 <= size <= limit:
        raise DamagedSlice("this is no oplog slice: it does not begin with a header")
    data = head + exactly(size - 4)
    if len(data) < size:
        raise DamagedSlice("the header of an oplog slice is cut off")
    return data


def gap(
    stack: str,
    replica_set: str,
    timeline: Timeline,
    previous: Position,
    last: Position,
    last_wall: datetime,
    reason: str,
) -> Header:
    """The record of a stretch that was never archived; ``last`` is not archived either."""
    return Header(stack, replica_set, timeline, previous, last, last_wall, kind=GAP, reason=reason)


def void(header: Header, reason: str) -> Header:
    """The record that takes a damaged slice back."""
    return Header(
        header.stack,
        header.replica_set,
        header.timeline,
        header.previous,
        header.last,
        header.last_wall,
        kind=VOID,
        reason=reason,
        voids=header.name,
        attempt=header.attempt,
    )


def under_a_free_name(header: Header, known: Iterable[Header]) -> Header:
    """The header with the first attempt whose name is not taken back among ``known``."""
    voided = {each.voids for each in known if each.kind == VOID}
    while header.name in voided:
        header = replace(header, attempt=header.attempt + 1)
    return header


def joined(run: Sequence[Header]) -> Header:
    """The header of one slice with the entries of several adjacent ones."""
    digest = Digest()
    for each in run:
        digest.merge(Digest(each.count, each.size, int(each.digest, 16)))
    return replace(
        run[-1],
        previous=run[0].previous,
        first=run[0].first,
        count=digest.count,
        size=digest.bytes,
        digest=digest.hex(),
        attempt=0,
    )


def check_stack(headers: Iterable[Header], stack: str) -> None:
    """Raises OpenHIMError when slices of another stack are among these."""
    others = sorted({header.stack for header in headers} - {stack})
    if others:
        raise OpenHIMError(
            f"this repository holds oplog slices of another stack, {', '.join(others)}; expected "
            f"only those of {stack}. Give each stack a repository of its own."
        )
