"""``configured``, ``member_present``, ``member_absent``: step by step, by the primary's host."""

import copy
import threading

import pytest
from pymongo import WriteConcern
from pymongo.errors import WTimeoutError

from tests.functional.conftest import PATIENCE

TWO = {"north-db1": {"site": "north", "priority": 10}, "south-db1": {"site": "south"}}


def _state(loaders, cluster, host, function, test=False, pillar=None, **arguments):
    states = loaders(host, pillar or cluster.pillar, test=test).states
    return states[f"mongodb_replset.{function}"](**arguments)


def _members(cluster, host):
    """What the configuration of one host's member says, by minion ID."""
    by_name = {mongod.name: minion for minion, mongod in cluster.members.items()}
    return {by_name[m["host"]]: m for m in cluster.members[host].config()["members"]}


@pytest.mark.parametrize("host", ["north-db1", "south-db1"])
def test_a_second_run_changes_nothing_on_any_host(three, loaders, host, test_mode):
    before = three.configs()
    for name in ("initiated", "configured", "healthy"):
        ret = _state(loaders, three, host, name, test_mode, name="openhim", timeout=PATIENCE)
        assert (ret["result"], ret["changes"]) == (True, {}), ret
    assert three.configs() == before


def test_priorities_and_timeouts_follow_the_declaration(three, loaders, test_mode):
    pillar = copy.deepcopy(three.pillar)
    mongodb = pillar["openhim"]["mongodb"]
    mongodb["replica_sets"]["openhim"]["members"]["south-db1"]["priority"] = 2
    mongodb["election_timeout_ms"] = 1600
    primary = three.primary()
    before = three.members[primary].config()
    ret = _state(loaders, three, primary, "configured", test_mode, pillar, name="openhim")
    after = three.members[primary].config()
    name = three.members["south-db1"].name
    what = f"{name}: priority from 1 to 2"
    if test_mode:
        assert ret["result"] is None
        assert what in ret["changes"]["would"]
        assert after == before
    else:
        assert ret["result"] is True, ret
        assert what in ret["changes"]["changed"]
        assert after["settings"]["electionTimeoutMillis"] == 1600
        assert _members(three, primary)["south-db1"]["priority"] == 2
        again = _state(loaders, three, primary, "configured", False, pillar, name="openhim")
        assert (again["result"], again["changes"]) == (True, {})


def test_a_host_that_is_not_primary_leaves_the_change_to_the_primary(three, loaders, test_mode):
    pillar = copy.deepcopy(three.pillar)
    pillar["openhim"]["mongodb"]["election_timeout_ms"] = 1700
    before = three.configs()
    ret = _state(
        loaders, three, "south-db1", "configured", test_mode, pillar, name="openhim", timeout=0.5
    )
    assert ret["changes"] == {}
    assert ret["result"] is (None if test_mode else False)
    assert "electionTimeoutMillis" in ret["comment"]
    assert three.configs() == before


@pytest.fixture(scope="module")
def growing(cluster_factory, replica_set):
    """Two members, and a third mongod that nobody has added yet."""
    cluster = replica_set(TWO)
    third = cluster_factory({"north-db2": {"site": "north"}}).members["north-db2"]
    third.kill()
    (third.folder / "keyfile").unlink()
    third.keyfile = cluster.members["north-db1"].keyfile
    third.start().wait()
    cluster.members["north-db2"] = third
    host = {**cluster.pillar["openhim"]["hosts"]["north-db1"]}
    cluster.pillar["openhim"]["hosts"]["north-db2"] = host
    yield cluster
    cluster.stop()


def _declare_third(cluster):
    cluster.declared["north-db2"] = {"port": cluster.members["north-db2"].port, "priority": 9}


