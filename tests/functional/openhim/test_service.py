"""OpenHIM serves: health, the synthetic transaction, ports, restart, the keystore."""

from __future__ import annotations

import json
import socket
import subprocess

import pymongo
import pytest
from salt.exceptions import CommandExecutionError
from saltext.openhim.core import synthetic

from tests import ports
from tests.functional.openhim.processes import Loaded, OpenHIM, wait_for

ROUTE = {"name": "x", "host": "127.0.0.1", "port": 9, "primary": True}


@pytest.fixture(autouse=True, scope="module")
def provisioned(openhim, tmp_path_factory):
    """The administrator and the synthetic objects are in place."""
    states = Loaded(tmp_path_factory.mktemp("salt"), openhim.pillar).states
    for state in ("administrator_present", "synthetic_present"):
        result = states[f"openhim.{state}"](state)
        assert result["result"], result["comment"]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_synthetic_transaction_is_found_in_the_database(openhim, load, mongod):
    found = load(openhim.pillar).modules["openhim.synthetic"]()
    assert found["status"] == "Successful"
    with mongod.client() as client:
        stored = client[openhim.main]["transactions"].find_one(
            {"request.path": f"{synthetic.PATH}{found['id']}"}
        )
    assert str(stored["_id"]) == found["transaction"]
    assert stored["response"]["status"] == 200
    assert not stored["request"].get("body")


def test_what_openhim_writes_is_acknowledged_by_a_majority(openhim, load, mongod):
    """Seen by the server: the writes of the router and of the API say w: majority."""
    with mongod.client() as client:
        database = client[openhim.main]
        database.command("profile", 2)
        try:
            modules = load(openhim.pillar).modules
            modules["openhim.synthetic"]()
            modules["openhim.healthy"]()
        finally:
            database.command("profile", 0)
        seen = list(
            database["system.profile"].find({"op": {"$in": ["insert", "update", "command"]}})
        )
        database.drop_collection("system.profile")
    writes = {}
    for entry in seen:
        command = entry.get("command", {})
        collection = entry["ns"].split(".", 1)[1]
        if {"insert", "update", "findAndModify", "findandmodify"} & set(command) or "q" in command:
            writes.setdefault(collection, []).append(command.get("writeConcern", {}).get("w"))
    inserted = [w for w in writes.get("transactions", []) if w is not None]
    assert inserted
    assert set(inserted) == {"majority"}, writes
    changed = [w for w in writes.get("clients", []) if w is not None]
    assert changed
    assert set(changed) == {"majority"}, writes


def test_the_synthetic_transaction_is_for_its_client_alone(openhim, load, pillar):
    pillar["openhim"]["secrets"]["openhim_synthetic"] = "CANARY-wrong"
    with pytest.raises(CommandExecutionError) as refused:
        load(pillar).modules["openhim.synthetic"](timeout=1)
    assert "status 401" in str(refused.value)
    assert "CANARY" not in str(refused.value)


def test_a_transaction_that_is_answered_and_not_stored_is_no_proof(openhim, load, pillar):
    """The database that is asked is another one than OpenHIM's."""
    pillar["openhim"]["mongodb"]["databases"]["main"]["name"] = "elsewhere"
    with pytest.raises(CommandExecutionError, match="it is not in the database"):
        load(pillar).modules["openhim.synthetic"](timeout=2)


def test_openhim_is_healthy_and_its_write_is_read_back(openhim, load, api):
    client_id = synthetic.client_id(openhim.core)

    def mark():
        return next(c for c in api.get("clients") if c["clientID"] == client_id).get("location")

    before = mark()
    assert load(openhim.pillar, test=True).states["openhim.healthy"]("healthy")["result"] is True
    assert mark() == before
    result = load(openhim.pillar).states["openhim.healthy"]("healthy")
    assert (result["result"], result["changes"]) == (True, {}), result["comment"]
    assert mark() != before


