"""A public name moves on a real name server, or does not, with the reason."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from saltext.openhim.cut_over.name_server import Key, NameServer
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized, Unreachable

from tests import ports
from tests.functional.cut_over.between import ANSWER_LOST, LOST, PASSED, between
from tests.functional.cut_over.name_server import CHILD, NEGATIVE_TTL, ZONE, Knot

Make = Callable[..., NameServer]
NORTH = {"A": ["60 10.0.0.1"], "AAAA": ["60 2001:db8::1"]}
SOUTH = {"A": ["60 10.0.0.2"], "AAAA": []}


def told(knot: Knot, client: NameServer) -> dict[str, list[str]]:
    """What anybody is told who asks for the name, without our code."""
    return {kind: knot.asked(client.name, kind) for kind in ("A", "AAAA")}


def test_a_name_goes_to_a_site_and_on_to_the_next(knot: Knot, name_server: Make) -> None:
    """Both address types; how long clients stay behind is told each time."""
    client = name_server()
    first = client.move("north")
    assert (first.changed, first.confirmed, first.before) == (True, True, {})
    assert first.kept_for == NEGATIVE_TTL, "clients keep it that there was no such name"
    assert told(knot, client) == NORTH
    second = client.move("south")
    assert (second.changed, second.before, second.kept_for) == (True, first.after, 60)
    assert second.after == {"A": {"addresses": ["10.0.0.2"], "ttl": 60}}
    assert "may keep the old answer for 60 s" in second.comment
    assert told(knot, client) == SOUTH, "the old site's IPv6 address must be gone too"


def test_a_second_run_changes_nothing(knot: Knot, name_server: Make) -> None:
    """The zone's serial number says that the server was told nothing."""
    client = name_server()
    client.move("north")
    serial = knot.asked(ZONE, "SOA")
    again = client.move("north")
    assert (again.changed, again.confirmed, again.kept_for) == (False, True, 0)
    assert again.before == again.after
    assert knot.asked(ZONE, "SOA") == serial


def test_a_preview_asks_and_changes_nothing(knot: Knot, name_server: Make) -> None:
    """And what it tells is what then happens."""
    client = name_server()
    serial = knot.asked(ZONE, "SOA")
    preview = client.move("north", test=True)
    assert (preview.changed, preview.confirmed) == (False, False)
    assert knot.asked(ZONE, "SOA") == serial
    assert told(knot, client) == {"A": [], "AAAA": []}
    assert client.move("north").after == preview.after


def test_what_is_half_done_is_finished(knot: Knot, name_server: Make) -> None:
    """A TTL of former days, an address that is missing and one too many are corrected."""
    client = name_server(sites={"north": ("10.0.0.1", "10.0.0.3")}, ttl=600)
    client.move("north")
    client = name_server()
    pointing = client.points_to()
    assert pointing.state == "several", "10.0.0.3 is of no site"
    done = client.move("north")
    assert (done.changed, done.kept_for) == (True, 600)
    assert told(knot, client) == NORTH


def test_where_a_name_points(knot: Knot, name_server: Make) -> None:
    """To a site, to several, to no address, elsewhere."""
    client = name_server()
    assert (client.points_to().state, client.points_to().site) == ("none", None)
    client.move("north")
    assert client.points_to().site == "north"
    name_server(sites={"old": ("10.9.9.9",)}).move("old")
    assert client.points_to().state == "elsewhere"
    name_server(sites={"both": ("10.0.0.1", "10.0.0.2")}).move("both")
    both = client.points_to()
    assert (both.state, both.site, both.sites) == ("several", None, ("north", "south"))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"key": ("mover", "hmac-sha256", "other")}, Unauthorized, "another secret"),
        ({"key": ("mover", "hmac-sha512", "mover")}, Unauthorized, "does not know the key mover"),
        ({"key": ("stranger", "hmac-sha256", "mover")}, Unauthorized, "not know the key stranger"),
        ({"zone": "other.test", "name": "him.other.test"}, Refused, "answered REFUSED to a quest"),
        ({"zone": "test"}, Refused, "in the zone example.test, and not in test"),
        ({"name": f"him.{CHILD}"}, Refused, "in the zone child.example.test, and not in example"),
        ({"name": f"alias.{ZONE}"}, Refused, r"is an alias \(CNAME\)"),
        ({"name": f"x.any.{ZONE}"}, Refused, "comes from a wildcard"),
    ],
)
def test_what_the_server_does_not_take_changes_nothing(
    knot: Knot, name_server: Make, changes: dict, error: type[OpenHIMError], words: str
) -> None:
    """The reason says whose mistake it is, without the secret."""
    if "key" in changes:
        name, algorithm, secret = changes["key"]
        changes = {"key": Key(name, algorithm, getattr(knot, secret))}
    client = name_server(**changes)
    serials = knot.asked(ZONE, "SOA"), knot.asked(CHILD, "SOA")
    with pytest.raises(error, match=words) as caught:
        client.move("south")
    assert (knot.asked(ZONE, "SOA"), knot.asked(CHILD, "SOA")) == serials
    for secret in (knot.mover, knot.other):
        assert secret not in f"{caught.value} {caught.value!r} {client!r}"


