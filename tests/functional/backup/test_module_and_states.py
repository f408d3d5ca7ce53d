"""``openhim_backup`` through Salt's loader: a stack's data, a real repository, there and back."""

import copy
import functools
import threading

import pytest
from bson import Decimal128
from salt.exceptions import CommandExecutionError
from saltext.openhim.backup import declaration, repository, work
from saltext.openhim.errors import OpenHIMError

HOST = "south-db1"
TWO = {
    "north-db1": {"site": "north", "priority": 2},
    HOST: {"site": "south", "votes": 0, "priority": 0},
}


@pytest.fixture(scope="module")
def stack(replica_set, tmp_path_factory):
    """A set with a declared backup; its data is made anew for every test."""
    cluster = replica_set(TWO)
    folder = tmp_path_factory.mktemp("repositories")
    openhim = cluster.pillar["openhim"]
    openhim["hosts"]["west-backup"] = {"site": "west", "address": "127.0.0.2", "roles": ["backup"]}
    openhim["backup"] = {
        "taken_by": HOST,
        "user": "operator",
        "recovery_secret": "recovery",
        "repositories": {
            "near": {"url": str(folder / "near"), "secret": "near", "pruned_by": "west-backup"},
            "far": {
                "url": str(folder / "far"),
                "secret": "far",
                "copy_of": "near",
                "pulled_by": "west-backup",
            },
        },
        "retention": {"last": 1, "minimum_verified": 0},
        "files": [str(folder / "core.json")],
        "max_age_seconds": 3600,
        "schedule": {"take": 3600, "copy": 3600, "prune": 86400},
    }
    openhim["secrets"] |= {"near": "near-key", "far": "far-key", "recovery": "the-recovery-key"}
    (folder / "core.json").write_text('{"api": {}}')
    cluster.folder = folder
    yield cluster
    cluster.stop()


