"""What the witness grants, to whom, and that two sites are never admitted at once."""

import json
import socket
import ssl
import time

import pytest
from saltext.openhim.lease import agent, book

from tests.functional.lease.conftest import (
    ADDRESSES,
    MAX_SKEW,
    ROUTER,
    SECONDS,
    epoch,
    freeze,
    until,
)


def test_a_witness_that_knows_nothing_waits_until_nobody_can_hold_a_lease(fleet):
    begun = time.monotonic()
    fleet.witness(fresh=True)
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.REFUSED)
    assert "may still hold a lease" in fleet["north-core"].status()["reasons"][0]
    until(lambda: fleet["north-core"].state() == agent.HELD)
    assert time.monotonic() - begun > SECONDS + MAX_SKEW


def test_a_damaged_book_is_told_and_counts_like_none(fleet):
    fleet["west"].write(book.FILE, b"half a bo")
    begun = time.monotonic()
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.HELD)
    assert time.monotonic() - begun > SECONDS
    assert "cannot be read" in fleet["west"].log("witness")


def test_a_lease_is_on_the_disk_before_it_is_granted(fleet):
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.HELD)
    (given,) = fleet.granted()
    assert (given["host"], given["site"], given["seconds"]) == ("north-core", "north", SECONDS)
    assert given["at"] >= fleet["north-core"].status()["asked"] - 1


def test_a_witness_that_cannot_write_grants_nothing(fleet):
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.HELD)
    path = fleet["west"].path(book.FILE)
    path.rename(path.with_name("kept"))
    path.mkdir()
    until(lambda: fleet["north-core"].state() == agent.UNANSWERED)


def test_a_record_that_cannot_be_read_renews_nothing(fleet):
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.HELD)
    fleet["west"].write("/var/lib/openhim-recovery/test.json", b"half a rec")
    until(lambda: fleet["north-core"].state() == agent.UNANSWERED)
    assert "cannot be read" in fleet["north-core"].status()["reasons"][0]


def test_two_sites_are_never_both_admitted_across_a_handover(fleet, call):
    """South hands over to north in order; then north is frozen, and given up."""
    fleet.declare(epoch(1, "south"))
    fleet.witness()
    fleet["south-core"].start("agent")
    north = fleet["north-core"].start("agent")
    until(lambda: fleet["south-core"].state() == agent.HELD)
    until(lambda: fleet["north-core"].state() == agent.GIVEN_UP)
    to_south = call("clinic", "south-core", ROUTER)
    until(to_south.is_heard)

    begun = time.monotonic()
    fleet.declare(epoch(1, "south"), epoch(2, "north", ["south"]))
    until(lambda: fleet["north-core"].state() == agent.HELD)
    # Given back: nothing is waited for but the skew.
    assert time.monotonic() - begun < SECONDS
    to_north = call("clinic", "north-core", ROUTER)
    until(to_north.is_heard)
    assert to_south.answered[-1] < to_north.answered[0]

    freeze(north)
    begun = time.monotonic()
    fleet.declare(epoch(1, "south"), epoch(2, "north", ["south"]), epoch(3, "south", ["north"]))
    again = len(to_south.answered)
    until(lambda: len(to_south.answered) > again)
    assert to_north.answered[-1] < to_south.answered[again]
    # The witness waited it out, from when it granted it last.
    assert to_south.answered[again] - begun > SECONDS - 1
    assert not to_north.is_heard()
    told = json.loads(fleet["south-core"].path("/var/lib/saltext-openhim/record.json").read_text())
    assert told[-1]["number"] == 3


def test_a_host_that_knows_a_newer_epoch_gets_no_lease_from_an_old_record(fleet):
    fleet["north-core"].write("/var/lib/saltext-openhim/record.json", [epoch(1, "south")])
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.REFUSED)
    assert "knows no epoch as the newest" in fleet["north-core"].status()["reasons"][0]


def test_a_host_learns_the_newest_epoch_from_the_witness(fleet):
    fleet.declare(epoch(1, "north"))
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.HELD)
    assert fleet["north-core"].path("/var/lib/saltext-openhim/epoch").read_text() == "1\n"


@pytest.mark.parametrize("who", ["backup", "south-core"])
def test_nobody_asks_for_another_host(fleet, who):
    """With the key and the certificate of another host of the stack."""
    for name in ("host.crt", "host.key"):
        content = fleet[who].path(f"/etc/openhim-tls/{name}").read_bytes()
        fleet["north-core"].write(f"/etc/openhim-tls/{name}", content)
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: fleet["north-core"].state() == agent.UNANSWERED)
    until(lambda: "each host asks for itself" in str(fleet["north-core"].status()["reasons"]))
    assert fleet.granted() == []


def test_an_agent_believes_only_the_witness(fleet):
    """Another host of the stack answers at the witness' address."""
    for name in ("host.crt", "host.key"):
        content = fleet["backup"].path(f"/etc/openhim-tls/{name}").read_bytes()
        fleet["west"].write(f"/etc/openhim-tls/{name}", content)
    fleet.witness()
    fleet["north-core"].start("agent")
    until(lambda: "mismatch" in str(fleet["north-core"].status()["reasons"]).lower())
    assert fleet.granted() == []


def test_who_says_nothing_holds_up_nobody(fleet):
    fleet.witness()
    until(lambda: fleet.reaches("clinic", "west", 4520))
    silent = [
        fleet.network.within("clinic", socket.create_connection, (ADDRESSES["west"], 4520), 5)
        for _ in range(50)
    ]
    try:
        fleet["north-core"].start("agent")
        until(lambda: fleet["north-core"].state() == agent.HELD)
    finally:
        for connection in silent:
            connection.close()


def test_who_shows_no_certificate_is_told_nothing(fleet):
    fleet.witness()
    until(lambda: fleet.reaches("clinic", "west", 4520))

    def asked():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((ADDRESSES["west"], 4520), 5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(b"POST /lease HTTP/1.0\r\n\r\n")
            return secured.recv(100)

    with pytest.raises(ssl.SSLError):
        fleet.network.within("clinic", asked)
