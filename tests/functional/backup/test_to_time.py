"""A restore to a time through the module: all of before, and nothing of later."""

import contextlib
import copy
import re
import shutil
import threading
from datetime import datetime, timezone

import pytest
from bson import Timestamp
from pymongo import WriteConcern
from salt.exceptions import CommandExecutionError
from saltext.openhim.backup import declaration, to_time, work
from saltext.openhim.backup.oplog import declared, health
from saltext.openhim.backup.oplog.archiver import Archiver

from tests.functional.backup.conftest import HOST, archived
from tests.functional.backup.oplog.conftest import at_work, majority_time, until_archived
from tests.functional.conftest import eventually

SET = "openhim"
PULLER = "west-backup"


@pytest.fixture(scope="module")
def stack(replica_set, tmp_path_factory):
    """A set with restore points and an oplog archive, read by a user that may only read."""
    folder = tmp_path_factory.mktemp("repositories")
    cluster = archived(replica_set, folder)
    backups = cluster.backups
    declared.repository(backups).initialise()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(work, "LOCK", str(folder / "lock"))
        patched.setattr(declaration, "CACHE", str(folder / "cache"))
        yield cluster
    cluster.stop()


@pytest.fixture
def client(stack):
    stack.primary()
    with stack.members[HOST].client() as client:
        for name in set(client.list_database_names()) - {"admin", "config", "local"}:
            client.drop_database(name)
        client.openhim.channels.insert_one({"_id": 1, "name": "laboratory"})
        client.openhim_audit.audits.insert_one({"_id": 1})
        yield client


@pytest.fixture
def minion(stack, client, loaders):
    return loaders(HOST, stack.pillar)


def archiving(stack, begin_at=None):
    """The archive of the declared set, by whom and to where the pillar says."""
    archiver = Archiver(
        declared.source(stack.backups, SET),
        declared.store(stack.backups),
        stack=stack.backups.stack.name,
        replica_set=SET,
        interval=declared.interval(stack.backups),
        begin_at=begin_at,
    )
    return at_work(archiver)


class Writer:
    """Appends numbers, one by one and in transactions, and knows when each was acknowledged."""

    def __init__(self, client, name):
        self.client = client
        self.collection = client.openhim.get_collection(
            name, write_concern=WriteConcern("majority")
        )
        self.stop = threading.Event()
        #: number -> cluster time before it was asked for, and that of its acknowledgement
        self.written = {}

    def run(self):
        number = 0
        with self.client.start_session() as session:
            while not self.stop.is_set():
                several = range(number, number + (3 if number % 2 else 1))
                before = majority_time(self.client)
                if len(several) > 1:
                    with session.start_transaction(write_concern=WriteConcern("majority")):
                        for each in several:
                            self.collection.insert_one({"_id": each}, session=session)
                else:
                    self.collection.insert_one({"_id": number}, session=session)
                self.written |= dict.fromkeys(several, (before, session.operation_time))
                number = several.stop


