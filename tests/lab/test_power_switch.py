"""A site is cut off from everybody and goes on. Its provider switches its hosts off, and that they are off
is the proof by which the failover goes through, with nobody's word.

The tests of this file are one story and run in this order.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab import stack
from lab.host import Host
from lab.lab import Lab
from tests.lab.fleet import failures, highstate, wait_for

# Five minutes of its own.
pytestmark = pytest.mark.nightly

PROGRAM = "/usr/local/bin/provider"
FOLDER = "/var/lib/provider"
#: What an operator would write around a provider's interface; here it is a folder.
SCRIPT = f"""\
#!/bin/sh
case $1 in
off) : > {FOLDER}/$2.told ;;
state) cat {FOLDER}/$2.state ;;
esac
"""
SWITCH = {
    "run": [PROGRAM, "off", "{host}"],
    "state": [PROGRAM, "state", "{host}"],
    "when_off": "off",
    "timeout_seconds": 20,
}
NORTH = ["north-core", "north-db1", "north-db2"]
ASKED = {
    "to_site": "south",
    "confirm": "example",
    "declared_by": "a test",
    "reason": "north is cut off",
}


class Provider(threading.Thread):
    """Takes the hosts' power away when it is told to, and says which of them have power."""

    def __init__(self, lab: Lab, master: Host):
        super().__init__(daemon=True)
        self.obeys = False
        self._lab, self._master = lab, master
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.2):
            folder = Path(f"/proc/{self._master.pid}/root{FOLDER}")
            for name in NORTH:
                host = self._lab.host(name)
                if self.obeys and (folder / f"{name}.told").exists() and host.running:
                    host.kill()
                unfinished = folder / f"{name}.new"
                unfinished.write_text("on\n" if host.running else "off\n")
                unfinished.rename(folder / f"{name}.state")

    def end(self) -> None:
        """Stop."""
        self._over.set()
        self.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[stack.Stack]:
    """The example with the gate, at a provider with a power switch."""
    pillar = tmp_path_factory.mktemp("declared") / "pillar"
    shutil.copytree(stack.EXAMPLE, pillar)
    file = pillar / "openhim" / "production.sls"
    declared = yaml.safe_load(file.read_text())
    declared["openhim"].setdefault("fencing", {})["power_off"] = SWITCH
    declared["openhim"]["gate"] = {"enabled": True}
    file.write_text(yaml.safe_dump(declared))
    with stack.started(pillar) as found:
        yield found


@pytest.fixture(scope="module")
def provider(running) -> Iterator[Provider]:
    """It says the truth from the beginning; whether it obeys is the tests' to say."""
    master = running.lab.host("master")
    master.write(PROGRAM, SCRIPT, mode=0o755)
    master.write(f"{FOLDER}/README", "a provider\n")
    found = Provider(running.lab, master)
    found.start()
    wait_for(lambda: (Path(f"/proc/{master.pid}/root{FOLDER}") / "north-db2.state").exists(),
             20, "what the provider says")  # fmt: skip
    yield found
    found.end()


def test_the_site_is_cut_off_and_its_hosts_run_on(running, provider):
    assert failures(highstate(running)) == []
    running.lab.isolate_site("north")
    plan = {}

    def foreseen() -> bool:
        """Until every host of the site is missed, something of it is seen."""
        plan.update(running.master.run("openhim_dr.failover_plan", **ASKED))
        return plan["refusals"] == []

    wait_for(foreseen, 90, "a failover that the switch allows")
    assert plan["lost_sites"] == ["north"]
    assert all(running.lab.host(name).running for name in NORTH), "a plan switches nothing off"


def test_while_the_provider_does_not_do_it_nothing_is_promoted(running, provider):
    answer = running.master.orchestrate("orch.failover", {"failover": ASKED}, check=False)
    assert "north is not proven closed" in str(answer)
    assert "its provider does not say that they are off (of north-core: it says" in str(answer)
    assert all(running.lab.host(name).running for name in NORTH)
    seen = running.master.salt(["south-db1"], "openhim_dr.sighting")["south-db1"]["members"]
    assert seen["openhim/south-db1:27017"]["saw"] == "SECONDARY"


def test_once_they_are_off_the_failover_goes_on_with_nobody_s_word(running, provider):
    for name in NORTH:  # what it was told before does not count
        running.lab.host("master").run(["rm", f"{FOLDER}/{name}.told"])
    provider.obeys = True
    running.master.orchestrate("orch.failover", {"failover": ASKED})
    assert [name for name in NORTH if running.lab.host(name).running] == []
    (epoch,) = running.master.run("openhim_dr.history", stack="example")
    assert (epoch["kind"], epoch["active_site"], epoch["attestations"]) == ("failover", "south", [])
    assert {one["host"] for one in epoch["power_offs"]} == set(NORTH)
    assert epoch["completed_at"]
    found = running.master.salt(["south-core"], "openhim.synthetic")["south-core"]
    assert found["status"] == "Successful"


def test_a_host_that_has_power_again_stays_closed(running, provider):
    provider.end()
    running.lab.rejoin_site("north")
    running.lab.boot_site("north")
    running.master.wait_for(NORTH)
    found = running.master.run("openhim_dr.preflight", "example", repositories=False)
    assert {name: found["hosts"][name]["gate_open"] for name in NORTH} == dict.fromkeys(
        NORTH, False
    )
    core = running.lab.host("north-core")
    assert core.run(["systemctl", "is-active", "openhim-core"], check=False).stdout == "inactive\n"