def test_another_version_than_the_declared_one_is_not_healthy(load, pillar):
    pillar["openhim"]["core"]["version"] += "-other"
    result = load(pillar).states["openhim.healthy"]("healthy")
    assert result["result"] is False
    assert "is declared" in result["comment"]


def test_openhim_says_what_it_is(openhim, load):
    modules = load(openhim.pillar).modules
    declared = openhim.pillar["openhim"]["core"]["version"]
    assert modules["openhim.version"]() == declared
    assert modules["openhim.about"]()["currentCoreVersion"] == declared
    assert modules["openhim.heartbeat"]()["master"] > 0


def test_the_databases_are_writable(openhim, load, pillar, mongod):
    for test in (True, False):
        result = load(pillar, test=test).states["openhim.database_writable"]("w", timeout=10)
        assert (result["result"], result["changes"]) == (True, {}), result["comment"]
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "CANARY-wrong"
    result = load(pillar).states["openhim.database_writable"]("w", timeout=1)
    assert result["result"] is False
    assert "does not accept the user openhim" in result["comment"]
    assert "CANARY" not in result["comment"]
    nobody = ports.free()
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["port"] = nobody
    assert load(pillar, test=True).states["openhim.database_writable"]("w")["result"] is None
    result = load(pillar).states["openhim.database_writable"]("w", timeout=1)
    assert result["result"] is False
    assert "no primary that can be reached" in result["comment"]


def test_a_tcp_channel_listens_and_its_port_is_known_and_remembered(
    openhim, load, pillar, tmp_path
):
    first, second = ports.free(), ports.free()
    memory = str(tmp_path / "state")
    definition = {
        "type": "tcp",
        "tcpHost": "127.0.0.1",
        "tcpPort": first,
        "urlPattern": "_tcp",
        "allow": [],
        "authType": "public",
        "routes": [ROUTE],
    }
    states = load(pillar).states
    modules = load(pillar).modules
    made = states["openhim.channel_present"]("A TCP channel", definition)
    assert made["result"] is True, made["comment"]
    assert listens(first)
    known = modules["openhim.tcp_ports"](state_directory=memory)
    assert (known["ports"], known["source"]) == ([first], "live")

    moved = states["openhim.channel_present"]("A TCP channel", {**definition, "tcpPort": second})
    assert moved["result"] is True, moved["comment"]
    assert "OpenHIM was restarted" in moved["comment"]
    assert listens(second)
    assert not listens(first)

    nobody = ports.free()
    pillar["openhim"]["core"]["ports"]["api"] = nobody
    known = load(pillar).modules["openhim.tcp_ports"](state_directory=memory)
    assert (known["ports"], known["source"]) == ([first], "last known")
    assert "did not answer" in known["reason"]

    pillar["openhim"]["objects"]["channels"] = {"Declared": {**definition, "tcpPort": 6000}}
    known = load(pillar).modules["openhim.tcp_ports"](state_directory=str(tmp_path / "nothing"))
    assert (known["ports"], known["source"]) == ([6000], "declared")
    assert states["openhim.channel_absent"]("A TCP channel")["result"] is True


