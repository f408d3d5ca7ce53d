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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
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
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
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
_UNAUTHORIZED = 13
_NAMESPACE_NOT_FOUND = 26
_NAMESPACE_EXISTS = 48
#: The server gave up being primary after it did what it was told, perhaps before others had it.
_STEPPED_DOWN = {10107, 13435, 11602, 11600, 189, 91}
#: Errors of an index as it is declared; what is said of any other may quote a document.
_OF_THE_DECLARATION = {67, 85, 86, 197}
#: What makes a collection another kind of one than an insert makes by itself.
_OF_ITS_MAKING = ("capped", "collation", "validator", "viewOn", "timeseries", "clusteredIndex")


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
    total_bytes = sum(target.entry.size for target in targets.values())
    reporter = Reporter(progress, total_bytes)
    ready = _Configured(targets.values(), on_configured if configuration_first else None)
    with explained(addresses(client)):
        to = _Destination(client, bool(client.admin.command("hello").get("setName")))
        untouched = _prepare(to, targets, overwrite)
    try:
        with explained(addresses(client)):
            _fill(reader, targets, to, workers, reporter, ready)
            _read_back(client, targets.values())
    except Unreachable as error:
        raise Unreachable(
            f"{error}. What was restored is incomplete: see in the server's log why it ended (a "
            "disk that fills ends it), then restore again"
        ) from error
    reporter.finish("")
    results = [target.result() for target in targets.values()]
    return Loaded(reader.header.server_version, results, skipped, untouched)


@dataclass(frozen=True)
class _Destination:
    """The server that is written to; in a set, whichever member is primary."""

    client: MongoClient
    in_set: bool

    def acknowledged(
        self,
        target: _Target,
        command: Mapping[str, Any],
        *,
        once: bool = False,
        seconds: float | None = None,
        done: Collection[int] = (),
    ) -> tuple[Mapping[str, Any], bool]:
        """The reply when the majority has what was done; and whether it had to be told again.

        An election is waited out. once: a command that can't be sent again. seconds: that it may
        take, where a connection's own timeout is too short. done: error codes that tell, of a
        command that was sent again, that it had been carried out.
        """
        again = False
        deadline = time.monotonic() + ELECTION_PATIENCE
        while True:
            began = time.monotonic()
            try:
                if again or seconds:
                    # Without a primary this fails soon; under a longer timeout nothing would.
                    self.client.admin.command("ping")
                with pymongo.timeout(seconds) if seconds else nullcontext():
                    reply = self._send(target, command)
                concern = reply.get("writeConcernError")
                if not concern:
                    return reply, again
                lost: Exception = _not_taken(target, concern)
                if concern.get("code") not in _STEPPED_DOWN:
                    raise lost
            except AutoReconnect as error:
                lost = error
            except OperationFailure as error:
                if again and error.code in done:
                    return {}, again
                raise
            now = time.monotonic()
            if now - began > ELECTION_PATIENCE and not getattr(lost, "timeout", False):
                # It was at work until now.
                deadline = now + ELECTION_PATIENCE
            if once or not self.in_set or now > deadline:
                raise lost
            again = True
            time.sleep(0.2)

    def _send(self, target: _Target, command: Mapping[str, Any]) -> Mapping[str, Any]:
        database = self.client[target.db]
        return database.command({**command, "writeConcern": {"w": "majority"}})


def _not_taken(target: _Target, concern: Mapping[str, Any]) -> MongoError:
    return MongoError(
        f"{target.namespace}: the majority did not take it: {concern.get('errmsg')}",
        concern.get("code"),
    )


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


def renamed(db: str, collection: str, rename: Mapping[str, str]) -> tuple[str, str]:
    """What a namespace of the archive becomes: the database and the collection."""
    if to := rename.get(f"{db}.{collection}"):
        new_db, dot, new_collection = to.partition(".")
        if not dot or not new_db or not new_collection:
            raise Refused(f"{db}.{collection} can't become {to!r}: name database.collection")
        return new_db, new_collection
    return rename.get(db, db), collection


def _target(entry: archive.Entry, rename: Mapping[str, str]) -> _Target:
    metadata = archive.parse_metadata(entry.metadata)
    options, indexes = dict(metadata["options"]), list(metadata["indexes"])
    db, collection = renamed(entry.db, entry.collection, rename)
    if entry.type == VIEW and "viewOn" in options:
        source_db, source = renamed(entry.db, options["viewOn"], rename)
        if source_db == db:
            options["viewOn"] = source
    return _Target(entry, db, collection, options, indexes, metadata.get("uuid", ""))


def _prepare(to: _Destination, targets: Mapping[str, _Target], overwrite: bool) -> list[str]:
    """Checks what is there, drops what may be dropped, makes the collections; names the others."""
    ours = {target.namespace for target in targets.values()}
    there = {
        f"{db}.{name}"
        for db in sorted({target.db for target in targets.values()})
        for name in to.client[db].list_collection_names()
        if not name.startswith("system.") or f"{db}.{name}" in ours
    }
    if (taken := sorted(ours & there)) and not overwrite:
        listed = ", ".join(taken[:10]) + (f" and {len(taken) - 10} more" if len(taken) > 10 else "")
        raise Refused(
            f"these are there already and would be overwritten: {listed}. Nothing was touched. "
            "Restore under another name (rename), or say overwrite=True to replace them."
        )
    for target in targets.values():
        if target.namespace in there:
            to.acknowledged(target, {"drop": target.collection}, done=[_NAMESPACE_NOT_FOUND])
        if target.collection != "system.js":
            _create(to, target)
    return sorted(there - ours)


