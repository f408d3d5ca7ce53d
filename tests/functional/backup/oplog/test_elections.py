"""The archive goes on through elections, and notices when the history was another one."""

import contextlib
import signal
import threading

import bson
import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.archiver import _Elsewhere
from saltext.openhim.backup.oplog.chain import TimeNotReachable
from saltext.openhim.backup.oplog.replay import read_segment
from saltext.openhim.backup.oplog.store import LocalSlices
from saltext.openhim.errors import OpenHIMError

from tests.functional.backup.oplog.conftest import (
    SET,
    archiver_of,
    archiving,
    assert_same_as_the_oplog,
    connect,
    majority_time,
    until_archived,
    write,
)
from tests.functional.conftest import eventually
from tests.unit.backup.oplog.made import slice_of

ARCHIVER = "saltext.openhim.backup.oplog.archiver"
THREE = {
    "north-db1": {"site": "north", "priority": 10},
    "north-db2": {"site": "north", "priority": 9},
    "south-db1": {"site": "south", "priority": 1},
}


@pytest.fixture
def three(replica_set):
    cluster = replica_set(THREE)
    yield cluster
    cluster.stop()


def _client(cluster):
    mongod = cluster.members["south-db1"]
    return MongoClient(
        [each.name for each in cluster.members.values()],
        replicaSet=cluster.set_name,
        username="__system",
        password="".join(mongod.keyfile.split()),
        authSource="local",
        w="majority",
        serverSelectionTimeoutMS=30000,
    )


def _writer(client, stop, acknowledged):
    number = 0
    while not stop.wait(0.005):
        with contextlib.suppress(PyMongoError):  # then it is not acknowledged
            acknowledged.append(write(client.openhim.numbers, {"_id": number}))
        number += 1


def test_a_stepdown_and_a_killed_primary_leave_no_hole(three, store):
    acknowledged, stop = [], threading.Event()
    with _client(three) as client:
        begin = majority_time(client)
        writer = threading.Thread(target=_writer, args=(client, stop, acknowledged), daemon=True)
        writer.start()
        with archiving(three, store, interval=0.3, begin_at=begin) as archiver:
            until_archived(archiver, eventually(lambda: acknowledged and acknowledged[-1]))
            with three.members[three.primary()].client() as primary:
                primary.admin.command("replSetStepDown", 5, force=True)
            _writes_again(archiver, acknowledged)
            three.members[three.primary()].kill()
            _writes_again(archiver, acknowledged)
            stop.set()
            writer.join(60)
            until_archived(archiver, acknowledged[-1])
        with three.members[three.primary()].client() as primary:
            assert assert_same_as_the_oplog(store, primary) >= len(acknowledged)
    known = store.headers()
    assert len(chain.timelines(known, SET)) == 1
    assert len({header.last.term for header in known}) >= 2


def _writes_again(archiver, acknowledged):
    count = len(acknowledged)
    eventually(lambda: len(acknowledged) > count + 5, what="writes after the election")
    until_archived(archiver, acknowledged[-1])


def test_after_a_forced_failover_the_survivors_history_is_followed_from_the_fork(three, store):
    north = [three.members["north-db1"], three.members["north-db2"]]
    south = three.members["south-db1"]
    with _client(three) as client:
        begin = majority_time(client)
        kept = write(client.openhim.numbers, {"_id": "kept"})
        with south.client() as survivor:
            eventually(lambda: majority_time(survivor) >= kept, what="the survivor to have it")
        south.kill()  # a frozen one still gets what is on its way
        majority = client.openhim.numbers.with_options(write_concern=WriteConcern("majority"))
        lost = [write(majority, {"_id": f"lost {number}"}) for number in range(5)]
        # One slice that straddles the fork: where they part is found within it.
        before = archiver_of(three, store, begin_at=begin, interval=3600)
        before._connect = _only(north)
        assert before.catch_up().ts >= lost[-1]
    for mongod in north:
        mongod.kill()
    south.start().wait()
    with south.client() as survivor:
        configured = lambda: survivor.admin.command("hello").get("setName")  # noqa: E731
        eventually(configured, what="the survivor's configuration")
        config = survivor.admin.command("replSetGetConfig")["config"]
        config["members"] = [m for m in config["members"] if m["host"] == south.name]
        config["version"] += 10
        survivor.admin.command({"replSetReconfig": config, "force": True})
        eventually(lambda: survivor.admin.command("hello")["isWritablePrimary"], what="a primary")
        # It never heard of the lost writes, and may count their second once more.
        later = lambda: write(survivor.openhim.clock, {}) > lost[-1]  # noqa: E731
        eventually(later, what="a later cluster time than that of the lost writes")
        to = write(survivor.openhim.numbers, {"_id": "new"})
        archiver_of(three, store, epoch=2).catch_up()
        line = chain.timeline_of(store.headers(), SET, 2)
        assert line.parent[0] == 1
        assert kept <= line.branch.ts < lost[0]
        assert _ids(store, begin, to) == ["kept", "new"]
        assert _ids(store, begin, lost[-1], epoch=1) == ["kept", *(f"lost {n}" for n in range(5))]
        with pytest.raises(TimeNotReachable, match="history of epoch 1"):
            chain.plan(store.headers(), SET, base=lost[2], to=to, base_epoch=1)
        left = chain.abandoned(store.headers(), SET, line)
        assert _inserted(store, left) == [f"lost {number}" for number in range(5)]
        assert_same_as_the_oplog(store, survivor)


