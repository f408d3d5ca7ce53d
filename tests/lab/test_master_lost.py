"""The master dies with the primary site. What the start bundle makes of an empty machine carries out the
failover, and, when the other site is lost too, the rebuild at a third provider.

The tests of this file are one story and run in this order; each begins where the one before ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import demo, demo_full, provider, stack, traffic
from tests.lab.fleet import failures, highstate, wait_for

pytestmark = pytest.mark.nightly

ASKED = {"confirm": "example", "declared_by": "a test"}
OFF = {"north": "its power is cut"}
#: One documented command; the machine has neither state tree nor artifacts but from the bundle.
START = """
export RESTIC_REPOSITORY_FILE=/root/bundle.url RESTIC_PASSWORD_FILE=/root/recovery.key
umount /srv/saltext-openhim /srv/artifacts /srv/secrets /srv/pillar
restic dump latest /etc/salt/openhim-start.sh | sh
"""


@pytest.fixture(scope="module")
def running() -> Iterator[stack.Stack]:
    """The example with a public name, and with hosts that stand by at a third provider."""
    with demo_full.started(lease=False) as found:
        yield found


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """What the clinics sent, and what they were told."""
    return tmp_path_factory.mktemp("clinics") / "orders.jsonl"


def test_production_stands_and_its_orders_are_in_a_restore_point(running, log):
    assert failures(highstate(running)) == []
    clinics = demo.start_clinics(running, log)
    wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= 40, 120, "orders")
    clinics.stop(30)
    running.master.orchestrate("orch.backup", {"backup": {"stack": "example", "reason": "a test"}})


def test_an_empty_machine_becomes_the_master(running):
    running.lab.kill_site("north")
    new = running.lab.host("master")
    new.kill()
    new.destroy()
    new.create(running.lab.hosts_file())
    new.boot()
    new.write("/root/recovery.key", running.secret("recovery_key"), mode=0o600)
    password = running.secret("backup_store_producer")
    url = f"rest:http://producer:{password}@10.20.0.40:8000/start-bundle/"
    new.write("/root/bundle.url", url, mode=0o600)
    done = new.run(["/bin/sh", "-c", START], timeout=180)
    assert "The master of example is back" in done.stderr
    running.master.wait_for(["master", "south-core", "south-db1", "west-backup"])
    running.master.salt("master", "saltutil.sync_all")
    assert failures(highstate(running, "master")) == []


def test_it_carries_out_the_failover(running, log):
    request = {**ASKED, "to_site": "south", "reason": "north burnt, with the master"}
    refused = running.master.run("openhim_dr.failover_plan", **request)["refusals"]
    assert any("north is not proven closed" in reason for reason in refused), refused
    running.master.orchestrate("orch.failover", {"failover": {**request, "attest": OFF}})
    (epoch,) = running.master.run("openhim_dr.history", stack="example")
    assert (epoch["kind"], epoch["active_site"]) == ("failover", "south")
    assert epoch["completed_at"]
    assert _missing(running, log, "south") == []


def test_and_the_rebuild(running, log):
    provider.hand_out(running)
    running.lab.kill_site("south")
    off = {**OFF, "south": "its power is cut"}
    request = {**ASKED, "to_site": "west", "reason": "south burnt too", "point": "latest"}
    running.master.orchestrate("orch.rebuild", {"rebuild": {**request, "attest": off}})
    *_, epoch = running.master.run("openhim_dr.history", stack="example")
    assert (epoch["kind"], epoch["active_site"], epoch["epoch"]) == ("rebuild", "west", 2)
    assert epoch["completed_at"]
    assert _missing(running, log, "west") == []


def _missing(running: stack.Stack, log: Path, site: str) -> list[int]:
    """The orders that were acknowledged, and that MongoDB at a site has not."""
    found = demo.transactions(running, site)
    orders = traffic.acknowledged(traffic.read(log))
    assert len(orders) >= 40
    return [order["number"] for order in orders if str(order["number"]) not in found]
