"""Whether anything is there, over real connections whose first packets get lost."""

import socket
import time

import pytest
from saltext.openhim.mongo import connection

from tests.functional.network import switched

ADDRESSES = {"here": "10.98.0.1", "there": "10.98.0.2"}
#: The first packets of a connection to the port.
FIRST = "tcp dport 27017 tcp flags & (syn | ack) == syn"


@pytest.fixture(scope="module")
def network():
    with switched(ADDRESSES) as network:
        network.listen("there", 27017)
        yield network


@pytest.fixture
def reached(network):
    """How ``there`` answers ``here``, and after how many seconds, when it first loses packets.

    lost: of the first packets of connections, which ones, as a condition of nftables.
    """
    network.nft("there", "add table inet test")

    def reach(lost=None, port=27017):
        if lost:
            hook = "{ type filter hook input priority 0; }"
            network.nft("there", f"add chain inet test input {hook}")
            network.nft("there", f"add rule inet test input {FIRST} {lost} drop")
        begun = time.monotonic()
        found = network.within("here", connection.reach, f"{ADDRESSES['there']}:{port}")
        return found, time.monotonic() - begun

    yield reach
    network.nft("there", "delete table inet test")


def test_what_is_there_is_there_at_once(reached):
    found, seconds = reached()
    assert found is None
    assert seconds < 2 * connection.GIVE_UP


def test_who_refuses_says_so_at_once(reached):
    found, seconds = reached(port=1)
    assert found == "connection refused"
    assert seconds < 2 * connection.GIVE_UP


def test_two_packets_in_a_row_may_be_lost(reached):
    found, seconds = reached("numgen inc mod 1000 < 2")
    assert found is None
    assert seconds >= 2 * connection.TRY_AGAIN


def test_who_says_nothing_is_given_up_after_all_attempts(reached):
    found, seconds = reached("meta l4proto tcp")
    assert found == "timed out"
    assert connection.GIVE_UP <= seconds < 3 * connection.GIVE_UP


def test_an_unknown_name_is_told():
    assert connection.reach("no-such-name.invalid:1") == "the name no-such-name.invalid is unknown"


NO_WAY = ("fd00::1", 27017, 0, 0)  # by IPv6, which these hosts have not


@pytest.mark.parametrize(
    ("port", "lost", "expected"),
    [
        (27017, None, None),
        (1, None, "connection refused"),
        (27017, "meta l4proto tcp", "timed out"),
    ],
)
def test_one_way_that_leads_nowhere_does_not_hide_the_other(
    reached, monkeypatch, port, lost, expected
):
    """Mocked: the name, which has two addresses."""
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", NO_WAY),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESSES["there"], port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert reached(lost, port=port)[0] == expected
