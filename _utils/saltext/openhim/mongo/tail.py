"""The end of a member's oplog: what it wrote past the fork, as writes of single documents.

Two histories share their oplog up to the fork. The entry that comes next tells which of them a
member is on: it is the new history's, or it is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import bson
from bson import json_util
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from saltext.openhim.backup.oplog.slices import Position, split
from saltext.openhim.backup.oplog.transactions import Transactions
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery.ledger import REMOVED, Lost, Write

#: What a member is on: the new history, the given-up one, neither past the fork, or nobody knows.
NEW, DIVERGED, BEFORE, UNKNOWN = "new", "diverged", "before", "unknown"

#: Databases that hold a server's own affairs, such as its sessions.
_HOUSEKEEPING = ("config.", "local.", "admin.system.keys")

_OPERATIONS = {"i": "insert", "u": "update", "d": "delete"}
#: Commands that are steps of another one, or have no effect that a client could miss.
_STEPS = ("startIndexBuild", "abortIndexBuild", "dbCheck")

_FORWARD, _BACKWARD = [("$natural", 1)], [("$natural", -1)]
_RAW = bson.CodecOptions(document_class=RawBSONDocument, tz_aware=True)

#: A member's count of rollbacks before the first one.
_NEVER = 1

#: Documents that are asked for at once.
TOGETHER = 500


@dataclass(frozen=True)
class Where:
    """Where a member stands. because: why that is not known."""

    history: str
    oldest: Position
    newest: Position
    because: str = ""


@dataclass(frozen=True)
class Operation:
    """A write with the bytes that tell what it wrote: the whole document only of an insert.

    uuid: of the collection, as hexadecimal digits; empty where the oplog does not say.
    """

    write: Write
    uuid: str = ""
    document: bytes | None = None


def fork(client: MongoClient, survived: bson.Timestamp) -> tuple[Position, Position]:
    """The last entry that both histories have, and the first one of the new history.

    client: connected to a member of the new history. survived: the cluster time of the former.

    Raises OpenHIMError when its oplog does not reach back so far.
    """
    oplog = client.local["oplog.rs"]
    found = list(oplog.find({"ts": {"$gte": survived}}, sort=_FORWARD).limit(2))
    if len(found) < 2 or found[0]["ts"] != survived:
        raise OpenHIMError(
            f"the oplog of the new history does not reach back to the fork, {survived.time}."
            f"{survived.inc}, any more: compare with a ledger that was made earlier"
        )
    return Position.of(found[0]), Position.of(found[1])


def where(client: MongoClient, forked: Position, new: Position) -> Where:
    """Which history a member is on.

    forked: the last entry that both histories have. new: the new history's first one.
    """
    oplog = client.local["oplog.rs"]
    ends = [oplog.find_one({}, sort=order) for order in (_FORWARD, _BACKWARD)]
    if None in ends:
        raise OpenHIMError("its oplog is empty: the member was never initiated, or was wiped")
    oldest, newest = (Position.of(end) for end in ends if end is not None)
    found = list(oplog.find({"ts": {"$gte": forked.ts}}, sort=_FORWARD).limit(2))
    if newest.ts < forked.ts:
        return Where(BEFORE, oldest, newest)
    if not found or Position.of(found[0]) != forked:
        begins = oldest.ts > forked.ts
        because = (
            f"its oplog begins at {oldest.words}, after the fork at {forked.words}: it was "
            "resynchronised, or its oplog has rolled over"
            if begins
            else f"its oplog does not have the entry of the fork, {forked.words}"
        )
        return Where(UNKNOWN, oldest, newest, because)
    if len(found) == 1:
        return Where(BEFORE, oldest, newest)
    return Where(NEW if Position.of(found[1]) == new else DIVERGED, oldest, newest)


def never_rolled_back(client: MongoClient) -> bool:
    """Whether it is proven that this member, since it has its data, has never undone a write.

    MongoDB counts from 1 a member's rollbacks, and its starts after a crash with them.
    """
    if "setName" in client.admin.command("hello"):
        count = client.admin.command("replSetGetRBID")["rbid"]
    else:
        count = (client.local["system.rollback.id"].find_one() or {}).get("rollbackId", 0)
    return int(count) == _NEVER


def raw(client: MongoClient, forked: Position) -> Iterator[bytes]:
    """The entries past the fork, as bytes."""
    batches = client.local["oplog.rs"].find_raw_batches({"ts": {"$gt": forked.ts}}, sort=_FORWARD)
    for batch in batches:
        yield from split(batch)


def before(client: MongoClient, forked: Position) -> Iterator[list[Mapping[str, Any]]]:
    """The commands up to the fork in pieces, the newest first, for a transaction begun there."""
    oplog = client.local.get_collection("oplog.rs", codec_options=_RAW)
    piece: list[Mapping[str, Any]] = []
    wanted = {"ts": {"$lte": forked.ts}, "op": "c", "o.applyOps": {"$exists": True}}
    for entry in oplog.find(wanted, sort=_BACKWARD):
        piece.insert(0, entry)
        if len(piece) == TOGETHER:
            yield piece
            piece = []
    if piece:
        yield piece


def operations(
    entries: Iterable[bytes], earlier: Iterable[list[Mapping[str, Any]]]
) -> Iterator[Operation]:
    """The writes in entries of an oplog: those of a transaction one by one, once it commits."""
    transactions = Transactions(lambda: earlier)
    for data in entries:
        entry = RawBSONDocument(data, _RAW)
        if entry["op"] != "c":
            yield from _single(entry, entry, "")
            continue
        made = transactions.feed(entry, wanted=True)
        if made is None:
            yield from _command(entry, entry, "")
        for each in made or ():
            position = str(Position.of(entry))
            inner = _command if each["op"] == "c" else _single
            yield from inner(each, entry, position)


def is_housekeeping(namespace: str) -> bool:
    """Whether a collection holds a server's own affairs."""
    return namespace.startswith(_HOUSEKEEPING)


