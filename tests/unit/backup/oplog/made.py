"""Oplogs and slices made up for tests: what the server writes, without a server."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone

import bson
from bson import Int64, Timestamp
from saltext.openhim.backup.oplog import slices
from saltext.openhim.backup.oplog.slices import Collector, Header, Position, Timeline
from saltext.openhim.backup.oplog.store import SliceStore
from saltext.openhim.errors import OpenHIMError

STACK, SET = "test", "openhim"
FIRST = Timeline(1, 1)
WALL = datetime(2026, 1, 1, tzinfo=timezone.utc)


def entry(number, term=1, **more):
    """The oplog entry number ``number``: an insert of the same number unless told otherwise."""
    fields = {"op": "i", "ns": "openhim.numbers", "o": {"_id": number}, **more}
    wall = WALL + timedelta(seconds=number)
    return bson.encode({**fields, "ts": ts(number), "t": Int64(term), "v": Int64(2), "wall": wall})


def ts(number):
    """Two entries a second."""
    return Timestamp(1000 + number // 2, 1 + number % 2)


def at(number, term=1):
    return Position(ts(number).time, ts(number).inc, term)


def slice_of(first, last, line=FIRST, term=1, previous=None, entries=None):
    """Header and file of the slice with the entries ``first`` to ``last``."""
    collected = Collector(previous or at(first - 1, term))
    for each in entries or [entry(number, term) for number in range(first, last + 1)]:
        collected.add(each)
    header = collected.header(STACK, SET, line)
    return header, b"".join(collected.chunks(header))


def header_of(first, last, **more):
    return slice_of(first, last, **more)[0]


class MemorySlices(SliceStore):
    """Slices in memory."""

    def __init__(self, *files):
        self.files = {header.name: data for header, data in files}
        self.away = False

    def headers(self) -> list[Header]:
        if self.away:
            raise OpenHIMError("the repository is away")
        return [slices.read_header(io.BytesIO(data)) for data in self.files.values()]

    def put(self, header, chunks):
        data = b"".join(chunks)
        self.files[header.name] = data

    def get(self, name):
        return io.BytesIO(self.files[name])

    def remove(self, names):
        for name in names:
            self.files.pop(name, None)


def numbers(raw):
    """The numbers that entries insert."""
    return [bson.decode(getattr(each, "raw", each))["o"]["_id"] for each in raw]
