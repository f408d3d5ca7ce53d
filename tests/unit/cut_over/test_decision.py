"""Where a name points, and what must change, decided from what was seen."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.cut_over import decision, declared
from saltext.openhim.cut_over.decision import Records, Seen
from saltext.openhim.errors import OpenHIMError, PillarError, Refused

SITES = {"north": ("10.0.0.1", "2001:DB8::1"), "south": ("10.0.0.2", "10.0.0.3")}


def seen(a: set[str] = frozenset(), aaaa: set[str] = frozenset(), ttl: int = 60) -> Seen:  # type: ignore[assignment]
    """What a name server has, with one TTL for all that is there."""
    records = {
        kind: Records(frozenset(addresses), ttl if addresses else None)
        for kind, addresses in (("A", a), ("AAAA", aaaa))
    }
    return Seen(records, negative_ttl=300)


@pytest.mark.parametrize(
    ("found", "state", "site", "facts"),
    [
        (seen(), "none", None, {}),
        (seen({"10.0.0.1"}, {"2001:db8::1"}), "site", "north", {}),
        (seen({"10.0.0.1"}), "site", "north", {"missing": ["2001:db8::1"]}),
        (seen({"10.0.0.1", "10.0.0.2"}, {"2001:db8::1"}), "several", None,
         {"missing": ["10.0.0.3"]}),
        (seen({"10.0.0.2", "10.0.0.3", "10.9.9.9"}), "several", None,
         {"of_no_site": ["10.9.9.9"]}),
        (seen({"10.9.9.9"}), "elsewhere", None, {"of_no_site": ["10.9.9.9"]}),
    ],
)  # fmt: skip
def test_where_a_name_points(found: Seen, state: str, site: str | None, facts: dict) -> None:
    """Only one site's addresses and no others lead to a site; what is odd is told."""
    told = decision.pointing(found, SITES).told()
    assert (told["state"], told["site"]) == (state, site)
    assert {key: told[key] for key in ("missing", "of_no_site") if key in told} == facts
    assert bool(told.get("because")) == (state != "site")


def test_only_what_differs_changes() -> None:
    """One type may stay as it is; a TTL counts as much as an address."""
    target = decision.wanted(SITES["north"], 60)
    assert decision.changes(seen({"10.0.0.1"}, {"2001:db8::1"}), target) == {}
    assert set(decision.changes(seen({"10.0.0.1"}), target)) == {"AAAA"}
    assert set(decision.changes(seen({"10.0.0.2"}, {"2001:db8::1"}), target)) == {"A"}
    assert set(decision.changes(seen({"10.0.0.1"}, {"2001:db8::1"}, ttl=61), target)) == {
        "A", "AAAA",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [
        (seen({"10.0.0.1"}), ("10.0.0.2",), 60),
        (seen(), ("10.0.0.2",), 300),
        # From IPv4 to IPv6 alone: clients know that there is no AAAA.
        (seen({"10.0.0.1"}), ("2001:db8::2",), 300),
        # They find the new IPv4 address before they find the IPv6 one.
        (seen({"10.0.0.1"}), ("10.0.0.2", "2001:db8::2"), 60),
        (seen({"10.0.0.1"}, ttl=900), ("10.0.0.2", "2001:db8::2"), 900),
    ],
)
def test_for_how_long_clients_stay_behind(before: Seen, after: tuple, seconds: int) -> None:
    """Until the longest old answer has run out, and one new one can be had."""
    assert decision.old_answer_kept_for(before, decision.wanted(after, 60)) == seconds


@given(
    st.sets(st.ip_addresses().map(str), max_size=4),
    st.sets(st.ip_addresses().map(str), min_size=1, max_size=4),
    st.integers(1, 86400),
)
def test_what_was_changed_needs_no_second_change(
    before: set[str], after: set[str], ttl: int
) -> None:
    """Whatever was there, and it then points to the site."""
    found = Seen(decision.wanted(before, ttl), 300)
    target = decision.wanted(after, 60)
    now = Seen({**found.records, **decision.changes(found, target)}, 300)
    assert decision.changes(now, target) == {}
    assert now.addresses == {decision.canonical(one) for one in after}
    assert decision.pointing(now, {"here": sorted(after)}).site == "here"


DNS = {
    "name": "him.example.org.",
    "zone": "example.org",
    "server": "192.0.2.53",
    "key": {"name": "mover", "secret": "dns_update"},
    "addresses": {"north": ["192.0.2.1"]},
}


def test_without_dnspython_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mocked: PyMongo brings dnspython, so there is no environment here without it."""
    monkeypatch.setitem(sys.modules, "dns", None)
    for name in ("dns.exception", "saltext.openhim.cut_over.name_server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import saltext.openhim.cut_over as package

    monkeypatch.delattr(package, "name_server", raising=False)
    pillar = {"openhim": {"cut_over": {"dns": DNS}, "secrets": {"dns_update": "c2VjcmV0"}}}
    with pytest.raises(OpenHIMError, match=r"dnspython on the Salt master.*salt-pip install"):
        declared.way(pillar)


def test_what_is_not_declared_is_told() -> None:
    """No way at all, and no secret on this master."""
    assert not declared.is_declared({"openhim": {}})
    with pytest.raises(Refused, match="openhim:cut_over: found nothing"):
        declared.way({"openhim": {}})
    with pytest.raises(PillarError, match="openhim:secrets:dns_update: found nothing"):
        declared.way({"openhim": {"cut_over": {"dns": DNS}}})


def test_the_defaults_are_those_of_the_reference() -> None:
    """A name's last dot may be there or not."""
    way = declared.way(
        {"openhim": {"cut_over": {"dns": DNS}, "secrets": {"dns_update": "c2VjcmV0"}}}
    )
    assert (way.name, way.port, way.ttl, way.timeout) == ("him.example.org", 53, 60, 5)
    assert way.key.algorithm == "hmac-sha256"
    assert "c2VjcmV0" not in repr(way)
