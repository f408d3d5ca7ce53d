"""Main and audit database on sets of their own: both come back to the same second."""

import contextlib

import pytest
from bson import Timestamp
from saltext.openhim.backup import declaration, to_time, work
from saltext.openhim.backup.oplog import declared
from saltext.openhim.backup.oplog.archiver import Archiver

from tests.functional.backup.conftest import HOST, archived
from tests.functional.backup.oplog.conftest import at_work, majority_time, until_archived
from tests.functional.conftest import eventually

MAIN, AUDIT = "openhim", "audit"


@pytest.fixture(scope="module")
def stack(replica_set, tmp_path_factory):
    """One host with a member of each set; the second set's users have the first one's passwords."""
    folder = tmp_path_factory.mktemp("repositories")
    cluster = archived(replica_set, folder)
    openhim = cluster.pillar["openhim"]
    mongodb = openhim["mongodb"]
    other = replica_set({HOST: {"site": "north"}}, set_name=AUDIT, users=mongodb["users"])
    mongodb["replica_sets"][AUDIT] = {"members": other.declared}
    mongodb["databases"]["audit"]["replica_set"] = AUDIT
    other.primary()
    with other.members[HOST].client() as client:
        for user, entry in mongodb["users"].items():
            password = openhim["secrets"][entry["secret"]]
            client.admin.command("updateUser", user, pwd=password)
    cluster.backups = declaration.from_pillar(cluster.pillar, HOST)
    declared.repository(cluster.backups).initialise()
    cluster.sets = {MAIN: cluster, AUDIT: other}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(work, "LOCK", str(folder / "lock"))
        patched.setattr(declaration, "CACHE", str(folder / "cache"))
        yield cluster
    for each in cluster.sets.values():
        each.stop()


@pytest.fixture
def clients(stack):
    """A connection to each set, by its name."""
    with contextlib.ExitStack() as opened:
        yield {
            name: opened.enter_context(each.members[HOST].client())
            for name, each in stack.sets.items()
        }


@contextlib.contextmanager
def archiving(stack, begin):
    """The archivers of both sets, by name."""
    with contextlib.ExitStack() as opened:
        yield {
            name: opened.enter_context(
                at_work(
                    Archiver(
                        declared.source(stack.backups, name),
                        declared.store(stack.backups),
                        stack=stack.backups.stack.name,
                        replica_set=name,
                        interval=1,
                        begin_at=Timestamp(*begin[name]),
                    )
                )
            )
            for name in stack.sets
        }


def test_both_sets_are_restored_to_the_same_second(stack, clients, loaders):
    collections = {MAIN: clients[MAIN].openhim.numbers, AUDIT: clients[AUDIT].openhim_audit.numbers}
    for collection in collections.values():
        collection.insert_one({"_id": -1})
    minion = loaders(HOST, stack.pillar)
    base = minion.modules["openhim_backup.take"]()
    assert set(base["cluster_times"]) == {MAIN, AUDIT}
    written = {name: {} for name in collections}
    with archiving(stack, base["cluster_times"]) as archivers:
        # The time of a set at rest stands still for ten seconds: it is that of its last write.
        collections[MAIN].insert_one({"_id": -2})
        first = majority_time(clients[MAIN]).time

        def four_seconds_of_numbers():
            for name, collection in collections.items():
                number = len(written[name])
                before = majority_time(clients[name]).time
                collection.insert_one({"_id": number})
                written[name][number] = (before, majority_time(clients[name]).time)
            return majority_time(clients[MAIN]).time > first + 4

        eventually(four_seconds_of_numbers, what="numbers in four seconds")
        for name, archiver in archivers.items():
            clients[name].admin.command({"appendOplogNote": 1, "data": {"x": 1}})
            until_archived(archiver, majority_time(clients[name]))
    wanted = first + 2
    done = minion.modules["openhim_backup.restore"](
        to_time=to_time.text(Timestamp(wanted, 0)), overwrite=True
    )
    assert set(done["replayed"]) == {MAIN, AUDIT}
    for name, collection in collections.items():
        there = set(collection.distinct("_id"))
        earlier = {n for n, (_, after) in written[name].items() if after < wanted}
        later = {n for n, (before, _) in written[name].items() if before >= wanted}
        assert earlier and later
        assert earlier <= there
        assert not later & there
