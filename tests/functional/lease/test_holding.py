"""Who is let in while a lease is held, and that the kernel ends it whatever became of the agent."""

import json
import subprocess
import time

import pytest
from saltext.openhim.lease import agent, table

from tests.functional.lease.conftest import (
    ADDRESSES,
    MONGODB,
    ROUTER,
    SECONDS,
    epoch,
    freeze,
    thaw,
    until,
)

#: What a run-out may come late, as seen by a client: its own pace, and a busy machine.
SLACK = 0.7
#: Seconds of a lease that must never run out, on a machine that is busy with other tests.
LONG = 10.0


def held(fleet, name):
    """An agent that holds the lease."""
    process = fleet[name].start("agent")
    until(lambda: fleet[name].state() == agent.HELD)
    return process


@pytest.fixture
def served(fleet, call):
    """North's core holds a lease, and a clinic is connected to its router."""
    fleet.witness()
    process = held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    until(caller.is_heard)
    return process, caller


def cut(fleet, caller, since):
    """Waits until north's core admits nobody; that never is later than the lease."""
    until(lambda: not fleet.admits("north-core"))
    assert not caller.is_heard()
    assert caller.answered[-1] - since <= SECONDS + SLACK


def test_an_agent_that_is_frozen_is_cut_off_by_the_kernel(fleet, served):
    process, caller = served
    freeze(process)
    cut(fleet, caller, time.monotonic())
    assert not fleet.reaches("clinic", "north-core", 5000)
    thaw(process)
    until(caller.is_heard)


def test_an_agent_that_is_killed_is_cut_off_by_the_kernel(fleet, served):
    process, caller = served
    process.kill()
    cut(fleet, caller, time.monotonic())
    held(fleet, "north-core")
    until(caller.is_heard)


def test_a_host_whose_witness_is_away_is_cut_off_and_let_in_again(fleet, call):
    witness = fleet.witness()
    held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    until(caller.is_heard)
    witness.kill()
    witness.wait()
    cut(fleet, caller, time.monotonic())
    assert until(lambda: fleet["north-core"].state() == agent.UNANSWERED)
    fleet.witness()
    until(caller.is_heard)


def test_a_witness_that_is_restarted_in_time_costs_nobody_anything(fleet, call):
    fleet.configure(LONG)
    witness = fleet.witness()
    held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    for _ in range(3):
        witness.kill()
        witness.wait()
        before = fleet.granted()[0]["at"]
        witness = fleet.witness()
        until(lambda before=before: fleet.granted()[0]["at"] > before)
    assert fleet.dropped("north-core") == 0
    assert caller.is_heard()


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_wall_clock_that_jumps_lengthens_no_lease(fleet, call, tmp_path, step):
    fleet.witness()
    clock = tmp_path / "clock"
    clock.write_text("0")
    fleet["north-core"].start("agent", clock)
    until(lambda: fleet["north-core"].state() == agent.HELD)
    caller = call("clinic", "north-core", ROUTER)
    until(caller.is_heard)
    clock.write_text(str(step))
    cut(fleet, caller, time.monotonic())
    until(lambda: fleet["north-core"].state() == agent.REFUSED)
    assert "s apart" in fleet["north-core"].status()["reasons"][0]
    clock.write_text("0")
    until(caller.is_heard)


def test_clients_that_are_renewed_in_time_are_never_cut_under_load(fleet, call):
    fleet.configure(LONG)
    fleet.witness()
    held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    hogs = [subprocess.Popen(["/usr/bin/python3", "-c", "while True: pass"]) for _ in range(4)]
    try:
        end = time.monotonic() + 2 * LONG
        until(lambda: time.monotonic() > end)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert fleet.dropped("north-core") == 0
    assert caller.is_heard()


def test_members_and_backup_hosts_need_no_lease_and_everybody_else_does(fleet):
    fleet.network.listen("north-db", MONGODB, 22)
    fleet.witness()
    process = held(fleet, "north-db")
    sources = ["north-core", "south-core", "south-db", "backup", "clinic"]
    assert all(fleet.reaches(source, "north-db", MONGODB) for source in sources)
    process.kill()
    until(lambda: not fleet.admits("north-db"))
    reached = [one for one in sources if fleet.reaches(one, "north-db", MONGODB)]
    assert reached == ["south-db", "backup"], fleet.network.nft("north-db", "list", "ruleset")
    assert fleet.reaches("clinic", "north-db", 22)
    assert fleet.network.connects("north-db", ADDRESSES["north-db"], MONGODB)


