"""The lease where systemd is PID 1: who is let in when the agent is frozen, when Salt is gone, when
the witness is cut off, and after a boot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import HostSpec, Lab
from lab.host import Host
from lab.salt import SaltMaster
from tests.authority import Authority, pem
from tests.lab.fleet import reaches, wait_for

# Minutes of its own, most of them spent on leases that run out.
pytestmark = pytest.mark.nightly

REPOSITORY = Path(__file__).resolve().parents[2]
WEST, NORTH, SOUTH = "west-master", "north-core", "south-core"
ADDRESSES = {WEST: "10.20.0.10", NORTH: "10.20.1.21", SOUTH: "10.20.2.21"}
ROLES = {WEST: ["master"], NORTH: ["core"], SOUTH: ["core"]}
ROUTER = 5001
SECONDS = 12
HOLDER, WITNESS = "openhim-lease.service", "openhim-witness.service"

PILLAR = {
    "openhim": {
        "stack": "test",
        "active_site": "north",
        "sites": {"north": {}, "south": {}, "west": {}},
        "hosts": {
            name: {"site": name.split("-")[0], "address": address, "roles": ROLES[name]}
            for name, address in ADDRESSES.items()
        },
        "mongodb": {
            "replica_sets": {"openhim": {"members": {NORTH: {}}}},
            "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
        },
        "certificates": {"method": "pillar"},
        "lease": {"enabled": True, "seconds": SECONDS, "renew_every_seconds": 2},
    }
}

#: Stands for OpenHIM: the lease knows no more of it than its port.
LISTENER = """\
[Service]
ExecStart=/usr/bin/python3 -m http.server 5001
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def salt() -> Iterator[SaltMaster]:
    """A witness with the master at a third place, and a core at each of two sites."""
    hosts = [HostSpec(name, name.split("-")[0], address) for name, address in ADDRESSES.items()]
    authority = Authority()
    with Lab.start(hosts=hosts, share={"/srv/saltext-openhim": REPOSITORY}) as lab:
        for name, address in ADDRESSES.items():
            host = lab.host(name)
            certificate, key = authority.issue([name, address])
            host.write("/etc/openhim-tls/ca.crt", pem(authority.certificate).decode())
            host.write("/etc/openhim-tls/host.crt", certificate.decode())
            host.write("/etc/openhim-tls/host.key", key.decode(), 0o600)
            host.write("/etc/systemd/system/router.service", LISTENER)
            host.run(["useradd", "--system", "mongodb"])
            host.run(["systemctl", "enable", "--now", "router"])
        master = lab.host(WEST)
        master.write("/srv/pillar/top.sls", json.dumps({"base": {"*": ["stack"]}}))
        master.write("/srv/pillar/stack.sls", json.dumps(PILLAR))
        salt = SaltMaster(
            lab,
            WEST,
            file_roots=["/srv/saltext-openhim/salt"],
            config={"ext_pillar": [{"openhim_recovery": "/var/lib/openhim-recovery"}]},
        )
        salt.start()
        salt.run("saltutil.sync_all")
        salt.salt("*", "saltutil.sync_all", refresh=True)
        yield salt


def state(salt: SaltMaster, target: str, function: str, **arguments: object) -> dict:
    """What one state returns on a host."""
    (found,) = salt.salt(target, "state.single", function, name="it", **arguments)[target].values()
    return found


def admitted(salt: SaltMaster) -> bool:
    """Whether a client elsewhere reaches OpenHIM of the active site."""
    return reaches(salt.lab.host(SOUTH), ADDRESSES[NORTH], ROUTER)


def main_pid(host: Host, unit: str) -> str:
    """The process of a unit."""
    return host.run(["systemctl", "show", "--property=MainPID", "--value", unit]).stdout.strip()


