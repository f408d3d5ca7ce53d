"""How the archive is, from headers and from what archivers say; and what is joined in it."""

import re
from datetime import timedelta

import pytest
from bson import Timestamp
from saltext.openhim.backup import status
from saltext.openhim.backup.oplog import archiving, health, slices, tidy
from saltext.openhim.backup.oplog.archiver import Status
from saltext.openhim.backup.oplog.health import Seen

from tests.unit.backup.oplog.made import FIRST, SET, STACK, WALL, at, header_of, ts

ONE, TWO, LATER = header_of(1, 3), header_of(4, 9), header_of(20, 25)
GAP = slices.gap(STACK, SET, FIRST, at(9), at(19), WALL, "the oplog rolled over")
NOW = WALL + timedelta(seconds=25 + 30)


def test_a_whole_archive_is_well_and_says_what_it_reaches():
    found = health.reach([ONE, TWO], SET, WALL + timedelta(seconds=19))
    assert (found.behind_seconds, found.gaps) == (10.0, [])
    (reachable,) = found.reachable
    assert "1000.1" in reachable and "1004.2" in reachable
    assert health.reasons(found, 60, ts(0)) == []


@pytest.mark.parametrize(
    ("headers", "base", "max_behind", "reason"),
    [
        ([], 5, 60, "nothing is archived"),
        ([ONE, TWO, LATER], 21, 20, "is 30 s old, allowed are 20"),
        ([ONE, TWO, GAP, LATER], 5, 60, "no restore point was taken since .*the oplog rolled over"),
        ([ONE, TWO, LATER], 5, 60, "no restore point was taken since .*a slice is missing"),
        ([ONE, TWO, LATER], None, 60, "no restore point was taken since"),
    ],
)
def test_what_is_late_missing_or_cut_off_is_told(headers, base, max_behind, reason):
    found = health.reach(headers, SET, NOW)
    (said,) = health.reasons(found, max_behind, None if base is None else ts(base))
    assert re.search(reason, said), said


@pytest.mark.parametrize(
    ("behind", "reasons"),
    [
        (None, ["nothing is copied"]),
        (700.0, ["what was copied last is 700 s old, allowed are 600"]),
        (600.0, []),
    ],
)
def test_a_copy_that_is_late_or_empty_is_told(behind, reasons):
    assert health.copy_reasons(behind, 600) == reasons


def test_a_gap_that_a_restore_point_was_taken_after_is_history():
    found = health.reach([ONE, TWO, GAP, LATER], SET, NOW)
    assert health.reasons(found, 60, ts(21)) == []
    assert len(found.gaps) == 1


@pytest.mark.parametrize(
    ("status", "alive", "state"),
    [
        (Status(timeline=FIRST, rpo_seconds=5.0), True, archiving.ARCHIVING),
        (Status(timeline=FIRST, rpo_seconds=500.0), True, archiving.BEHIND),
        (Status(timeline=FIRST, rpo_seconds=5.0, error="away"), True, archiving.BEHIND),
        (Status(timeline=FIRST, rpo_seconds=5.0), False, archiving.STOPPED),
    ],
)
def test_what_an_archiver_says(status, alive, state):
    assert archiving.said_by(status, alive, 180)["state"] == state


@pytest.mark.parametrize(
    ("seen", "before", "state"),
    [
        (Seen({}), "ok", "ok"),
        (Seen({}, ["late"]), "ok", "degraded"),
        (Seen({}, ["nobody speaks"], silent=True), "ok", "unknown"),
        (Seen({}), "failing", "failing"),
    ],
)
def test_an_archive_that_is_not_well_makes_the_state_no_ok(seen, before, state):
    found = status.with_oplog({"state": before, "reasons": []}, seen)
    assert found["state"] == state
    assert found["reasons"] == [f"oplog archive: {reason}" for reason in seen.reasons]


def test_metrics_tell_how_far_each_set_is_behind():
    sets = {"rs": {"behind_seconds": 12.5}, "new": {"behind_seconds": None}}
    found = status.metrics({"stack": "s", "state": "ok", "oplog": {"sets": sets}})
    assert 'openhim_backup_oplog_behind_seconds{stack="s",set="rs"} 12.5' in found
    assert 'set="new"' not in found


def test_hours_that_are_over_become_one_slice_and_old_days_too():
    """Two entries a second here, so an hour has 7200 and a day 172800 of them."""
    hour, day = 7200, 172800
    first = 8 * day
    headers = [header_of(first + n, first + n, entries=None) for n in range(6 * hour, 6 * hour + 3)]
    last = headers[-1].last.ts
    assert list(tidy._groups(headers, SET, last)) == []
    next_hour = Timestamp(last.time + tidy.HOUR, 1)
    assert list(tidy._groups(headers, SET, next_hour)) == [headers]
    days_later = Timestamp(last.time + 4 * tidy.DAY, 1)
    assert list(tidy._groups(headers, SET, days_later)) == [headers]
