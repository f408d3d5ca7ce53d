"""The archive has every entry of the oplog once, whatever happens to the archiver."""

import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bson
import pytest
from bson import Int64, Timestamp
from saltext.openhim.backup.oplog import archiver as code
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.archiver import Archiver, StaleEpoch
from saltext.openhim.backup.oplog.chain import TimeNotReachable
from saltext.openhim.backup.oplog.entry import Entry
from saltext.openhim.backup.oplog.slices import Collector, Position, Timeline
from saltext.openhim.errors import OpenHIMError

from tests.functional.backup.oplog.conftest import (
    SET,
    STACK,
    archived,
    archiver_of,
    archiving,
    assert_same_as_the_oplog,
    majority_time,
    oplog,
    until_archived,
    write,
)
from tests.functional.conftest import eventually


@contextlib.contextmanager
def writing(client, pause=0.002):
    """A client that inserts all the time; gives the list of cluster times of its writes."""
    stop, written = threading.Event(), []

    def loop():
        while not stop.wait(pause):
            written.append(write(client.openhim.numbers, {"_id": len(written), "x": "y" * 200}))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join(30)


def test_slices_follow_each_other_and_hold_the_oplog_byte_for_byte(single, client, store):
    options = {"interval": 0.3, "max_bytes": 20_000, "begin_at": majority_time(client)}
    with archiving(single, store, **options) as archiver:
        with writing(client) as written:
            eventually(lambda: archiver.status().slices >= 5, what="five slices")
        until_archived(archiver, written[-1])
    known = [header for header in store.headers() if header.kind == slices.SLICE]
    assert all(one.last == two.previous for one, two in itertools.pairwise(known))
    assert assert_same_as_the_oplog(store, client) >= len(written)


def test_a_slice_is_committed_by_size_before_its_time(single, client, store):
    with archiving(single, store, interval=3600, max_bytes=50_000) as archiver:
        eventually(lambda: archiver.status().caught_up, what="tailing")
        last = [write(client.openhim.numbers, {"x": "y" * 1000}) for _ in range(120)][-60]
        until_archived(archiver, last)
    assert max(header.size for header in store.headers()) < 50_000 + 2000


def test_what_was_read_is_committed_when_it_is_told_to_stop(single, client, store):
    with archiving(single, store, interval=3600) as archiver:
        eventually(lambda: archiver.status().caught_up, what="tailing")
        last = write(client.openhim.numbers, {"_id": 1})
        time.sleep(1)  # it must not have committed by then
        assert store.headers() == []
    assert store.headers()[-1].last.ts >= last


_PROCESS = """
import json, sys, threading
sys.path.insert(0, {repository!r})
from bson import Timestamp
from pymongo import MongoClient
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.oplog.store import LocalSlices
known = json.loads(sys.stdin.readline())
connect = lambda: MongoClient(known["uri"], password=known["password"], username="__system",
                              authSource="local", serverSelectionTimeoutMS=5000)
archiver = Archiver(connect, LocalSlices(known["folder"]), stack="test", replica_set="openhim",
                    epoch=1, interval=0.05, max_bytes=5000, begin_at=Timestamp(*known["begin"]))
print("ready", flush=True)
archiver.run(threading.Event())
"""


