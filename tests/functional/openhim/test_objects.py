"""The declared objects: through OpenHIM's own API, idempotent, honest in test mode, secrets hidden."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading

import pytest
from saltext.openhim.core import versions

ROUTE = {"name": "laboratory", "host": "127.0.0.1", "port": 8090, "primary": True}
CHANNEL = {"urlPattern": "^/laboratory/.*$", "allow": ["laboratories"], "routes": [ROUTE]}
CLIENT = {"name": "National laboratory", "roles": ["laboratories"], "secret": "laboratory"}
USER = {"firstname": "Ada", "surname": "Byron", "groups": ["operators"], "secret": "laboratory"}


def channel(api, name):
    return next((c for c in api.get("channels") if c["name"] == name), None)


def client(api, client_id):
    return next((c for c in api.get("clients") if c["clientID"] == client_id), None)


def without_secrets(result, pillar):
    """The result, after making sure that no secret of the pillar is anywhere in it."""
    text = json.dumps(result)
    for name, value in pillar["openhim"]["secrets"].items():
        assert value not in text, f"the secret {name} is shown"
    return result


@pytest.fixture(autouse=True)
def administrator(openhim, load):
    """Every test here uses the API as the declared administrator."""
    result = load(openhim.pillar).states["openhim.administrator_present"]("administrator")
    assert result["result"], result["comment"]


@pytest.fixture
def apply(load, pillar):
    """``apply(state, name, …)``: the state's result, with no secret in it."""

    def applied(state, name, *args, test=False, pillar=pillar, **kwargs):
        found = load(pillar, test=test).states[f"openhim.{state}"](name, *args, **kwargs)
        return without_secrets(found, pillar)

    return applied


@pytest.mark.parametrize(
    ("state", "name", "definition", "find"),
    [
        ("channel_present", "A channel", CHANNEL, channel),
        ("client_present", "a-client", CLIENT, client),
        ("user_present", "ada@example.org", USER, lambda api, name: api.get("users", name)),
    ],
)
def test_an_object_is_made_once_and_only_outside_test_mode(
    apply, api, state, name, definition, find
):
    before = find(api, name)
    assert before is None or before.get("status") == "deleted"

    shown = apply(state, name, definition, test=True)
    assert shown["result"] is None
    assert shown["changes"]
    assert find(api, name) == before

    made = apply(state, name, definition)
    assert made["result"] is True, made["comment"]
    assert made["changes"] == shown["changes"]
    assert find(api, name)

    for test in (True, False):
        again = apply(state, name, definition, test=test)
        assert (again["result"], again["changes"]) == (True, {})

    absent = state.replace("present", "absent")
    stored = find(api, name)
    assert apply(absent, name, test=True)["result"] is None
    assert find(api, name) == stored
    gone = apply(absent, name)
    assert gone["result"] is True
    assert gone["changes"]
    assert find(api, name) is None
    for test in (True, False):
        again = apply(absent, name, test=test)
        assert (again["result"], again["changes"]) == (True, {})


def test_a_channel_is_changed_where_it_differs_and_nowhere_else(apply, api):
    apply("channel_present", "Changing", {**CHANNEL, "description": "kept"})
    wanted = {**CHANNEL, "routes": [{**ROUTE, "port": 8091}]}

    shown = apply("channel_present", "Changing", wanted, test=True)
    assert list(shown["changes"]) == ["routes"]
    assert channel(api, "Changing")["routes"][0]["port"] == 8090

    assert apply("channel_present", "Changing", wanted)["changes"] == shown["changes"]
    assert channel(api, "Changing")["routes"][0]["port"] == 8091
    assert channel(api, "Changing")["description"] == "kept"
    apply("channel_absent", "Changing")


def test_a_route_goes_to_the_host_of_the_active_site(apply, api, pillar):
    by_site = {**CHANNEL, "routes": [{**ROUTE, "host": {"north": "10.1.1.1", "south": "10.2.2.2"}}]}
    assert apply("channel_present", "By site", by_site)["result"] is True
    assert channel(api, "By site")["routes"][0]["host"] == "10.1.1.1"
    apply("channel_absent", "By site")

    nowhere = {**CHANNEL, "routes": [{**ROUTE, "host": {"south": "10.2.2.2"}}]}
    refused = apply("channel_present", "By site", nowhere)
    assert refused["result"] is False
    assert "the active site north is needed" in refused["comment"]
    assert channel(api, "By site") is None


