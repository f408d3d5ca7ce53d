"""A consistent dump: databases as they were at one cluster time, into an archive stream.

Reads are snapshot reads at one cluster time ``T``, from one member; writers are not held up. Before
the first byte is written, every collection has been seen to be readable at ``T``. After each one
was read, it is seen to be still the same one, for a collection that is renamed or dropped reads as
empty. What cannot be read in a snapshot, capped collections, is read as the majority has it, and
marked (``Namespace.snapshot``).

The stream is the same, byte for byte, for the same documents: namespaces come in one order,
OpenHIM's configuration first, one after the other. So a deduplicating repository stores only what
changed, and a restore has OpenHIM's channels and clients before years of transactions.
"""

from __future__ import annotations

import contextlib
import fnmatch
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure
from saltext.openhim.backup import archive
from saltext.openhim.backup.ahead import ReadAhead, total
from saltext.openhim.backup.archive import BUCKETS, COLLECTION, TIMESERIES, VIEW
from saltext.openhim.backup.cursor import RawCursor
from saltext.openhim.backup.digest import Digest
from saltext.openhim.backup.progress import Progress, Reporter
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized
from saltext.openhim.mongo.connection import explained

TOOL = "saltext-openhim"
#: What OpenHIM needs to route again: it comes first, in a dump and so in a restore.
CONFIGURATION = frozenset(
    {
        "apps",
        "certificates",
        "channels",
        "clients",
        "contactgroups",
        "dbversions",
        "keystores",
        "mediators",
        "passports",
        "roles",
        "users",
        "visualizers",
    }
)
#: Bytes that wait to be written, and collections that are read at the same time.
READ_AHEAD_BYTES = 64 << 20
READERS = 2
#: A capped collection up to this size is read again when its end was overwritten meanwhile.
_CAPPED_RETRY_BYTES = 32 << 20
_CAPPED_RETRIES = 3
#: Moments that are tried until one finds the collections as they are listed.
_MOMENTS = 5

_NAMESPACE_NOT_FOUND = 26
_INVALID_OPTIONS = 72
_CAPPED_POSITION_LOST = 136
_PLAN_KILLED = 175
_SNAPSHOT_TOO_OLD = 239
_SNAPSHOT_UNAVAILABLE = 246
_UUID_MISMATCH = 361
_CURSOR_NOT_FOUND = 43
#: From this release on, a find can be told which collection it means.
_BY_UUID = (6, 0)
#: What a read of a collection gets that was dropped, renamed or built an index meanwhile.
_CHANGED = {_NAMESPACE_NOT_FOUND, _PLAN_KILLED, _SNAPSHOT_UNAVAILABLE, _UUID_MISMATCH}


class SnapshotTooOld(OpenHIMError):
    """The server no longer keeps the time at which the dump reads."""


class Changed(Refused):
    """A collection was dropped, renamed or rebuilt during the dump; a new dump will do."""


@dataclass(frozen=True)
class Namespace:
    """One namespace of a dump or a restore, with what was read of it.

    type: ``collection``, ``view`` or ``timeseries``. count and bytes: of its BSON documents (of a
    time series: its buckets). digest: as :mod:`saltext.openhim.backup.digest` makes it. options and
    indexes: as the server lists them; metadata: the same as canonical extended JSON. snapshot:
    False when it could not be read at the dump's cluster time, and was read a little later.
    """

    db: str
    collection: str
    type: str
    count: int
    bytes: int
    digest: str
    options: Mapping[str, Any] = field(default_factory=dict)
    indexes: Sequence[Mapping[str, Any]] = ()
    uuid: str = ""
    metadata: str = ""
    snapshot: bool = True

    @property
    def namespace(self) -> str:
        """``database.collection``."""
        return f"{self.db}.{self.collection}"


