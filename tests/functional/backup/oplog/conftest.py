"""An archiver beside a running set, and what one looks at afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from bson import Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.oplog.replay import read_segment
from saltext.openhim.backup.oplog.store import LocalSlices

from tests.functional.conftest import eventually

STACK, SET = "test", "openhim"


def connect(cluster, **options):
    """What an archiver connects with: to the whole set, as the keyfile's owner."""
    living = [m for m in cluster.members.values() if m.process.poll() is None]

    @contextlib.contextmanager
    def connected() -> Iterator[MongoClient]:
        client = MongoClient(
            [mongod.name for mongod in living],
            replicaSet=cluster.set_name,
            username="__system",
            password="".join(living[0].keyfile.split()),
            authSource="local",
            readPreference="secondaryPreferred",
            socketTimeoutMS=10000,
            **{"serverSelectionTimeoutMS": 5000, **options},
        )
        try:
            yield client
        finally:
            client.close()

    return connected


def archiver_of(cluster, store, **options):
    defaults = {"stack": STACK, "replica_set": SET, "epoch": 1, "interval": 0.5}
    return Archiver(connect(cluster), store, **{**defaults, **options})


@contextlib.contextmanager
def at_work(archiver):
    """An archiver in a thread; told to stop at the end, when it commits what it has."""
    stop = threading.Event()
    thread = threading.Thread(target=archiver.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield archiver
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def archiving(cluster, store, **options):
    """One at work on a set and a store of its own."""
    return at_work(archiver_of(cluster, store, **options))


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    return LocalSlices(folder)


def archived(store, epoch=None):
    """The raw entries of the newest timeline's last range, none twice, and where it begins."""
    known = store.headers()
    line = chain.timeline_of(known, SET, epoch)
    last = chain.reachable(known, SET, line)[-1]
    plan = chain.plan(known, SET, base=last.start.ts, to=last.end.ts, epoch=line.epoch)
    entries = [entry.raw for segment in plan.segments for entry in read_segment(store, segment)]
    return last.start, [raw for raw in entries if slices.position_of(raw).ts > last.start.ts]


def oplog(client, after: Timestamp, until: Timestamp):
    """The raw entries that the server has."""
    found = client.local["oplog.rs"].find_raw_batches({"ts": {"$gt": after, "$lte": until}})
    return [entry for batch in found for entry in slices.split(batch)]


def assert_same_as_the_oplog(store, client, epoch=None):
    """Every entry, none twice, none else, byte for byte; returns how many."""
    start, entries = archived(store, epoch)
    assert entries, "nothing was archived"
    end = slices.position_of(entries[-1]).ts
    assert entries == oplog(client, start.ts, end)
    return len(entries)


def until_archived(archiver, ts, timeout=60):
    """Waits until a cluster time is archived."""
    eventually(
        lambda: archiver.status().last and archiver.status().last.ts >= ts,
        timeout,
        f"the archive of {ts} ({archiver.status()})",
    )


def write(collection, document):
    """Inserts with the majority; returns the cluster time of the write."""
    with collection.database.client.start_session() as session:
        collection.insert_one(document, session=session)
        return session.operation_time


def majority_time(client):
    """The newest cluster time that the majority has."""
    return client.admin.command("hello")["lastWrite"]["majorityOpTime"]["ts"]


def snapshot(client, db, at):
    """A database's documents at a cluster time: collection → their BSON, sorted."""
    found = {}
    for name in client[db].list_collection_names(filter={"type": "collection"}):
        if name.startswith("system.") and not name.startswith("system.buckets."):
            continue
        command = {"find": name, "readConcern": {"level": "snapshot", "atClusterTime": at}}
        reply = client[db].command(command, codec_options=_raw())
        documents, cursor = list(reply["cursor"]["firstBatch"]), reply["cursor"]["id"]
        while cursor:
            more = {"getMore": cursor, "collection": name}
            reply = client[db].command(more, codec_options=_raw())
            documents += reply["cursor"]["nextBatch"]
            cursor = reply["cursor"]["id"]
        found[name] = sorted(bytes(document.raw) for document in documents)
    return found


def contents(client, db):
    """A database's documents as they are now."""
    return {
        name: sorted(
            bytes(d.raw)
            for d in client[db]
            .get_collection(name, codec_options=_raw(), read_concern=ReadConcern("majority"))
            .find()
        )
        for name in client[db].list_collection_names(filter={"type": "collection"})
        if not name.startswith("system.") or name.startswith("system.buckets.")
    }


def structure(client, db):
    """Options and indexes of a database's collections."""
    found = {}
    for entry in client[db].list_collections():
        name = entry["name"]
        if name.startswith("system."):
            continue
        indexes = [] if entry["type"] == "view" else list(client[db][name].list_indexes())
        found[name] = (entry["type"], entry["options"], sorted(map(dict, indexes), key=_by_name))
    return found


def _by_name(index):
    return index["name"]


def copy_at(client, db, target, at):
    """The base: a raw copy of a database at a cluster time, with its indexes and options."""
    for name, documents in snapshot(client, db, at).items():
        options = next(client[db].list_collections(filter={"name": name}))["options"]
        client[target].create_collection(name, check_exists=False, **options)
        if documents:
            for first in range(0, len(documents), 500):
                batch = [RawBSONDocument(raw) for raw in documents[first : first + 500]]
                client[target][name].insert_many(batch)
        for index in client[db][name].list_indexes():
            if index["name"] != "_id_":
                spec = {key: value for key, value in index.items() if key != "ns"}
                client[target].command({"createIndexes": name, "indexes": [spec]})


def _raw():
    return CodecOptions(document_class=RawBSONDocument)