@contextlib.contextmanager
def writing(client):
    """Two writers at work; they are done at the end."""
    writers = [Writer(client, f"numbers{each}") for each in range(2)]
    threads = [threading.Thread(target=each.run, daemon=True) for each in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        for each in writers:
            each.stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def _second_after(client):
    """Waits for the cluster's next second, and returns it in ISO 8601."""
    now = majority_time(client).time

    def later():
        client.openhim.clock.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
        found = majority_time(client).time
        return found if found > now else None

    return to_time.text(Timestamp(eventually(later, what="the next second"), 0))


def _archived(stack, client, archiver):
    """Waits until all that was written so far is archived."""
    client.admin.command({"appendOplogNote": 1, "data": {"x": 1}})
    until_archived(archiver, majority_time(client))


def test_every_number_acknowledged_before_the_time_is_there_and_none_after_it(
    stack, client, minion
):
    client.openhim.create_collection("log", capped=True, size=1 << 20)
    client.openhim.log.insert_many([{"n": n} for n in range(50)])
    client.openhim.events.create_index("at", expireAfterSeconds=3600)
    base = minion.modules["openhim_backup.take"]()
    with archiving(stack, Timestamp(*base["cluster_times"][SET])) as archiver:
        client.openhim.log.insert_one({"n": "before"})
        with writing(client) as writers:
            eventually(lambda: min(len(w.written) for w in writers) > 20, what="numbers")
            _second_after(client)
            wanted = _second_after(client)
            enough = [len(w.written) + 20 for w in writers]
            eventually(
                lambda: all(len(w.written) > n for w, n in zip(writers, enough, strict=True)),
                what="numbers after the time",
            )
        client.openhim.log.insert_one({"n": "after"})
        client.openhim.later.insert_one({"_id": 1})
        client.openhim.drop_collection("channels")
        _second_after(client)
        _archived(stack, client, archiver)
    done = minion.modules["openhim_backup.restore"](to_time=wanted, overwrite=True, by="a test")
    at = to_time.parsed(wanted)
    for writer in writers:
        there = set(client.openhim[writer.collection.name].distinct("_id"))
        acknowledged = {n for n, (_, after) in writer.written.items() if after < at}
        later = {n for n, (before, _) in writer.written.items() if before >= at}
        assert acknowledged and later, "the time is not within what was written"
        assert acknowledged <= there
        assert not later & there
    assert client.openhim.channels.count_documents({}) == 1
    assert "later" not in client.openhim.list_collection_names()
    assert "openhim.later" in done["dropped"]
    assert [each["n"] for each in client.openhim.log.find()] == [*range(50), "before"]
    assert client.openhim.events.index_information()["at_1"]["expireAfterSeconds"] == 3600
    assert (done["point"], done["to_time"]) == (base["id"], wanted)
    assert done["replayed"][SET]["transactions"] > 0
    assert client.admin.command({"getParameter": 1, "ttlMonitorEnabled": 1})["ttlMonitorEnabled"]
    assert minion.modules["openhim_backup.restored"]()[-1]["to_time"] == wanted


@pytest.fixture(scope="module")
def written(stack):
    """Two restore points, a number in every second around them, and all of it archived.

    Gives the points and the seconds: number n was written before second n, and after the one before.
    """
    points, seconds = [], []

    def take():
        points.append(work.take(stack.backups, "a test", "a test"))

    with stack.members[HOST].client() as client:
        for name in ("openhim", "openhim_audit"):
            client.drop_database(name)
            client[name].channels.insert_one({"_id": 1})
        take()
        with archiving(stack, Timestamp(*points[0].manifest.times()[SET])) as archiver:
            for number in range(2):
                if number == 1:
                    take()
                client.openhim.numbers.insert_one({"_id": number})
                seconds.append(_second_after(client))
            _archived(stack, client, archiver)
    return [each.id for each in points], seconds


def test_it_begins_with_the_newest_restore_point_before_the_time_and_can_go_back_again(
    written, client, loaders, stack
):
    points, seconds = written
    state = loaders(HOST, stack.pillar).states["openhim_backup.restored"]
    foreseen = loaders(HOST, stack.pillar, test=True).states["openhim_backup.restored"]
    for number, point in ((1, points[1]), (0, points[0])):
        client.openhim.numbers.insert_one({"_id": 1000})
        asked = {"name": "latest", "why": "a test", "to_time": seconds[number], "overwrite": True}
        before = foreseen(**asked)
        assert before["result"] is None
        assert f"Would restore {seconds[number]} (from {point})" in before["comment"]
        assert 1000 in client.openhim.numbers.distinct("_id")
        done = state(**asked)
        assert done["result"] is True, done
        assert client.openhim.numbers.distinct("_id") == list(range(number + 1))
    for again in (foreseen(**asked), state(**asked)):
        assert (again["result"], again["changes"]) == (True, {}), again


def test_what_cannot_be_reached_is_refused_in_the_preview_too_and_nothing_is_touched(
    written, client, loaders, stack, tmp_path
):
    points, seconds = written
    pillar = copy.deepcopy(stack.pillar)
    folder = shutil.copytree(stack.folder / "slices", tmp_path / "slices")
    pillar["openhim"]["backup"]["oplog"]["repository"]["url"] = str(folder)
    store = declared.store(declaration.from_pillar(pillar, HOST))
    at = to_time.parsed(seconds[1])
    store.remove([h.name for h in store.headers() if h.previous.ts < at <= h.last.ts])
    modules = loaders(HOST, pillar).modules
    foreseen = loaders(HOST, pillar, test=True).states["openhim_backup.restored"]
    for wanted, message in (
        (seconds[1], f"from the restore point {points[1]}: .* can't be reached: "),
        ("2020-01-01T00:00:00Z", "no restore point from before it was found"),
        ("2099-01-01T00:00:00Z", "from the restore point .* can't be reached: "),
        ("2026-01-31T11:59:59", "expected a time with its zone, in whole seconds"),
        ("2026-01-31T11:59:61Z", "which is no time"),
    ):
        ret = foreseen(name="latest", why="a test", to_time=wanted, overwrite=True)
        assert (ret["result"], ret["changes"]) == (False, {}), ret
        assert re.search(message, ret["comment"])
    with pytest.raises(CommandExecutionError, match="from the restore point"):
        modules["openhim_backup.restore"](to_time=seconds[1], overwrite=True)
    assert client.openhim.list_collection_names() == ["channels"]
    del pillar["openhim"]["backup"]["oplog"]
    with pytest.raises(CommandExecutionError, match="openhim:backup:oplog: found nothing"):
        loaders(HOST, pillar).modules["openhim_backup.restore"](to_time=seconds[1], overwrite=True)


def test_the_archive_outlives_its_store_in_the_copy_that_another_host_pulls(
    written, client, loaders, stack, tmp_path
):
    _, seconds = written
    pillar = copy.deepcopy(stack.pillar)
    oplog = pillar["openhim"]["backup"]["oplog"]
    oplog["copy"] = {"url": str(tmp_path / "second"), "secret": "near", "pulled_by": PULLER}
    puller = loaders(PULLER, pillar)
    present = "openhim_backup.oplog_copy_present"
    foreseen = loaders(PULLER, pillar, test=True).states[present]("a test")
    assert foreseen["result"] is None
    assert not (tmp_path / "second").exists()
    made = puller.states[present]("a test")
    assert (made["result"], list(made["changes"])) == (True, ["repository"])
    assert puller.states[present]("a test")["changes"] == {}
    assert puller.modules["openhim_backup.copy_oplog"]() > 1
    assert puller.modules["openhim_backup.copy_oplog"]() == 0
    figures = health.look(declaration.from_pillar(pillar, PULLER), datetime.now(timezone.utc)).sets
    assert figures[SET]["copy_behind_seconds"] == figures[SET]["behind_seconds"]
    with pytest.raises(
        CommandExecutionError, match=f"not the task of {HOST}; expected is {PULLER}"
    ):
        loaders(HOST, pillar).modules["openhim_backup.copy_oplog"]()

    oplog["repository"]["url"] = str(tmp_path / "lost")
    restore = loaders(HOST, pillar).modules["openhim_backup.restore"]
    done = restore(to_time=seconds[1], overwrite=True)
    assert client.openhim.numbers.distinct("_id") == [0, 1]
    assert done["archive"] == str(tmp_path / "second")
    with pytest.raises(CommandExecutionError, match=r"no repository here.*with the archive's copy"):
        restore(to_time="2099-01-01T00:00:00Z", overwrite=True)


def test_data_that_is_there_is_not_dropped_unless_it_may_be(written, client, minion):
    _, seconds = written
    for name in ("openhim", "openhim_audit"):
        client.drop_database(name)
    client.openhim.unknown.insert_one({"_id": 1})
    with pytest.raises(CommandExecutionError, match=r"holds data already \(openhim\.unknown\)"):
        minion.modules["openhim_backup.restore"](to_time=seconds[1])
    assert client.openhim.list_collection_names() == ["unknown"]


def test_no_document_expires_while_it_is_restored(client):
    def enabled():
        return client.admin.command({"getParameter": 1, "ttlMonitorEnabled": 1})[
            "ttlMonitorEnabled"
        ]

    with to_time.without_ttl(client):
        assert not enabled()
    assert enabled()