@dataclass(frozen=True)
class Dumped:
    """What a dump holds.

    at: the cluster time that it shows. fcv: the feature compatibility version, None when the user
    may not ask for it. left_out: collections that were made after ``at``.
    """

    at: Timestamp | None
    server_version: str
    fcv: str | None
    namespaces: list[Namespace]
    left_out: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Documents in all."""
        return sum(each.count for each in self.namespaces)

    @property
    def bytes(self) -> int:
        """Bytes of BSON in all."""
        return sum(each.bytes for each in self.namespaces)


@dataclass(frozen=True)
class _Plan:
    """A namespace to be read."""

    db: str
    collection: str
    type: str
    options: Mapping[str, Any]
    indexes: Sequence[Mapping[str, Any]]
    uuid: Any
    size: int
    snapshot: bool = True

    @property
    def namespace(self) -> str:
        return f"{self.db}.{self.collection}"

    @property
    def uuid_hex(self) -> str:
        return bytes(self.uuid).hex() if self.uuid and self.type == COLLECTION else ""

    def entry(self) -> archive.Entry:
        metadata = archive.metadata_json(
            self.collection, self.type, self.options, self.indexes, self.uuid_hex
        )
        return archive.Entry(self.db, self.collection, self.type, self.size, metadata)


def dump(
    client: MongoClient,
    databases: Sequence[str],
    out: BinaryIO,
    *,
    at: Timestamp | None = None,
    selection: Sequence[str] | None = None,
    required: Collection[str] = (),
    readers: int = READERS,
    progress: Callable[[Progress], None] | None = None,
) -> Dumped:
    """Writes ``databases`` as they were at one cluster time to ``out``, as an archive.

    client: connected directly to one member of a replica set (``directConnection=True``), best a
    secondary. at: the cluster time; the newest one that the majority has when left out. selection:
    patterns such as ``openhim.channels`` or ``openhim.*``; all when left out. required: the
    databases that must have something to be dumped. readers: collections read at the same time.

    When this raises, what is in ``out`` is no archive.

    Raises Refused (not a replica set, not one member, or nothing where something is required),
    Changed (take it again), SnapshotTooOld, and the connection's errors.
    """
    with _explained(client, at):
        server = _Server(client)
        at, plans, left_out = _planned(server, databases, selection, at)
        _refuse_missing(required, plans, addresses(client))
    with _explained(client, at):
        header = archive.Header(server.version, f"{TOOL} {archive.FORMAT}")
        writer = archive.Writer(out, header, [plan.entry() for plan in plans])
        namespaces = _read(server, plans, at, readers, progress, writer)
        writer.finish()
    return Dumped(at, server.version, server.fcv(), namespaces, left_out)


def contents(
    client: MongoClient,
    databases: Sequence[str],
    *,
    selection: Sequence[str] | None = None,
    readers: int = READERS,
    progress: Callable[[Progress], None] | None = None,
) -> Dumped:
    """What a dump of ``databases`` would hold, without a dump: counts and digests.

    For a server that nobody writes to, such as one that a backup was restored into for its
    verification; it need not be a replica set. ``at`` is None.
    """
    with _explained(client, None):
        server = _Server(client)
        plans = _list(server, databases, selection)
        namespaces = _read(server, plans, None, readers, progress, None)
    return Dumped(None, server.version, server.fcv(), namespaces)


class _Server:
    """The member that is read."""

    def __init__(self, client: MongoClient):
        self.client = client
        self.hello = client.admin.command("hello")
        if self.hello.get("msg") == "isdbgrid":
            raise Refused("this is a mongos; a dump reads from one member of a replica set")
        if client.topology_description.topology_type_name != "Single":
            raise Refused(
                "a dump reads from one member: connect to it directly (directConnection=True), "
                "best to a secondary"
            )
        self.version = client.server_info()["version"]
        self.release = tuple(int(part) for part in self.version.split(".")[:2])

    def majority_time(self) -> Timestamp:
        """The newest cluster time that a majority of the set has, as this member knows it."""
        if not self.hello.get("setName"):
            raise Refused(
                "this mongod is not in a replica set, so it cannot show one moment while others "
                "write; initiate it as a set of one member"
            )
        if self.release < (5, 0):
            raise Refused(f"snapshot reads need MongoDB 5.0 or newer; this is {self.version}")
        return self.client.admin.command("hello")["lastWrite"]["majorityOpTime"]["ts"]

    def fcv(self) -> str | None:
        with contextlib.suppress(OperationFailure):
            found = self.client.admin.command("getParameter", 1, featureCompatibilityVersion=1)
            return found["featureCompatibilityVersion"]["version"]
        return None

    def database(self, name: str) -> Any:
        return self.client.get_database(name, codec_options=archive.EXACT)

    def uuids(self, db: str, collection: str) -> Any:
        """The UUID that a collection has now; None when there is none of that name."""
        for found in self.database(db).list_collections(filter={"name": collection}):
            return found["info"].get("uuid")
        return None


def selected(selection: Sequence[str] | None, namespace: str) -> bool:
    """Whether one of the patterns fits, or there are none."""
    return selection is None or any(fnmatch.fnmatchcase(namespace, each) for each in selection)


def _planned(
    server: _Server,
    databases: Sequence[str],
    selection: Sequence[str] | None,
    at: Timestamp | None,
) -> tuple[Timestamp, list[_Plan], list[str]]:
    """The moment of a dump, what is to be read at it, and the names of what was made after it.

    Nobody can list collections as they were at a moment. So they are listed after it, and the oplog
    is asked whether they were the same ones then; where they were not, a later moment is tried.
    """
    for attempt in range(_MOMENTS):
        moment = at or server.majority_time()
        try:
            plans = _list(server, databases, selection)
            _refuse_changed(server, databases, selection, moment)
            return (moment, *_readable(server, plans, moment))
        except Changed:
            if at or attempt + 1 == _MOMENTS:
                raise
    raise AssertionError("unreachable")


def _refuse_changed(
    server: _Server, databases: Sequence[str], selection: Sequence[str] | None, at: Timestamp
) -> None:
    """Raises Changed when a collection, or its indexes, became another one after ``at``.

    What is wholly new does no harm: it was not there at that moment.
    """
    oplog = server.database("local")["oplog.rs"]
    query = {
        "ts": {"$gt": at},
        "$or": [
            {"op": "c", "ns": {"$in": [f"{db}.$cmd" for db in databases]}},
            {"ns": {"$in": [f"{db}.system.views" for db in databases]}},
        ],
    }
    made = set()
    for entry in oplog.find(query, {"op": 1, "ns": 1, "o": 1, "ui": 1}):
        what, name = next(iter(entry["o"].items()))
        if entry["op"] != "c":
            raise _changed(entry["ns"], at, None)
        if what == "create":
            made.add(entry.get("ui"))
        elif entry.get("ui") not in made or entry["o"].get("dropTarget"):
            namespace = _named(entry["ns"].removesuffix(".$cmd"), what, name)
            if selection is None or what == "dropDatabase" or selected(selection, namespace):
                raise _changed(namespace, at, None)


def _named(db: str, what: str, name: Any) -> str:
    """``database.collection`` of an entry of the oplog about a collection; or the database."""
    if what == "dropDatabase":
        return db
    return str(name) if what == "renameCollection" else f"{db}.{name}"


def _refuse_missing(databases: Collection[str], plans: Sequence[_Plan], where: str) -> None:
    """Raises Refused for a database with nothing in it: an empty backup of it would look fine."""
    if missing := sorted(set(databases) - {plan.db for plan in plans}):
        raise Refused(
            f"{where} has no collection in {', '.join(missing)}, so there is nothing of it to be "
            "dumped. Expected are OpenHIM's databases: was it dropped, or has it another name than "
            "openhim:mongodb:databases says?"
        )


def _list(
    server: _Server, databases: Sequence[str], selection: Sequence[str] | None
) -> list[_Plan]:
    plans = []
    for db in sorted(set(databases)):
        found = {each["name"]: each for each in server.database(db).list_collections()}
        for name, info in found.items():
            if selected(selection, f"{db}.{name}") and not _internal(name):
                plans.append(_plan(server, db, info, found))
    return sorted(plans, key=lambda p: (p.collection not in CONFIGURATION, p.db, p.collection))


def _internal(name: str) -> bool:
    """Collections that the server makes by itself: mongodump leaves out the same."""
    return name.startswith("system.") and name != "system.js"


def _plan(server: _Server, db: str, info: Mapping[str, Any], found: Mapping[str, Any]) -> _Plan:
    name, kind = info["name"], info.get("type", COLLECTION)
    if kind == VIEW:
        return _Plan(db, name, VIEW, info["options"], [], None, 0)
    data = info
    if kind == TIMESERIES:
        data = found.get(BUCKETS + name, info)
    database = server.database(db)
    indexes = [dict(index) for index in database[name].list_indexes()]
    size = int(database.command("collStats", name).get("size", 0))
    return _Plan(db, name, kind, info["options"], indexes, data["info"].get("uuid"), size)


def _data_collection(server: _Server, plan: _Plan) -> str:
    return archive.Entry(plan.db, plan.collection, plan.type).data_collection(server.version)


def _readable(server: _Server, plans: list[_Plan], at: Timestamp) -> tuple[list[_Plan], list[str]]:
    """The plans that can be read at ``at``, each asked once, and the names of the others."""
    kept, left_out = [], []
    for plan in plans:
        if plan.type == VIEW:
            kept.append(plan)
        elif plan.options.get("capped"):
            kept.append(_Plan(**{**vars(plan), "snapshot": False}))
        elif _is_there(server, plan, at):
            kept.append(plan)
        else:
            left_out.append(plan.namespace)
    return kept, left_out


def _is_there(server: _Server, plan: _Plan, at: Timestamp) -> bool:
    """Whether the collection existed at ``at``. Raises Changed when nobody can tell."""
    find = {**_find(server, plan, at), "limit": 1, "singleBatch": True, "projection": {"_id": 1}}
    try:
        server.client[plan.db].command(find)
    except OperationFailure as error:
        if error.code == _SNAPSHOT_UNAVAILABLE and _made_after(server, plan, at):
            return False
        if error.code in _CHANGED:
            raise _changed(plan.namespace, at, error) from None
        raise
    return True


def _made_after(server: _Server, plan: _Plan, at: Timestamp) -> bool:
    """Whether the oplog has the collection's creation, later than ``at``."""
    query = {"ts": {"$gt": at}, "op": "c", "ui": plan.uuid, "o.create": {"$exists": True}}
    return server.client.local["oplog.rs"].find_one(query, {"ts": 1}) is not None


