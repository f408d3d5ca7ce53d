"""A host with certificates, a clock and a disk that is thrown away."""

import pytest

from tests.authority import Authority
from tests.functional.throwaway import Minion


@pytest.fixture(scope="module")
def ca():
    return Authority()


@pytest.fixture
def pillar():
    return {
        "openhim": {
            "stack": "test",
            "active_site": "north",
            "sites": {"north": {}},
            "hosts": {
                "db1": {"site": "north", "address": "10.99.0.11", "roles": ["mongodb"]},
                "core": {"site": "north", "address": "10.99.0.21", "roles": ["core"]},
            },
            "mongodb": {
                "tls": True,
                "replica_sets": {"openhim": {"members": {"db1": {}}}},
                "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
            },
            "certificates": {"method": "pillar", "days_remaining": 30},
            "clock": {"servers": ["127.0.0.1"], "max_offset_ms": 500},
        }
    }


@pytest.fixture
def minion(pillar, tmp_path):
    """A factory: one host's minion."""

    def make(name="db1"):
        return Minion(name, pillar, tmp_path / name)

    return make
