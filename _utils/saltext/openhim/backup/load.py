"""A restore: from an archive stream into databases, raw and with several inserts at a time.

Before the first write, everything is checked that can be: which namespaces the archive has, what
they become, and that none of them is there already. Documents are inserted as the bytes that
they are in the archive. A collection's indexes are built when its documents are in, while the next
collection is being filled. Capped collections are filled in order, one batch at a time.

The archive has OpenHIM's configuration first (``CONFIGURATION`` in ``dump.py``), so OpenHIM can
route again while its history is still being restored.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure
from saltext.openhim.backup import archive
from saltext.openhim.backup.ahead import total
from saltext.openhim.backup.archive import TIMESERIES, VIEW
from saltext.openhim.backup.digest import Digest
from saltext.openhim.backup.dump import CONFIGURATION, Namespace, addresses, selected
from saltext.openhim.backup.progress import Progress, Reporter
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.connection import MongoError, explained

#: Inserts under way at the same time.
WORKERS = 3
#: One insert: a command is one document for the server, and no larger than one may be.
BATCH_BYTES = 4 << 20
BATCH_DOCUMENTS = 10_000
#: Seconds for a set without a primary to find one.
ELECTION_PATIENCE = 60.0
#: Seconds for the indexes of one collection.
BUILD_PATIENCE = 24 * 3600.0
#: What is never restored from an archive: the server's own, and the stock tool's special ones.
_OTHERS = frozenset({"", "admin", "config", "local"})

_DUPLICATE_KEY = 11000
_INVALID_BSON = 22
#: The server gave up being primary after it took the documents, perhaps before others had them.
_STEPPED_DOWN = {10107, 13435, 11602, 11600, 189, 91}


class DuplicateKey(OpenHIMError):
    """Documents of the archive contradict a unique index, or a document is there already."""


@dataclass(frozen=True)
class Loaded:
    """What a restore has written.

    namespaces: by the names that they have now, with count, bytes and digest as read from the
    archive. skipped: what the archive has and a restore leaves out: an oplog, users, the server's
    own databases. untouched: collections of the same databases that were there and are not in
    the archive.
    """

    server_version: str
    namespaces: list[Namespace]
    skipped: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Documents in all."""
        return sum(each.count for each in self.namespaces)

    @property
    def bytes(self) -> int:
        """Bytes of BSON in all."""
        return sum(each.bytes for each in self.namespaces)


@dataclass
class _Target:
    """One namespace of the archive and what it becomes."""

    entry: archive.Entry
    db: str
    collection: str
    options: dict[str, Any]
    indexes: list[dict[str, Any]]
    uuid: str
    digest: Digest = field(default_factory=Digest)

    @property
    def namespace(self) -> str:
        return f"{self.db}.{self.collection}"

    @property
    def capped(self) -> bool:
        return bool(self.options.get("capped"))

    def result(self) -> Namespace:
        return Namespace(
            self.db,
            self.collection,
            self.entry.type,
            self.digest.count,
            self.digest.bytes,
            self.digest.hex(),
            self.options,
            self.indexes,
            self.uuid,
            self.entry.metadata,
            not self.capped,
        )


def load(
    stream: BinaryIO,
    client: MongoClient,
    *,
    rename: Mapping[str, str] | None = None,
    selection: Sequence[str] | None = None,
    overwrite: bool = False,
    configuration_first: bool = False,
    on_configured: Callable[[], None] | None = None,
    workers: int = WORKERS,
    progress: Callable[[Progress], None] | None = None,
) -> Loaded:
    """Restores an archive.

    rename: ``{"openhim": "openhim_drill"}`` for a database, or ``{"openhim.users":
    "drill.people"}`` for one namespace. selection: patterns such as ``openhim.channels`` or
    ``openhim.*`` of the names in the archive. overwrite: collections of the same name are dropped
    first; otherwise they are a reason to refuse. configuration_first: as soon as OpenHIM's
    configuration is in, with its indexes, ``on_configured`` is called, once and in this thread;
    history follows. workers: inserts at the same time.

    Raises Refused before anything was written; ArchiveDamaged, DuplicateKey or the connection's
    errors later on: then what is there is incomplete, and to be restored again.
    """
    reader = archive.Reader(stream)
    targets, skipped = _targets(reader.entries, rename or {}, selection)
    with explained(addresses(client)):
        untouched = _prepare(client, targets, overwrite)
        total_bytes = sum(target.entry.size for target in targets.values())
        reporter = Reporter(progress, total_bytes)
        ready = _Configured(targets.values(), on_configured if configuration_first else None)
        _fill(reader, targets, client, workers, reporter, ready)
    reporter.finish("")
    results = [target.result() for target in targets.values()]
    return Loaded(reader.header.server_version, results, skipped, untouched)