def _find(server: _Server, plan: _Plan, at: Timestamp | None) -> dict[str, Any]:
    find: dict[str, Any] = {"find": _data_collection(server, plan)}
    if at is not None and plan.snapshot:
        find["readConcern"] = {"level": "snapshot", "atClusterTime": at}
    elif at is not None:
        find["readConcern"] = {"level": "majority"}
    if plan.options.get("capped"):
        # Its order is part of what it says.
        find["sort"] = {"$natural": 1}
    if server.release >= _BY_UUID and plan.uuid:
        find["collectionUUID"] = plan.uuid
    return find


class _Overwritten(Exception):
    """Writers to a capped collection were faster than its reader."""


def _is_overwritten(error: Exception) -> bool:
    code = error.code if isinstance(error, OperationFailure) else None
    return isinstance(error, _Overwritten) or code == _CAPPED_POSITION_LOST


class _Source:
    """One namespace, read: in a thread of its own, ahead of the writer."""

    def __init__(self, server: _Server, plan: _Plan, at: Timestamp | None):
        self._server = server
        self._plan = plan
        self._at = at
        self._cursor: RawCursor | None = None

    def __iter__(self) -> Iterator[list[memoryview]]:
        if self._plan.type == VIEW:
            return
        with _explained(self._server.client, self._at, self._plan):
            if self._plan.options.get("capped"):
                yield from self._capped()
            else:
                yield from self._find()
            # A collection that has gone reads as empty: only one that is still the same was read.
            name = _data_collection(self._server, self._plan)
            if self._server.uuids(self._plan.db, name) != self._plan.uuid:
                raise _changed(self._plan.namespace, self._at, None)

    def _find(self) -> Iterator[list[memoryview]]:
        find = _find(self._server, self._plan, self._at)
        self._cursor = RawCursor(self._server.client, self._plan.db, find)
        yield from self._cursor

    def _capped(self) -> Iterator[list[memoryview]]:
        """Writers may overwrite what is being read; a small one is then read again."""
        for attempt in range(_CAPPED_RETRIES):
            held: list[list[memoryview]] | None = []
            size = 0
            try:
                for documents in self._up_to_the_newest():
                    if held is None:
                        yield documents
                        continue
                    held.append(documents)
                    size += total(documents)
                    if size > _CAPPED_RETRY_BYTES:
                        yield from held
                        held = None
            except (_Overwritten, OperationFailure) as error:
                last = attempt + 1 == _CAPPED_RETRIES
                if not _is_overwritten(error) or held is None or last:
                    raise
                self.close()
                continue
            yield from held or ()
            return

    def _up_to_the_newest(self) -> Iterator[list[memoryview]]:
        """From the oldest document to the one that is the newest now.

        Each batch sees what the majority has by then: with all that writers add meanwhile, there
        would be more than the collection has room for, and a restore would lose the oldest.
        """
        newest = self._newest_id()
        if not newest:
            return
        for documents in self._find():
            for number, document in enumerate(documents, 1):
                # The server stores _id as the first field.
                if document[4 : 4 + len(newest)] == newest:
                    yield documents[:number]
                    return
            yield documents
        raise _Overwritten

    def _newest_id(self) -> bytes:
        """The field ``_id`` of the newest document, as BSON has it; empty when there is none."""
        find = _find(self._server, self._plan, self._at)
        find |= {"sort": {"$natural": -1}, "projection": {"_id": 1}}
        reply = self._server.client[self._plan.db].command(
            {**find, "limit": 1, "singleBatch": True},
            codec_options=CodecOptions(document_class=RawBSONDocument),
        )
        return b"".join(found.raw[4:-1] for found in reply["cursor"]["firstBatch"])

    def keep_alive(self) -> None:
        if self._cursor:
            self._cursor.keep_alive()

    def close(self) -> None:
        if self._cursor:
            self._cursor.close()
        self._cursor = None


