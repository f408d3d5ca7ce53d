"""Slices in a restic repository: each whole, found by its tags, and there for good."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.replay import read_segment, sound_plan
from saltext.openhim.backup.oplog.slices import DamagedSlice
from saltext.openhim.backup.oplog.store import ResticSlices, compact
from saltext.openhim.backup.repository import NotStored, Repository
from saltext.openhim.errors import OpenHIMError

from tests.functional.backup.oplog.conftest import (
    SET,
    STACK,
    archiver_of,
    archiving,
    assert_same_as_the_oplog,
    majority_time,
    oplog,
    until_archived,
    write,
)
from tests.functional.conftest import eventually
from tests.unit.backup.oplog.made import numbers, slice_of

pytestmark = pytest.mark.skipif(not shutil.which("restic"), reason="restic is not installed")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty repository, to be copied: making one takes a second."""
    folder = tmp_path_factory.mktemp("restic") / "empty"
    Repository(str(folder), "secret", cache_dir=None).initialise()
    return folder


@pytest.fixture
def repository(empty, tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(empty, folder)
    return Repository(str(folder), "secret", cache_dir=str(tmp_path / "cache"), lock_wait=2)


@pytest.fixture
def store(repository):
    return ResticSlices(repository, STACK)


def _put(store, first, last):
    header, data = slice_of(first, last)
    store.put(header, [data[:10], data[10:]])
    return header


def test_what_is_put_is_listed_and_read_by_another_one(store, repository):
    headers = [_put(store, 1, 3), _put(store, 4, 9)]
    other = ResticSlices(repository, STACK)
    assert other.headers() == headers
    with other.get(headers[1].name) as stream:
        assert numbers(slices.read(stream, headers[1])) == [4, 5, 6, 7, 8, 9]
    assert ResticSlices(repository, "another").headers() == []


def test_the_same_slice_twice_is_one(store):
    header = _put(store, 1, 3)
    _put(store, 1, 3)
    assert store.headers() == [header]
    store.remove([header.name])
    assert store.headers() == []
    with pytest.raises(NotStored, match="no oplog slice"):
        store.get(header.name)


def test_a_producer_that_dies_leaves_no_slice(store):
    header, data = slice_of(1, 3)

    def dying():
        yield data[:50]
        raise OpenHIMError("the source died")

    with pytest.raises(OpenHIMError, match="the source died"):
        store.put(header, dying())
    assert store.headers() == []


def test_compaction_leaves_one_snapshot(store, repository):
    headers = [_put(store, 1, 3), _put(store, 4, 9)]
    joined = compact(store, headers)
    assert ResticSlices(repository, STACK).headers() == [joined]


def test_half_a_slice_is_taken_back_and_archived_again(single, client, store, repository):
    """restic takes the end of a pipe for the end of the data: a kill may leave half of a slice."""
    begin = majority_time(client)
    for number in range(3):
        last = write(client.openhim.numbers, {"_id": number})
        archiver_of(single, store, begin_at=begin).catch_up()
    cut = store.headers()[-1]
    with store.get(cut.name) as stream:
        data = stream.read()
    store.remove([cut.name])
    (snapshot,) = [s for s in repository.snapshots() if s.tag("set")][:1]
    tags = [tag for tag in snapshot.tags if not tag.startswith(("header=", "store="))]
    tag = base64.urlsafe_b64encode(cut.encode()).decode()
    half = data[: len(data) // 2]
    repository.store_stream(lambda out: out.write(half), cut.name, [*tags, f"header={tag}"])
    again = ResticSlices(repository, STACK)
    with again.get(cut.name) as stream, pytest.raises(DamagedSlice, match="cut off"):
        slices.verify(stream, cut)
    assert archiver_of(single, again).catch_up().ts >= last
    assert [h.voids for h in again.headers() if h.kind == slices.VOID] == [cut.name]
    assert_same_as_the_oplog(again, client)


_PROCESS = """
import json, sys, threading
from bson import Timestamp
from pymongo import MongoClient
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.oplog.store import ResticSlices
from saltext.openhim.backup.repository import Repository
known = json.loads(sys.stdin.readline())
connect = lambda: MongoClient(known["uri"], password=known["password"], username="__system",
                              authSource="local", serverSelectionTimeoutMS=5000)
repository = Repository(known["folder"], "secret", cache_dir=known["cache"])
archiver = Archiver(connect, ResticSlices(repository, "test"), stack="test", replica_set="openhim",
                    epoch=1, interval=0.05, begin_at=Timestamp(*known["begin"]))
print("ready", flush=True)
archiver.run(threading.Event())
"""


def _killed_after(seconds, single, store, begin):
    mongod, repository = single.members["north-db1"], store.repository
    before = len(store.headers())
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    told = {
        "uri": f"mongodb://127.0.0.1:{mongod.port}/?directConnection=true",
        "password": "".join(mongod.keyfile.split()),
        "folder": repository.url,
        "cache": str(repository.cache_dir),
        "begin": [begin.time, begin.inc],
    }
    process.stdin.write(json.dumps(told) + "\n")
    process.stdin.flush()
    try:
        assert process.stdout.readline() == "ready\n"
        eventually(lambda: len(store.headers()) > before, what="a slice")
        time.sleep(seconds)
    finally:
        process.kill()
        process.communicate()


def test_killed_while_restic_stores_it_loses_nothing(single, client, store):
    begin = majority_time(client)
    stop = threading.Event()

    def loop():
        while not stop.wait(0.01):
            write(client.openhim.numbers, {})

    writer = threading.Thread(target=loop, daemon=True)
    writer.start()
    try:
        for seconds in (0.1, 0.5, 0.9):
            _killed_after(seconds, single, store, begin)
    finally:
        stop.set()
        writer.join(30)
    end = archiver_of(single, store).catch_up()
    plan, _ = sound_plan(store, store.headers(), SET, base=begin, to=end.ts)
    entries = [entry.raw for segment in plan.segments for entry in read_segment(store, segment)]
    assert entries == oplog(client, begin, end.ts)


def test_the_archive_in_restic_goes_on_when_the_repository_was_away(
    single, client, store, repository
):
    begin = majority_time(client)
    place, hidden = Path(repository.url), Path(repository.url).with_name("hidden")
    with archiving(single, store, begin_at=begin, interval=0.2) as archiver:
        until_archived(archiver, write(client.openhim.numbers, {"_id": 1}))
        place.rename(hidden)
        write(client.openhim.numbers, {"_id": 2})
        error = eventually(lambda: archiver.status().error, what="the error")
        assert "there is no repository here" in error
        hidden.rename(place)
        until_archived(archiver, write(client.openhim.numbers, {"_id": 3}))
    fresh = ResticSlices(repository, STACK)
    assert assert_same_as_the_oplog(fresh, client) >= 3
    line = chain.timeline_of(fresh.headers(), SET, 1)
    assert len(chain.reachable(fresh.headers(), SET, line)) == 1


def test_an_exclusive_lock_is_waited_for(single, client, store, repository):
    """As a prune or a check holds it, which take longer than an archiver is patient."""
    begin = majority_time(client)
    write(client.openhim.numbers, {"_id": 1})
    hold = threading.Event()
    holding = threading.Thread(target=_hold_exclusively, args=(repository, hold), daemon=True)
    holding.start()
    try:
        eventually(repository.locks, what="the lock")
        with archiving(single, store, begin_at=begin, interval=0.2) as archiver:
            error = eventually(lambda: archiver.status().error, 60, what="the error")
            assert "locked" in error
            hold.set()
            holding.join(60)
            until_archived(archiver, write(client.openhim.numbers, {"_id": 2}))
    finally:
        hold.set()
    assert assert_same_as_the_oplog(store, client) >= 2


def _hold_exclusively(repository, release):
    """A check, as slow as one of a large repository; frozen, and its lock removed in the end."""
    slow = ["--no-cache", "--limit-download", "1", "check", "--read-data"]
    check = subprocess.Popen(
        ["restic", "-r", repository.url, *slow],
        env={**os.environ, "RESTIC_PASSWORD": "secret"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    locks = Path(repository.url) / "locks"

    def written():
        """Not the one that is being written: frozen now, it would never be a lock."""
        return [path for path in locks.iterdir() if "-tmp-" not in path.name]

    eventually(lambda: written() or check.poll() is not None, what="a lock file")
    check.send_signal(signal.SIGSTOP)
    held = written()
    release.wait(120)
    check.kill()
    check.wait()
    for lock in held:
        lock.unlink()
