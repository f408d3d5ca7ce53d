"""How long a slice takes into a restic repository, and the RPO of an archive under load.

A slice of a minute of OpenHIM's writes is put beside the same bytes through ``restic backup
--stdin``, in a repository that holds ``--present`` slices already. Then an archiver runs with an
interval of five seconds under 500 writes a second: the worst RPO, as a ratio to that interval.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import bson
from bson import Int64, Timestamp
from pymongo import MongoClient
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.oplog.slices import Collector, Header, Position, Timeline
from saltext.openhim.backup.oplog.store import ResticSlices
from saltext.openhim.backup.repository import Repository

from benchmarks import common

INTERVAL = 5.0
WRITES_A_SECOND = 500
PASSWORD = "benchmark"  # noqa: S105
#: A minute at 500 writes a second would be more than a slice holds; this is a busy one.
ENTRIES = 3000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--present", type=int, default=100, help="slices in the repository before")
    parser.add_argument("--runs", type=int, default=9, help="pairs to measure")
    parser.add_argument("--seconds", type=float, default=30, help="of writing")
    options = parser.parse_args()
    with common.scratch() as folder:
        repository = Repository(
            str(folder / "repository"), PASSWORD, cache_dir=str(folder / "cache")
        )
        repository.initialise()
        _slices(ResticSlices(repository, "bench"), options.present, options.runs)
        with common.server(folder) as address, MongoClient(address) as client:
            _rpo(ResticSlices(repository, "rpo"), client, options.seconds)


def _slices(store: ResticSlices, present: int, runs: int) -> None:
    made = _made(present + runs + 1)
    for header, chunks in (next(made) for _ in range(present)):
        store.put(header, chunks[:2])
    repository = store.repository
    environment = {**os.environ, "RESTIC_PASSWORD": PASSWORD}
    command = ["restic", "-r", repository.url, "--cache-dir", str(repository.cache_dir)]
    command += ["backup", "--stdin", "--stdin-filename", "plain", "--quiet"]

    def ours() -> None:
        store.put(*next(made))

    def plain() -> None:
        data = os.urandom(len(b"".join(sample)))
        subprocess.run(command, input=data, env=environment, check=True)

    sample = next(_made(1))[1]
    mine, theirs = common.pairs(runs, ours, plain)
    value, other = statistics.median(mine), statistics.median(theirs)
    words = "restic backup --stdin of as many bytes"
    common.result(f"oplog slice, {present} present", value, "s", runs, value / other, words)


def _made(count: int) -> Iterator[tuple[Header, list[bytes]]]:
    """Slices that differ, of entries like those of OpenHIM's writes."""
    wall = datetime.now(timezone.utc)
    for number in range(count):
        second = 1_700_000_000 + number * 60
        collected = Collector(Position(second - 1, 1, 1))
        for inc in range(1, ENTRIES + 1):
            entry = {
                "op": "i",
                "ns": "openhim.transactions",
                "o": {"_id": inc, "body": os.urandom(400)},
                "ts": Timestamp(second, inc),
                "t": Int64(1),
                "wall": wall,
            }
            collected.add(bson.encode(entry))
        header = collected.header("bench", "bench", Timeline(1, 1))
        yield header, list(collected.chunks(header))


def _rpo(store: ResticSlices, client: MongoClient, duration: float) -> None:
    stop, worst = threading.Event(), []
    connect = _connected(client)
    archiver = Archiver(connect, store, stack="rpo", replica_set="bench", interval=INTERVAL)
    threads = [threading.Thread(target=archiver.run, args=(stop,), daemon=True)]
    threads.append(threading.Thread(target=_write, args=(client, stop), daemon=True))
    for thread in threads:
        thread.start()
    end = time.monotonic() + duration
    while time.monotonic() < end:
        if (rpo := archiver.status().rpo_seconds) is not None:
            worst.append(rpo)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    common.result("oplog RPO, worst", max(worst), "s", 1, max(worst) / INTERVAL, "the interval")


def _write(client: MongoClient, stop: threading.Event) -> None:
    """As many writes a second as that, evenly."""
    begun, done = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - begun) * WRITES_A_SECOND)
        for _ in range(done, due):
            client.openhim.transactions.insert_one({"body": os.urandom(400)})
        done = max(done, due)
        stop.wait(0.02)


def _connected(client: MongoClient):  # type: ignore[no-untyped-def]
    @contextlib.contextmanager
    def connect() -> Iterator[MongoClient]:
        yield client

    return connect


if __name__ == "__main__":
    main()
