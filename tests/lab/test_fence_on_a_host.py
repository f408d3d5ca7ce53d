"""The fence and the gate where systemd is PID 1: what starts after the power came back, and what
does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import HostSpec, Lab
from lab.host import Host
from lab.salt import SaltMaster
from tests.lab.fleet import reaches, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "north-a"
MONGOD = "mongod-openhim.service"
GATE = "openhim-gate.service"
ASK = "openhim-gate-ask.service"
RECORD = "/var/lib/openhim-recovery/test.json"
ORDER = {"epoch": 1, "by": "Ada", "reason": "north burns"}

PILLAR = {
    "openhim": {
        "stack": "test",
        "active_site": "north",
        "sites": {"north": {}, "south": {}},
        "hosts": {
            NAME: {"site": "north", "address": "10.20.1.11", "roles": ["mongodb"]},
            "south-a": {"site": "south", "address": "10.20.2.11", "roles": ["mongodb"]},
        },
        "mongodb": {
            "replica_sets": {"openhim": {"port": 27017, "members": {NAME: {}, "south-a": {}}}},
            "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
        },
    }
}

#: Stands for mongod: its unit's name, its user, its port. The gate and the fence know no more of it.
LISTENER = """\
[Unit]
After=network-online.target

[Service]
User=mongodb
ExecStart=/usr/bin/python3 -m http.server 27017
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""

GIVEN_UP = {
    "number": 1,
    "id": "first",
    "parent": None,
    "kind": "failover",
    "stack": "test",
    "active_site": "south",
    "profile": "reduced",
    "lost_sites": ["north"],
    "declared_by": "Ada",
    "reason": "fire",
    "declared_at": "2026-01-31T12:00:00+00:00",
}


@pytest.fixture(scope="module")
def salt() -> Iterator[SaltMaster]:
    """One host with a master, a minion and what stands for mongod, behind a gate."""
    hosts = [HostSpec(NAME, "north", "10.20.1.11")]
    with Lab.start(hosts=hosts, share={"/srv/saltext-openhim": REPOSITORY}) as lab:
        host = lab.host(NAME)
        host.write("/srv/pillar/top.sls", json.dumps({"base": {"*": ["stack"]}}))
        host.write("/srv/pillar/stack.sls", json.dumps(PILLAR))
        host.run(["useradd", "--system", "mongodb"])
        host.write(f"/etc/systemd/system/{MONGOD}", LISTENER)
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "enable", "--now", MONGOD])
        master = SaltMaster(
            lab,
            NAME,
            file_roots=["/srv/saltext-openhim/salt"],
            config={"ext_pillar": [{"openhim_recovery": "/var/lib/openhim-recovery"}]},
        )
        master.start()
        master.run("saltutil.sync_all")
        master.salt(NAME, "saltutil.sync_all", refresh=True)
        yield master


@pytest.fixture
def host(salt: SaltMaster) -> Host:
    """The host; its Salt runs, and starts with it."""
    enable_salt(salt.host, True)
    salt.host.run(["systemctl", "start", "salt-master", "salt-minion"])
    salt.wait_for([NAME])
    return salt.host


def enable_salt(host: Host, enabled: bool) -> None:
    """Whether master and minion start at the next boot."""
    host.run(["systemctl", "enable" if enabled else "disable", "salt-master", "salt-minion"])


def runs(host: Host, unit: str = MONGOD) -> bool:
    """Whether a unit is active."""
    return host.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0


def status(host: Host, unit: str) -> str:
    """What a person reads who asks systemd."""
    return host.run(["systemctl", "status", "--full", "--no-pager", unit], check=False).stdout


def power_loss(host: Host) -> None:
    """The power goes, and comes back."""
    host.kill()
    host.boot()


def state(salt: SaltMaster, function: str, **arguments: object) -> dict:
    """What one state returns on the host."""
    (found,) = salt.salt(NAME, "state.single", function, name="it", **arguments)[NAME].values()
    return found