def _read(
    server: _Server,
    plans: list[_Plan],
    at: Timestamp | None,
    readers: int,
    progress: Callable[[Progress], None] | None,
    writer: archive.Writer | None,
) -> list[Namespace]:
    """Reads the plans in order, into the writer when there is one."""
    reporter = Reporter(progress, sum(plan.size for plan in plans))
    sources = [_Source(server, plan, at) for plan in plans]
    ahead = ReadAhead(sources, total, READ_AHEAD_BYTES, readers)
    namespaces = []
    try:
        for index, plan in enumerate(plans):
            digest = Digest()
            if writer:
                writer.begin(plan.db, _data_collection(server, plan))
            for documents in ahead.take(index):
                digest.update(documents)
                if writer:
                    writer.documents(b"".join(documents))
                reporter.add(plan.namespace, total(documents))
            if writer:
                writer.end()
            namespaces.append(_namespace(plan, digest))
    finally:
        ahead.close()
    reporter.finish(plans[-1].namespace if plans else "")
    return namespaces


def _namespace(plan: _Plan, digest: Digest) -> Namespace:
    return Namespace(
        plan.db,
        plan.collection,
        plan.type,
        digest.count,
        digest.bytes,
        digest.hex(),
        plan.options,
        plan.indexes,
        plan.uuid_hex,
        plan.entry().metadata,
        plan.snapshot,
    )


