"""``promote``: the survivor alone becomes primary, and never beside another one."""

import copy
import time
from datetime import datetime, timezone

import pytest
from pymongo import WriteConcern
from salt.exceptions import CommandExecutionError
from saltext.openhim.mongo import promotion
from saltext.openhim.mongo.connection import vantage

from tests.functional.conftest import PATIENCE

THREE = {
    "north-db1": {"site": "north", "priority": 10},
    "north-db2": {"site": "north", "priority": 9},
    "south-db1": {"site": "south", "priority": 1},
}
WHY = {"reason": "fire at north", "declarer": "a person"}


@pytest.fixture(autouse=True)
def notes(tmp_path_factory, monkeypatch):
    """All hosts of these tests are this one, and its own folder is not theirs."""
    monkeypatch.setattr(promotion, "NOTES_DIRECTORY", str(tmp_path_factory.mktemp("notes")))


@pytest.fixture(scope="module")
def lost(replica_set):
    """A set that the tests of this file break for good."""
    cluster = replica_set(THREE)
    yield cluster
    cluster.stop()


def _after_the_loss(cluster):
    pillar = copy.deepcopy(cluster.pillar)
    pillar["openhim"]["recovery"] = {
        "epoch": 1,
        "active_site": "south",
        "profile": "reduced",
        "lost_sites": ["north"],
    }
    # For a rebuild; until then it has no part in anything.
    west = {"site": "west", "address": "127.0.0.1", "roles": ["mongodb"], "standby": True}
    pillar["openhim"]["hosts"]["west-db1"] = west
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]["west-db1"] = {"votes": 0}
    return pillar


def _refusal(loaders, pillar, host="south-db1", confirm="test", **why):
    modules = loaders(host, pillar).modules
    with pytest.raises(CommandExecutionError) as error:
        modules["mongodb_replset.promote"](confirm, **{**WHY, **why})
    return str(error.value)


def _objections(loaders, pillar):
    said = loaders("south-db1", pillar).modules["openhim_dr.sighting"]()["objections"]
    assert set(said) <= {"openhim"}
    return said.get("openhim", [])


def test_a_member_that_cannot_be_asked_objects(lost, loaders):
    without = copy.deepcopy(lost.pillar)
    del without["openhim"]["secrets"]["mongodb_operator"]
    (objection,) = _objections(loaders, without)
    assert "has no password of the MongoDB operator" in objection


def test_without_the_right_words_nothing_is_promoted(lost, loaders):
    pillar = _after_the_loss(lost)
    before = lost.configs()
    assert "type the stack's name, 'test'" in _refusal(loaders, pillar, confirm="tset")
    assert "there is no reason" in _refusal(loaders, pillar, reason="  ")
    assert "there is no declarer" in _refusal(loaders, pillar, declarer="")
    assert "the profile is production" in _refusal(loaders, lost.pillar)
    assert "not the member that is to survive" in _refusal(loaders, pillar, host="north-db1")
    assert lost.configs() == before


def test_a_visible_primary_forbids_it(lost, loaders, test_mode):
    pillar = _after_the_loss(lost)
    before = lost.configs()
    states = loaders("south-db1", pillar, test=test_mode).states
    ret = states["mongodb_replset.promoted"](
        name="openhim", confirm="test", reason="a drill", declared_by="a person"
    )
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "a primary answers" in ret["comment"]
    assert "is primary in the survivor's eyes" in ret["comment"]
    assert lost.configs() == before


