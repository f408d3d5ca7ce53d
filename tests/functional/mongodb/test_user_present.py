"""``mongodb_replset.user_present``: the pillar's password and roles, proved by logging in."""

import copy

import pytest
from pymongo.errors import OperationFailure

from tests.functional.conftest import PATIENCE

ONE = {"north-db1": {"site": "north"}}


def _user(loaders, cluster, name, test=False, pillar=None, host=None, **arguments):
    host = host or cluster.primary()
    states = loaders(host, pillar or cluster.pillar, test=test).states
    return states["mongodb_replset.user_present"](name=name, set="openhim", **arguments)


def _users(cluster):
    with cluster.members[cluster.primary()].client() as client:
        users = client.admin.command({"usersInfo": {"forAllDBs": True}})["users"]
    return {u["user"]: sorted((r["role"], r["db"]) for r in u["roles"]) for u in users}


def _logs_in(cluster, user, password):
    try:
        with cluster.members[cluster.primary()].client(user, password, "admin") as client:
            client.admin.command("ping")
    except OperationFailure:
        return False
    return True


@pytest.fixture(scope="module")
def empty(cluster_factory):
    """A set without users."""
    cluster = cluster_factory(ONE)
    with cluster.members["north-db1"].client() as client:
        members = [{"_id": 0, "host": cluster.members["north-db1"].name}]
        client.admin.command("replSetInitiate", {"_id": "openhim", "members": members})
    cluster.primary()
    yield cluster
    cluster.stop()


def test_the_first_user_must_be_the_operator(empty, loaders, test_mode):
    ret = _user(loaders, empty, "openhim", test_mode)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "the first must be the operator" in ret["comment"]
    assert _users(empty) == {}


def test_the_first_user_comes_in_by_the_localhost_exception(empty, loaders):
    foreseen = _user(loaders, empty, "operator", test=True)
    assert (foreseen["result"], foreseen["changes"]["user"]["new"]) == (None, "created")
    assert _users(empty) == {}
    ret = _user(loaders, empty, "operator")
    assert (ret["result"], ret["changes"]) == (True, foreseen["changes"]), ret
    assert _users(empty) == {"operator": [("root", "admin")]}
    password = empty.pillar["openhim"]["secrets"]["mongodb_operator"]
    assert _logs_in(empty, "operator", password)
    assert password not in str(ret)
    for test in (True, False):
        again = _user(loaders, empty, "operator", test)
        assert (again["result"], again["changes"]) == (True, {})


def test_every_host_agrees_that_nothing_is_left_to_do(three, loaders, test_mode):
    for host in three.members:
        ret = _user(loaders, three, "openhim", test_mode, host=host)
        assert (ret["result"], ret["changes"]) == (True, {}), ret


def test_a_changed_password_and_changed_roles_are_written(three, loaders, test_mode):
    pillar = copy.deepcopy(three.pillar)
    old = pillar["openhim"]["secrets"]["mongodb_openhim"]
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "another-password"
    roles = [{"role": "readWrite", "db": "openhim"}, {"role": "read", "db": "openhim_audit"}]
    before = _users(three)
    try:
        ret = _user(loaders, three, "openhim", test_mode, pillar, roles=roles)
        assert ret["result"] is (None if test_mode else True), ret
        assert ret["changes"]["password"] == {"old": "another one", "new": "as in the pillar"}
        assert ret["changes"]["roles"]["new"][0] == {"role": "read", "db": "openhim_audit"}
        assert "another-password" not in str(ret)
        assert _logs_in(three, "openhim", "another-password") is not test_mode
        assert (_users(three) == before) is test_mode
    finally:
        assert _user(loaders, three, "openhim")["result"] is True
    assert _logs_in(three, "openhim", old)
    assert _users(three) == before


def test_a_secondary_leaves_it_to_the_primary(three, loaders, test_mode):
    pillar = copy.deepcopy(three.pillar)
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "another-password"
    ret = _user(loaders, three, "openhim", test_mode, pillar, "south-db1", timeout=0.5)
    assert ret["changes"] == {}
    assert ret["result"] is (None if test_mode else False)
    assert "primary's host" in ret["comment"]
    assert not _logs_in(three, "openhim", "another-password")


@pytest.mark.parametrize("user", ["operator", "openhim"])
def test_users_exist_and_the_operators_password_differs(three, loaders, test_mode, user):
    pillar = copy.deepcopy(three.pillar)
    pillar["openhim"]["secrets"]["mongodb_operator"] = "not-the-operators"
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "something-new"
    ret = _user(loaders, three, user, test_mode, pillar, timeout=PATIENCE)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "users exist" in ret["comment"]
    assert "differs" in ret["comment"]
    assert "not-the-operators" not in ret["comment"]
    assert not _logs_in(three, user, "something-new")


def test_the_keyfile_sets_the_operators_password_only_when_told(empty, loaders):
    pillar = copy.deepcopy(empty.pillar)
    pillar["openhim"]["secrets"]["mongodb_operator"] = "a-new-beginning"
    assert _user(loaders, empty, "operator", True, pillar, reset=True)["result"] is None
    assert not _logs_in(empty, "operator", "a-new-beginning")
    ret = _user(loaders, empty, "operator", False, pillar, reset=True)
    assert ret["result"] is True, ret
    assert list(ret["changes"]) == ["password"]
    assert _logs_in(empty, "operator", "a-new-beginning")
