"""Applies operations of an oplog to a server, in their order.

Changes of documents go through ``applyOps`` in batches. What changes collections and indexes goes
as ordinary commands, because ``applyOps`` answers success to some of them and does nothing, and
refuses others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from saltext.openhim.backup.dump import selected
from saltext.openhim.backup.oplog.entry import Entry, kind_of, operation
from saltext.openhim.backup.oplog.slices import words
from saltext.openhim.backup.oplog.transactions import Operation
from saltext.openhim.backup.present import NOTE
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized

#: Operations, and bytes of them, in one applyOps: it becomes one entry of the target's own oplog.
BATCH = 1000
BATCH_BYTES = 8 << 20

#: Never replayed: they are the server's own, or those of the set and its users.
_SYSTEM = frozenset({"admin", "config", "local"})
_DOCUMENTS = {"i": "inserts", "u": "updates", "d": "deletes"}
_NOTHING_TO_DO = frozenset({"startIndexBuild", "abortIndexBuild", "dbCheck"})
_DROP_INDEXES = frozenset({"dropIndexes", "deleteIndexes", "dropIndex", "deleteIndex"})
_BUCKETS = "system.buckets."
_MAJORITY = {"w": "majority"}

_NOT_ALLOWED = 13
_NAMESPACE_NOT_FOUND = 26
_NAMESPACE_EXISTS = 48
_INDEX_NOT_FOUND = 27
_UPDATE_FOUND_NOTHING = 218


class ReplayFailed(OpenHIMError):
    """An operation could not be applied; the databases are somewhere before the wanted time."""


class Names:
    """Which namespaces are replayed, and what they are called then."""

    def __init__(
        self,
        databases: Sequence[str] | None,
        selection: Sequence[str] | None,
        rename: Mapping[str, str],
    ):
        self._databases = databases
        self._selection = selection
        self._rename = rename

    def why_not(self, db: str, collection: str | None) -> str | None:
        """Why a namespace is left out; None when it is not."""
        if db in _SYSTEM:
            return "MongoDB's own"
        if collection == NOTE:
            return "another restore's note"
        if self._databases is not None and db not in self._databases:
            return "not selected"
        if collection is not None and not selected(self._selection, f"{db}.{collection}"):
            return "not selected"
        return None

    def target(self, db: str, collection: str) -> tuple[str, str]:
        """Database and collection that a namespace becomes."""
        if to := self._rename.get(f"{db}.{collection}"):
            new_db, dot, new_collection = to.partition(".")
            if not (dot and new_db and new_collection):
                raise Refused(f"{db}.{collection} can't become {to!r}: name database.collection")
            return new_db, new_collection
        return self._rename.get(db, db), collection

    def whole(self, db: str) -> bool:
        """Whether all of a database is replayed, under one name."""
        return self._selection is None and not any(
            name.startswith(f"{db}.") for name in self._rename
        )

    def database(self, db: str) -> str:
        """What a database becomes."""
        return self._rename.get(db, db)


class Applier:
    """Applies operations in order: documents in batches, commands one by one."""

    def __init__(self, client: MongoClient[Any], names: Names, fuzzy: Sequence[str], batch: int):
        self._client = client
        self._names = names
        self._fuzzy = fuzzy
        self._batch = batch
        self._waiting: list[RawBSONDocument] = []
        # The server works on a batch while the next one is read.
        self._sender = ThreadPoolExecutor(1, "oplog-replay")
        self._sending: Future[None] | None = None
        self._targets: dict[bytes, bytes | None] = {}
        self._size = 0
        self._since: Timestamp | None = None
        #: Documents that an update did not find, and collections that were not there at all.
        self._missing: set[tuple[str, bytes | None]] = set()
        self.applied: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def entry(self, kind: bytes, entry: Entry, ts: Timestamp) -> None:
        """One entry that is no command: as :meth:`apply`, without decoding it."""
        if kind in (b"i", b"u", b"d"):
            target = self._documents_of(entry.string(b"ns"))
            if target is not None:
                query = entry.document(b"o2") if kind == b"u" else None
                self._document(kind, target, entry.document(b"o"), query, ts)
                return
        self.apply(entry.decoded(), ts)

    def _documents_of(self, namespace: bytes) -> bytes | None:
        """What a collection with nothing special about it becomes; else None."""
        known = self._targets.get(namespace, b"")
        if known != b"":
            return known
        db, _, collection = namespace.decode().partition(".")
        plain = self._names.why_not(db, collection) is None and collection != "system.views"
        target = ".".join(self._names.target(db, collection)).encode() if plain else None
        self._targets[namespace] = target
        return target

    def apply(self, operation: Operation, ts: Timestamp) -> None:
        """One operation of an entry with the cluster time ``ts``."""
        kind = operation["op"]
        if kind == "n":
            self.skipped["no-op"] += 1
            return
        db, _, collection = operation["ns"].partition(".")
        if kind == "c":
            self._command(db, operation, ts)
        elif kind not in _DOCUMENTS:
            raise ReplayFailed(
                f"the oplog has an operation {kind!r} on {operation['ns']} at {words(ts)} that "
                "this version does not know; restore to a time before it, or use a newer version"
            )
        elif self._left_out(db, collection):
            return
        elif collection == "system.views":
            self._view(db, operation, ts)
        else:
            target = ".".join(self._names.target(db, collection)).encode()
            query = bytes(operation["o2"].raw) if kind == "u" else None
            self._document(kind.encode(), target, bytes(operation["o"].raw), query, ts)

    def finish(self) -> None:
        """Sends what waits, and sees that nothing is missing."""
        self._flush()
        self._sent()
        if self._missing:
            some = ", ".join(sorted({namespace for namespace, _ in self._missing})[:5])
            raise ReplayFailed(
                f"{len(self._missing)} documents that the oplog changes are not there, in {some}, "
                "and were not deleted later: the base is not what it should be. Load it again"
            )

    def _left_out(self, db: str, collection: str | None) -> bool:
        why = self._names.why_not(db, collection)
        if why:
            self.skipped[f"{db}.{collection} ({why})" if collection else f"{db} ({why})"] += 1
        return why is not None

    # --- documents ---

    def _document(
        self, kind: bytes, target: bytes, document: bytes, query: bytes | None, ts: Timestamp
    ) -> None:
        change = operation(kind, target, document, query)
        full = len(self._waiting) >= self._batch or self._size + len(change) > BATCH_BYTES
        if self._waiting and full:
            self._flush()
        self._since = self._since or ts
        self._waiting.append(RawBSONDocument(change))
        self._size += len(change)

    def _flush(self) -> None:
        """Lets the server begin with what waits, as soon as it is done with what came before."""
        waiting, since = self._waiting, self._since
        self._waiting, self._size, self._since = [], 0, None
        self._sent()
        if waiting:
            self._sending = self._sender.submit(self._apply, waiting, since)

    def _sent(self) -> None:
        """Waits for what the server was given, and raises what went wrong with it."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.result()

    def close(self) -> None:
        """Waits for what is under way, whatever comes of it."""
        self._sender.shutdown(cancel_futures=True)

    def _apply(self, changes: list[RawBSONDocument], since: Timestamp | None) -> None:
        while changes:
            try:
                self._apply_ops(changes)
                applied, changes = changes, []
            except OperationFailure as error:
                applied, changes = self._without_culprit(changes, error, since)
            self._count(applied)

    def _count(self, changes: list[RawBSONDocument]) -> None:
        for change in changes:
            self.applied[_DOCUMENTS[kind_of(change.raw)]] += 1
            if self._missing and change["op"] != "u":
                self._missing.discard((change["ns"], _id(change)))

    def _apply_ops(self, changes: list[RawBSONDocument]) -> None:
        self._send(
            "admin",
            {
                "applyOps": changes,
                # A missing document must be seen, and not become a stub.
                "alwaysUpsert": False,
                # They were valid where they were written.
                "bypassDocumentValidation": True,
            },
        )

    def _send(self, db: str, command: Mapping[str, Any]) -> None:
        try:
            reply = self._client[db].command({**command, "writeConcern": _MAJORITY})
        except OperationFailure as error:
            if error.code == _NOT_ALLOWED:
                raise Unauthorized(
                    f"the user may not run {next(iter(command))} on {db}: a replay needs the roles "
                    "restore and readWriteAnyDatabase. Load the base again before the next try"
                ) from None
            raise
        if "writeConcernError" in reply:
            raise ReplayFailed(
                "the majority of the set did not confirm a change in time: "
                f"{reply['writeConcernError'].get('errmsg')}. Load the base again"
            )

    def _without_culprit(
        self, changes: list[RawBSONDocument], error: OperationFailure, since: Timestamp | None
    ) -> tuple[list[RawBSONDocument], list[RawBSONDocument]]:
        """Of a batch with a change that may fail: what was applied, and what is still to be sent.

        Raises when the change may not fail. What precedes it is rolled back after an update that
        found nothing, and stays after a collection that is not there; the answer says which.
        """
        details = error.details or {}
        index = int(details.get("applied", 0)) - 1
        before, results = changes[: max(index, 0)], list(details.get("results", ()))[:index]
        culprit = changes[index] if 0 <= index < len(changes) else None
        tolerable = (_UPDATE_FOUND_NOTHING, _NAMESPACE_NOT_FOUND)
        if (
            culprit is not None
            and error.code in tolerable
            and self._fuzzy
            and selected(self._fuzzy, culprit["ns"])
            and len(results) == len(before)
            and (all(results) or not any(results))
        ):
            key = _id(culprit) if error.code == _UPDATE_FOUND_NOTHING else None
            self._missing.add((culprit["ns"], key))
            self.skipped[f"{culprit['ns']} (change of what is deleted later)"] += 1
            after = changes[index + 1 :]
            return (before, after) if all(results) else ([], before + after)
        raise ReplayFailed(_why(error, culprit, since)) from None

    # --- commands ---

    def _command(self, db: str, operation: Operation, ts: Timestamp) -> None:
        command = operation["o"]
        name = next(iter(command))
        if name == "applyOps":
            for each in command["applyOps"]:
                self.apply(each, ts)
            return
        if name in _NOTHING_TO_DO:
            self.skipped[f"{name} (its end counts)"] += 1
            return
        if name == "renameCollection":
            self._rename(db, command, ts)
        elif name == "dropDatabase":
            self._drop_database(db, ts)
        elif name in _COMMANDS or name in _DROP_INDEXES:
            collection = str(command[name])
            if not self._left_out(db, collection):
                made = _COMMANDS.get(name, _drop_indexes)(command)
                self._collection_command(db, collection, made, ts)
        elif not self._left_out(db, None):
            raise ReplayFailed(
                f"the oplog has a command {name!r} on {db} at {words(ts)} that this version does "
                "not know; restore to a time before it, or use a newer version"
            )

    def _collection_command(
        self, db: str, collection: str, command: dict[str, Any], ts: Timestamp
    ) -> None:
        verb = next(iter(command))
        if collection == "system.views":
            self.skipped["system.views (made and kept by the server)"] += 1
            return
        time_series = collection.startswith(_BUCKETS)
        if time_series and verb in ("create", "collMod"):
            # Asked for by its own name, the server makes what belongs to it.
            collection = collection[len(_BUCKETS) :]
            kept = (verb, "timeseries", "expireAfterSeconds")
            command = {key: value for key, value in command.items() if key in kept}
        target_db, target = self._names.target(db, collection)
        command[verb] = target
        self._run(target_db, command, ts, tolerated=self._tolerated(verb, target_db, target))
        if verb == "drop":
            gone = f"{target_db}.{target}"
            self._missing = {each for each in self._missing if each[0] != gone}

    def _tolerated(self, verb: str, db: str, collection: str) -> tuple[int, ...]:
        if verb == "drop":
            return (_NAMESPACE_NOT_FOUND,)
        if self._fuzzy and selected(self._fuzzy, f"{db}.{collection}"):
            return (_NAMESPACE_EXISTS, _NAMESPACE_NOT_FOUND, _INDEX_NOT_FOUND)
        return ()

    def _drop_database(self, db: str, ts: Timestamp) -> None:
        # Each of its collections was dropped before, in an entry of its own.
        if not self._left_out(db, None) and self._names.whole(db):
            target = self._names.database(db)
            self._run(target, {"dropDatabase": 1}, ts)
            self._missing = {e for e in self._missing if not e[0].startswith(f"{target}.")}

    def _rename(self, db: str, command: Operation, ts: Timestamp) -> None:
        old, new = (command[key].partition(".")[::2] for key in ("renameCollection", "to"))
        out = [self._names.why_not(*each) is not None for each in (old, new)]
        if all(out):
            self._left_out(*old)
        elif out[1]:
            target_db, target = self._names.target(*old)
            self._run(target_db, {"drop": target}, ts, (_NAMESPACE_NOT_FOUND,))
        elif out[0]:
            raise ReplayFailed(
                f"{'.'.join(old)} became {'.'.join(new)} at {words(ts)}, and only the new name is "
                "selected, so its contents are unknown; select both"
            )
        else:
            made = {
                "renameCollection": ".".join(self._names.target(*old)),
                "to": ".".join(self._names.target(*new)),
                "dropTarget": bool(command.get("dropTarget")),
            }
            self._run("admin", made, ts)

    def _view(self, db: str, operation: Operation, ts: Timestamp) -> None:
        """A view, or the face of a time series: a document in system.views."""
        kind, document = operation["op"], operation["o"]
        name = (operation["o2"] if kind == "u" else document)["_id"].partition(".")[2]
        if self._left_out(db, name):
            return
        target_db, target = self._names.target(db, name)
        if kind == "d":
            self._run(target_db, {"drop": target}, ts, (_NAMESPACE_NOT_FOUND,))
            return
        source = document.get("viewOn")
        if source is None:
            raise ReplayFailed(f"the view {db}.{name} was changed at {words(ts)} in part only")
        if source.startswith(_BUCKETS):
            return
        options = {key: document[key] for key in ("pipeline", "collation") if key in document}
        view = {"viewOn": self._names.target(db, source)[1], **options}
        verb = "create" if kind == "i" else "collMod"
        self._run(target_db, {verb: target, **view}, ts, self._tolerated(verb, target_db, target))

    def _run(
        self, db: str, command: dict[str, Any], ts: Timestamp, tolerated: tuple[int, ...] = ()
    ) -> None:
        self._flush()
        self._sent()
        try:
            self._send(db, command)
        except OperationFailure as error:
            if error.code not in tolerated:
                told = f"{next(iter(command))} on {db}"
                raise ReplayFailed(
                    f"{told} of {words(ts)} failed: {_said(error)}. The databases are somewhere "
                    "before the wanted time; load the base again"
                ) from None
        self.applied["commands"] += 1


