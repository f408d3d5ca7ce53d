"""One task of backups at a time on a host, and a pruning that somebody's dead lock is in the way of."""

import threading
from datetime import datetime, timedelta, timezone

import pytest
from saltext.openhim.backup import points, repository, retention, work
from saltext.openhim.backup.repository import Lock, Locked, Repository
from saltext.openhim.errors import Refused

from .test_schedule import backups


@pytest.fixture
def lock(monkeypatch, tmp_path):
    monkeypatch.setattr(work, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(work, "_LOOK", 0.01)


def test_a_person_is_told_at_once_and_the_schedule_waits_for_its_turn(lock):
    begun, ended = threading.Event(), threading.Event()
    order = []

    def first():
        with work.alone("copying into far"):
            begun.set()
            ended.wait(30)
            order.append("copy")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(30)
    told = r"copying into far .* is under way .* pruning was not begun"
    with pytest.raises(Refused, match=told), work.alone("pruning"):
        pytest.fail("it ran beside the other one")
    with pytest.raises(Refused), work.patience(0.05), work.alone("pruning"):
        pytest.fail("it ran beside the other one")
    threading.Timer(0.1, ended.set).start()
    with work.patience(30), work.alone("pruning"):
        order.append("prune")
    thread.join()
    assert order == ["copy", "prune"]
    assert work._patience.get() == 0


class Locks(Repository):
    """A repository with made-up locks: no living process of another host is at hand."""

    looks = ()
    unlocked = False

    def locks(self):
        return [] if self.unlocked else self.looks.pop(0)

    def _ask(self, arguments, **_):
        assert arguments == ["unlock"]
        self.unlocked = True


def old(name="a", minutes=45):
    time = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return Lock(name, time, "elsewhere", 7, True)


@pytest.fixture
def slept(monkeypatch):
    asked = []
    monkeypatch.setattr(repository.clock, "sleep", asked.append)
    return asked


def test_an_old_lock_goes_when_nobody_renews_it(slept):
    dead, young = old(), old("b", 1)
    locked = Locks("r", "p")
    locked.looks = [[dead], [dead, young]]
    assert locked.unlock_stale() == [dead]
    assert slept == [630], "restic renews a lock every five minutes"


def test_a_lock_that_is_renewed_stays_however_wrong_our_clock_is(slept):
    locked = Locks("r", "p")
    locked.looks = [[old("a")], [old("b", 40)]]
    with pytest.raises(Locked, match=r"of elsewhere was made while we looked.*a clock is wrong"):
        locked.unlock_stale()
    assert not locked.unlocked


def test_nobody_waits_for_a_young_lock(slept):
    locked = Locks("r", "p")
    locked.looks = [[old(minutes=5)]]
    locked.unlock_stale()
    assert slept == []


def test_what_removes_is_used_to_unlock_and_to_clean_where_it_is(lock, monkeypatch):
    used = []
    monkeypatch.setattr(Repository, "unlock_stale", lambda self: used.append(self.url) or [])

    def clean(found, *_, **options):
        used.append((found.url, options["copies"]))
        return ()

    monkeypatch.setattr(points, "clean_leftovers", clean)
    near = {"url": "/add", "secret": "near", "pruned_by": "north-core", "prune_url": "/remove"}
    far = {"url": "/far", "secret": "far", "copy_of": "near", "pulled_by": "north-core"}
    for host in ("north-core", "south-core"):
        found = backups(host, repositories={"near": near, "far": far})
        found.pillar["openhim"]["secrets"] = {"near": "secret", "far": "secret"}
        work.unlock(found, "near")
        work.clean(found, "near")
        work.clean(found, "far")
    assert used == [
        "/remove", ("/remove", False), ("/far", True), "/add", ("/add", False), ("/far", False)
    ]  # fmt: skip


@pytest.mark.parametrize(("confirm", "unlocked"), [(True, 1), (False, 0)])
def test_a_pruning_removes_a_dead_lock_once(lock, monkeypatch, confirm, unlocked):
    asked = {"prune": 0, "unlock": 0}

    def prune(*_, **__):
        asked["prune"] += 1
        raise Locked("still")

    def unlock(_):
        asked["unlock"] += 1

    monkeypatch.setattr(points, "prune", prune)
    monkeypatch.setattr(Repository, "unlock_stale", unlock)
    north = backups("north-core", retention={"last": 1})
    north.pillar["openhim"]["secrets"] = {"near": "secret"}
    with pytest.raises(Locked, match="still"):
        work.prune(north, "near", confirm)
    assert asked == {"prune": 1 + unlocked, "unlock": unlocked}
    assert isinstance(north.policy, retention.Policy)
