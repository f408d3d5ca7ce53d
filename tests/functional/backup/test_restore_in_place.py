"""A restore in place keeps what it replaces, is on record, and goes on where it was killed."""

import contextlib
import copy

import pytest
from bson import Timestamp
from saltext.openhim import record
from saltext.openhim.backup import declaration, points, to_time, work
from saltext.openhim.backup.oplog import chain, declared
from saltext.openhim.backup.oplog.archiver import Archiver
from saltext.openhim.backup.present import HalfReplaced
from saltext.openhim.backup.verification import Verification
from saltext.openhim.core import database
from saltext.openhim.core.host import CoreHost
from saltext.openhim.recovery.figures import moment

from tests.functional.backup.oplog.conftest import at_work, majority_time, until_archived
from tests.functional.backup.orchestrated import (
    CORE,
    HOST,
    STACK,
    Run,
    failed,
    moved,
    restored,
    running,
)
from tests.functional.conftest import eventually

COUNT = 3000
SET = "openhim"
KEPT = "What is there is kept aside"
DECIDED = "The decision is on record"
REQUEST = {"confirm": STACK, "reason": "a bad script", "declared_by": "a test"}
USERS = {
    "operator": {
        "secret": "mongodb_operator",
        "roles": [{"role": "root", "db": "admin"}],
        "operator": True,
    },
    "backup": {"secret": "mongodb_openhim", "roles": [{"role": "backup", "db": "admin"}]},
    "openhim": {
        "secret": "mongodb_openhim",
        "roles": [{"role": "readWrite", "db": name} for name in ("openhim", "openhim_audit")],
    },
}


@pytest.fixture(scope="module")
def cluster(replica_set, tmp_path_factory):
    cluster = replica_set({HOST: {"site": "north"}}, users=USERS)
    openhim = cluster.pillar["openhim"]
    openhim["hosts"][CORE] = {"site": "north", "address": "127.0.0.9", "roles": ["core"]}
    openhim["core"] = {"version": "8.5.0"}
    cluster.declared_first = copy.deepcopy(openhim)
    yield cluster
    cluster.stop()


