"""Shared sets: what can be tested on one set is tested on one set."""

import copy

import pytest

THREE = {
    "north-db1": {"site": "north", "priority": 10},
    "north-db2": {"site": "north", "priority": 9},
    "south-db1": {"site": "south", "priority": 1},
}


@pytest.fixture(scope="package")
def three(replica_set):
    """Two members in one site and a distant one, as the product declares it; do not break it."""
    cluster = replica_set(THREE)
    yield cluster
    cluster.stop()


@pytest.fixture
def pillar(three):
    """A copy of that set's pillar, to be changed at will."""
    return copy.deepcopy(three.pillar)


@pytest.fixture(params=[True, False], ids=["test mode", "for real"])
def test_mode(request):
    return request.param