def test_the_password_of_a_route_is_set_and_never_shown(apply, api, pillar):
    route = {**ROUTE, "username": "him", "secret": "laboratory"}
    made = apply("channel_present", "With password", {**CHANNEL, "routes": [route]})
    assert made["result"] is True
    stored = channel(api, "With password")["routes"][0]
    assert stored["password"] == pillar["openhim"]["secrets"]["laboratory"]
    changed = apply(
        "channel_present", "With password", {**CHANNEL, "routes": [{**route, "secret": "another"}]}
    )
    assert "another secret" in json.dumps(changed["changes"])
    apply("channel_absent", "With password")


def test_a_bad_channel_is_refused_with_openhims_words(apply, api):
    bad = {**CHANNEL, "routes": [{**ROUTE, "primary": False}]}
    refused = apply("channel_present", "Bad", bad)
    assert refused["result"] is False
    assert refused["changes"] == {}
    assert "must have a primary route" in refused["comment"]
    assert channel(api, "Bad") is None


def test_a_key_that_openhim_does_not_know_is_reported_and_not_believed(apply):
    refused = apply("channel_present", "Unknown key", {**CHANNEL, "urlPatern": "^/x$"})
    assert refused["result"] is False
    assert "reads back differently" in refused["comment"]
    assert "urlPatern" in refused["comment"]
    assert refused["changes"], "what was written is told, even if it is not what was wanted"
    apply("channel_absent", "Unknown key")


def test_a_clients_password_that_differs_is_replaced(apply, api):
    apply("client_present", "client-password", CLIENT)
    first = client(api, "client-password")["passwordHash"]
    changed = apply("client_present", "client-password", {**CLIENT, "secret": "another"})
    assert list(changed["changes"]) == ["password"]
    assert client(api, "client-password")["passwordHash"] != first
    apply("client_absent", "client-password")


def test_a_users_password_that_differs_is_replaced(apply, api, pillar):
    secrets = pillar["openhim"]["secrets"]
    apply("user_present", "password@example.org", USER)
    assert api.as_user("password@example.org", secrets["laboratory"]).authenticates()
    changed = apply("user_present", "password@example.org", {**USER, "secret": "another"})
    assert list(changed["changes"]) == ["password"]
    assert api.as_user("password@example.org", secrets["another"]).authenticates()
    assert not api.as_user("password@example.org", secrets["laboratory"]).authenticates()
    apply("user_absent", "password@example.org")


def test_the_shipped_password_of_the_administrator_is_gone(apply, api):
    shipped = api.as_user(versions.SHIPPED_ADMINISTRATOR, versions.SHIPPED_PASSWORD)
    assert not shipped.authenticates()
    assert api.authenticates()
    assert apply("administrator_present", "again")["changes"] == {}


def test_an_administrator_of_another_address_is_made(apply, api, pillar):
    pillar["openhim"]["core"]["administrator"]["email"] = "admin@example.org"
    shown = apply("administrator_present", "other", pillar=pillar, test=True)
    assert shown["result"] is None
    assert api.get("users", "admin@example.org") is None
    assert apply("administrator_present", "other", pillar=pillar)["result"] is True
    assert api.get("users", "admin@example.org")["groups"] == ["admin"]
    assert apply("administrator_present", "other", pillar=pillar)["changes"] == {}
    apply("user_absent", "admin@example.org")


def test_a_password_that_is_not_the_declared_one_is_told_apart(apply, pillar):
    pillar["openhim"]["secrets"]["openhim_administrator"] = "CANARY-not-the-password"
    refused = apply("administrator_present", "wrong", pillar=pillar)
    assert refused["result"] is False
    assert "neither the declared password" in refused["comment"]
    refused = apply("channel_present", "Wrong", CHANNEL, pillar=pillar)
    assert refused["result"] is False
    assert "does not accept the user root@openhim.org" in refused["comment"]


def test_an_api_that_is_down_is_told_in_words(apply, pillar):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pillar["openhim"]["core"]["ports"]["api"] = unused.getsockname()[1]
        refused = apply("client_present", "nobody", CLIENT, pillar=pillar)
    assert refused["result"] is False
    assert "did not answer" in refused["comment"]