@pytest.fixture
def stack(cluster, tmp_path, monkeypatch):
    """Good data, a restore point of it, then spoilt data and a last order; OpenHIM runs."""
    monkeypatch.setattr(work, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(declaration, "CACHE", str(tmp_path / "cache"))
    openhim = cluster.pillar["openhim"] = copy.deepcopy(cluster.declared_first)
    openhim["backup"] = {
        "taken_by": HOST,
        "user": "backup",
        "repositories": {
            "near": {"url": str(tmp_path / "near"), "secret": "near"},
            "other": {"url": str(tmp_path / "other"), "secret": "other"},
        },
        "schedule": {},
    }
    openhim["secrets"] |= {"near": "near-key", "other": "other-key"}
    cluster.folder = tmp_path
    cluster.backups = declaration.from_pillar(cluster.pillar, HOST)
    for name in ("near", "other"):
        cluster.backups.repository(name).initialise()
    with cluster.members[HOST].client() as client:
        for name in ("openhim", "openhim_audit"):
            client.drop_database(name)
        client.openhim.channels.insert_one({"_id": 1, "name": "laboratory"})
        client.openhim.transactions.insert_many(
            [{"_id": n, "status": "Successful", "text": "x" * 1000} for n in range(COUNT)]
        )
        client.openhim_audit.audits.insert_one({"_id": 1})
        cluster.good = work.take(cluster.backups, "a test", "good data", "near").id
        client.openhim.drop_collection("channels")
        client.openhim.transactions.update_many({}, {"$set": {"status": "spoilt"}})
        client.openhim.transactions.insert_one({"_id": "the last order"})
    (tmp_path / "openhim").touch()
    return cluster


@pytest.fixture
def data(stack):
    """What is there now: by collection the documents, but for what OpenHIM writes at its start."""

    def found():
        with stack.members[HOST].client() as client:
            return {
                f"{db}.{name}": list(
                    client[db][name].find({"text": {"$ne": "it started"}}, sort=[("_id", 1)])
                )
                for db in ("openhim", "openhim_audit")
                for name in sorted(client[db].list_collection_names())
                if not name.startswith("saltext_openhim")
            }

    return found


@pytest.fixture
def spoilt(data):
    return data()


def _good(found):
    transactions = found["openhim.transactions"]
    return (
        found["openhim.channels"] == [{"_id": 1, "name": "laboratory"}]
        and len(transactions) == COUNT
        and {each["status"] for each in transactions} == {"Successful"}
    )


def _asides(stack, name="near"):
    known = points.listing(stack.backups.repository(name), STACK).points
    return [point for point in known if point.aside]


def _history(stack):
    return record.history(STACK, stack.folder / "records")


def test_what_was_there_comes_back_from_where_it_was_kept_aside(stack, data, spoilt):
    assert failed(restored(stack, point="latest")) == {}
    assert _good(data())
    assert running(stack)
    (epoch,) = _history(stack)
    assert (epoch.kind, epoch.active_site, epoch.lost_sites) == ("restore", "north", ())
    assert epoch.completed_at
    kept = epoch.result["aside"]
    assert (kept["repository"], [kept["point"]]) == ("near", [a.id for a in _asides(stack)])
    assert f'"point": "{kept["point"]}"' in epoch.result["way_back"]
    assert failed(restored(stack, point=kept["point"], reason="it was the wrong one")) == {}
    assert data() == spoilt
    assert [each.number for each in _history(stack)] == [1, 2]
    assert len(_asides(stack)) == 2, "what was there before the second one is kept too"
    # What was spoilt is never taken for the newest backup.
    assert failed(restored(stack, point="latest")) == {}
    assert _good(data())


def test_what_is_given_up_is_measured_and_so_is_the_time_that_it_took(stack, data):
    base = work.find(stack.backups, stack.good)[0].as_of
    restored(stack, point=stack.good, disrupted_at="2026-01-31T12:00:00Z")
    (epoch,) = _history(stack)
    last = moment(epoch.evidence["last_write"]["openhim"]["wall"], "last_write").timestamp()
    assert last > base
    assert epoch.result["rpo_seconds"] == pytest.approx(last - base, abs=0.01)
    assert moment(epoch.fork_point, "fork_point").timestamp() == base
    taken = moment(epoch.result["served_at"], "x") - moment(epoch.declared_at, "x")
    assert epoch.result["rto_from_declaration_seconds"] == taken.total_seconds() > 0
    assert epoch.result["rto_seconds"] > 86400
    assert epoch.result["synthetic"] == {CORE: {"status": "Successful"}}


def test_a_preview_tells_all_of_it_and_changes_nothing(stack, data, spoilt):
    result = restored(stack, test=True, point="latest")
    assert failed(result) == {}
    told = result["What is done"][1]
    assert f"OpenHIM stops on {CORE}; epoch 1 begins." in told
    assert "What is there now is kept aside in near" in told
    assert f"The data becomes that of {stack.good}" in told
    assert "s of writes, as of now" in told
    assert f"{stack.good} was never verified" in told
    assert result[KEPT][1] == "Would take the present data into near."
    assert result[f"The data is that of {stack.good}"][1].startswith(f"Would restore {stack.good}")
    assert (data(), _asides(stack), _history(stack)) == (spoilt, [], [])
    assert running(stack)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"point": "20200101T000000Z-000000"}, "no restore point '20200101T000000Z-000000' was"),
        ({"point": "latest", "confirm": "tset"}, "confirm: found 'tset'"),
        ({"point": "latest", "declared_by": ""}, "declared_by: found nothing"),
        ({}, "point: found ''; say an ID, latest or verified; or to_time"),
        ({"pont": "latest"}, "restore: found pont; known are confirm, declared_by"),
        ({"point": "latest", "without_aside": True}, "without_aside_reason: found nothing"),
        ({"point": "latest", "without_aside": "no"}, "without_aside: found 'no'; expected true"),
        ({"point": "latest", "disrupted_at": "noon"}, "disrupted_at: found 'noon'"),
        ({"to_time": "yesterday"}, "to_time: found 'yesterday'"),
    ],
)
def test_what_cannot_be_is_refused_and_costs_nobody_the_service(
    stack, data, spoilt, request_, reason
):
    for test in (True, False):
        (refused, *others) = restored(stack, test=test, **request_)
        assert refused.startswith("Refused: ")
        assert reason in refused
        assert others == []
    assert (data(), _asides(stack), _history(stack)) == (spoilt, [], [])
    assert running(stack)


