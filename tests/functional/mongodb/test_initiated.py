"""``mongodb_replset.initiated``: with all declared members, or not at all."""

import copy
import multiprocessing

import pytest

from tests.functional.conftest import PATIENCE

TWO = {"north-db1": {"site": "north", "priority": 10}, "south-db1": {"site": "south"}}


@pytest.fixture(scope="module")
def uninitiated(cluster_factory):
    """Two mongods that nobody has initiated; the tests of refusals leave them so."""
    cluster = cluster_factory(TWO)
    yield cluster
    cluster.stop()


def _initiated(loaders, cluster, host, test=False, timeout=3, pillar=None):
    states = loaders(host, pillar or cluster.pillar, test=test).states
    return states["mongodb_replset.initiated"](name=cluster.set_name, timeout=timeout)


def test_an_unreachable_member_keeps_the_others_uninitiated(uninitiated, loaders, test_mode):
    pillar = copy.deepcopy(uninitiated.pillar)
    pillar["openhim"]["hosts"]["gone"] = {**pillar["openhim"]["hosts"]["south-db1"]}
    members = pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]
    members["gone"] = {"port": 1}
    ret = _initiated(loaders, uninitiated, "north-db1", test_mode, 1, pillar)
    assert ret["result"] is (None if test_mode else False)
    assert "localhost:1: unreachable (connection refused)" in ret["comment"]
    assert "south-db1" not in ret["changes"]
    assert set(uninitiated.configs().values()) == {None}


def test_a_member_of_another_set_is_refused_at_once(uninitiated, three, loaders, test_mode):
    pillar = copy.deepcopy(uninitiated.pillar)
    sets = pillar["openhim"]["mongodb"]["replica_sets"]
    sets["renamed"] = sets.pop("openhim")
    for database in pillar["openhim"]["mongodb"]["databases"].values():
        database["replica_set"] = "renamed"
    sets["renamed"]["members"]["south-db1"] = {"port": three.members["south-db1"].port}
    pillar["openhim"]["secrets"]["mongodb_keyfile"] = three.pillar["openhim"]["secrets"][
        "mongodb_keyfile"
    ]
    states = loaders("north-db1", pillar, test=test_mode).states
    ret = states["mongodb_replset.initiated"](name="renamed", timeout=PATIENCE)
    assert ret["result"] is False
    assert ret["changes"] == {}
    assert (
        "member of the replica set openhim, state SECONDARY; expected was renamed" in ret["comment"]
    )
    assert set(uninitiated.configs().values()) == {None}


def test_a_member_with_another_keyfile_is_refused_at_once(cluster_factory, loaders, test_mode):
    cluster = cluster_factory(TWO, keyfiles={"south-db1": "anotherkeyanotherkey"})
    ret = _initiated(loaders, cluster, "north-db1", test_mode, timeout=PATIENCE)
    assert ret["result"] is False
    assert ret["changes"] == {}
    name = cluster.members["south-db1"].name
    assert f"{name}: wrong keyfile (it does not accept our keyfile)" in ret["comment"]
    assert set(cluster.configs().values()) == {None}
    cluster.stop()


def test_a_mongod_without_replication_or_authentication_is_named(cluster_factory, loaders):
    cluster = cluster_factory({"north-db1": {"site": "north"}}, set_name="")
    cluster.set_name = "openhim"
    sets = cluster.pillar["openhim"]["mongodb"]["replica_sets"]
    sets["openhim"] = sets.pop("")
    for database in cluster.pillar["openhim"]["mongodb"]["databases"].values():
        database["replica_set"] = "openhim"
    ret = _initiated(loaders, cluster, "north-db1", timeout=0.1)
    assert ret["result"] is False
    assert "not a replica-set mongod" in ret["comment"]


def test_a_host_that_is_not_the_initiator_waits_and_says_who_it_is(uninitiated, loaders, test_mode):
    ret = _initiated(loaders, uninitiated, "south-db1", test_mode, timeout=0.5)
    assert ret["result"] is (None if test_mode else False)
    assert ret["changes"] == {}
    assert "north-db1 " in ret["comment"]
    assert set(uninitiated.configs().values()) == {None}


def test_test_mode_on_the_initiator_foresees_and_writes_nothing(uninitiated, loaders):
    ret = _initiated(loaders, uninitiated, "north-db1", test=True)
    assert ret["result"] is None
    assert ret["changes"] == {"would": "initiate openhim"}
    assert set(uninitiated.configs().values()) == {None}


def _in_a_process(loaders, cluster, host, answers):
    answers.put((host, _initiated(loaders, cluster, host, timeout=PATIENCE)))


def test_all_hosts_at_once_make_one_set_and_one_of_them_says_so(cluster_factory, loaders):
    members = {f"north-db{n}": {"site": "north", "priority": 10 - n} for n in (1, 2, 3)}
    members |= {f"south-db{n}": {"site": "south"} for n in (1, 2)}
    cluster = cluster_factory(members)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=_in_a_process, args=(loaders, cluster, host, answers))
        for host in members
    ]
    for process in processes:
        process.start()
    returns = dict(answers.get(timeout=2 * PATIENCE) for _ in processes)
    for process in processes:
        process.join()
    assert {ret["result"] for ret in returns.values()} == {True}, returns
    assert [host for host, ret in returns.items() if ret["changes"]] == ["north-db1"]
    configs = cluster.configs()
    assert len({c["settings"]["replicaSetId"] for c in configs.values()}) == 1
    assert [m["host"] for m in configs["south-db2"]["members"]] == [
        mongod.name for mongod in cluster.members.values()
    ]
    again = {h: _initiated(loaders, cluster, h, test) for h in members for test in (True, False)}
    assert {(ret["result"], str(ret["changes"])) for ret in again.values()} == {(True, "{}")}
    cluster.stop()
