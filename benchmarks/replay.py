"""Operations a second that a replay of archived slices applies, beside one operation a command.

The operations are inserts, updates and deletions of documents like OpenHIM's, as its own oplog
has them; both replay the same slices. The slow one gets fewer of them, and is measured by its rate.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path

from bson import Timestamp
from pymongo import MongoClient
from saltext.openhim.backup.oplog import chain
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.oplog.replay import replay
from saltext.openhim.backup.oplog.store import LocalSlices

from benchmarks import common

#: Of an insert, an update and a deletion each.
KILOBYTES = 3.4
SLOW_SHARE = 20


def main() -> None:
    """Measures and prints."""
    options = common.arguments(__doc__ or "", megabytes=100, runs=5)
    with (
        common.scratch() as folder,
        common.server(folder) as address,
        MongoClient(address, directConnection=True) as client,
    ):
        _measure(client, folder, int(options.megabytes * 1000 / KILOBYTES), options.runs)


def _measure(client: MongoClient, folder: Path, count: int, runs: int) -> None:
    slices = folder / "slices"
    slices.mkdir()
    store = LocalSlices(slices)
    begin = _now(client)
    soon = _write(client, count, count // SLOW_SHARE)
    end = _now(client)
    connect = _connected(client)
    Archiver(connect, store, stack="bench", replica_set="bench", begin_at=begin).catch_up()

    def rate(to: Timestamp, batch: int) -> float:
        client.drop_database("replayed")
        plan = chain.plan(store.headers(), "bench", base=begin, to=to)
        names = {common.DATABASE: "replayed"}
        done = []
        took = common.seconds(
            lambda: done.append(
                replay(client, store, plan, databases=[common.DATABASE], rename=names, batch=batch)
            )
        )
        return float(done[0].operations) / took

    rate(soon, 1000)
    ours, single = [], []
    for _ in range(runs):
        ours.append(rate(end, 1000))
        single.append(rate(soon, 1))
    mine, theirs = statistics.median(ours), statistics.median(single)
    words = "one operation a command"
    common.result("oplog replay", mine, "operations/s", runs, mine / theirs, words)


def _write(client: MongoClient, count: int, soon: int) -> Timestamp:
    """Writes ``count`` operations; returns the time after the first ``soon`` or so of them."""
    common.fill(client, count * KILOBYTES / 1000 * 0.8, indexes=False)
    first = client.local["oplog.rs"].find({"op": "i", "ns": f"{common.DATABASE}.transactions"})
    reached: Timestamp = next(iter(first.skip(soon).limit(1)))["ts"]
    collection = client[common.DATABASE].transactions
    ids = [each["_id"] for each in collection.find({}, {"_id": 1}).limit(count // 10)]
    for each in ids:
        collection.update_one({"_id": each}, {"$set": {"status": "Completed"}})
    for each in ids:
        collection.delete_one({"_id": each})
    return reached


def _now(client: MongoClient) -> Timestamp:
    with client.start_session() as session:
        client.other.notes.insert_one({}, session=session)
        found = session.operation_time
        assert found is not None
        return found


def _connected(client: MongoClient):  # type: ignore[no-untyped-def]
    @contextlib.contextmanager
    def connect() -> Iterator[MongoClient]:
        yield client

    return connect


if __name__ == "__main__":
    main()