def test_a_restore_point_that_was_never_committed_or_did_not_verify_is_refused(
    stack, data, spoilt, monkeypatch
):
    repository = stack.backups.repository("near")
    monkeypatch.setattr(points.Taking, "_withdraw", lambda self: None)
    with pytest.raises(RuntimeError), points.Taking(repository, STACK, by="x", why="x") as taking:
        taking.store("openhim.archive", lambda out: out.write(b"half"))
        raise RuntimeError
    (refused,) = restored(stack, point=taking.id)
    assert f"restore point {taking.id} was never committed" in refused
    point, _ = work.find(stack.backups, stack.good)
    bad = Verification(
        point=point.id, stack=STACK, manifest_sha256=point.manifest_sha256, ok=False,
        at="2026-01-31T12:00:00.000Z", by="a test", host=HOST, milliseconds=1,
        reasons=("channels: 0 documents",),
    )  # fmt: skip
    points.mark_verified(repository, point, bad)
    (first, second) = restored(stack, point=stack.good)
    assert f"the restore point {stack.good} fails its checks" in first
    assert "did not verify: channels: 0 documents" in second
    assert (data(), _history(stack)) == (spoilt, [])
    assert running(stack)


def test_openhim_that_does_not_stop_keeps_its_data(stack, data, spoilt):
    (stack.folder / "openhim-does-not-stop").touch()
    result = restored(stack, point="latest")
    assert "OpenHIM is stopped" in failed(result)
    assert result["OpenHIM serves again what there was"] == (True, "")
    assert (data(), _asides(stack), _history(stack)) == (spoilt, [], [])
    assert running(stack)


def test_the_first_repository_that_can_be_reached_has_it(stack, data, spoilt, tmp_path):
    work.take(stack.backups, "a test", "spoilt already, and nobody saw it", "other")
    with moved(tmp_path / "near", tmp_path / "away"):
        assert failed(restored(stack, point="latest")) == {}
    (epoch,) = _history(stack)
    assert epoch.result["aside"]["repository"] == "other"
    assert [aside.id for aside in _asides(stack, "other")] == [epoch.result["aside"]["point"]]
    assert data() == spoilt


def test_what_cannot_be_kept_aside_is_not_replaced_unless_somebody_answers_for_it(
    stack, data, spoilt, tmp_path
):
    stack.pillar["openhim"]["backup"]["repositories"]["near"]["url"] = str(tmp_path / "nowhere")
    stack.pillar["openhim"]["backup"]["repositories"]["other"] |= {
        "copy_of": "near",
        "pulled_by": "west-backup",
    }
    work.take(stack.backups, "a test", "spoilt already", "other")
    (refused,) = restored(stack, point="latest")
    assert "Refused: the present data cannot be kept aside: near: " in refused
    assert "no repository here" in refused
    assert "or say without_aside: true, and why" in refused
    assert (_history(stack), running(stack)) == ([], True)
    why = {"without_aside": True, "without_aside_reason": "the store burnt down"}
    result = restored(stack, point="latest", **why)
    assert failed(result) == {}
    assert "NOT kept aside, and lost for good: the store burnt down" in result["What is done"][1]
    (epoch,) = _history(stack)
    assert epoch.result["aside"] == {"without": "the store burnt down"}
    assert epoch.result["way_back"] is None


def test_a_repository_that_fills_up_meanwhile_costs_a_moment_of_service_and_no_data(
    stack, data, spoilt, tmp_path
):
    """It opens, and takes nothing more: as one does that is full."""
    run = Run(stack, {**REQUEST, "point": "latest"})
    assert run.until(f"before: {KEPT}")
    assert not running(stack)
    with (
        moved(tmp_path / "near" / "data", tmp_path / "near-data"),
        moved(tmp_path / "other" / "data", tmp_path / "other-data"),
    ):
        for name in ("near", "other"):
            (tmp_path / name / "data").write_text("in the way")
        result = run.end()
        for name in ("near", "other"):
            (tmp_path / name / "data").unlink()
    assert set(failed(result)) == {KEPT, DECIDED, "Every host knows it"}
    assert "the present data cannot be kept aside: near: " in result[KEPT][1]
    assert "; other: " in result[KEPT][1]
    assert result["OpenHIM serves again what there was"] == (True, "")
    assert running(stack)
    assert (data()["openhim.transactions"], _history(stack)) == (spoilt["openhim.transactions"], [])