def _create(command: Operation) -> dict[str, Any]:
    # "temp" is the server's own word; such a collection is renamed or dropped soon.
    return {key: value for key, value in command.items() if key not in ("temp", "idIndex")}


def _create_index(command: Operation) -> dict[str, Any]:
    spec = {key: value for key, value in command.items() if key not in ("createIndexes", "ns")}
    return {"createIndexes": None, "indexes": [spec]}


def _commit_index_build(command: Operation) -> dict[str, Any]:
    specs = [{k: v for k, v in spec.items() if k != "ns"} for spec in command["indexes"]]
    return {"createIndexes": None, "indexes": specs}


def _drop_indexes(command: Operation) -> dict[str, Any]:
    return {"dropIndexes": None, "index": command["index"]}


_COMMANDS: Mapping[str, Callable[[Operation], dict[str, Any]]] = {
    "create": _create,
    "drop": lambda command: {"drop": None},
    "createIndexes": _create_index,
    "commitIndexBuild": _commit_index_build,
    "collMod": dict,
    "convertToCapped": dict,
}


def _id(change: Mapping[str, Any]) -> bytes:
    """What tells the document of a change."""
    document = change["o2"] if change["op"] == "u" else change["o"]
    return repr(document["_id"]).encode()


def _why(
    error: OperationFailure, culprit: Mapping[str, Any] | None, since: Timestamp | None
) -> str:
    kind = {"i": "an insert into", "u": "an update of", "d": "a deletion from"}
    what = f"{kind[culprit['op']]} {culprit['ns']}" if culprit else "a change"
    when = f" of {words(since)} or a little later" if since else ""
    if error.code == _UPDATE_FOUND_NOTHING:
        cause = (
            "its document is not there. The base does not show the time that it is said to, or "
            "something changed it since (the TTL monitor must be off while restoring)"
        )
    else:
        cause = _said(error)
    return f"{what}{when} failed: {cause}. Load the base again"


def _said(error: OperationFailure) -> str:
    # The server quotes documents in some messages; those are nobody's business here.
    text = str((error.details or {}).get("errmsg", error)).partition(", full error")[0]
    return (
        f"{text.partition('{')[0].partition(' dup key')[0].strip()} (MongoDB's code {error.code})"
    )