def never_cut(salt: SaltMaster, seconds: float) -> None:
    """A client is let in again and again for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert admitted(salt)


def test_the_states_put_the_lease_in_place_and_change_nothing_twice(salt: SaltMaster) -> None:
    foreseen = state(salt, WEST, "openhim_lease.running", test=True)
    assert foreseen["result"] is None
    gone = salt.lab.host(WEST).run(["test", "-e", "/etc/openhim-lease"], check=False)
    assert gone.returncode == 1
    for name in (WEST, NORTH, SOUTH):
        made = state(salt, name, "openhim_lease.running")
        assert made["result"] is True, made
        assert made["changes"]
    for name in (WEST, NORTH, SOUTH):
        again = state(salt, name, "openhim_lease.running")
        assert (again["result"], again["changes"]) == (True, {}), again
    found = salt.salt("*", "openhim_lease.status")
    assert found[NORTH]["holder"]["state"] == "held"
    assert 0 < found[NORTH]["holder"]["left"] <= SECONDS
    assert (found[SOUTH]["holder"]["state"], found[SOUTH]["holder"]["leased"]) == (
        "given up",
        False,
    )
    grants = found[WEST]["witness"]["grants"]
    assert 0 < grants["north"] <= SECONDS
    assert (grants["south"], found[WEST]["trouble"]) == (None, None)
    assert admitted(salt)


def test_a_frozen_agent_is_replaced_in_time(salt: SaltMaster) -> None:
    host = salt.lab.host(NORTH)
    before = main_pid(host, HOLDER)
    host.run(["kill", "-STOP", before])
    never_cut(salt, SECONDS * 2)
    assert main_pid(host, HOLDER) not in (before, "0")


def test_the_lease_needs_neither_master_nor_minion(salt: SaltMaster) -> None:
    salt.lab.host(WEST).run(["systemctl", "stop", "salt-master", "salt-minion"])
    salt.lab.host(NORTH).run(["systemctl", "stop", "salt-minion"])
    try:
        never_cut(salt, SECONDS * 2)
        salt.lab.host(WEST).run(["systemctl", "restart", WITNESS])
        never_cut(salt, SECONDS * 1.5)
    finally:
        salt.lab.host(WEST).run(["systemctl", "start", "salt-master", "salt-minion"])
        salt.lab.host(NORTH).run(["systemctl", "start", "salt-minion"])


def test_a_site_that_is_cut_off_from_the_witness_closes_and_opens_again(salt: SaltMaster) -> None:
    salt.lab.isolate_host(WEST)
    try:
        begun = time.monotonic()
        wait_for(lambda: not admitted(salt), SECONDS * 3, "it is closed")
        # One attempt to connect takes two seconds.
        assert time.monotonic() - begun < SECONDS + 4
    finally:
        salt.lab.rejoin_host(WEST)
    wait_for(lambda: admitted(salt), 60, "it is let in again")


def test_a_host_boots_closed_and_opens_by_its_witness(salt: SaltMaster) -> None:
    host = salt.lab.host(NORTH)
    salt.lab.host(WEST).run(["systemctl", "stop", WITNESS])
    host.kill()
    host.boot()
    wait_for(
        lambda: host.run(["systemctl", "is-active", "router"], check=False).returncode == 0,
        60,
        "what stands for OpenHIM runs",
    )
    for _ in range(3):
        assert not admitted(salt)
    salt.lab.host(WEST).run(["systemctl", "start", WITNESS])
    wait_for(lambda: admitted(salt), 60, "it is let in")


def test_a_lease_that_is_taken_away_leaves_nothing_closed(salt: SaltMaster) -> None:
    salt.wait_for([NORTH])
    assert state(salt, NORTH, "openhim_lease.absent", test=True)["result"] is None
    gone = state(salt, NORTH, "openhim_lease.absent")
    assert gone["result"] is True, gone
    assert state(salt, NORTH, "openhim_lease.absent")["changes"] == {}
    assert admitted(salt)
    assert "openhim_lease" not in salt.lab.host(NORTH).run(["nft", "list", "tables"]).stdout