KILLED = [
    "before: What is done",
    "after: OpenHIM is stopped",
    f"after: {KEPT}",
    f"after: {DECIDED}",
    "after: Every host knows it",
    "half replaced",
    "all replaced",
    "after: OpenHIM serves it",
    "after: A transaction goes through and is found again",
    "after: Every host confirms the new reality",
]


@pytest.mark.parametrize("step", [*KILLED, "replaced"])
def test_killed_at_any_step_the_same_command_goes_on_and_nothing_half_is_kept(
    stack, data, spoilt, step
):
    step = f"after: The data is that of {stack.good}" if step == "replaced" else step
    run = Run(stack, {**REQUEST, "point": "latest"})
    assert run.until(step), run.steps
    run.kill()
    before = _history(stack)
    if step == "half replaced":
        assert 0 < len(data().get("openhim.transactions", [])) < COUNT
    if step in ("half replaced", "all replaced"):
        _nobody_uses_what_is_half_replaced(stack)
    assert failed(restored(stack, point="latest")) == {}
    assert _good(data())
    assert running(stack)
    (epoch,) = _history(stack)
    assert epoch.completed_at
    assert [epoch.id] == [each.id for each in before] or not before
    (aside,) = _asides(stack)
    assert epoch.result["aside"] == {"point": aside.id, "repository": "near"}
    assert failed(restored(stack, point=aside.id)) == {}
    assert data() == spoilt


def _nobody_uses_what_is_half_replaced(stack):
    """OpenHIM does not start on it, it is no backup, and no other restore takes it for data."""
    with pytest.raises(HalfReplaced, match=r"half replaced; OpenHIM must not run on it"):
        database.wait_writable(CoreHost(stack.pillar, CORE), 30)
    with pytest.raises(HalfReplaced, match="no restore point was taken"):
        work.take(stack.backups, "a test", "by schedule", "near")


def test_another_restore_after_one_that_was_killed_half_way_keeps_what_that_one_kept(
    stack, data, spoilt
):
    run = Run(stack, {**REQUEST, "point": "latest"})
    assert run.until("half replaced")
    run.kill()
    result = restored(stack, point=_asides(stack)[0].id, reason="everything as it was, please")
    assert failed(result) == {}
    assert data() == spoilt
    first, second = _history(stack)
    (aside,) = _asides(stack)
    assert first.completed_at is None
    assert second.result["aside"] == {"point": aside.id, "repository": "near", "by_epoch": 1}
    assert second.evidence["last_write"] == first.evidence["last_write"]


def test_data_that_another_restore_left_half_replaced_is_nothing_to_keep(stack, data, monkeypatch):
    """One by hand, of which no epoch knows; and a failover waits for OpenHIM to run on it."""
    record.declare(
        STACK, stack.folder / "records", parent=None, kind="failover", active_site="north",
        profile="reduced", lost_sites=["south"], declared_by="Ada", reason="fire",
        declared_at="2026-01-31T12:00:00+00:00",
    )  # fmt: skip
    stack.pillar["openhim"]["sites"]["south"] = {}

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(work, "compare", dies)
        work.restore(stack.backups, stack.good, by="Ben", why="in a hurry", overwrite=True)
    (refused,) = restored(stack, point="latest")
    assert f"the restore of {stack.good} that Ben began at" in refused
    assert "there is no present data that could be kept aside" in refused
    why = {"without_aside": True, "without_aside_reason": "it is half of something"}
    assert failed(restored(stack, point="latest", **why)) == {}
    assert _good(data())


def test_what_was_written_after_a_restore_died_is_kept_aside_too(stack, data):
    """Declared, and not begun; then somebody started OpenHIM, and it took an order."""
    run = Run(stack, {**REQUEST, "point": "latest"})
    assert run.until(f"after: {DECIDED}")
    run.kill()
    with stack.members[HOST].client() as client:
        client.openhim.transactions.insert_one({"_id": "one more order"})
    assert failed(restored(stack, point="latest")) == {}
    assert _good(data())
    first, second = _history(stack)
    assert (first.completed_at, second.parent) == (None, first.id)
    assert failed(restored(stack, point=second.result["aside"]["point"])) == {}
    assert _orders(data) == ["one more order", "the last order"]


def test_a_database_that_somebody_dropped_is_kept_aside_as_what_is_left(stack, data):
    with stack.members[HOST].client() as client:
        client.drop_database("openhim")
    assert failed(restored(stack, point="latest")) == {}
    assert _good(data())
    (aside,) = _asides(stack)
    names = {n.db for one in aside.manifest.replica_sets for n in one.namespaces}
    assert names == {"openhim_audit"}