def test_a_member_is_added_without_a_vote_and_gets_it_when_it_has_the_data(growing, loaders):
    _declare_third(growing)
    before = growing.members["north-db1"].config()
    foreseen = _state(loaders, growing, "north-db1", "member_present", True, name="north-db2")
    assert foreseen["result"] is None
    assert growing.members["north-db1"].config() == before
    ret = _state(
        loaders, growing, "north-db1", "member_present", name="north-db2", timeout=PATIENCE
    )
    assert ret["result"] is True, ret
    name = growing.members["north-db2"].name
    assert f"add the member {name} (priority 0, votes 0)" in ret["changes"]["changed"]
    assert f"{name}: votes from 0 to 1" in ret["changes"]["changed"]
    assert foreseen["changes"]["would"] == ret["changes"]["changed"]
    member = _members(growing, "north-db1")["north-db2"]
    assert (member["votes"], member["priority"]) == (1, 9)
    assert growing.states()["north-db2"] == "secondary"
    again = _state(loaders, growing, "north-db1", "member_present", name="north-db2")
    assert (again["result"], again["changes"]) == (True, {})


def test_a_member_that_is_declared_is_not_removed(growing, loaders, test_mode):
    _declare_third(growing)
    before = growing.configs()
    ret = _state(loaders, growing, "north-db1", "member_absent", test_mode, name="north-db2")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "is declared as a member" in ret["comment"]
    assert growing.configs() == before


def test_a_removed_member_that_comes_back_gets_an_id_nobody_had(growing, loaders):
    _declare_third(growing)
    _state(loaders, growing, "north-db1", "configured", name="openhim", timeout=PATIENCE)
    old = _members(growing, "north-db1")["north-db2"]["_id"]
    del growing.declared["north-db2"]
    name = growing.members["north-db2"].name
    foreseen = _state(loaders, growing, "north-db1", "member_absent", True, name=name)
    assert (foreseen["result"], len(_members(growing, "north-db1"))) == (None, 3)
    ret = _state(loaders, growing, "north-db1", "member_absent", name=name, timeout=PATIENCE)
    assert ret["changes"] == {"changed": [f"remove the member {name}"]}, ret
    assert "north-db2" not in _members(growing, "north-db1")
    again = _state(loaders, growing, "north-db1", "member_absent", name=name)
    assert (again["result"], again["changes"]) == (True, {})
    _declare_third(growing)
    ret = _state(loaders, growing, "north-db1", "configured", name="openhim", timeout=PATIENCE)
    assert ret["result"] is True, ret
    assert _members(growing, "north-db1")["north-db2"]["_id"] > old


def test_a_member_of_another_set_with_the_same_name_is_not_added(
    growing, three, loaders, test_mode
):
    pillar = copy.deepcopy(growing.pillar)
    pillar["openhim"]["hosts"]["foreign"] = {**pillar["openhim"]["hosts"]["north-db1"]}
    members = pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]
    members["foreign"] = {"port": three.members["south-db1"].port}
    before = three.configs()
    arguments = {"name": "foreign", "timeout": 5}
    ret = _state(loaders, growing, "north-db1", "member_present", test_mode, pillar, **arguments)
    assert three.configs() == before
    assert "foreign" not in str(growing.configs())
    if not test_mode:
        assert ret["result"] is False
        assert "of another set with the same name" in ret["comment"]


def test_the_primary_is_never_robbed_of_its_vote(growing, loaders):
    pillar = copy.deepcopy(growing.pillar)
    primary = growing.primary()
    members = pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]
    members[primary] |= {"priority": 0}
    before = growing.configs()
    ret = _state(loaders, growing, primary, "configured", False, pillar, name="openhim", timeout=5)
    assert ret["result"] is False
    assert "step_down" in ret["comment"]
    assert growing.configs() == before


def test_every_site_means_every_site(replica_set, loaders):
    cluster = replica_set(TWO, durability="every-site", write_timeout_ms=700)
    ret = _state(loaders, cluster, "north-db1", "configured", name="openhim", timeout=PATIENCE)
    assert (ret["result"], ret["changes"]) == (True, {})
    with cluster.members["north-db1"].client() as client:
        probe = client.test.get_collection(
            "probe", write_concern=WriteConcern("everySite", j=True, wtimeout=700)
        )
        probe.insert_one({"both": True})
        cluster.members["south-db1"].signal(19)
        resume = threading.Timer(1.2, cluster.members["south-db1"].signal, [18])
        resume.start()
        with pytest.raises(WTimeoutError):
            probe.insert_one({"both": False})
        resume.join()
    cluster.stop()