# Before the first write


def _targets(
    entries: Sequence[archive.Entry],
    rename: Mapping[str, str],
    selection: Sequence[str] | None,
) -> tuple[dict[str, _Target], list[str]]:
    """What is to be restored, by its name in the archive, and the names of what never is."""
    targets: dict[str, _Target] = {}
    skipped = []
    taken: dict[str, str] = {}
    for entry in entries:
        if entry.db in _OTHERS or entry.collection.startswith(("$", "system.profile")):
            skipped.append(entry.namespace)
            continue
        if not selected(selection, entry.namespace):
            continue
        target = _target(entry, rename)
        if target.namespace in taken:
            raise Refused(
                f"{entry.namespace} and {taken[target.namespace]} would both become "
                f"{target.namespace}; change the renaming. Nothing was touched."
            )
        taken[target.namespace] = entry.namespace
        targets[entry.namespace] = target
    if selection is not None and not targets:
        raise Refused(
            f"nothing in the archive fits {', '.join(selection)}; it has "
            f"{', '.join(entry.namespace for entry in entries) or 'no collections'}."
        )
    return targets, skipped


def _renamed(db: str, collection: str, rename: Mapping[str, str]) -> tuple[str, str]:
    if to := rename.get(f"{db}.{collection}"):
        new_db, dot, new_collection = to.partition(".")
        if not dot or not new_db or not new_collection:
            raise Refused(f"{db}.{collection} can't become {to!r}: name database.collection")
        return new_db, new_collection
    return rename.get(db, db), collection


def _target(entry: archive.Entry, rename: Mapping[str, str]) -> _Target:
    metadata = archive.parse_metadata(entry.metadata)
    options, indexes = dict(metadata["options"]), list(metadata["indexes"])
    db, collection = _renamed(entry.db, entry.collection, rename)
    if entry.type == VIEW and "viewOn" in options:
        source_db, source = _renamed(entry.db, options["viewOn"], rename)
        if source_db == db:
            options["viewOn"] = source
    return _Target(entry, db, collection, options, indexes, metadata.get("uuid", ""))


def _prepare(client: MongoClient, targets: Mapping[str, _Target], overwrite: bool) -> list[str]:
    """Checks what is there, drops what may be dropped, makes the collections; names the others."""
    ours = {target.namespace for target in targets.values()}
    there = {
        f"{db}.{name}"
        for db in sorted({target.db for target in targets.values()})
        for name in client[db].list_collection_names()
        if not name.startswith("system.") or f"{db}.{name}" in ours
    }
    if (taken := sorted(ours & there)) and not overwrite:
        listed = ", ".join(taken[:10]) + (f" and {len(taken) - 10} more" if len(taken) > 10 else "")
        raise Refused(
            f"these are there already and would be overwritten: {listed}. Nothing was touched. "
            "Restore under another name (rename), or say overwrite=True to replace them."
        )
    for target in targets.values():
        database = client[target.db]
        if target.namespace in there:
            database.command("drop", target.collection, writeConcern={"w": "majority"})
        if target.collection != "system.js":
            _create(database, target)
    return sorted(there - ours)


def _create(database: Any, target: _Target) -> None:
    # The server makes the index on _id by itself, with the collection's collation.
    options = {key: value for key, value in target.options.items() if key != "autoIndexId"}
    try:
        database.command(
            {"create": target.collection, **options, "writeConcern": {"w": "majority"}}
        )
    except OperationFailure as error:
        raise MongoError(
            f"{target.namespace} can't be made with the options of the backup: "
            f"{_errmsg(error)} (MongoDB's code {error.code}). Compare the server's version with "
            "the backup's.",
            error.code,
        ) from None


# Documents