def _create(to: _Destination, target: _Target) -> None:
    # The server makes the index on _id by itself, with the collection's collation.
    options = {key: value for key, value in target.options.items() if key != "autoIndexId"}
    try:
        to.acknowledged(target, {"create": target.collection, **options}, done=[_NAMESPACE_EXISTS])
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
    to: _Destination,
    workers: int,
    reporter: Reporter,
    ready: _Configured,
) -> None:
    lanes = _Lanes(to, workers)
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

    def __init__(self, to: _Destination, workers: int):
        self._to = to
        self._workers = workers
        self._inserts: dict[str, deque[Future[int]]] = {}
        self._indexes: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(workers, "restore")
        # One build at a time: each takes the server's memory and disk for itself.
        self._builder = ThreadPoolExecutor(1, "index")
        self._inserted: dict[str, int] = {}

    def insert(self, target: _Target, documents: list[memoryview]) -> None:
        """Begins an insert; waits while too many are under way (for a capped one: any)."""
        waiting = self._inserts.setdefault(target.namespace, deque())
        limit = 1 if target.capped else self._workers + 1
        while sum(map(len, self._inserts.values())) >= limit:
            self._wait_for_one()
        waiting.append(self._pool.submit(_insert, self._to, target, documents))

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
            self._indexes.append(self._builder.submit(_build, self._to, target, indexes))

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


def _insert(to: _Destination, target: _Target, documents: list[memoryview]) -> int:
    """Inserts one batch; returns how many documents the server took."""
    collection = target.collection
    if target.entry.type == TIMESERIES:
        collection = archive.BUCKETS + collection
    command = {
        "insert": collection,
        "documents": [RawBSONDocument(bytes(document)) for document in documents],
        "ordered": target.capped,
        "bypassDocumentValidation": True,
    }
    try:
        # An order can't be kept when nobody knows how much of a batch is in.
        reply, again = to.acknowledged(target, command, once=target.capped)
    except OperationFailure as error:
        raise _refused_documents(target, error) from None
    return _inserted(reply, target, len(documents), again)


def _inserted(reply: Mapping[str, Any], target: _Target, count: int, again: bool) -> int:
    """How many documents are in; raises what the server has against the others."""
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
    # The server's words may quote a document.
    raise MongoError(
        f"{target.namespace}: the server refused {len(errors)} of {count} documents (MongoDB's "
        f"code {first.get('code')}). What was restored is incomplete. Compare the server's "
        "version with the backup's, or restore from another copy.",
        first.get("code"),
    )


def _is_double_id(error: Mapping[str, Any]) -> bool:
    return error.get("code") == _DUPLICATE_KEY and list(error.get("keyPattern", {})) == ["_id"]


def _key(error: Mapping[str, Any]) -> str:
    """The field names of a doubled key. Its value stays where it is: it may be a patient's."""
    return "the same " + ", ".join(error.get("keyPattern") or {"key": 1})


def _refused_documents(target: _Target, error: OperationFailure) -> Exception:
    if error.code == _UNAUTHORIZED:
        return error
    if error.code == _INVALID_BSON:
        return archive.ArchiveDamaged(
            f"the server refuses a document of {target.namespace}, which is no valid BSON. "
            "Restore from another copy."
        )
    return MongoError(
        f"{target.namespace}: the server refused a batch of documents: {_name(error)}. What was "
        "restored is incomplete.",
        error.code,
    )


def _build(to: _Destination, target: _Target, indexes: list[dict[str, Any]]) -> None:
    command: dict[str, Any] = {"createIndexes": target.collection, "indexes": indexes}
    if to.in_set:
        # By default a build waits for every voting member, also for one that is lost.
        command["commitQuorum"] = "majority"
    try:
        # Longer than a connection's own timeout, which is meant for short commands.
        to.acknowledged(target, command, seconds=BUILD_PATIENCE)
    except OperationFailure as error:
        names = ", ".join(str(index.get("name")) for index in indexes)
        if error.code == _DUPLICATE_KEY:
            raise DuplicateKey(
                f"{target.namespace}: documents of the backup have {_key(error.details or {})}, "
                f"which a unique index among {names} forbids. The documents are restored, its "
                "indexes are not: remove the doubled documents and create the indexes."
            ) from None
        why = f"{_errmsg(error)}: " if error.code in _OF_THE_DECLARATION else ""
        raise MongoError(
            f"{target.namespace}: the indexes {names} can't be built: {why}{_name(error)}. The "
            "documents are restored, its indexes are not.",
            error.code,
        ) from None


def _read_back(client: MongoClient, targets: Iterable[_Target]) -> None:
    """Every collection is there, and none was made by an insert after its making was undone."""
    wanted = [target for target in targets if target.collection != "system.js"]
    for db in sorted({target.db for target in wanted}):
        database = client.get_database(db, codec_options=archive.EXACT)
        there = {info["name"]: info["options"] for info in database.list_collections()}
        for target in wanted:
            if target.db == db and _making(there.get(target.collection)) != _making(target.options):
                raise MongoError(
                    f"{target.namespace} is no longer as it was made, with the options of the "
                    "backup: an election undid that, or somebody dropped it. What was restored is "
                    "not to be used; restore again."
                )


def _making(options: Mapping[str, Any] | None) -> list[str] | None:
    """What of a collection's options an insert would not have made; None without a collection."""
    if options is None:
        return None
    plain = (options.get("collation") or {}).get("locale") == "simple"
    return [
        key for key in _OF_ITS_MAKING if options.get(key) and not (key == "collation" and plain)
    ]


def _name(error: OperationFailure) -> str:
    """The error without the server's own words, which may quote a document."""
    name = (error.details or {}).get("codeName") or "it gives no name"
    return f"{name} (MongoDB's code {error.code})"


def _errmsg(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg", error))