@pytest.fixture
def data(stack, monkeypatch, tmp_path):
    """OpenHIM-like data, and folders of this test's own."""
    monkeypatch.setattr(work, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(declaration, "CACHE", str(tmp_path / "cache"))
    stack.primary()
    with stack.members["north-db1"].client() as client:
        for name in ("openhim", "openhim_audit"):
            client.drop_database(name)
        database = client.openhim
        database.channels.insert_many([{"_id": n, "name": f"channel {n}"} for n in range(5)])
        database.channels.create_index("name", unique=True)
        database.transactions.insert_many(
            [{"_id": n, "sum": Decimal128("1.50"), "text": "x" * 200} for n in range(1000)]
        )
        client.openhim_audit.audits.insert_one({"_id": 1})
    return stack


@pytest.fixture
def minion(data, loaders):
    """The host that takes and restores."""
    return loaders(HOST, data.pillar)


def _state(loaders, stack, function, name, test=False, host=HOST, **arguments):
    return loaders(host, stack.pillar, test=test).states[f"openhim_backup.{function}"](
        name=name, **arguments
    )


@pytest.fixture
def near(data, loaders):
    """The first repository, made by its state."""
    _state(loaders, data, "repository_present", "near")


def test_a_repository_is_made_with_its_recovery_key_and_then_left_alone(data, loaders, monkeypatch):
    url = str(data.folder / "near-new")
    monkeypatch.setitem(data.pillar["openhim"]["backup"]["repositories"]["near"], "url", url)
    foreseen = _state(loaders, data, "repository_present", "near", test=True)
    assert foreseen["result"] is None
    assert not list(data.folder.glob("near-new"))
    made = _state(loaders, data, "repository_present", "near")
    assert made["result"] is True, made
    assert set(made["changes"]) == {"repository", "recovery key"}
    assert "key" not in str(made["changes"].values()).replace("recovery key", "")
    for test in (True, False):
        again = _state(loaders, data, "repository_present", "near", test=test)
        assert (again["result"], again["changes"]) == (True, {})
    users = [key["userName"] for key in loaders(HOST, data.pillar).modules["openhim_backup.keys"]()]
    assert "recovery" in users


def test_a_wrong_secret_is_told_and_makes_no_second_repository(data, near, loaders):
    pillar = copy.deepcopy(data.pillar)
    pillar["openhim"]["secrets"]["near"] = "another-key"
    ret = loaders(HOST, pillar).states["openhim_backup.repository_present"](name="near")
    assert ret["result"] is False
    assert "password" in ret["comment"]
    assert "another-key" not in ret["comment"]


def test_a_recovery_key_that_the_host_has_not_is_asked_for_by_name(data, near, loaders):
    pillar = copy.deepcopy(data.pillar)
    del pillar["openhim"]["secrets"]["recovery"]
    states = loaders(HOST, pillar).states
    ret = states["openhim_backup.repository_present"](name="near", recovery_key=True)
    assert ret["result"] is False
    assert "openhim:secrets:recovery: found nothing" in ret["comment"]


def test_before_restic_is_installed_a_preview_knows_nothing_and_a_run_says_why(
    data, loaders, monkeypatch
):
    without = functools.partial(repository.Repository, program="restic-that-is-not-there")
    monkeypatch.setattr(declaration, "Repository", without)
    foreseen = _state(loaders, data, "repository_present", "near", test=True)
    assert (foreseen["result"], foreseen["changes"]) == (None, {})
    assert "Not known yet" in foreseen["comment"]
    assert "restic is not installed on this host" in foreseen["comment"]
    done = _state(loaders, data, "repository_present", "near")
    assert (done["result"], done["changes"]) == (False, {})
    assert "restic is not installed on this host" in done["comment"]


def test_a_restore_point_is_taken_listed_and_restored(data, near, minion, loaders):
    made = minion.modules["openhim_backup.take"](why="a test", by="a person")
    assert made["documents"] == 1006
    assert made["files"] == 1
    listed = minion.modules["openhim_backup.list"]()
    assert listed["points"][-1]["id"] == made["id"]
    assert listed["leftovers"] == []
    with data.members["north-db1"].client() as client:
        before = list(client.openhim.transactions.find(sort=[("_id", 1)]))
        client.drop_database("openhim")
        client.drop_database("openhim_audit")
    foreseen = _state(loaders, data, "restored", made["id"], test=True, why="lost")
    assert foreseen["result"] is None
    with data.members["north-db1"].client() as client:
        assert client.openhim.list_collection_names() == []
    done = _state(loaders, data, "restored", made["id"], why="lost")
    assert done["result"] is True, done
    with data.members["north-db1"].client() as client:
        assert list(client.openhim.transactions.find(sort=[("_id", 1)])) == before
        assert client.openhim.channels.index_information()["name_1"]["unique"] is True
        assert client.openhim_audit.audits.count_documents({}) == 1
        client.openhim.transactions.insert_one({"_id": "after the restore"})
    for test in (True, False):
        again = _state(loaders, data, "restored", made["id"], test=test, why="lost")
        assert (again["result"], again["changes"]) == (True, {}), again
    marker = minion.modules["openhim_backup.restored"]()[-1]
    assert (marker["point"], marker["why"]) == (made["id"], "lost")


def test_data_that_is_there_is_not_overwritten_unless_it_may_be(data, near, minion, loaders):
    made = minion.modules["openhim_backup.take"]()
    with data.members["north-db1"].client() as client:
        client.openhim.transactions.insert_one({"_id": "since then"})
    with pytest.raises(CommandExecutionError, match=r"holds data already .*overwrite=True"):
        minion.modules["openhim_backup.restore"](made["id"])
    for test in (True, False):
        refused = _state(loaders, data, "restored", made["id"], test=test, why="lost")
        assert (refused["result"], refused["changes"]) == (False, {})
        assert "holds data already" in refused["comment"]
    with data.members["north-db1"].client() as client:
        assert client.openhim.transactions.count_documents({}) == 1001
        client.openhim.newer.insert_one({"_id": 1})
    done = minion.modules["openhim_backup.restore"](made["id"], overwrite=True)
    assert done["untouched"] == ["openhim.newer"]
    with data.members["north-db1"].client() as client:
        assert client.openhim.transactions.count_documents({}) == 1000


def test_one_collection_comes_back_beside_what_is_there_or_in_its_place(data, near, minion):
    minion.modules["openhim_backup.take"]()
    restore = minion.modules["openhim_backup.restore_collections"]
    with data.members["north-db1"].client() as client:
        client.openhim.channels.insert_one({"_id": "spoilt", "name": "spoilt"})
        client.drop_database("rescue")
        done = restore("openhim.channels", rename={"openhim.channels": "rescue.before"})
        assert list(done["restored"]) == ["rescue.before"]
        assert client.rescue.before.count_documents({}) == done["restored"]["rescue.before"]
        assert client.rescue.before.index_information()["name_1"]["unique"] is True
        for asked in (
            {"only": ["openhim.channels"]},
            {"only": "openhim.channels", "rename": {"openhim.channels": "rescue.before"}},
        ):
            with pytest.raises(CommandExecutionError, match="already; nothing was restored"):
                restore(**asked)
        with pytest.raises(CommandExecutionError, match=r"fits openhim\.chanels; it has openhim\."):
            restore("openhim.chanels")
        assert client.openhim.channels.find_one({"_id": "spoilt"})
        restore("openhim.chan*", overwrite=True)
        assert not client.openhim.channels.find_one({"_id": "spoilt"})
        assert client.openhim.transactions.count_documents({}) == 1000
        client.drop_database("rescue")
    assert minion.modules["openhim_backup.restored"]() == []


def test_what_is_there_after_a_restore_is_counted_and_another_writer_is_told(
    data, near, minion, monkeypatch
):
    """A document lost between the restore and the look at it: no real server does that when asked."""
    made = minion.modules["openhim_backup.take"]()
    compare = work.compare

    def lose_one(*compared):
        compare(*compared)
        with data.members["north-db1"].client() as client:
            client.openhim.transactions.delete_one({"_id": 7})

    monkeypatch.setattr(work, "compare", lose_one)
    backups = declaration.from_pillar(data.pillar, HOST)
    with pytest.raises(OpenHIMError, match=r"openhim\.transactions \(999 documents of 1000\)"):
        work.restore(backups, made["id"], by="a test", why="lost", overwrite=True)
    assert work.restored(backups) == []


def test_openhim_may_write_again_as_soon_as_its_configuration_is_in(data, near, minion):
    made = minion.modules["openhim_backup.take"]()
    backups = declaration.from_pillar(data.pillar, HOST)
    seen = []

    def openhim_starts():
        with data.members["north-db1"].client() as client:
            seen.append(client.openhim.channels.count_documents({}))
            client.openhim.transactions.insert_one({"_id": "meanwhile"})

    work.restore(
        backups,
        made["id"],
        by="a test",
        why="lost",
        overwrite=True,
        configuration_first=True,
        on_configured=openhim_starts,
    )
    assert seen == [5]
    with data.members["north-db1"].client() as client:
        assert client.openhim.transactions.count_documents({}) == 1001
    with pytest.raises(CommandExecutionError, match="expected one of them"):
        minion.modules["openhim_backup.restore"](
            to_time="2026-01-31T12:00:00Z", configuration_first=True
        )


def test_only_its_host_takes_pulls_and_prunes(data, near, loaders):
    other = loaders("north-db1", data.pillar).modules
    with pytest.raises(CommandExecutionError, match="is the task of south-db1"):
        other["openhim_backup.take"]()
    for test in (True, False):
        refused = _state(loaders, data, "taken", "near", test=test, host="north-db1")
        assert refused["result"] is False
        assert "is the task of south-db1" in refused["comment"]
    with pytest.raises(CommandExecutionError, match="is not the task of north-db1"):
        other["openhim_backup.copy"]("far")
    with pytest.raises(CommandExecutionError, match="is not the task of north-db1"):
        other["openhim_backup.prune"]("near", confirm=True)


def test_the_copy_is_pulled_and_restores_and_old_points_are_pruned(data, near, minion, loaders):
    for _ in range(2):
        newest = minion.modules["openhim_backup.take"]()
    puller = loaders("west-backup", data.pillar).modules
    assert _state(loaders, data, "repository_present", "far", host="west-backup")["result"]
    copied = [point["id"] for point in puller["openhim_backup.copy"]("far")]
    assert newest["id"] in copied
    assert puller["openhim_backup.copy"]("far") == []
    would = puller["openhim_backup.prune"]("near")
    assert would["removed"] == [] and len(would["would_remove"]) >= 1
    done = puller["openhim_backup.prune"]("near", confirm=True)
    assert done["removed"] == would["would_remove"]
    (left,) = minion.modules["openhim_backup.list"]("near")["points"]
    assert left["id"] == newest["id"]
    minion.modules["openhim_backup.restore"](copied[0], repository="far", overwrite=True)


def test_a_second_backup_at_the_same_time_is_refused(data, near, minion):
    begun, done = threading.Event(), threading.Event()

    def hold():
        with work.alone("another one"):
            begun.set()
            done.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    begun.wait(60)
    try:
        with pytest.raises(
            CommandExecutionError, match=r"another one .* is under way on this host"
        ):
            minion.modules["openhim_backup.take"]()
    finally:
        done.set()
        other.join()


def test_taken_takes_one_only_when_the_newest_is_too_old(data, near, minion, loaders):
    made = minion.modules["openhim_backup.take"]()
    for test in (True, False):
        kept = _state(loaders, data, "taken", "near", test=test)
        assert (kept["result"], kept["changes"]) == (True, {})
    foreseen = _state(loaders, data, "taken", "near", test=True, max_age=0.001)
    assert foreseen["result"] is None
    newest = minion.modules["openhim_backup.list"]("near")["points"][-1]
    assert newest["id"] == made["id"]
    taken = _state(loaders, data, "taken", "near", max_age=0.001)
    assert taken["result"] is True
    newest = minion.modules["openhim_backup.list"]("near")["points"][-1]
    assert newest["id"] == taken["changes"]["restore point"]["new"] != made["id"]


def test_no_member_to_read_is_told_and_leaves_nothing(data, near, minion):
    before = minion.modules["openhim_backup.list"]("near")
    pillar = copy.deepcopy(data.pillar)
    pillar["openhim"]["secrets"]["mongodb_operator"] = "wrong"
    wrong = type(minion)(HOST, pillar, data.folder)
    with pytest.raises(CommandExecutionError, match="does not accept the credentials"):
        wrong.modules["openhim_backup.take"]()
    assert minion.modules["openhim_backup.list"]("near") == before
