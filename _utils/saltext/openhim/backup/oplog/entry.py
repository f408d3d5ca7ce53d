"""Entries of the oplog as bytes: their fields are found, and not decoded.

Decoding every entry, even its top level alone, took most of a replay's time. What is looked at here
are the few fields that every entry has; a document inside is a piece of its bytes.
"""

from __future__ import annotations

import struct
from datetime import datetime, timedelta, timezone

import bson
from bson.raw_bson import RawBSONDocument
from saltext.openhim.errors import OpenHIMError

_length = struct.Struct("<i").unpack_from
_timestamp = struct.Struct("<II").unpack_from
_long = struct.Struct("<q").unpack_from
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: Bytes of each type's value; what is added to the length that the value begins with.
_FIXED = {
    **{0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4},
    **{0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0},
}
_PREFIXED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0D: 4, 0x0E: 4, 0x0F: 0, 0x0C: 16}
_STRING, _DOCUMENT, _DATE, _INT, _TIMESTAMP, _LONG = 0x02, 0x03, 0x09, 0x10, 0x11, 0x12
_REGULAR_EXPRESSION = 0x0B


#: Where operation() writes the kind: after two lengths and a name.
_KIND_AT = 12


class NoEntry(OpenHIMError):
    """These bytes are no entry of an oplog."""


class Entry:
    """One entry: its bytes, and where its fields are.

    time, inc, term: its place in the oplog; the term is -1 where there is none.
    """

    __slots__ = ("_fields", "inc", "raw", "term", "time")

    def __init__(self, raw: bytes):
        self.raw = raw
        try:
            self._fields = _fields(raw)
            self.inc, self.time = _timestamp(raw, self._at(b"ts", _TIMESTAMP))
            kind, at, _ = self._fields.get(b"t", (0, 0, 0))
            self.term = {_LONG: _long, _INT: _length}[kind](raw, at)[0] if at else -1
        except (struct.error, IndexError, KeyError, ValueError) as error:
            raise NoEntry(f"these bytes are no oplog entry: {error!r}") from error

    @property
    def wall(self) -> datetime:
        """The server's clock when it was written."""
        if b"wall" not in self._fields:
            return _EPOCH + timedelta(seconds=self.time)
        (milliseconds,) = _long(self.raw, self._at(b"wall", _DATE))
        return _EPOCH + timedelta(milliseconds=milliseconds)

    def string(self, name: bytes) -> bytes:
        """The bytes of a string."""
        at, end = self._piece(name, _STRING)
        return self.raw[at + 4 : end - 1]

    def document(self, name: bytes) -> bytes:
        """The bytes of a document in it."""
        at, end = self._piece(name, _DOCUMENT)
        return self.raw[at:end]

    def decoded(self) -> RawBSONDocument:
        """For what is rare: the entry as a mapping."""
        return RawBSONDocument(self.raw)

    def _at(self, name: bytes, kind: int) -> int:
        return self._piece(name, kind)[0]

    def _piece(self, name: bytes, kind: int) -> tuple[int, int]:
        found, at, end = self._fields[name]
        if found != kind:
            raise NoEntry(f"the field {name.decode()} of an oplog entry has the type {found}")
        return at, end


def operation(kind: bytes, namespace: bytes, document: bytes, query: bytes | None) -> bytes:
    """``{op, ns, o, o2}`` for applyOps, as BSON; ``o2`` only when there is a query."""
    parts = [
        b"\x02op\0\x02\0\0\0" + kind + b"\0",
        b"\x02ns\0" + struct.pack("<i", len(namespace) + 1) + namespace + b"\0",
        b"\x03o\0" + document,
    ]
    if query is not None:
        parts.append(b"\x03o2\0" + query)
    body = b"".join(parts)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def kind_of(made: bytes | memoryview) -> str:
    """Which kind of operation :func:`operation` made."""
    return chr(made[_KIND_AT])


def _fields(raw: bytes) -> dict[bytes, tuple[int, int, int]]:
    """The fields of a document: name → type, where the value begins, and where it ends."""
    found = {}
    at, end = 4, len(raw) - 1
    if _length(raw, 0)[0] != len(raw) or raw[end]:
        raise ValueError("its length is not what it says")
    while at < end:
        kind = raw[at]
        stop = raw.index(b"\0", at + 1, end)
        name = raw[at + 1 : stop]
        start = stop + 1
        size = _FIXED.get(kind)
        if size is None:
            size = _variable(raw, kind, start)
        at = start + size
        found[name] = (kind, start, at)
    if at != end:
        raise ValueError("a field reaches beyond its end")
    return found


def _variable(raw: bytes, kind: int, start: int) -> int:
    if kind == _REGULAR_EXPRESSION:
        return raw.index(b"\0", raw.index(b"\0", start) + 1) + 1 - start
    size: int = _length(raw, start)[0] + _PREFIXED[kind]
    if size < 4:
        raise ValueError("a length is negative")
    return size


def timestamp(at: Entry) -> bson.Timestamp:
    """The cluster time of an entry."""
    return bson.Timestamp(at.time, at.inc)