def _changed(name: str, at: Timestamp | None, error: OperationFailure | None) -> Changed:
    why = f" ({(error.details or {}).get('errmsg', error)})" if error else ""
    moment = f"as it was at {_words(at)}" if at else "whole"
    return Changed(
        f"{name} was dropped, renamed, made anew, or got other indexes while it was "
        f"being dumped, so it can't be read {moment}{why}. Nothing of this dump is to be used; "
        "take it again."
    )


def addresses(client: MongoClient) -> str:
    """The servers that a client talks to, for an error's message; never asks them."""
    known = client.topology_description.server_descriptions()
    return ", ".join(sorted(f"{host}:{port}" for host, port in known))


def _words(at: Timestamp) -> str:
    return f"{at.as_datetime():%Y-%m-%dT%H:%M:%SZ} ({at.time}.{at.inc})"


@contextlib.contextmanager
def _explained(
    client: MongoClient, at: Timestamp | None, plan: _Plan | None = None
) -> Iterator[None]:
    """PyMongo's errors in words."""
    where = addresses(client)
    began = time.monotonic()
    with explained(where):
        try:
            yield
        except _Overwritten:
            raise _too_fast(plan) from None
        except ConfigurationError as error:
            if plan is None:
                raise
            # PyMongo never uses a session on a connection that was made at such a moment.
            raise Changed(
                f"{where} was neither primary nor secondary when {plan.namespace} was to be read, "
                f"as in an election ({error}). Take the dump again."
            ) from None
        except OperationFailure as error:
            if error.code == _SNAPSHOT_TOO_OLD and at:
                raise _too_old(client, where, at, time.monotonic() - began) from None
            if error.code == _INVALID_OPTIONS and at:
                raise Refused(
                    f"{where} can't read at {_words(at)}: {(error.details or {}).get('errmsg')}"
                ) from None
            if error.code == _CAPPED_POSITION_LOST:
                raise _too_fast(plan) from None
            if error.code == _CURSOR_NOT_FOUND and plan:
                raise Changed(
                    f"{where} gave up the reading of {plan.namespace}: it was restarted, or "
                    "somebody killed the session. Take the dump again."
                ) from None
            if plan and (error.code in _CHANGED or _lost_collection(error)):
                raise _changed(plan.namespace, at, error) from None
            raise


def _too_fast(plan: _Plan | None) -> Changed:
    return Changed(
        f"{plan.namespace if plan else 'a collection'} is capped, and writers overwrote it faster "
        "than it could be read. Take the dump again, or make that collection larger."
    )


def _lost_collection(error: OperationFailure) -> bool:
    return "collection dropped" in str(error) or "collection renamed" in str(error)


def _too_old(client: MongoClient, where: str, at: Timestamp, after: float) -> SnapshotTooOld:
    name = "minSnapshotHistoryWindowInSeconds"
    window = "a time"
    with contextlib.suppress(OperationFailure, OpenHIMError, Unauthorized):
        window = f"{client.admin.command({'getParameter': 1, name: 1})[name]} s"
    return SnapshotTooOld(
        f"{where} no longer keeps {_words(at)}, {after:.0f} s into the reading: it keeps {window} "
        f"of history. Raise {name} (setParameter, as an administrator) above the time that a dump "
        "takes, or give the server a faster disk; nothing of this dump is to be used."
    )