@contextlib.contextmanager
def _process(single, store, begin):
    mongod = single.members["north-db1"]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS.format(repository=str(Path.cwd()))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = {
            "uri": f"mongodb://127.0.0.1:{mongod.port}/?directConnection=true",
            "password": "".join(mongod.keyfile.split()),
            "folder": str(store.folder),
            "begin": [begin.time, begin.inc],
        }
        process.stdin.write(json.dumps(told) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_killed_five_times_at_random_it_loses_nothing_and_doubles_nothing(single, client, store):
    begin = majority_time(client)
    dice = random.Random(20261122)  # noqa: S311
    with writing(client, pause=0.001) as written:
        for _ in range(5):
            before = len(store.headers())
            with _process(single, store, begin) as process:
                eventually(lambda n=before: len(store.headers()) > n, what="a slice")
                time.sleep(dice.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
                process.wait()
    archiver_of(single, store).catch_up()
    assert assert_same_as_the_oplog(store, client) >= len(written)
    start, _ = archived(store)
    assert len(chain.reachable(store.headers(), SET, Timeline(1, start.term))) == 1


def test_a_store_that_is_away_is_waited_for_and_caught_up(single, client, store):
    hidden = store.folder.with_name("hidden")
    options = {"max_bytes": 30_000, "begin_at": majority_time(client)}
    with archiving(single, store, **options) as archiver:
        until_archived(archiver, write(client.openhim.numbers, {"_id": "before"}))
        store.folder.rename(hidden)
        times = [write(client.openhim.numbers, {"_id": n, "x": "y" * 900}) for n in range(150)]
        error = eventually(lambda: archiver.status().error, what="the error")
        assert "No such file or directory" in error
        behind = archiver.status().rpo_seconds
        eventually(lambda: archiver.status().rpo_seconds > behind + 1, what="a growing RPO")
        # Bounded: what it holds is one slice, not what was written meanwhile.
        assert archiver._collected.size < 40_000
        hidden.rename(store.folder)
        until_archived(archiver, times[-1])
        eventually(lambda: archiver.status().error is None, what="no error")
    assert assert_same_as_the_oplog(store, client) >= 151


def test_the_rpo_stays_below_the_interval_and_five_seconds(single, client, store):
    worst = []
    with archiving(single, store, interval=2) as archiver, writing(client) as written:
        until_archived(archiver, eventually(lambda: written and written[-1]))
        begun = time.monotonic()
        while time.monotonic() - begun < 8:
            worst.append(archiver.status().rpo_seconds)
            time.sleep(0.05)
    assert 1.5 < max(worst) < 2 + 5


@pytest.fixture
def short(replica_set):
    """A set whose oplog rolls over as soon as it is full: only what a checkpoint has may go."""
    cluster = replica_set({"north-db1": {"site": "north"}}, extra=["--syncdelay", "1"])
    with cluster.members["north-db1"].client() as client:
        yield cluster, client
    cluster.stop()


def test_an_oplog_that_rolled_over_is_a_gap_on_record_and_none_crosses_it(short, store):
    cluster, client = short
    last = archiver_of(cluster, store, begin_at=majority_time(client))
    base = write(client.openhim.numbers, {"_id": 1})
    stood = last.catch_up()
    big = "z" * (8 << 20)

    def rolled_over():
        client.admin.command({"appendOplogNote": 1, "data": {"x": big}})
        oldest = client.local["oplog.rs"].find_one({}, sort=[("$natural", 1)])
        return oldest["ts"] > stood.ts

    eventually(rolled_over, what="an oplog that rolled over")
    told = []
    with archiving(cluster, store, on_gap=told.append, max_bytes=64 << 20) as archiver:
        to = write(client.openhim.numbers, {"_id": 2})
        until_archived(archiver, to)
    # It may go on rolling over while that is put on record.
    assert [header.previous for header in told] == [stood, *(h.last for h in told[:-1])]
    assert archiver.status().gaps == len(told)
    with pytest.raises(TimeNotReachable, match="rolled over before it was archived") as refused:
        chain.plan(store.headers(), SET, base=base, to=to)
    assert next(each.end for each in refused.value.ranges) == stood
    assert_same_as_the_oplog(store, client)
    # From a base after the gap, all is reachable again.
    assert chain.plan(store.headers(), SET, base=told[-1].last.ts, to=to).segments


def test_a_second_archiver_does_no_harm(single, client, store):
    options = {"begin_at": majority_time(client)}
    two = archiving(single, store, interval=0.7, **options)
    with archiving(single, store, **options) as one, two as two:
        with writing(client) as written:
            eventually(lambda: min(one.status().slices, two.status().slices) >= 3, what="slices")
        until_archived(one, written[-1])
    assert len(store.headers()) > one.status().slices
    assert assert_same_as_the_oplog(store, client) >= len(written)


def test_a_last_slice_that_a_kill_cut_off_is_taken_back_and_archived_again(single, client, store):
    first = archiver_of(single, store, begin_at=majority_time(client))
    write(client.openhim.numbers, {"_id": 1})
    first.catch_up()
    write(client.openhim.numbers, {"_id": 2})
    first.catch_up()
    cut = store.headers()[-1]
    path = store.folder / cut.name
    path.write_bytes(path.read_bytes()[:-20])
    last = write(client.openhim.numbers, {"_id": 3})
    assert archiver_of(single, store).catch_up().ts >= last
    assert [header.voids for header in store.headers() if header.kind == slices.VOID] == [cut.name]
    assert assert_same_as_the_oplog(store, client) >= 3


def test_what_a_kill_cut_off_is_archived_again_though_nothing_was_written_since(
    single, client, store
):
    """The same stretch then gives the same slice: it must not have the name that is taken back."""
    begin = majority_time(client)
    write(client.openhim.numbers, {"_id": 1})
    last = write(client.openhim.numbers, {"_id": 2})
    # One entry a slice: whatever else the server writes, the last one is cut in the same way again.
    archiver_of(single, store, begin_at=begin, max_bytes=100).catch_up()
    for _ in range(2):
        cut = max(chain.usable(store.headers(), SET), key=lambda header: header.last)
        path = store.folder / cut.name
        path.write_bytes(path.read_bytes()[:-20])
        assert archiver_of(single, store, max_bytes=100).catch_up().ts >= last
    assert len([header for header in store.headers() if header.kind == slices.VOID]) == 2
    line = chain.timeline_of(store.headers(), SET, 1)
    (found,) = chain.reachable(store.headers(), SET, line)
    assert (found.start.ts, found.end.ts >= last) == (begin, True)
    assert_same_as_the_oplog(store, client)


def test_an_older_epoch_does_not_write_into_a_newer_ones_archive(single, client, store):
    newer = archiver_of(single, store, epoch=3, begin_at=majority_time(client))
    write(client.openhim.numbers, {"_id": 2})
    newer.catch_up()
    before = store.headers()
    stale = archiver_of(single, store, epoch=2)
    with pytest.raises(StaleEpoch, match=r"has epoch 3, and this host is in epoch 2"):
        stale.run(threading.Event())
    assert store.headers() == before


def test_a_running_archiver_notices_a_newer_epoch_and_stops(single, client, store, monkeypatch):
    """As one does that has lost its master, while the others moved to another site."""
    monkeypatch.setattr(code, "_LOOK", 0.5)
    running = archiver_of(single, store, epoch=1, begin_at=majority_time(client))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(running.run, stop)
        try:
            until_archived(running, write(client.openhim.numbers, {"_id": 1}))
            newer = archiver_of(single, store, epoch=2)
            write(client.openhim.numbers, {"_id": 2})
            newer.catch_up()
            with pytest.raises(StaleEpoch, match="has epoch 2, and this host is in epoch 1"):
                ended.result(30)
        finally:
            stop.set()


@pytest.mark.parametrize("archived_before", [True, False])
def test_an_oplog_that_leaves_its_history_again_and_again_is_waited_out(
    single, client, store, monkeypatch, archived_before
):
    """Mocked: that it does so within milliseconds."""
    begin = majority_time(client)
    write(client.openhim.numbers, {"_id": 1})
    if archived_before:
        archiver_of(single, store, begin_at=begin).catch_up()
        write(client.openhim.numbers, {"_id": 2})
    last = majority_time(client)
    left, check = [True] * 5, Archiver._check_first

    def check_first(self, *arguments):
        if left and left.pop():
            raise code._Diverged
        check(self, *arguments)

    monkeypatch.setattr(Archiver, "_check_first", check_first)
    archiver = archiver_of(single, store, begin_at=begin)
    for _ in range(2):
        with pytest.raises(OpenHIMError, match="left the archived history twice"):
            archiver.catch_up()
    assert archiver.catch_up().ts >= last  # the last one of five is followed by none
    lines = chain.timelines(store.headers(), SET)
    assert {line.parent for line in lines if line.parent} <= {line.key for line in lines}
    if archived_before:
        assert chain.plan(store.headers(), SET, base=begin, to=last).segments


def test_a_new_epoch_goes_on_from_the_same_entry_on_a_timeline_of_its_own(single, client, store):
    base = majority_time(client)
    write(client.openhim.numbers, {"_id": 0})
    archiver_of(single, store, begin_at=base).catch_up()
    write(client.openhim.numbers, {"_id": 1})
    end = archiver_of(single, store).catch_up()
    to = write(client.openhim.numbers, {"_id": 2})
    archiver_of(single, store, epoch=2).catch_up()
    line = chain.timeline_of(store.headers(), SET, 2)
    assert (line.parent[0], line.branch) == (1, end)
    assert chain.plan(store.headers(), SET, base=end.ts, to=to, base_epoch=1).timeline == line
    assert_same_as_the_oplog(store, client)


def test_it_begins_at_the_restore_points_time_when_the_oplog_still_has_it(single, client, store):
    base = write(client.openhim.numbers, {"_id": 1})
    to = write(client.openhim.numbers, {"_id": 2})
    archiver_of(single, store, begin_at=base).catch_up()
    assert store.headers()[0].previous.ts == base
    assert chain.plan(store.headers(), SET, base=base, to=to).segments


def test_a_repository_of_another_stack_is_refused(single, client, store):
    header = slices.gap("other", SET, Timeline(1, 1), Position(1, 1, 1), Position(2, 1, 1),
                        _wall(_entry(client)), "x")  # fmt: skip
    store.put(header, [header.encode()])
    with pytest.raises(OpenHIMError, match="slices of another stack, other"):
        archiver_of(single, store).catch_up()
    assert STACK not in [each.stack for each in store.headers()]


def _wall(raw):
    return Entry(raw).wall


def _entry(client):
    found = client.local["oplog.rs"].find_raw_batches({}).limit(1)
    return next(iter(slices.split(next(found))))


def test_a_history_that_the_oplog_does_not_know_gets_a_timeline_of_its_own(single, client, store):
    """What a set that was initiated anew looks like: other entries at the same times."""
    now = write(client.openhim.numbers, {"_id": 1})
    foreign = Collector(Position(now.time, now.inc, 900))
    foreign.add(
        bson.encode(
            {"op": "n", "ns": "", "o": {}, "ts": Timestamp(now.time, now.inc + 1), "t": Int64(900)}
        )
    )
    old = foreign.header(STACK, SET, Timeline(1, 900))
    store.put(old, foreign.chunks(old))
    first = eventually(lambda: _later(client, now.time), what="the next second")
    archiver_of(single, store, begin_at=first).catch_up()
    last = write(client.openhim.numbers, {"_id": 3})
    archiver_of(single, store).catch_up()
    line = chain.timelines(store.headers(), SET)[-1]
    assert line.parent is None and line.key > old.timeline.key
    assert_same_as_the_oplog(store, client)
    assert "nothing in common" in next(h.reason for h in store.headers() if h.kind == slices.GAP)
    assert chain.plan(store.headers(), SET, base=first, to=last).segments
    with pytest.raises(TimeNotReachable):
        chain.plan(store.headers(), SET, base=old.previous.ts, to=last, base_epoch=1)


def test_a_damaged_slice_at_the_fork_does_not_stop_the_new_epochs_archive(single, client, store):
    """It branches before that slice, and archives once more what the slice should have."""
    begin = majority_time(client)
    write(client.openhim.numbers, {"_id": 1})
    end = archiver_of(single, store, begin_at=begin).catch_up()
    to = write(client.openhim.numbers, {"_id": 2})
    old = Collector(end)
    for entry in oplog(client, end.ts, to):
        old.add(entry)
    fork = old.last
    for number in (1, 2):  # what did not survive
        ts = Timestamp(fork.time, fork.inc + number)
        old.add(bson.encode({"op": "n", "ns": "", "o": {}, "ts": ts, "t": Int64(fork.term)}))
    header = old.header(STACK, SET, Timeline(1, fork.term))
    store.put(header, [*list(old.chunks(header))[:-1], b"damaged"])
    after = slices.gap(STACK, SET, header.timeline, old.last, Position(fork.time + 1, 1, fork.term),
                       header.last_wall, "or that slice were the last, and taken back")  # fmt: skip
    store.put(after, [after.encode()])
    last = write(client.openhim.numbers, {"_id": 3})
    archiver_of(single, store, epoch=2).catch_up()
    line = chain.timeline_of(store.headers(), SET, 2)
    assert line.branch == end
    plan = chain.plan(store.headers(), SET, base=begin, to=last, base_epoch=1)
    assert header not in [segment.header for segment in plan.segments]
    assert_same_as_the_oplog(store, client)


def _later(client, second):
    written = write(client.openhim.numbers, {})
    return written if written.time > second else None