def cannot_start(host: Host) -> bool:
    """Whether mongod does not start even when somebody says so."""
    refused = host.run(["systemctl", "start", MONGOD], check=False).returncode != 0
    return refused and not runs(host)


def said_by(host: Host, unit: str, words: str) -> bool:
    """Whether a unit of the gate has said some words in this boot."""
    return words in host.run(["journalctl", "--boot", "--unit", unit, "--output=cat"]).stdout


def test_a_gate_leaves_what_runs_alone(salt: SaltMaster, host: Host) -> None:
    before = host.run(["systemctl", "show", "--property=MainPID", MONGOD]).stdout
    foreseen = state(salt, "openhim_fence.gated", test=True)
    assert foreseen["result"] is None
    assert host.run(["test", "-e", "/etc/openhim-gate"], check=False).returncode == 1
    made = state(salt, "openhim_fence.gated")
    assert made["result"] is True, made
    assert set(made["changes"]) == set(foreseen["changes"])
    assert state(salt, "openhim_fence.gated")["changes"] == {}
    assert host.run(["systemctl", "show", "--property=MainPID", MONGOD]).stdout == before
    admitted = state(salt, "openhim_fence.admitted")
    assert admitted["changes"] == {"epoch": {"old": None, "new": 0}}, admitted
    assert state(salt, "openhim_fence.admitted")["changes"] == {}


def test_a_living_master_opens_the_gate_after_a_boot(salt: SaltMaster, host: Host) -> None:
    power_loss(host)
    wait_for(lambda: runs(host), 120, "mongod runs")
    assert runs(host, GATE)
    assert said_by(host, GATE, "closed: there is no proof of the current epoch in this boot")
    salt.wait_for([NAME])
    found = salt.salt(NAME, "openhim_fence.gate")[NAME]
    assert (found["open"], found["proof"]["how"]) == (True, "master")


def test_a_host_that_nobody_answers_stays_closed_until_it_is_attested(host: Host) -> None:
    enable_salt(host, False)
    power_loss(host)
    assert not runs(host)
    assert cannot_start(host)
    said = status(host, GATE)
    assert "closed: there is no proof of the current epoch in this boot" in said
    assert "run openhim-attest here as root" in said
    assert runs(host, ASK)
    wrong = host.run(["openhim-attest"], input="tset\nAda\nall was off\n", check=False)
    assert wrong.returncode == 1
    assert "type 'test'" in wrong.stdout
    assert cannot_start(host)
    host.run(["openhim-attest"], input="test\nAda\nall was off\n")
    wait_for(lambda: runs(host), 30, "mongod runs")
    assert '"by": "Ada"' in host.read("/var/lib/saltext-openhim/attestations.jsonl")


def test_a_site_that_was_given_up_stays_closed(salt: SaltMaster, host: Host) -> None:
    host.write(RECORD, json.dumps([GIVEN_UP]))
    power_loss(host)
    words = "closed: the master refused: the site north was given up in epoch 1"
    wait_for(lambda: words in status(host, GATE), 120, "it is refused")
    assert cannot_start(host)
    assert host.read("/var/lib/saltext-openhim/epoch") == "1\n"
    # A master with an older record, such as one out of a backup, opens nothing either.
    host.run(["rm", RECORD])
    salt.wait_for([NAME])
    refused = state(salt, "openhim_fence.admitted")
    assert refused["result"] is False
    assert "the master says epoch 0, and this host has heard of epoch 1" in refused["comment"]
    assert cannot_start(host)
    # The site is given back: as the next epoch will say it.
    host.write(RECORD, json.dumps([{**GIVEN_UP, "active_site": "north", "lost_sites": ["south"]}]))
    assert state(salt, "openhim_fence.admitted")["result"] is True
    host.run(["systemctl", "start", MONGOD])
    assert runs(host)


