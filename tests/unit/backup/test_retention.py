"""Which restore points stay: the policy, the floor, and what no clock and no attacker may change."""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup.retention import Candidate, Policy, decide, unneeded_slices
from saltext.openhim.errors import OpenHIMError, Refused

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def at(hours, verified=False):
    return Candidate(f"-{hours}h", NOW - timedelta(hours=hours), verified)


@st.composite
def histories(draw):
    """Points of up to three years, some of them verified, some of the future."""
    minutes = draw(st.lists(st.integers(-3000, 3 * 365 * 24 * 60), max_size=40))
    return [
        Candidate(f"{number:03d}", NOW - timedelta(minutes=ago), draw(st.booleans()))
        for number, ago in enumerate(minutes)
    ]


counts = st.integers(0, 5)
policies = st.tuples(counts, counts, counts, counts, counts, counts).filter(any)


@given(histories(), policies, st.integers(0, 4))
def test_whatever_the_history_the_floor_holds_and_nothing_is_lost_count_of(points, policy, floor):
    decision = decide(points, Policy(*policy), minimum_verified=floor, now=NOW)
    assert set(decision.keep) | set(decision.remove) == {point.id for point in points}
    assert not set(decision.keep) & set(decision.remove)
    usable = [point for point in points if point.time <= NOW + timedelta(minutes=5)]
    verified = {point.id for point in usable if point.verified}
    assert len(verified & set(decision.keep)) >= min(floor, len(verified))
    assert bool(decision.held) == (len(verified) < floor)
    if usable:
        newest = max(usable, key=lambda point: (point.time, point.id))
        assert newest.id in decision.keep
    if decision.held:
        assert not decision.remove


@given(histories(), policies)
def test_deciding_again_on_what_was_kept_removes_no_more(points, policy):
    first = decide(points, Policy(*policy), now=NOW)
    kept = [point for point in points if point.id in first.keep]
    assert decide(kept, Policy(*policy), now=NOW).remove == ()


@given(histories(), policies, st.lists(st.integers(1, 10_000), max_size=30))
def test_points_of_the_future_push_no_other_out(points, policy, minutes):
    real = [point for point in points if point.time <= NOW]
    planted = [
        Candidate(f"planted-{n}", NOW + timedelta(minutes=5 + ahead), verified=True)
        for n, ahead in enumerate(minutes)
    ]
    alone = decide(real, Policy(*policy), now=NOW)
    among = decide([*real, *planted], Policy(*policy), now=NOW)
    assert among.remove == alone.remove


def test_one_point_per_period_stays_the_newest_verified_one():
    points = [at(0), at(1), at(2, verified=True), at(3), at(30), at(31)]
    decision = decide(points, Policy(daily=7), now=NOW)
    assert decision.keep == {
        "-0h": ("newest",),
        "-2h": ("daily",),
        "-30h": ("daily",),
    }
    assert decision.remove == ("-31h", "-3h", "-1h")


def test_each_rule_keeps_its_own():
    points = [at(24 * day, verified=day == 0) for day in range(800)]
    decision = decide(points, Policy(last=2, daily=3, weekly=3, monthly=3, yearly=3), now=NOW)
    kept = [point.time.date().isoformat() for point in points if point.id in decision.keep]
    assert kept == [
        "2026-11-22",  # newest, last, daily, weekly (its Sunday), monthly, yearly
        "2026-11-21",  # last, daily
        "2026-11-20",  # daily
        "2026-11-15",  # weekly
        "2026-11-08",  # weekly
        "2026-10-31",  # monthly
        "2026-09-30",  # monthly
        "2025-12-31",  # yearly
        "2024-12-31",  # yearly
    ]


def test_a_week_of_two_years_is_one_week():
    monday, friday = (datetime(*day, tzinfo=timezone.utc) for day in ((2025, 12, 29), (2026, 1, 2)))
    points = [Candidate("monday", monday), Candidate("friday", friday, verified=True)]
    assert decide(points, Policy(weekly=2), now=NOW).remove == ("monday",)


def test_with_too_few_verified_points_nothing_is_removed():
    decision = decide(
        [at(1), at(2), at(3, verified=True)], Policy(last=1), minimum_verified=2, now=NOW
    )
    assert decision.remove == ()
    assert "only 1 of at least 2 verified restore points exist" in decision.held


def test_the_floor_keeps_the_newest_verified_points():
    points = [at(1), at(2), at(3, verified=True), at(4, verified=True), at(5, verified=True)]
    decision = decide(points, Policy(last=1), minimum_verified=2, now=NOW)
    assert decision.remove == ("-5h", "-2h")
    assert decision.keep["-4h"] == ("minimum of verified points",)


def test_protected_points_stay():
    decision = decide(
        [at(1), at(2), at(3)], Policy(last=1), minimum_verified=0, now=NOW, protected={"-3h"}
    )
    assert (decision.remove, decision.keep["-3h"]) == (("-2h",), ("protected",))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({}, "keeps nothing; give at least one of keep-last"),
        ({"keep-last": 0}, "keeps nothing"),
        ({"keep-last": -1}, "keep-last is -1; expected a whole number"),
        ({"keep-daily": True}, "keep-daily is True"),
        ({"keep-daily": "7"}, "keep-daily is '7'"),
        ({"keep-dayly": 7}, "unknown in the retention policy: keep-dayly; known are keep-last"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy, message):
    with pytest.raises(OpenHIMError, match=message):
        Policy.from_mapping(policy)


def test_a_policy_comes_from_a_mapping():
    assert Policy.from_mapping({"keep-last": 3, "keep-yearly": 2}) == Policy(last=3, yearly=2)


@dataclass
class Slice:
    id: str
    replica_set: str
    first: tuple[int, int]
    last: tuple[int, int]


def test_only_slices_that_end_before_every_kept_point_are_unneeded():
    slices = [
        Slice("before", "main", (1, 0), (10, 0)),
        Slice("up to it", "main", (10, 0), (20, 5)),
        Slice("across", "main", (20, 5), (30, 0)),
        Slice("after", "main", (30, 0), (40, 0)),
        Slice("of the audit set", "audit", (1, 0), (10, 0)),
    ]
    kept = [{"main": (35, 0), "audit": (5, 0)}, {"main": (20, 5), "audit": (5, 0)}]
    assert unneeded_slices(slices, kept) == ["before", "up to it"]
    with pytest.raises(Refused, match="no kept restore point holds the replica set audit"):
        unneeded_slices(slices, [{"main": (20, 5)}])
    with pytest.raises(Refused):
        unneeded_slices(slices, [])
    assert unneeded_slices([], []) == []


def test_what_was_kept_aside_stays_for_its_time_and_takes_nobodys_place():
    """A spoilt state must not push out the good one of the same day, nor be the newest."""
    aside = [Candidate(f"aside-{h}h", NOW - timedelta(hours=h), True, aside=True) for h in (0, 30)]
    points = [at(1), at(25, verified=True), *aside]
    for days, gone in ((2, set()), (1, {"aside-30h"})):
        keep = timedelta(days=days)
        decision = decide(points, Policy(daily=2), now=NOW, keep_aside=keep)
        assert set(decision.remove) == gone
        assert decision.keep["aside-0h"] == ("kept aside",)
        assert "newest" in decision.keep["-1h"]
    only = decide(aside, Policy(last=1), now=NOW, keep_aside=timedelta(days=1))
    assert only.held, "what is kept aside is no verified backup"
    assert only.remove == ()
