"""Brings databases from a base's cluster time to another one, entry by entry of the archived oplog.

Documents' changes go through ``applyOps`` in batches; what changes collections and indexes goes
as ordinary commands, because ``applyOps`` answers success to some of them and does nothing, and
refuses others. The base must show its cluster time exactly (a snapshot): then every update finds
its document, and one that does not is an error and never a stub of a document.

The server must not run its TTL monitor meanwhile (``ttlMonitorEnabled=false``): the deletions that
it made are in the oplog, at their time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from saltext.openhim.backup.dump import selected
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.chain import Plan, Segment, TimeNotReachable
from saltext.openhim.backup.oplog.slices import DamagedSlice, Header, words
from saltext.openhim.backup.oplog.store import SliceStore
from saltext.openhim.backup.oplog.transactions import Entry, Transactions
from saltext.openhim.backup.progress import Progress, Reporter
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized
from saltext.openhim.mongo.connection import explained

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


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    to: the time that was wanted, and is reached. last: the cluster time of the last entry up to it.
    applied: inserts, updates, deletes, commands. transactions: committed ones among them. skipped:
    what was left out, by name and reason. damaged: slices that were not used, for others had the
    same.
    """

    to: Timestamp
    last: Timestamp | None
    applied: Mapping[str, int] = field(default_factory=dict)
    transactions: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    damaged: Sequence[str] = ()

    @property
    def operations(self) -> int:
        """All that was applied."""
        return sum(self.applied.values())


def replay_to(
    client: MongoClient[Any],
    store: SliceStore,
    *,
    replica_set: str,
    base: Timestamp,
    to: Timestamp,
    base_epoch: int | None = None,
    epoch: int | None = None,
    **options: Any,
) -> Replayed:
    """Finds the slices from ``base`` to ``to``, reads them whole once, and replays them.

    As :func:`saltext.openhim.backup.oplog.chain.plan` and :func:`replay`. A damaged slice is found
    before anything is written; it is no obstacle where others have the same entries.
    """
    headers = store.headers()
    wanted = {"base": base, "to": to, "base_epoch": base_epoch, "epoch": epoch}
    plan, damaged = sound_plan(store, headers, replica_set, **wanted)
    return replay(client, store, plan, damaged=damaged, **options)


def sound_plan(
    store: SliceStore, headers: Iterable[Header], replica_set: str, **wanted: Any
) -> tuple[Plan, list[str]]:
    """A plan whose slices were all read to their end, and the names of those found damaged."""
    known = list(headers)
    sound: set[str] = set()
    damaged: dict[str, str] = {}
    while True:
        left = [header for header in known if header.name not in damaged]
        try:
            plan = chain.plan(left, replica_set, **wanted)
        except TimeNotReachable as error:
            if not damaged:
                raise
            told = "; ".join(damaged.values())
            raise TimeNotReachable(f"{error}. Damaged: {told}", error.ranges) from None
        for segment in plan.segments:
            header = segment.header
            if header.name in sound:
                continue
            try:
                with contextlib.closing(store.get(header.name)) as stream:
                    slices.verify(stream, header)
            except DamagedSlice as error:
                damaged[header.name] = str(error)
                break
            sound.add(header.name)
        else:
            return plan, sorted(damaged)


def replay(
    client: MongoClient[Any],
    store: SliceStore,
    plan: Plan,
    *,
    databases: Sequence[str] | None = None,
    selection: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    fuzzy: Sequence[str] = (),
    batch: int = BATCH,
    progress: Callable[[Progress], None] | None = None,
    damaged: Sequence[str] = (),
) -> Replayed:
    """Applies what the plan names: all after the base's time, up to and with the wanted one.

    client: to the primary, or a standalone, that holds the base; its user needs the roles
    ``restore`` and ``readWriteAnyDatabase``, and its socket timeout must allow for building an
    index. databases: all but MongoDB's own when left out. selection: patterns of namespaces, as in
    a dump. rename: as in a load. fuzzy: patterns of namespaces that do not show the base's time
    exactly (``Namespace.snapshot`` is False, or this is a second replay over the same base): there,
    a change of a document that is not there is passed over, if the document is deleted later on.

    Raises Refused before the first change where it can, :class:`ReplayFailed` or the connection's
    errors afterwards; then the databases are of no use, and the base is to be loaded again.
    """
    names = _Names(databases, selection, rename or {})
    reporter = Reporter(progress, sum(each.header.size for each in plan.segments))
    applier = _Applier(client, names, fuzzy, batch)
    transactions = Transactions(lambda: _earlier(store, plan))
    last = None
    count = 0
    with explained("the server that is restored to"):
        for segment in plan.segments:
            for raw in read_segment(store, segment):
                entry = RawBSONDocument(raw)
                if entry["ts"] > plan.to:
                    break
                last = entry["ts"]
                reporter.add(f"oplog to {words(last)}", len(raw))
                count += _take(entry, last > plan.after, transactions, applier)
        applier.finish()
    reporter.finish("oplog")
    return Replayed(
        plan.to, last, dict(applier.applied), count, dict(applier.skipped), list(damaged)
    )