def test_a_fenced_host_stays_fenced_over_a_power_loss(salt: SaltMaster, host: Host) -> None:
    assert reaches(host, "127.0.0.1", 27017)
    made = state(salt, "openhim_fence.fenced", **ORDER)
    assert made["result"] is True, made
    assert set(made["changes"]) == {"record", "kernel", "file", "unit", "masks", "services"}
    assert not runs(host)
    assert cannot_start(host)
    wanted = fence_table(host)
    enable_salt(host, False)
    power_loss(host)
    assert fence_table(host) == wanted
    assert not runs(host)
    assert cannot_start(host)
    assert "this host was fenced in epoch 1 by Ada (north burns)" in check_gate(host)
    attested = host.run(["openhim-attest"], input="test\nAda\nit must\n", check=False)
    assert "no attestation lifts a fence" in attested.stdout
    # Nothing is said to a mongod that somebody starts by hand.
    script = f"exec systemd-run --quiet --unit=by-hand {LISTENER.split('ExecStart=')[1].split(chr(10))[0]}"
    host.run(["/bin/sh", "-c", script])
    wait_for(lambda: ":27017" in host.run(["ss", "-ltn"]).stdout, 30, "it listens")
    assert not reaches(host, "127.0.0.1", 27017)
    assert not reaches(host, "10.20.1.11", 27017)
    host.run(["systemctl", "stop", "by-hand"])


def test_the_fence_is_there_after_the_distributions_own_rules_are_loaded(
    salt: SaltMaster, host: Host
) -> None:
    assert state(salt, "openhim_fence.fenced", **ORDER)["result"] is True
    wanted = fence_table(host)
    assert "tcp dport { 5000, 5001, 8080, 27017 } counter drop" in wanted
    # Debian's file begins with "flush ruleset".
    host.run(["systemctl", "start", "nftables"])
    host.run(["systemctl", "restart", "nftables"])
    wait_for(lambda: fence_table(host) == wanted, 30, "the fence is there")


def test_the_files_of_the_state_tree_take_their_order_from_the_pillar(
    salt: SaltMaster, host: Host
) -> None:
    for file, words in (("fenced", "fenced: epoch 1"), ("unfenced", "not fenced")):
        done = salt.salt(NAME, "state.apply", f"fence.{file}", pillar={"fence": ORDER})[NAME]
        (found,) = done.values()
        assert found["result"] is True, found
        assert bool(fence_table(host)) == (file == "fenced")
        again = salt.salt(NAME, "state.apply", f"fence.{file}", pillar={"fence": ORDER})[NAME]
        (found,) = again.values()
        assert (found["changes"], words in found["comment"]) == ({}, True), found


def test_a_lifted_fence_starts_nothing_and_the_gate_needs_a_new_proof(
    salt: SaltMaster, host: Host
) -> None:
    assert state(salt, "openhim_fence.fenced", **ORDER)["result"] is True
    lifted = state(salt, "openhim_fence.unfenced", epoch=1, by="Ada", reason="resynchronised")
    assert lifted["result"] is True, lifted
    assert fence_table(host) == ""
    assert not runs(host)
    assert cannot_start(host)
    admitted = state(salt, "openhim_fence.admitted")
    assert admitted["result"] is True, admitted
    host.run(["systemctl", "start", MONGOD])
    wait_for(lambda: reaches(host, "127.0.0.1", 27017), 30, "it serves")


def test_without_the_gate_a_host_starts_as_before(salt: SaltMaster, host: Host) -> None:
    removed = state(salt, "openhim_fence.ungated")
    assert removed["result"] is True, removed
    assert runs(host)
    assert state(salt, "openhim_fence.ungated")["changes"] == {}
    enable_salt(host, False)
    power_loss(host)
    wait_for(lambda: runs(host), 30, "mongod runs")


def fence_table(host: Host) -> str:
    """The fence as the kernel has it; empty when there is none."""
    command = ["nft", "--stateless", "list", "table", "inet", "openhim_fence"]
    return host.run(command, check=False).stdout


def check_gate(host: Host) -> str:
    """What the gate says to somebody who opens it by hand."""
    host.run(["systemctl", "start", GATE], check=False)
    return status(host, GATE)