def test_a_restore_after_a_failover_keeps_the_site_and_what_is_lost(stack, data):
    record.declare(
        STACK, stack.folder / "records", parent=None, kind="failover", active_site="north",
        profile="reduced", lost_sites=["south"], declared_by="Ada", reason="fire",
        declared_at="2026-01-31T12:00:00+00:00",
    )  # fmt: skip
    stack.pillar["openhim"]["sites"]["south"] = {}
    (refused,) = restored(stack, point="latest")
    assert "epoch 1 (failover to north by Ada) is not finished" in refused
    (failover,) = _history(stack)
    record.complete(STACK, failover.id, "2026-01-31T12:01:00+00:00", stack.folder / "records")
    assert failed(restored(stack, point="latest")) == {}
    _, epoch = _history(stack)
    kept = ("active_site", "profile", "lost_sites")
    assert {key: epoch.overlay()[key] for key in kept} == {
        key: failover.overlay()[key] for key in kept
    }
    (aside,) = _asides(stack)
    assert (aside.manifest.epoch, aside.manifest.epoch_id) == (1, failover.id)


def _archiver(stack, epoch):
    point, _ = work.find(stack.backups, stack.good)
    return Archiver(
        declared.source(stack.backups, SET),
        declared.store(stack.backups),
        stack=STACK,
        replica_set=SET,
        epoch=epoch,
        interval=0.5,
        begin_at=Timestamp(*point.manifest.times()[SET]),
    )


def _order(client, number):
    """Writes an order, and waits for the second after; returns that in ISO 8601."""
    client.openhim.transactions.insert_one({"_id": f"order {number}", "status": "Successful"})
    now = majority_time(client).time

    def later():
        client.openhim.clock.update_one({"_id": 1}, {"$inc": {"n": 1}}, upsert=True)
        found = majority_time(client).time
        return found if found > now else None

    return to_time.text(Timestamp(eventually(later, what="the next second"), 0))


def _orders(data):
    return [each["_id"] for each in data()["openhim.transactions"] if "order" in str(each["_id"])]


def test_the_oplog_archive_goes_on_in_a_timeline_of_the_restore_and_reaches_over_it(
    stack, data, tmp_path
):
    stack.pillar["openhim"]["backup"]["oplog"] = {
        "archived_by": HOST,
        "repository": {"url": str(tmp_path / "slices"), "secret": "near"},
    }
    declared.repository(stack.backups).initialise()
    archive = contextlib.ExitStack()
    with archive, stack.members[HOST].client() as client:
        archiver = archive.enter_context(at_work(_archiver(stack, 0)))
        before = _order(client, 1)
        _order(client, 2)
        until_archived(archiver, majority_time(client))
        run = Run(stack, {**REQUEST, "to_time": before})
        assert run.until("before: The oplog archive begins a new timeline"), run.end()
        archive.close()  # which commits what it has: all that was before the restore
        archiver = archive.enter_context(at_work(_archiver(stack, 1)))
        assert failed(run.end()) == {}
        assert _orders(data) == ["order 1", "the last order"]
        after = _order(client, 3)
        until_archived(archiver, majority_time(client))
        headers = declared.store(stack.backups).headers()
        first, second = chain.timelines(headers, SET)
        assert (first.epoch, second.epoch, second.parent) == (0, 1, first.key)
        (epoch,) = _history(stack)
        assert epoch.fork_point == before
        assert epoch.result["to_time"] == before
        (aside,) = _asides(stack)
        assert Timestamp(*aside.manifest.times()[SET]) <= second.branch.ts
        # One history, through the restore: its later part, and its earlier one.
        assert failed(restored(stack, to_time=after)) == {}
        assert _orders(data) == ["order 1", "order 3", "the last order"]
        until_archived(archiver, majority_time(client))
        assert failed(restored(stack, to_time=before)) == {}
        assert _orders(data) == ["order 1", "the last order"]
    amid = to_time.text(Timestamp(int(moment(epoch.result["served_at"], "x").timestamp()), 0))
    begun = moment(epoch.evidence["minted_at"], "x")
    assert begun < moment(amid, "x"), "too quick to have a whole second in it"
    (refused,) = restored(stack, to_time=amid)
    assert "the data was being replaced by epoch 1 (restore to north by a test)" in refused