class _Configured:
    """Tells once when all of OpenHIM's configuration is in."""

    def __init__(self, targets: Iterable[_Target], tell: Callable[[], None] | None):
        self._tell = tell
        self._waiting = {
            target.entry.namespace
            for target in targets
            if tell and target.entry.collection in CONFIGURATION
        }

    def done(self, target: _Target, lanes: _Lanes) -> None:
        """A namespace has got its documents, and its indexes were begun."""
        if target.entry.namespace in self._waiting:
            self._waiting.discard(target.entry.namespace)
            if not self._waiting and self._tell:
                lanes.finish_indexes()
                self._tell()


def _fill(
    reader: archive.Reader,
    targets: Mapping[str, _Target],
    client: MongoClient,
    workers: int,
    reporter: Reporter,
    ready: _Configured,
) -> None:
    lanes = _Lanes(client, workers)
    batch = _Batch()
    try:
        for event in reader:
            target = targets.get(event.entry.namespace)
            if target is None:
                continue
            if isinstance(event, archive.Documents):
                target.digest.update(event.documents)
                reporter.add(target.namespace, total(event.documents))
                for full in batch.add(target, event.documents):
                    lanes.insert(target, full)
                continue
            for rest in batch.rest(target):
                lanes.insert(target, rest)
            lanes.finish_inserts(target)
            lanes.build_indexes(target)
            ready.done(target, lanes)
        lanes.finish_indexes()
    finally:
        lanes.close()


class _Batch:
    """Gathers documents until there are enough for an insert."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[list[memoryview], int]] = {}

    def add(self, target: _Target, documents: Sequence[memoryview]) -> Iterable[list[memoryview]]:
        held, size = self._held.pop(target.namespace, ([], 0))
        for document in documents:
            if held and (size + len(document) > BATCH_BYTES or len(held) >= BATCH_DOCUMENTS):
                yield held
                held, size = [], 0
            held.append(document)
            size += len(document)
        self._held[target.namespace] = (held, size)

    def rest(self, target: _Target) -> Iterable[list[memoryview]]:
        held, _ = self._held.pop(target.namespace, ([], 0))
        return [held] if held else []


class _Lanes:
    """Inserts and index builds under way, as many as memory is for."""

    def __init__(self, client: MongoClient, workers: int):
        self._client = client
        self._workers = workers
        self._inserts: dict[str, deque[Future[int]]] = {}
        self._indexes: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(workers, "restore")
        # One build at a time: each takes the server's memory and disk for itself.
        self._builder = ThreadPoolExecutor(1, "index")
        self._in_set = bool(client.admin.command("hello").get("setName"))
        self._inserted: dict[str, int] = {}

    def insert(self, target: _Target, documents: list[memoryview]) -> None:
        """Begins an insert; waits while too many are under way (for a capped one: any)."""
        waiting = self._inserts.setdefault(target.namespace, deque())
        limit = 1 if target.capped else self._workers + 1
        while sum(map(len, self._inserts.values())) >= limit:
            self._wait_for_one()
        waiting.append(self._pool.submit(_insert, self._client, target, documents))

    def _wait_for_one(self) -> None:
        for name, waiting in self._inserts.items():
            if waiting:
                self._inserted[name] = self._inserted.get(name, 0) + waiting.popleft().result()
                return

    def finish_inserts(self, target: _Target) -> None:
        """All documents of a namespace are in, as many as there were."""
        waiting = self._inserts.pop(target.namespace, deque())
        inserted = self._inserted.pop(target.namespace, 0)
        inserted += sum(future.result() for future in waiting)
        if inserted != target.digest.count:
            raise MongoError(
                f"{target.namespace}: the server took {inserted} of {target.digest.count} "
                "documents. What was restored is incomplete."
            )

    def build_indexes(self, target: _Target) -> None:
        """Begins to build a namespace's indexes."""
        indexes = [
            {key: value for key, value in index.items() if key != "ns"}
            for index in target.indexes
            if not _made_by_the_server(index)
        ]
        if indexes and target.entry.type != VIEW:
            self._indexes.append(
                self._builder.submit(_build, self._client, target, indexes, self._in_set)
            )

    def finish_indexes(self) -> None:
        """All indexes that were begun are there."""
        for future in self._indexes:
            future.result()
        self._indexes.clear()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._builder.shutdown(cancel_futures=True)


def _made_by_the_server(index: Mapping[str, Any]) -> bool:
    return dict(index.get("key", {})) == {"_id": 1} or bool(index.get("clustered"))