def test_what_only_an_absent_member_has_is_waited_for_and_no_gap(three, store, monkeypatch):
    """Mocked: who has the entry. To let the oplogs of two members roll over takes minutes."""
    primary = three.primary()
    holder = next(mongod.name for host, mongod in three.members.items() if host != primary)
    absent = next(mongod for mongod in three.members.values() if mongod.name == holder)
    monkeypatch.setattr(
        f"{ARCHIVER}._has", lambda oplog, _: getattr(oplog.read_preference, "member", 0) == holder
    )
    header, data = slice_of(1, 3)  # long before the oplog begins
    lost = LocalSlices(store.folder.with_name("lost"))
    lost.folder.mkdir()
    for each in (store, lost):
        each.put(header, [data])
    absent.kill()
    impatient = connect(three, serverSelectionTimeoutMS=1500)
    one = archiver_of(three, store)
    one._connect = impatient
    with pytest.raises(OpenHIMError, match=f"not every member could be asked .*{holder} does not"):
        one.catch_up()
    assert store.headers() == [header]
    with monkeypatch.context() as patched:  # lost for good, it does not end the archive
        patched.setattr(f"{ARCHIVER}._PATIENCE", 0)
        other = archiver_of(three, lost)
        other._connect = impatient
        other.catch_up()
    (gap,) = [each for each in lost.headers() if each.kind == slices.GAP]
    assert f"not asked, for they do not answer: {holder}" in gap.reason

    absent.start().wait()
    with connect(three)() as client, pytest.raises(_Elsewhere) as found:
        eventually(lambda: client.secondaries and len(client.secondaries) == 2, what="its return")
        one._ask_members(client, header.last)
    with connect(three)() as client:
        there = found.value.preference
        assert client.admin.command("hello", read_preference=there)["me"] == holder


def _only(members):
    class Some:
        set_name = SET

        def __init__(self):
            self.members = {str(n): mongod for n, mongod in enumerate(members)}

    return connect(Some())


def _ids(store, base, to, epoch=None):
    plan = chain.plan(store.headers(), SET, base=base, to=to, base_epoch=1, epoch=epoch)
    return _inserted(store, plan.segments)


def _inserted(store, segments):
    entries = [
        bson.decode(entry.raw) for segment in segments for entry in read_segment(store, segment)
    ]
    assert [e["ts"] for e in entries] == sorted({e["ts"] for e in entries})
    return [e["o"]["_id"] for e in entries if e["op"] == "i" and e["ns"] == "openhim.numbers"]


def test_slices_are_those_of_the_majority_only(three, store):
    """What only the primary has may be rolled back, and is not archived."""
    with _client(three) as client:
        begin = majority_time(client)
        write(client.openhim.numbers, {"_id": "kept"})
    others = [m for host, m in three.members.items() if host != three.primary()]
    primary = three.members[three.primary()]
    for mongod in others:
        mongod.signal(signal.SIGSTOP)
    try:
        with primary.client() as client:
            alone = client.openhim.numbers.with_options(write_concern=WriteConcern(1))
            only = write(alone, {"_id": "alone"})
            archiver = archiver_of(three, store, begin_at=begin)
            archiver._connect = primary.client
            assert archiver.catch_up().ts < only
    finally:
        for mongod in others:
            mongod.signal(signal.SIGCONT)
    assert all(header.last.ts < only for header in store.headers() if header.kind == slices.SLICE)