def _single(
    operation: Mapping[str, Any], entry: Mapping[str, Any], transaction: str
) -> Iterator[Operation]:
    kind, namespace = operation["op"], operation["ns"]
    if kind not in _OPERATIONS or is_housekeeping(namespace):
        return
    holder = operation["o2"] if kind == "u" else operation["o"]
    write = Write(
        collection=namespace,
        id=id_text(holder["_id"]) if "_id" in holder else "",
        operation=_OPERATIONS[kind],
        position=str(Position.of(entry)),
        at=_at(entry),
        transaction=transaction,
    )
    document = bytes(operation["o"].raw) if kind == "i" else None
    yield Operation(write, _uuid(operation), document)


def _command(
    operation: Mapping[str, Any], entry: Mapping[str, Any], transaction: str
) -> Iterator[Operation]:
    command = operation["o"]
    name = next(iter(command))
    database = operation["ns"].partition(".")[0]
    subject = command[name]
    if name in _STEPS or is_housekeeping(f"{database}."):
        return
    collection = f"{database}.{subject}" if isinstance(subject, str) else database
    if name == "renameCollection":
        collection = subject
    detail = str(command.get("name") or command.get("index") or command.get("to") or "")
    if name == "commitIndexBuild":
        name, detail = "createIndexes", ", ".join(str(one["name"]) for one in command["indexes"])
    write = Write(
        collection=collection,
        id="",
        operation=name,
        position=str(Position.of(entry)),
        at=_at(entry),
        transaction=transaction,
        detail=detail,
    )
    yield Operation(write, _uuid(operation))


def _at(entry: Mapping[str, Any]) -> str:
    return str(entry["wall"].isoformat(timespec="milliseconds"))


def _uuid(operation: Mapping[str, Any]) -> str:
    found = operation.get("ui")
    return bytes(found).hex() if found is not None else ""


def id_text(found: Any) -> str:
    """An ``_id`` as extended JSON, the same text for the same value."""
    value = bson.decode(found.raw) if isinstance(found, RawBSONDocument) else found
    return json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS)


def id_value(text: str) -> Any:
    """The ``_id`` that :func:`id_text` wrote."""
    return json_util.loads(text, json_options=json_util.CANONICAL_JSON_OPTIONS)


def digest(document: bytes) -> str:
    """What tells two versions of a document apart, and holds nothing of either."""
    return hashlib.sha256(document).hexdigest()


def transaction_facts(document: bytes) -> dict[str, Any]:
    """Of one of OpenHIM's transactions: who sent what where, and not what was in it."""
    found = bson.decode(document)
    request = found.get("request") or {}
    told = {
        "client": found.get("clientID"),
        "channel": found.get("channelID"),
        "method": request.get("method"),
        "path": request.get("path"),
        "status": found.get("status"),
    }
    facts: dict[str, Any] = {key: str(value) for key, value in told.items() if value is not None}
    # OpenHIM's own default is true, and it needs to know what to send again.
    sendable = bool(found.get("channelID") and request.get("method") and request.get("path"))
    return {**facts, "can_rerun": found.get("canRerun", True) is not False and sendable}


def fetched(
    client: MongoClient, documents: Iterable[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], bytes]]:
    """The documents, by collection and ``_id``, that a server has, as bytes."""
    by_collection: dict[str, list[str]] = {}
    for collection, text in documents:
        if text:
            by_collection.setdefault(collection, []).append(text)
    for collection, texts in by_collection.items():
        database, _, name = collection.partition(".")
        for begin in range(0, len(texts), TOGETHER):
            values = [id_value(text) for text in texts[begin : begin + TOGETHER]]
            try:
                batches = client[database][name].find_raw_batches({"_id": {"$in": values}})
                for data in (one for batch in batches for one in split(batch)):
                    document = RawBSONDocument(data)
                    yield (collection, id_text(document["_id"])), data
            except OperationFailure as error:
                raise OpenHIMError(f"{collection} cannot be read: {error}") from error


def last_versions(
    client: MongoClient, documents: Iterable[tuple[str, str]], is_transaction: str
) -> dict[tuple[str, str], Lost]:
    """What each document was in the end, on a member that is still on the given-up history.

    is_transaction: the collection of OpenHIM's transactions.
    """
    wanted = list(dict.fromkeys(documents))
    found = {document: Lost(REMOVED) for document in wanted if document[1]}
    for document, data in fetched(client, wanted):
        found[document] = version(document[0], data, is_transaction)
    return found


def version(collection: str, data: bytes, is_transaction: str) -> Lost:
    """A version of a document that is known as bytes."""
    facts = transaction_facts(data) if collection == is_transaction else None
    return Lost(digest(data), facts)