def test_an_api_with_an_unknown_certificate_gets_no_password(apply, pillar, tmp_path):
    """Somebody else listens on the API's port, with a certificate of their own."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            for _ in range(2):  # the refused one, and the look at the certificate
                try:
                    with context.wrap_socket(server.accept()[0], server_side=True) as connection:
                        heard.append(connection.recv(10000))
                except OSError:
                    heard.append(b"")

        thread = threading.Thread(target=listen)
        thread.start()
        pillar["openhim"]["core"]["ports"]["api"] = server.getsockname()[1]
        refused = apply("client_present", "nobody", CLIENT, pillar=pillar)
        thread.join(10)
    assert refused["result"] is False
    assert "a certificate that is not known here" in refused["comment"]
    assert heard == [b"", b""]


def test_all_declared_objects_are_made_in_one_state(apply, api, pillar):
    pillar["openhim"]["objects"] = {
        "clients": {"all-client": CLIENT},
        "channels": {"All channel": CHANNEL, "Bad channel": {**CHANNEL, "routes": []}},
        "users": {"all@example.org": USER},
    }
    shown = apply("objects_present", "all", test=True, pillar=pillar)
    assert shown["result"] is None
    assert (client(api, "all-client"), channel(api, "All channel")) == (None, None)

    made = apply("objects_present", "all", pillar=pillar)
    assert made["result"] is False
    assert "channels:Bad channel" in made["comment"]
    assert client(api, "all-client")
    assert channel(api, "All channel")

    del pillar["openhim"]["objects"]["channels"]["Bad channel"]
    for test in (True, False):
        again = apply("objects_present", "all", test=test, pillar=pillar)
        assert (again["result"], again["changes"]) == (True, {}), again["comment"]
    for state, name in (
        ("channel_absent", "All channel"),
        ("client_absent", "all-client"),
        ("user_absent", "all@example.org"),
    ):
        apply(state, name)


def test_a_role_is_what_the_declared_channels_and_clients_have(apply, api):
    apply("client_present", "role-client", {"name": "x", "roles": []})
    apply("channel_present", "Role channel", {**CHANNEL, "allow": []})
    wanted = {"channels": ["Role channel"], "clients": ["role-client"]}
    assert apply("role_present", "a-role", **wanted, test=True)["result"] is None
    assert client(api, "role-client")["roles"] == []
    made = apply("role_present", "a-role", **wanted)
    assert made["result"] is True, made["comment"]
    assert client(api, "role-client")["roles"] == ["a-role"]
    assert channel(api, "Role channel")["allow"] == ["a-role"]
    assert apply("role_present", "a-role", **wanted)["changes"] == {}
    apply("channel_absent", "Role channel")
    apply("client_absent", "role-client")


def test_a_mediators_configuration_is_compared_with_what_is_stored(apply, api, pillar):
    urn = "urn:mediator:test"
    missing = apply("mediator_configured", urn, {"config": {"greeting": "hello"}})
    assert missing["result"] is False
    assert "has not registered" in missing["comment"]

    definitions = [
        {"param": "greeting", "displayName": "Greeting", "type": "string"},
        {"param": "password", "displayName": "Password", "type": "password"},
        {"param": "other", "displayName": "Other", "type": "string"},
    ]
    api.post(
        "mediators",
        body={
            "urn": urn,
            "version": "1.0.0",
            "name": "Test",
            "endpoints": [{"name": "x", "host": "127.0.0.1", "port": 1, "type": "http"}],
            "configDefs": definitions,
            "config": {"other": "kept"},
        },
    )
    wanted = {"config": {"greeting": "hello"}, "secrets": {"password": "laboratory"}}
    shown = apply("mediator_configured", urn, wanted, test=True)
    assert shown["result"] is None
    assert api.get("mediators", urn)["config"] == {"other": "kept"}
    made = apply("mediator_configured", urn, wanted)
    assert made["result"] is True, made["comment"]
    assert sorted(made["changes"]) == ["greeting", "password"]
    assert api.get("mediators", urn)["config"]["other"] == "kept"
    assert apply("mediator_configured", urn, wanted)["changes"] == {}
    changed = apply("mediator_configured", urn, {**wanted, "secrets": {"password": "another"}})
    assert list(changed["changes"]) == ["password"]
    api.delete("mediators", urn)
