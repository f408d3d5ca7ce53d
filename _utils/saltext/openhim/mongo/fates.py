"""What the new history has of the documents that the given-up one wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup.oplog.slices import Position
from saltext.openhim.mongo import tail
from saltext.openhim.recovery.ledger import Now, Write

#: Where an oplog entry has the ``_id`` of what it wrote: alone, and in a transaction.
_IDS = ("o._id", "o2._id", "o.applyOps.o._id", "o.applyOps.o2._id")


def documents(
    client: MongoClient, forked: Position, wanted: Sequence[tuple[str, str]], is_transaction: str
) -> dict[tuple[str, str], Now]:
    """What there is of each document, and whether it was written since the fork.

    client: connected to the primary. is_transaction: the collection of OpenHIM's transactions.
    """
    oldest = client.local["oplog.rs"].find_one({}, sort=[("$natural", 1)])
    reaches = oldest is not None and Position.of(oldest) <= forked
    written = _written(client, forked, wanted) if reaches else None
    found = {
        document: Now(None, None if written is None else document in written)
        for document in wanted
        if document[1]
    }
    for document, data in tail.fetched(client, wanted):
        version = tail.version(document[0], data, is_transaction)
        found[document] = Now(version.version, found[document].written, version.facts)
    return found


def _written(
    client: MongoClient, forked: Position, wanted: Sequence[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Which of the documents the oplog names since the fork; a dropped collection counts for all.

    The server looks for them, so that what travels is as little as what is asked for.
    """
    found: set[tuple[str, str]] = set()
    oplog = client.local["oplog.rs"]
    texts = list(dict.fromkeys(text for _, text in wanted if text))
    asked = set(wanted)
    for begin in range(0, len(texts), tail.TOGETHER):
        values = [tail.id_value(text) for text in texts[begin : begin + tail.TOGETHER]]
        query = {"ts": {"$gt": forked.ts}, "$or": [{path: {"$in": values}} for path in _IDS]}
        fields = {"ns": 1, "op": 1, **dict.fromkeys((*_IDS, "o.applyOps.ns"), 1)}
        for entry in oplog.find(query, fields):
            found |= asked & set(_named(entry))
    dropped = {
        f"{entry['ns'].partition('.')[0]}.{entry['o']['drop']}"
        for entry in oplog.find({"ts": {"$gt": forked.ts}, "op": "c", "o.drop": {"$exists": True}})
    }
    return found | {document for document in wanted if document[0] in dropped}


def _named(entry: dict[str, Any]) -> Iterable[tuple[str, str]]:
    inner = (entry.get("o") or {}).get("applyOps")
    for one in inner if isinstance(inner, list) else [entry]:
        for key in ("o", "o2"):
            if "_id" in (one.get(key) or {}):
                yield one["ns"], tail.id_text(one[key]["_id"])


def commands(client: MongoClient, writes: Iterable[Write]) -> dict[Write, bool]:
    """Whether what each command did is so in the new history too; False in doubt."""
    found: dict[Write, bool] = {}
    for write in writes:
        database, _, name = write.collection.partition(".")
        there = bool(name) and name in client[database].list_collection_names()
        if write.operation == "create":
            found[write] = there
        elif write.operation == "drop":
            found[write] = not there
        elif write.operation == "createIndexes":
            wanted = set(write.detail.split(", "))
            found[write] = there and wanted <= set(client[database][name].index_information())
        else:
            found[write] = False
    return found
