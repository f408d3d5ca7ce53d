"""The configuration file of a mongod."""

import pytest
from saltext.openhim.mongo import config
from saltext.openhim.settings import from_pillar


@pytest.fixture
def pillar():
    return {
        "openhim": {
            "stack": "test",
            "active_site": "north",
            "sites": {"north": {}},
            "hosts": {"db1": {"site": "north", "address": "10.0.0.1", "roles": ["mongodb"]}},
            "mongodb": {
                "version": "6.0.5",
                "install": {"method": "package"},
                "replica_sets": {
                    "openhim": {"port": 27018, "members": {"db1": {}}},
                    "audit": {"port": 27117, "members": {"db1": {}}},
                },
                "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
                "tls": True,
                "cache_size_gb": 0.5,
            },
        }
    }


def _config(pillar, name="openhim"):
    return config.mongod_config(from_pillar(pillar), "db1", name)


def test_authentication_is_on_and_the_world_comes_by_the_declared_address(pillar):
    found = _config(pillar)
    assert found["security"]["authorization"] == "enabled"
    assert found["security"]["keyFile"] == "/etc/mongod/keyfile"
    assert found["net"]["bindIp"] == "127.0.0.1,10.0.0.1"
    assert found["net"]["port"] == 27018
    assert found["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 0.5


def test_tls_is_required_or_absent(pillar):
    assert _config(pillar)["net"]["tls"]["mode"] == "requireTLS"
    pillar["openhim"]["mongodb"]["tls"] = False
    assert "tls" not in _config(pillar)["net"]


def test_what_the_pillar_adds_is_merged_key_by_key(pillar):
    pillar["openhim"]["mongodb"]["config"] = {"net": {"maxIncomingConnections": 99}}
    found = _config(pillar)["net"]
    assert (found["maxIncomingConnections"], found["port"]) == (99, 27018)


def test_two_sets_on_one_host_share_nothing_but_what_proves_who_they_are(pillar):
    first, second = config.instances(from_pillar(pillar), "db1")
    assert {key for key in first if first[key] == second[key]} == {
        "binary",
        "certificate",
        "keyfile",
    }
    assert _config(pillar, "audit")["storage"]["dbPath"] == "/var/lib/mongodb/audit"


@pytest.mark.parametrize(
    ("install", "binary"),
    [
        ({"method": "package"}, "/usr/bin/mongod"),
        ({"method": "archive"}, "/opt/mongodb/6.0.5/bin/mongod"),
        ({"method": "preinstalled", "binary": "/srv/mongod"}, "/srv/mongod"),
    ],
)
def test_mongod_is_where_its_way_of_installing_puts_it(pillar, install, binary):
    pillar["openhim"]["mongodb"]["install"] = install
    assert config.binary(from_pillar(pillar)) == binary