def test_a_majority_that_answers_forbids_it(lost, loaders):
    """The primary is gone, and the two that are left can elect: nothing is to be forced."""
    lost.members["north-db1"].kill()
    try:
        reasons = _refusal(loaders, _after_the_loss(lost))
        assert "a majority" in reasons or "primary" in reasons
        # The host says so before anybody has decided, also of a member that is declared by nobody.
        undeclared = copy.deepcopy(lost.pillar)
        del undeclared["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]["north-db2"]
        for pillar in (lost.pillar, undeclared):
            (majority,) = [one for one in _objections(loaders, pillar) if "a majority" in one]
            assert lost.members["north-db2"].name in majority
    finally:
        lost.members["north-db1"].start().wait()
    lost.primary()


def test_the_survivor_is_promoted_and_the_lost_come_back_without_a_vote(lost, loaders):
    pillar = _after_the_loss(lost)
    pillar["openhim"]["mongodb"]["election_timeout_ms"] = 60_000
    primary = lost.primary()
    with lost.members[primary].client() as client:
        client.get_database("openhim").probe.with_options(
            write_concern=WriteConcern(3, wtimeout=60000)
        ).insert_one({"kept": True})
        status = client.admin.command("replSetGetStatus")
        written = status["optimes"]["lastAppliedWallTime"]
    killed_at = datetime.now(timezone.utc)
    lost.members["north-db1"].kill()
    lost.members["north-db2"].kill()
    # Before the decision. It may have been the primary, which steps down when it notices.
    lost.eventually(lambda: not _objections(loaders, lost.pillar), what="no objection")
    survivor = loaders("south-db1", pillar)
    lost.eventually(lambda: _no_primary_seen(survivor), what="the survivor's notice")

    foreseen = loaders("south-db1", pillar, test=True).states["mongodb_replset.promoted"](
        name="openhim", confirm="test", reason="fire", declared_by="a person"
    )
    assert foreseen["result"] is None, foreseen
    assert lost.states() == {"south-db1": "secondary"}

    traces = survivor.modules["openhim_dr.traces"]("openhim")
    assert (set(traces["votes"].values()), traces["noted"]) == ({1}, False)
    started = time.monotonic()
    done = survivor.modules["mongodb_replset.promote"]("test", **WHY)
    assert time.monotonic() - started < 20, "it waited for the election timeout"
    assert done["changed"] is True
    assert len(done["unseen"]) == 2
    assert done["before"]["state"] == "SECONDARY"
    assert done["after"]["primary"] == lost.members["south-db1"].name
    votes = {m["host"]: (m["votes"], m["priority"]) for m in _config(lost)["members"]}
    assert votes == {
        lost.members["north-db1"].name: (0, 0),
        lost.members["north-db2"].name: (0, 0),
        lost.members["south-db1"].name: (1, 1),
    }
    traces = survivor.modules["openhim_dr.traces"]("openhim")
    assert traces["votes"] == {host: vote for host, (vote, _) in votes.items()}
    assert (traces["noted"], traces["epoch"]) == (True, 1)
    record = survivor.modules["mongodb_replset.promotion"]("openhim")
    assert record["reason"] == WHY["reason"]
    survived = datetime.fromisoformat(record["survived_until"])
    assert written <= survived.replace(tzinfo=None)
    # The survivor learns late what is on a majority: it may have more than it knows as committed.
    assert datetime.fromisoformat(done["before"]["last_committed"]["time"]) <= survived
    assert survived <= killed_at, "a write of the new primary does not tell what survived"

    version = _config(lost)["version"]
    again = survivor.modules["mongodb_replset.promote"]("test", **WHY)
    assert (again["changed"], _config(lost)["version"]) == (False, version)
    assert survivor.modules["mongodb_replset.promotion"]("openhim")["at"] == record["at"]
    for test in (True, False):
        states = loaders("south-db1", pillar, test=test).states
        for name in ("initiated", "configured", "healthy"):
            ret = states[f"mongodb_replset.{name}"](name="openhim", timeout=PATIENCE)
            assert (ret["result"], ret["changes"]) == (True, {}), (name, test, ret)
        ret = states["mongodb_replset.promoted"](
            name="openhim", confirm="test", reason="fire", declared_by="a person"
        )
        assert (ret["result"], ret["changes"]) == (True, {}), ret

    lost.members["north-db1"].start().wait()
    lost.eventually(
        lambda: lost.states() == {"north-db1": "secondary", "south-db1": "primary"},
        what="the lost member as a secondary",
    )
    returned = loaders("north-db1", pillar).states
    for name in ("initiated", "configured"):
        ret = returned[f"mongodb_replset.{name}"](name="openhim", timeout=PATIENCE)
        assert (ret["result"], ret["changes"]) == (True, {}), (name, ret)
    with lost.members["north-db1"].client() as client:
        assert client.openhim.probe.find_one({"kept": True})


def test_a_frozen_primary_forbids_it_until_it_is_shut_off(replica_set, loaders):
    """It may wake up, still primary. (That a silent loss is waited for shows in the lab.)"""
    cluster = replica_set({host: THREE[host] for host in ("north-db1", "south-db1")})
    pillar = _after_the_loss(cluster)
    cluster.members["north-db1"].signal(19)
    survivor = loaders("south-db1", pillar)
    cluster.eventually(lambda: _no_primary_seen(survivor), what="the survivor's notice")
    assert "may wake up as the primary" in _refusal(loaders, pillar)
    killed_at = datetime.now(timezone.utc)
    cluster.members["north-db1"].kill()
    _crash_before_the_proof(cluster, pillar)
    done = survivor.modules["mongodb_replset.promote"]("test", **WHY)
    assert done["changed"] is False, "it goes on where it was cut off"
    assert cluster.states() == {"south-db1": "primary"}
    survived = datetime.fromisoformat(done["after"]["proved_write"]["survived_until"])
    assert survived <= killed_at, "the new primary's first term passed for the old history"
    cluster.stop()


def _crash_before_the_proof(cluster, pillar):
    """Promoted, primary, restarted and elected a second time, and nothing proved yet."""
    here = vantage(pillar, "south-db1", "openhim")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(promotion, "_prove", _crash)
        with pytest.raises(KeyboardInterrupt):
            promotion.promote(here, "test", WHY["reason"], WHY["declarer"])
    cluster.primary()
    cluster.members["south-db1"].kill()
    cluster.members["south-db1"].start().wait()
    cluster.primary()


def _crash(*_):
    raise KeyboardInterrupt


def _config(cluster):
    return cluster.members["south-db1"].config()


def _no_primary_seen(survivor):
    return survivor.modules["mongodb_replset.status"]()["primary"] is None
