"""OpenHIM's configuration from the declaration, and what of it may be shown."""

from __future__ import annotations

import copy
import json

import pytest
from saltext.openhim import settings
from saltext.openhim.core import config, versions
from saltext.openhim.errors import OpenHIMError, PillarError

PASSWORD = "CANARY/@:%?password"
KEY = "CANARY-session-key-of-32-characters"

PILLAR = {
    "openhim": {
        "stack": "example",
        "active_site": "north",
        "sites": {"north": {}, "south": {}},
        "hosts": {
            "db1": {"site": "north", "address": "10.0.0.1", "roles": ["mongodb"]},
            "db2": {"site": "north", "address": "10.0.0.2", "roles": ["mongodb"]},
            "db3": {"site": "south", "address": "10.0.0.3", "roles": ["mongodb"]},
            "core": {"site": "north", "address": "10.0.0.4", "roles": ["core"]},
        },
        "mongodb": {
            "replica_sets": {"rs": {"port": 27018, "members": {"db1": {}, "db2": {}, "db3": {}}}},
            "databases": {
                "main": {"name": "him", "replica_set": "rs"},
                "audit": {"name": "him_audit", "replica_set": "rs"},
            },
            "users": {"openhim": {"secret": "mongodb_openhim"}},
            "tls": True,
        },
        "core": {"version": "4.0.5", "ports": {"api": 9080}},
        "secrets": {"mongodb_openhim": PASSWORD, "openhim_session_key": KEY},
    }
}


def built(**core):
    pillar = copy.deepcopy(PILLAR)
    pillar["openhim"]["core"].update(core)
    return config.build(settings.from_pillar(pillar), pillar)


def test_both_urls_name_the_set_with_majority_and_tls():
    made = built()["mongo"]
    assert made["url"] == (
        "mongodb://openhim:CANARY%2F%40%3A%25%3Fpassword@db1:27018,db2:27018,db3:27018/him"
        "?replicaSet=rs&authSource=admin&w=majority&tls=true&tlsCAFile=/etc/openhim-tls/ca.crt"
    )
    assert made["atnaUrl"] == made["url"].replace("/him?", "/him_audit?")
    assert made["openHIMApiWriteConcern"] == "majority"
    assert made["openHIMApiReadPreference"] == "primaryPreferred"


def test_every_site_is_in_the_urls_and_in_the_apis_own_write_concern():
    pillar = copy.deepcopy(PILLAR)
    pillar["openhim"]["mongodb"]["durability"] = "every-site"
    made = config.build(settings.from_pillar(pillar), pillar)["mongo"]
    assert "w=everySite&journal=true&wtimeoutMS=10000" in made["url"]
    assert made["openHIMApiWriteConcern"] == "everySite"


@pytest.mark.parametrize(
    ("version", "key", "session"),
    [("4.0.5", "httpsPort", False), ("5.4.0", "port", False), ("8.5.0", "port", True)],
)
def test_the_api_is_declared_with_the_versions_own_keys(version, key, session):
    api = built(version=version)["api"]
    assert api.pop(key) == 9080
    assert api == ({"sessionKey": KEY} if session else {})


def test_the_pillar_has_the_last_word_and_keeps_what_it_does_not_name():
    made = built(config={"mongo": {"openHIMApiReadPreference": "nearest"}, "alerts": {"x": 1}})
    assert made["mongo"]["openHIMApiReadPreference"] == "nearest"
    assert made["mongo"]["openHIMApiWriteConcern"] == "majority"
    assert made["alerts"] == {"x": 1}


@pytest.mark.parametrize("key", ["CANARY-short", versions.SHIPPED_SESSION_KEY, "", None])
def test_a_session_key_that_is_short_or_shipped_is_refused_and_not_shown(key):
    pillar = copy.deepcopy(PILLAR)
    pillar["openhim"]["core"]["version"] = "8.5.0"
    pillar["openhim"]["secrets"]["openhim_session_key"] = key
    with pytest.raises(PillarError, match="openhim:secrets:openhim_session_key") as refused:
        config.build(settings.from_pillar(pillar), pillar)
    assert not key or key not in str(refused.value)


def test_no_secret_of_the_configuration_is_shown():
    made = built(
        version="8.5.0",
        config={
            "smsGateway": {"config": {"user": "u", "pass": "CANARY", "apiID": "CANARY"}},
            "email": {"nodemailer": {"auth": {"user": "u", "pass": "CANARY"}}},
            "api": {"openid": {"clientSecret": "CANARY", "clientId": "shown"}},
            "authentication": {"jwt": {"secretOrPublicKey": "CANARY"}},
            "list": [{"password": "CANARY"}, "mongodb://u:CANARY@h/x"],
        },
    )
    shown = json.dumps(config.masked(made))
    assert "CANARY" in json.dumps(made)
    assert "CANARY" not in shown
    assert "mongodb://openhim:**********@db1:27018" in shown
    assert "shown" in shown


def test_a_difference_tells_that_a_secret_changed_and_not_what_it_was():
    old = {"mongo": {"url": "mongodb://u:CANARY1@a/x"}, "api": {"sessionKey": "CANARY1", "port": 1}}
    new = {"mongo": {"url": "mongodb://u:CANARY2@a/x"}, "api": {"sessionKey": "CANARY2", "port": 2}}
    shown = config.difference(old, new)
    assert "CANARY" not in json.dumps(shown)
    assert sorted(shown) == ["api:port", "api:sessionKey", "mongo:url"]
    assert shown["api:port"] == {"old": 1, "new": 2}
    assert "another secret" in shown["mongo:url"]["new"]


@pytest.mark.parametrize("text", ["3.4.2", "latest", "", "8.5"])
def test_what_is_not_a_supported_version_is_refused(text):
    with pytest.raises(OpenHIMError, match="openhim:core:version"):
        versions.parse(text)


def test_an_api_that_is_switched_off_is_refused():
    pillar = copy.deepcopy(PILLAR)
    pillar["openhim"]["core"]["config"] = {"api": {"enabled": False}}
    with pytest.raises(OpenHIMError, match="manages OpenHIM through its API"):
        config.api_address(settings.from_pillar(pillar))