def _take(entry: Entry, wanted: bool, transactions: Transactions, applier: _Applier) -> int:
    """Applies one entry of the oplog; returns 1 when it committed a transaction."""
    if entry["op"] == "c" and (made := transactions.feed(entry, wanted)) is not None:
        for operation in made:
            applier.apply(operation, entry["ts"])
        return int(bool(made) and "txnNumber" in entry)
    if wanted:
        applier.apply(entry, entry["ts"])
    return 0


def read_segment(store: SliceStore, segment: Segment) -> Iterator[bytes]:
    """The entries that a segment takes of its slice, raw; checked where two slices overlap."""
    after, header = segment.after, segment.header
    met = after == header.previous
    with contextlib.closing(store.get(header.name)) as stream:
        for raw in slices.read(stream, header):
            position = slices.position_of(raw)
            met = met or position == after
            if position <= after or position > segment.until:
                continue
            if not met:
                break
            yield raw
    if not met:
        raise Refused(
            f"{header.name} does not have the entry {after} that the slice before it ends with: "
            "they are not of one history"
        )


def _earlier(store: SliceStore, plan: Plan) -> Iterator[Iterator[Entry]]:
    for segment in plan.earlier:
        yield (RawBSONDocument(raw) for raw in read_segment(store, segment))


class _Names:
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


class _Applier:
    """Applies operations in order: documents in batches, commands one by one."""

    def __init__(self, client: MongoClient[Any], names: _Names, fuzzy: Sequence[str], batch: int):
        self._client = client
        self._names = names
        self._fuzzy = fuzzy
        self._batch = batch
        self._waiting: list[dict[str, Any]] = []
        self._size = 0
        self._since: Timestamp | None = None
        #: Documents that an update did not find, and collections that were not there at all.
        self._missing: set[tuple[str, bytes | None]] = set()
        self.applied: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def apply(self, operation: Entry, ts: Timestamp) -> None:
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
            self._document(kind, db, collection, operation, ts)

    def finish(self) -> None:
        """Sends what waits, and sees that nothing is missing."""
        self._flush()
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
        self, kind: str, db: str, collection: str, operation: Entry, ts: Timestamp
    ) -> None:
        change = {"op": kind, "ns": ".".join(self._names.target(db, collection))}
        change["o"] = operation["o"]
        size = len(operation["o"].raw) + 100
        if kind == "u":
            change["o2"] = operation["o2"]
            size += len(operation["o2"].raw)
        if self._waiting and (len(self._waiting) >= self._batch or self._size + size > BATCH_BYTES):
            self._flush()
        self._since = self._since or ts
        self._waiting.append(change)
        self._size += size

    def _flush(self) -> None:
        waiting, since = self._waiting, self._since
        self._waiting, self._size, self._since = [], 0, None
        while waiting:
            try:
                self._apply_ops(waiting)
                break
            except OperationFailure as error:
                waiting = self._without_culprit(waiting, error, since)
        for change in waiting:
            self.applied[_DOCUMENTS[change["op"]]] += 1
            if self._missing and change["op"] != "u":
                self._missing.discard((change["ns"], _id(change)))

    def _apply_ops(self, changes: list[dict[str, Any]]) -> None:
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
        self, changes: list[dict[str, Any]], error: OperationFailure, since: Timestamp | None
    ) -> list[dict[str, Any]]:
        """The batch without a change that may fail; raises when none may."""
        index = int((error.details or {}).get("applied", 0)) - 1
        culprit = changes[index] if 0 <= index < len(changes) else None
        tolerable = (_UPDATE_FOUND_NOTHING, _NAMESPACE_NOT_FOUND)
        if (
            culprit is not None
            and error.code in tolerable
            and self._fuzzy
            and selected(self._fuzzy, culprit["ns"])
        ):
            key = _id(culprit) if error.code == _UPDATE_FOUND_NOTHING else None
            self._missing.add((culprit["ns"], key))
            self.skipped[f"{culprit['ns']} (change of what is deleted later)"] += 1
            return changes[:index] + changes[index + 1 :]
        raise ReplayFailed(_why(error, culprit, since)) from None

    # --- commands ---

    def _command(self, db: str, operation: Entry, ts: Timestamp) -> None:
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

    def _rename(self, db: str, command: Entry, ts: Timestamp) -> None:
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

    def _view(self, db: str, operation: Entry, ts: Timestamp) -> None:
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


def _create(command: Entry) -> dict[str, Any]:
    # "temp" is the server's own word; such a collection is renamed or dropped soon.
    return {key: value for key, value in command.items() if key not in ("temp", "idIndex")}


def _create_index(command: Entry) -> dict[str, Any]:
    spec = {key: value for key, value in command.items() if key not in ("createIndexes", "ns")}
    return {"createIndexes": None, "indexes": [spec]}


def _commit_index_build(command: Entry) -> dict[str, Any]:
    specs = [{k: v for k, v in spec.items() if k != "ns"} for spec in command["indexes"]]
    return {"createIndexes": None, "indexes": specs}


def _drop_indexes(command: Entry) -> dict[str, Any]:
    return {"dropIndexes": None, "index": command["index"]}


_COMMANDS: Mapping[str, Callable[[Entry], dict[str, Any]]] = {
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