def test_the_keystore_is_set_and_used_after_a_restart(openhim, load, pillar, tmp_path, api):
    made = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        "-subj", "/CN=openhim.example.org",
    ]  # fmt: skip
    pairs = {}
    for name in ("first", "second"):
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        subprocess.run(
            [*made, "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
        pairs[name] = (certificate.read_text(), key.read_text())
    before = api.get("keystore", "cert")["data"]
    pillar["openhim"]["secrets"]["keystore_key"] = pairs["first"][1]
    definition = {
        "certificate": pairs["first"][0],
        "secret": "keystore_key",
        "trusted": [pairs["second"][0]],
    }
    pillar["openhim"]["objects"]["keystore"] = definition

    shown = load(pillar, test=True).states["openhim.keystore"]("keystore", definition)
    assert shown["result"] is None
    assert api.get("keystore", "cert")["data"] == before

    result = load(pillar).states["openhim.keystore"]("keystore", definition)
    assert result["result"] is True, result["comment"]
    assert "restarted" in result["comment"]
    assert "PRIVATE KEY" not in json.dumps(result)
    again = load(pillar).states["openhim.keystore"]("keystore", definition)
    assert (again["result"], again["changes"]) == (True, {}), again["comment"]

    pillar["openhim"]["secrets"]["keystore_key"] = pairs["second"][1]
    other = {**definition, "certificate": pairs["second"][0]}
    pillar["openhim"]["secrets"]["keystore_key"] = pairs["first"][1]
    refused = load(pillar).states["openhim.keystore"]("keystore", other, restart=False)
    assert refused["result"] is False
    assert "does not belong to the certificate" in refused["comment"]

    # Back to the shipped pair, for the other tests.
    shipped = openhim.program / "resources/certs/default"
    pillar["openhim"]["secrets"]["keystore_key"] = (shipped / "key.pem").read_text()
    back = {"certificate": (shipped / "cert.pem").read_text(), "secret": "keystore_key"}
    result = load(pillar).states["openhim.keystore"]("keystore", back)
    assert result["result"] is True, result["comment"]
    assert api.authenticates()


def test_a_restart_is_waited_for(openhim, load, api):
    shown = load(openhim.pillar, test=True).states["openhim.restarted"]("restart")
    assert shown["result"] is None
    result = load(openhim.pillar).states["openhim.restarted"]("restart")
    assert result["result"] is True
    assert result["changes"]
    assert api.authenticates()


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize(
    ("state", "arguments"),
    [
        ("channel_present", {"definition": {"urlPattern": "^/x$"}}),
        ("client_present", {"definition": {}}),
        ("user_present", {"definition": {"secret": "laboratory"}}),
        ("channel_absent", {}),
        ("administrator_present", {}),
        ("objects_present", {}),
        ("synthetic_present", {}),
        ("healthy", {}),
        ("running", {}),
        ("database_writable", {}),
        ("restarted", {}),
    ],
)
def test_where_the_site_is_not_active_nothing_is_changed(load, pillar, state, arguments, test):
    loaded = load(pillar, minion_id="south-core", test=test)
    result = loaded.states[f"openhim.{state}"]("x", **arguments)
    assert (result["result"], result["changes"]) == (True, {})
    assert "OpenHIM is not active on this host" in result["comment"]
    assert loaded.modules["openhim.core_settings"]()["active"] is False


def test_no_secret_reaches_the_process_list_or_the_log(openhim):
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    for where, text in (("process list", shown.stdout), ("log", openhim.log())):
        for name, value in openhim.pillar["openhim"]["secrets"].items():
            assert value not in text, f"{name} is in the {where}"


def test_openhim_speaks_to_mongodb_with_tls(program, tmp_path, mongod_with_tls, load):
    """The URL's TLS options are understood by the drivers of this version, and by PyMongo."""
    path, version = program
    running = OpenHIM(tmp_path, path, version, mongod_with_tls)
    running.pillar["openhim"]["mongodb"]["tls"] = True
    running.pillar["openhim"]["mongodb"]["tls_ca_file"] = str(mongod_with_tls.authority)
    running.start()
    try:
        states = load(running.pillar).states
        for state in ("running", "administrator_present", "synthetic_present", "healthy"):
            result = states[f"openhim.{state}"](state)
            assert result["result"], f"{result['comment']}\n{running.log()[-3000:]}"
        assert load(running.pillar).modules["openhim.synthetic"]()["status"] == "Successful"
        with pymongo.MongoClient(mongod_with_tls.url) as client:
            # The scheduler has connected too, with a connection of its own.
            assert wait_for(lambda: "agendaJobs" in client[running.main].list_collection_names())
    finally:
        running.stop()
