"""How the backups are: the judgement, from observations alone."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from saltext.openhim.backup import points, status
from saltext.openhim.backup.bundle import Bundle
from saltext.openhim.backup.status import Judgement, Limits, Seen

from .restore_points import NOW as TODAY
from .restore_points import point, record
from .test_schedule import backups

NOW = 1_800_000_000.0
LIMITS = Limits(max_age=3600, max_unverified=86400)
GOOD = {
    "points": 3,
    "newest": NOW - 60,
    "newest_id": "new",
    "verified": NOW - 600,
    "verified_id": "v",
}


def judged(**changes):
    return status.judge_repository(Seen(**{**GOOD, **changes}), LIMITS, NOW)


def test_a_young_and_verified_restore_point_is_ok():
    assert (judged().state, judged().reasons) == ("ok", [])


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({"error": "connection refused"}, "unknown", "could not be looked at: connection refused"),
        ({"newest": None, "points": 0, "verified": None}, "failing", "it holds no restore point"),
        (
            {"newest": NOW - 8000},
            "failing",
            "restore point new shows what was 2 hours ago, allowed are 60 minutes",
        ),
        ({"newest": NOW + 3000}, "failing", "restore point new is of the future: set the clocks"),
        ({"future": ["late"]}, "degraded", "the restore point late is of the future"),
        ({"verified": None}, "degraded", "none of its restore points was ever verified"),
        (
            {"verified": NOW - 200_000},
            "degraded",
            "verified restore point v shows what was 2 days ago",
        ),
        ({"failed_verification": "counts differ"}, "failing", "did not verify: counts differ"),
        ({"broken": ["a part is gone"]}, "degraded", "cannot be used: a part is gone"),
        ({"unreadable": 2}, "degraded", "2 of its snapshots cannot be read"),
    ],
)
def test_everything_else_is_told(changes, state, reason):
    found = judged(**changes)
    assert found.state == state
    assert any(reason in each for each in found.reasons), found.reasons


HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BAD = record(ok=False, reasons=("counts differ",))


def looked(*known):
    """What a repository with these restore points, the oldest first, is judged to be."""
    found = status.seen(points.Listing(points=known), TODAY)
    return status.judge_repository(found, Limits(86400, 604800), TODAY.timestamp())


def test_a_newer_point_that_nobody_judged_does_not_hide_that_the_last_ones_were_bad():
    good, young = point(2 * DAY, record()), point(timedelta(minutes=5))
    assert looked(good, young).state == "ok"
    found = looked(good, point(DAY, BAD), point(3 * HOUR, BAD), young)
    assert found.state == "failing"
    assert "20261122T090000Z-000000 (counts differ)" in found.reasons[0]
    sampled = point(2 * HOUR, record(sampled=True))
    assert looked(good, point(3 * HOUR, BAD), sampled, young).state == "failing"
    assert looked(good, point(3 * HOUR, BAD), point(HOUR, record()), young).state == "ok"


def test_a_look_never_raises_whatever_is_in_a_repository(monkeypatch):
    def listing(*_):
        raise KeyError("nobody has foreseen this")

    monkeypatch.setattr(points, "listing", listing)
    near = backups("south-db1")
    near.pillar["openhim"]["secrets"] = {"near": "key"}
    found = status.look(near, "near")
    assert found.error == "KeyError: 'nobody has foreseen this'"
    assert status.judge_repository(found, LIMITS, NOW).state == "unknown"


def test_a_point_of_the_future_is_told_and_counts_for_nothing():
    forged, old = point(-DAY, record()), point(3 * DAY, record())
    found = looked(old, forged)
    assert found.state == "failing"
    assert found.figures["newest"] == found.figures["verified"] == old.id
    assert any(f"{forged.id} is of the future" in reason for reason in found.reasons)
    assert looked(forged).figures["newest"] is None
    assert looked(point(-timedelta(minutes=4), record())).state == "ok", "clocks differ a little"
    assert points.newest([old, forged], TODAY) == old


def test_the_age_is_that_of_the_data_and_not_that_of_the_run():
    """A member that is cut off shows the same moment every hour."""
    stale = [point(n * HOUR, record(), of=3 * DAY) for n in (2, 1, 0)]
    found = looked(*stale)
    assert found.state == "failing"
    assert "shows what was 3 days ago, allowed are 24 hours" in found.reasons[0]
    better = point(4 * HOUR, record())
    assert points.newest([better, *stale], TODAY) == better
    ahead = point(3 * DAY, of=-DAY)
    assert ahead.as_of == (TODAY - 3 * DAY).timestamp(), "a server's clock makes nothing younger"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["ok", "ok"], "ok"),
        (["ok", "unknown"], "degraded"),
        (["ok", "failing"], "degraded"),
        (["degraded", "failing"], "degraded"),
        (["unknown", "failing"], "failing"),
        (["unknown", "unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_one_good_repository_is_no_failure_and_none_is_no_success(states, expected):
    judgements = {str(number): Judgement(state) for number, state in enumerate(states)}
    assert status.judge(judgements).state == expected


def test_a_host_that_does_not_answer_makes_the_stack_no_better_than_unknown():
    found = status.fleet(
        {"a": {"state": "ok", "reasons": []}, "b": {"state": "unknown", "reasons": ["silent"]}}
    )
    assert found["state"] == "unknown"
    assert found["reasons"] == ["b: silent"]
    assert "b     ?           unknown" in status.table({"stack": "example", **found})


class TestWhatWasSaidLast:
    at = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)

    @pytest.fixture
    def file(self, tmp_path):
        path = str(tmp_path / "kept" / "status.json")
        status.keep({"state": "ok", "reasons": [], "at": self.at.isoformat()}, path)
        return path

    def test_counts_while_it_is_young(self, file):
        assert status.kept(60, self.at + timedelta(seconds=59), file)["state"] == "ok"

    def test_is_unknown_when_nobody_has_looked_for_too_long(self, file):
        found = status.kept(60, self.at + timedelta(hours=3), file)
        assert found["state"] == "unknown"
        assert "nobody has looked at the backups for 3 hours; then they were ok" in found["reasons"]

    def test_is_unknown_when_it_is_of_the_future(self, file):
        assert status.kept(60, self.at - timedelta(minutes=4), file)["state"] == "ok"
        found = status.kept(60, self.at - timedelta(minutes=6), file)
        assert found["state"] == "unknown"
        assert "2026-01-31T12:00:00+00:00, which is in the future" in found["reasons"][0]

    def test_is_unknown_when_nobody_ever_looked(self, tmp_path):
        assert status.kept(60, self.at, str(tmp_path / "none"))["state"] == "unknown"

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "ok"}', json.dumps({"at": 5})])
    def test_is_unknown_when_it_cannot_be_read(self, tmp_path, text):
        path = tmp_path / "status.json"
        path.write_text(text)
        assert status.kept(60, self.at, str(path))["state"] == "unknown"


def test_metrics_are_what_prometheus_reads():
    found = {
        "stack": "example",
        "state": "degraded",
        "at": "2026-01-31T12:00:00+00:00",
        "repositories": {"near": {"state": "ok", "figures": judged().figures}},
    }
    lines = status.metrics(found).splitlines()
    assert 'openhim_backup_state{stack="example",state="degraded"} 1' in lines
    assert 'openhim_backup_state{stack="example",state="ok"} 0' in lines
    assert 'openhim_backup_newest_age_seconds{stack="example",repository="near"} 60' in lines
    assert 'openhim_backup_looked_at_seconds{stack="example"} 1769860800' in lines
    names = [line.split("{")[0] for line in lines if not line.startswith("#")]
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert set(names) == typed


NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)


def stored(hours, epoch=0):
    return Bundle("near", NOON - timedelta(hours=hours), "3008.1", epoch, "s")


@pytest.mark.parametrize(
    ("bundles", "epoch", "state", "reasons"),
    [
        ([], 0, "failing", ["it holds no start bundle"]),
        ([stored(1)], 0, "ok", []),
        ([stored(47)], 0, "ok", []),
        ([stored(73)], 0, "degraded", ["the newest is 3 days old, allowed are 2 days"]),
        ([stored(1)], 1, "degraded", ["the newest is of epoch 0, and it is now 1"]),
        ([stored(1, epoch=1)], 1, "ok", []),
        # One of the future is none of today.
        ([stored(-1)], 0, "failing", ["it holds no start bundle"]),
        ([stored(2), stored(-1)], 0, "ok", []),
    ],
)
def test_a_start_bundle_is_young_and_knows_the_newest_recovery(bundles, epoch, state, reasons):
    found = status.judge_bundles(bundles, 86400, epoch, NOON)
    assert (found.state, found.reasons) == (state, reasons)