def test_a_key_that_may_ask_and_not_update_says_so(knot: Knot, name_server: Make) -> None:
    """Asked, the server answers it; told, it refuses."""
    client = name_server(key=Key("other", "hmac-sha256", knot.other))
    assert client.points_to().state == "none"
    with pytest.raises(Unauthorized, match=r"does not let it do this in example.test"):
        client.move("north")
    assert told(knot, client) == {"A": [], "AAAA": []}


def test_a_site_without_addresses_is_refused(knot: Knot, name_server: Make) -> None:
    """Before the server is asked."""
    with pytest.raises(Refused, match=r"'sotuh', which has no addresses.*did you mean 'south'"):
        name_server(port=ports.free()).move("sotuh")


def test_nobody_listens(name_server: Make) -> None:
    """Told as such, and nothing is known then."""
    client = name_server(port=ports.free())
    with pytest.raises(Unreachable, match="not reached over TCP: Connection refused"):
        client.move("north")
    pointing = client.points_to()
    assert (pointing.state, pointing.site) == ("unknown", None)
    assert "Connection refused" in pointing.because


def test_a_server_that_takes_connections_and_is_silent(name_server: Make) -> None:
    """As a frozen one does."""
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        client = name_server(port=frozen.getsockname()[1], timeout=0.3)
        with pytest.raises(Unreachable, match=r"gave no answer within 0.3 s"):
            client.move("north")
        assert client.points_to().state == "unknown"


def test_an_answer_that_is_lost_does_not_hide_that_it_worked(knot: Knot, name_server: Make) -> None:
    """Only the server knows, so it is asked."""
    fate = {False: PASSED, True: ANSWER_LOST}
    with between(lambda update: (fate[update], knot.port)) as port:
        client = name_server(port=port, timeout=0.5)
        assert client.move("north").confirmed
    assert told(knot, client) == NORTH


def test_an_update_that_is_lost_is_an_error(knot: Knot, name_server: Make) -> None:
    """It says what the name still has."""
    fate = {False: PASSED, True: LOST}
    with between(lambda update: (fate[update], knot.port)) as port:
        client = name_server(port=port, timeout=0.5)
        with pytest.raises(Unreachable, match=r"was sent, and .* gave no answer .*has no address"):
            client.move("north")
    assert told(knot, client) == {"A": [], "AAAA": []}


def test_a_server_that_accepts_and_shows_something_else(
    knot: Knot, name_server: Make, tmp_path: Path
) -> None:
    """Two servers at one address, and updates go to one of them: that is no success."""
    with (
        Knot(tmp_path, secrets_of=knot).running() as second,
        between(lambda update: (PASSED, second.port if update else knot.port)) as port,
    ):
        client = name_server(port=port, timeout=0.5)
        with pytest.raises(OpenHIMError, match=r"accepted the update .* still has no address"):
            client.move("north")
        assert told(second, client) == NORTH


def test_a_name_that_changes_after_it_was_looked_at_is_left_alone(
    knot: Knot, name_server: Make
) -> None:
    """Two people recover at once: the second one is told, and nothing of the first is undone."""
    other = name_server()
    before = []

    def fate(update: bool) -> tuple[str, int]:
        if update and not before:
            before.append(other.move("south"))
        return PASSED, knot.port

    with between(fate) as port:
        client = name_server(port=port)
        with pytest.raises(Refused, match=r"has not what .* said that it has, so nothing was"):
            client.move("north")
    assert before
    assert told(knot, client) == SOUTH
