"""Production and its distant site are destroyed; hosts with an sshd and nothing else become the stack.

The tests of this file are one story and run in this order; each begins where the one before ended.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml

from lab import demo, demo_full, provider, stack, traffic
from tests.lab.fleet import failures, highstate, wait_for

# A stack of its own, for minutes: with it, every run would take longer than anybody waits.
pytestmark = pytest.mark.nightly

REQUEST = {
    "to_site": "west",
    "confirm": "example",
    "declared_by": "a test",
    "reason": "both data centres burnt",
}
OFF = {"north": "its power is cut", "south": "its power is cut"}


@pytest.fixture(scope="module")
def pillar(tmp_path_factory) -> Path:
    """The example, with hosts that stand by at the third site, and drills."""
    folder = tmp_path_factory.mktemp("rebuild") / "pillar"
    shutil.copytree(stack.EXAMPLE, folder)
    folder.parent.chmod(0o755)
    file = folder / "openhim" / "production.sls"
    declared = yaml.safe_load(file.read_text())
    openhim = declared["openhim"]
    provider.declare(openhim)
    openhim["drills"] = {
        "run_by": "west-backup",
        "max_age_seconds": {"functional": 86400},
        "schedule": {"functional": 86400},
        "observe_seconds": 5,
    }
    file.write_text(yaml.safe_dump(declared))
    top = folder / "top.sls"
    top.write_text(top.read_text() + "  'west-db1':\n    - secrets.backup\n")
    return folder


@pytest.fixture(scope="module")
def running(pillar: Path, tmp_path_factory) -> Iterator[stack.Stack]:
    with stack.started(pillar, share=provider.shares()) as found:
        stack.start_upstream(found.lab, provider.SITE, provider.LABORATORY)
        yield found


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    """What the clinics sent, and what they were told."""
    return tmp_path_factory.mktemp("clinics") / "orders.jsonl"


def test_production_stands_and_who_stands_by_has_no_part_in_it(running):
    results = highstate(running)
    assert failures(results) == []
    assert not set(provider.HOSTS) & set(results)
    assert running.master.salt(["north-core"], "openhim.synthetic")["north-core"]["status"] == (
        "Successful"
    )


def test_orders_are_taken_before_and_after_a_restore_point(running, log):
    clinics = demo.start_clinics(running, log)
    wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= 40, 120, "orders")
    request = {"stack": "example", "reason": "a test"}
    running.master.orchestrate("orch.backup", {"backup": request})
    before = len(traffic.acknowledged(traffic.read(log)))
    wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= before + 40, 120, "orders")
    clinics.stop(30)


def test_a_drill_on_a_host_is_passed_and_nothing_leaves(running):
    request = {"stack": "example", "declared_by": "a test"}
    shown = running.master.orchestrate("orch.drill", {"drill": request}, test=True)
    assert "Would hold a drill of the restore point" in json.dumps(shown)
    running.master.orchestrate("orch.drill", {"drill": request})
    (held,) = running.master.salt(["west-backup"], "openhim_drill.list")["west-backup"]
    assert (held["verdict"], held["denied"]) == ("passed", 0), held
    found = running.master.run("openhim_dr.drills", "example")
    assert (found["state"], running.master.retcodes["run"]) == ("ok", 0)
    print(f"drill: RTO {held['rto_seconds']} s, RPO {held['rpo_seconds']} s, {held['steps']}")


def test_everything_is_lost_and_a_rebuild_without_a_word_is_refused(running, log, pillar):
    last = max(order["answered"] for order in traffic.acknowledged(traffic.read(log)))
    wait_for(lambda: demo.archived_until(running) > last + 1, 120, "the archive of all orders")
    provider.hand_out(running)
    running.lab.kill_site("north")
    running.lab.kill_site("south")
    plan = running.master.run("openhim_dr.rebuild_plan", **REQUEST)
    told = " ".join(plan["refusals"])
    assert "north is not proven closed" in told
    assert "south is not proven closed" in told
    plan = running.master.run("openhim_dr.rebuild_plan", **{**REQUEST, "attest": OFF})
    assert plan["refusals"] == []
    assert running.master.run("openhim_dr.history", "example") == []


def test_a_preview_touches_no_host(running):
    request = {**REQUEST, "attest": OFF, "point": "latest"}
    shown = running.master.orchestrate("orch.rebuild", {"rebuild": request}, test=True)
    assert "Would: give west-core, west-db1 a minion" in json.dumps(shown)
    assert running.master.run("openhim_dr.history", "example") == []
    host = running.lab.host("west-db1")
    assert host.run(["test", "-e", "/opt/salt"], check=False).returncode == 1


def test_bare_hosts_become_a_stack_with_every_order_up_to_that_time(running, log):
    orders = traffic.acknowledged(traffic.read(log))
    moment = int(max(order["answered"] for order in orders)) + 1
    to_time = datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = {**REQUEST, "attest": OFF, "to_time": to_time, "disrupted_at": to_time}
    began = time.time()
    with running.master.progress(print):
        running.master.orchestrate("orch.rebuild", {"rebuild": request})
    (epoch,) = running.master.run("openhim_dr.history", "example")
    took = datetime.fromisoformat(epoch["result"]["served_at"]).timestamp() - began
    print(f"served after {took:.1f} s, {demo_full.restore_seconds(epoch):.1f} s of it the restore")
    found = demo.transactions(running, "west")
    assert len(orders) >= 80
    assert [o["number"] for o in orders if str(o["number"]) not in found] == []
    served = running.master.salt(["west-core"], "openhim.synthetic")["west-core"]
    assert served["status"] == "Successful"


def test_nothing_of_how_they_got_their_minions_stays_on_the_hosts(running):
    for name in provider.HOSTS:
        found = running.lab.host(name).run(["find", "/tmp", "-name", ".saltcloud*"])
        assert found.stdout == ""


def test_it_is_on_record_with_what_was_measured(running):
    (epoch,) = running.master.run("openhim_dr.history", "example")
    assert (epoch["kind"], epoch["active_site"], epoch["epoch"]) == ("rebuild", "west", 1)
    assert epoch["lost_sites"] == ["north", "south"]
    assert epoch["completed_at"]
    result = epoch["result"]
    assert result["rpo_seconds"] <= 1
    assert 0 < result["rto_from_declaration_seconds"] < 600
    print(json.dumps(result, indent=1))


def test_a_second_rebuild_is_refused_for_the_data_that_is_there(running):
    plan = running.master.run("openhim_dr.rebuild_plan", **{**REQUEST, "attest": OFF})
    assert any("west-db1 holds data" in reason for reason in plan["refusals"]), plan
