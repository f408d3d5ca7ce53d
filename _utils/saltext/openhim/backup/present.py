"""The data that is there now: whether it is whole, and when it was last written.

A restore replaces collection by collection. From before the first until after the last a note in
the main database says so, where OpenHIM's own user can read it too: who dies in between leaves data
that is neither the old one nor the new one, and that nobody must serve or take for a backup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from bson import Timestamp
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import ExecutionTimeout
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim.errors import Refused

#: Where a restore says what was restored: a collection of OpenHIM's main database.
MARKER = "saltext_openhim_restores"
#: Where it says that it is under way. Never dumped, never replayed.
NOTE = "saltext_openhim_restoring"

_ID = "restore"
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_MAJORITY = WriteConcern("majority", wtimeout=60_000)
#: Milliseconds for the last write to be found in the oplog.
_LOOK_MS = 60_000


class HalfReplaced(Refused):
    """A restore did not come to its end; the data is neither the old one nor the new one."""


@dataclass(frozen=True)
class Write:
    """A write in the oplog: its cluster time, and the time by the primary's clock."""

    ts: Timestamp
    wall: datetime

    def told(self) -> dict[str, Any]:
        """As plain values."""
        wall = self.wall.isoformat(timespec="milliseconds")
        return {"ts": [self.ts.time, self.ts.inc], "wall": wall}


def begin(client: MongoClient[Any], database: str, facts: Mapping[str, Any]) -> None:
    """Notes that the data is about to be replaced, before the first of it is.

    database: OpenHIM's main one. facts: ``point``, ``to_time``, ``by``, ``why``, ``epoch`` and
    ``epoch_id``.
    """
    note = {**facts, "_id": _ID, "begun_at": datetime.now(timezone.utc)}
    _notes(client, database).replace_one({"_id": _ID}, note, upsert=True)


def serves(client: MongoClient[Any], database: str) -> None:
    """Notes that OpenHIM may run on what is there, while the rest still comes."""
    _notes(client, database).update_one({"_id": _ID}, {"$set": {"serves": True}})


def end(client: MongoClient[Any], database: str) -> None:
    """Removes the note, once the data is whole and marked as restored."""
    client.get_database(database, write_concern=_MAJORITY).drop_collection(NOTE)


def half_replaced(client: MongoClient[Any], database: str) -> dict[str, Any] | None:
    """What the restore noted that did not come to its end; None when the data is whole."""
    note = _notes(client, database).find_one({"_id": _ID})
    if note is None:
        return None
    markers = client[database].get_collection(MARKER, codec_options=_OPTIONS)
    # Marked as restored, and only the note was still to go.
    if markers.find_one({"restored_at": {"$gte": note["begun_at"]}}):
        return None
    return {key: value for key, value in note.items() if key != "_id"}


def words(note: Mapping[str, Any]) -> str:
    """Which restore did not come to its end, for a person."""
    what = note.get("to_time") or note.get("point")
    return (
        f"the restore of {what} that {note.get('by') or 'somebody'} began at "
        f"{note['begun_at']:%Y-%m-%d %H:%M:%S} UTC did not come to its end, so the data is half "
        "replaced"
    )


def refuse_half(client: MongoClient[Any], database: str, what: str) -> None:
    """Raises :class:`HalfReplaced` where the data is neither the old one nor the new one.

    what: what is not done then.
    """
    note = half_replaced(client, database)
    if note is not None:
        raise HalfReplaced(f"{words(note)}; {what}. Run that restore again, to its end")


def refuse_service(client: MongoClient[Any], database: str) -> None:
    """Raises :class:`HalfReplaced` where OpenHIM must not run on what is there."""
    note = half_replaced(client, database)
    if note is not None and not note.get("serves"):
        raise HalfReplaced(
            f"{words(note)}; OpenHIM must not run on it. Run that restore again, to its end"
        )


def last_write(client: MongoClient[Any], databases: Sequence[str]) -> Write | None:
    """The newest write of the majority to some databases; None where it was not found in time.

    Restores' own notes do not count. Where the oplog has none, its oldest entry stands for it: they
    were not written since.
    """
    own = "|".join(map(re.escape, databases))
    wanted = {"$regex": f"^({own})\\.(?!({MARKER}|{NOTE})$)"}
    oplog = client.local.get_collection(
        "oplog.rs", codec_options=_OPTIONS, read_concern=ReadConcern("majority")
    )
    writes = {
        "op": {"$ne": "n"},
        "$or": [{"ns": wanted}, {"ns": "admin.$cmd", "o.applyOps.ns": wanted}],
    }
    fields = {"ts": 1, "wall": 1}
    try:
        found = oplog.find_one(writes, fields, sort=[("$natural", -1)], max_time_ms=_LOOK_MS)
    except ExecutionTimeout:
        return None
    found = found or oplog.find_one({}, fields, sort=[("$natural", 1)])
    return Write(found["ts"], found["wall"]) if found else None


def _notes(client: MongoClient[Any], database: str) -> Collection[Any]:
    return client[database].get_collection(
        NOTE, codec_options=_OPTIONS, write_concern=_MAJORITY, read_concern=ReadConcern("majority")
    )