def test_openhim_reaches_no_mongod_anywhere_without_the_lease_and_root_does(fleet):
    fleet.network.listen("south-db", MONGODB)
    fleet.witness()
    process = held(fleet, "north-core")
    south = ADDRESSES["south-db"]
    assert fleet.network.connects_as(12345, "north-core", south, MONGODB)
    process.kill()
    until(lambda: not fleet.admits("north-core"))
    assert not fleet.network.connects_as(12345, "north-core", south, MONGODB)
    assert fleet.network.connects("north-core", south, MONGODB)


def test_what_was_asked_before_the_lease_ran_out_is_not_answered_after_it(fleet):
    fleet.witness()
    process = held(fleet, "north-core")
    client, server = fleet.network.conversation(
        "clinic", "north-core", ADDRESSES["north-core"], ROUTER
    )
    client.sendall(b"an order")
    assert server.recv(8) == b"an order"
    process.kill()
    until(lambda: not fleet.admits("north-core"))
    server.sendall(b"acknowledged")
    client.settimeout(1)
    with pytest.raises(TimeoutError):
        client.recv(12)


def test_a_table_that_somebody_removes_is_back_with_the_next_renewal(fleet, served):
    fleet.network.nft("north-core", "flush", "ruleset")
    until(lambda: table.TABLE in fleet.network.nft("north-core", "list", "ruleset"))


def test_a_table_that_somebody_removes_without_a_witness_is_back_and_closed(fleet, call):
    witness = fleet.witness()
    held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    witness.kill()
    witness.wait()
    fleet.network.nft("north-core", "flush", "ruleset")
    until(lambda: table.TABLE in fleet.network.nft("north-core", "list", "ruleset"))
    cut(fleet, caller, time.monotonic())


def test_a_host_that_was_leased_once_boots_closed(fleet, served):
    process, _ = served
    process.kill()
    fleet.network.nft("north-core", "flush", "ruleset")
    closed = fleet["north-core"].path(agent.BOOT_FILE).read_text()
    fleet.network.nft("north-core", "-f", "-", text=closed)
    assert not fleet.reaches("clinic", "north-core", ROUTER)


def test_an_element_that_is_added_too_late_admits_nobody(fleet):
    """As by a program that was frozen between its decision and the call."""
    fleet.network.listen("north-core", ROUTER)
    told = json.loads(fleet["north-core"].path("/etc/openhim-lease/holder.json").read_text())
    now = int(time.time())
    late = told["closed"] + table.element(now - 1, 30.0)
    fleet.network.nft("north-core", "-f", "-", text=late)
    assert not fleet.reaches("clinic", "north-core", ROUTER)
    fleet.network.nft("north-core", "-f", "-", text=table.renewal(now + 30, 30.0, table.SETS[1]))
    assert fleet.reaches("clinic", "north-core", ROUTER)


def test_a_wall_clock_that_is_set_back_lengthens_no_lease_in_the_kernel(fleet, call):
    """By the time of day this element holds for a thousand seconds, by the kernel's clock for two."""
    caller = call("clinic", "north-core", ROUTER)
    told = json.loads(fleet["north-core"].path("/etc/openhim-lease/holder.json").read_text())
    text = told["closed"] + table.element(int(time.time()) + 1000, 2.0)
    begun = time.monotonic()
    fleet.network.nft("north-core", "-f", "-", text=text)
    assert caller.is_heard()
    until(lambda: not caller.is_heard(), 15)
    assert caller.answered[-1] - begun < 2 + SLACK


def test_a_host_that_never_had_a_lease_is_not_closed_by_a_refusal(fleet):
    fleet.network.listen("south-core", ROUTER)
    fleet.witness()
    fleet["south-core"].start("agent")
    until(lambda: fleet["south-core"].state() == agent.GIVEN_UP)
    assert fleet.reaches("clinic", "south-core", ROUTER)


def test_an_epoch_without_a_lease_opens_the_host_for_good(fleet, call):
    fleet.witness()
    held(fleet, "north-core")
    caller = call("clinic", "north-core", ROUTER)
    fleet.declare(epoch(1, "north", witnesses=[]))
    until(lambda: fleet["north-core"].state() == agent.UNNEEDED)
    assert not fleet["north-core"].path(agent.BOOT_FILE).exists()
    assert table.TABLE not in fleet.network.nft("north-core", "list", "ruleset")
    assert caller.is_heard()