def _insert(client: MongoClient, target: _Target, documents: list[memoryview]) -> int:
    """Inserts one batch; returns how many documents the server took."""
    collection = target.collection
    if target.entry.type == TIMESERIES:
        collection = archive.BUCKETS + collection
    command = {
        "insert": collection,
        "documents": [RawBSONDocument(bytes(document)) for document in documents],
        "ordered": target.capped,
        "bypassDocumentValidation": True,
        "writeConcern": {"w": "majority"},
    }
    deadline = time.monotonic() + ELECTION_PATIENCE
    again = False
    while True:
        try:
            reply = client[target.db].command(command)
            concern = reply.get("writeConcernError") or {}
            if concern.get("code") not in _STEPPED_DOWN:
                return _inserted(reply, target, len(documents), again)
            lost: Exception = _not_taken(target, concern)
        except AutoReconnect as error:
            lost = error
        except OperationFailure as error:
            raise _refused_document(target, error) from error
        # An order can't be kept when nobody knows how much of a batch is in.
        if target.capped or time.monotonic() > deadline:
            raise lost
        again = True
        time.sleep(0.2)


def _not_taken(target: _Target, concern: Mapping[str, Any]) -> MongoError:
    return MongoError(
        f"{target.namespace}: the majority did not take the documents: {concern.get('errmsg')}",
        concern.get("code"),
    )


def _inserted(reply: Mapping[str, Any], target: _Target, count: int, again: bool) -> int:
    """How many documents are in; raises what the server says against the others."""
    if concern := reply.get("writeConcernError"):
        raise _not_taken(target, concern)
    errors = reply.get("writeErrors", [])
    if again:
        # The answer that was lost would have counted these.
        errors = [each for each in errors if not _is_double_id(each)]
    if not errors:
        return count if again else int(reply["n"])
    first = errors[0]
    if first.get("code") == _DUPLICATE_KEY:
        raise DuplicateKey(
            f"{target.namespace}: {len(errors)} of {count} documents are there already or twice "
            f"in the backup: {_key(first)}. What was restored is incomplete; restore into a "
            "database that nobody writes to."
        )
    raise MongoError(
        f"{target.namespace}: the server refused {len(errors)} of {count} documents: "
        f"{first.get('errmsg')} (MongoDB's code {first.get('code')})",
        first.get("code"),
    )


def _is_double_id(error: Mapping[str, Any]) -> bool:
    return error.get("code") == _DUPLICATE_KEY and list(error.get("keyPattern", {})) == ["_id"]


def _key(error: Mapping[str, Any]) -> str:
    """The field names of a doubled key. Its value stays where it is: it may be a patient's."""
    return "the same " + ", ".join(error.get("keyPattern") or {"key": 1})


def _refused_document(target: _Target, error: Exception) -> Exception:
    if isinstance(error, OperationFailure) and error.code == _INVALID_BSON:
        return archive.ArchiveDamaged(
            f"the server refuses a document of {target.namespace}, which is no valid BSON: "
            f"{_errmsg(error)}. Restore from another copy."
        )
    return error


def _build(
    client: MongoClient, target: _Target, indexes: list[dict[str, Any]], in_set: bool
) -> None:
    command: dict[str, Any] = {"createIndexes": target.collection, "indexes": indexes}
    if in_set:
        # By default a build waits for every voting member, also for one that is lost.
        command["commitQuorum"] = "majority"
    try:
        # Longer than a connection's own timeout, which is meant for short commands.
        with pymongo.timeout(BUILD_PATIENCE):
            client[target.db].command({**command, "writeConcern": {"w": "majority"}})
    except OperationFailure as error:
        names = ", ".join(str(index.get("name")) for index in indexes)
        if error.code == _DUPLICATE_KEY:
            raise DuplicateKey(
                f"{target.namespace}: documents of the backup have {_key(error.details or {})}, "
                f"which a unique index among {names} forbids. The documents are restored, its "
                "indexes are not: remove the doubled documents and create the indexes."
            ) from None
        raise MongoError(
            f"{target.namespace}: the indexes {names} can't be built: {_errmsg(error)} (MongoDB's "
            f"code {error.code})",
            error.code,
        ) from None


def _errmsg(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg", error))
