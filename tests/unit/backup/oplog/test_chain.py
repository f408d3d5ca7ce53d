"""What an archive reaches: exactly where there is no hole, on one history."""

import itertools
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup.oplog import chain, replay, slices
from saltext.openhim.backup.oplog.chain import TimeNotReachable
from saltext.openhim.backup.oplog.slices import Position, Timeline
from saltext.openhim.errors import OpenHIMError

from tests.unit.backup.oplog.made import (
    FIRST,
    SET,
    STACK,
    WALL,
    MemorySlices,
    at,
    header_of,
    numbers,
    slice_of,
    ts,
)

LAST = 30
#: Stretches of an oplog: (first, last), overlapping or not, in any order.
STRETCHES = st.lists(
    st.tuples(st.integers(1, LAST), st.integers(0, 8)).map(lambda p: (p[0], min(LAST, sum(p)))),
    min_size=1,
    max_size=8,
)


def _covered(stretches):
    return {n for first, last in stretches for n in range(first, last + 1)}


def _read(store, plan):
    return [
        number
        for segment in plan.segments
        for number in numbers(replay.read_segment(store, segment))
    ]


@given(STRETCHES, st.integers(0, LAST), st.integers(0, LAST))
def test_a_time_is_reached_if_and_only_if_every_entry_is_there(stretches, base, to):
    store = MemorySlices(*(slice_of(*each) for each in stretches))
    covered = _covered(stretches)
    complete = base <= to and all(n in covered for n in range(base + 1, to + 1))
    # A base is known to be on the history only where the archive has its time.
    known = base in covered or base + 1 in covered
    try:
        plan = chain.plan(store.headers(), SET, base=ts(base), to=ts(to))
    except TimeNotReachable as error:
        assert not (complete and known and base < to)
        assert f"{ts(to).time}.{ts(to).inc}" in str(error)
    else:
        assert complete
        assert [n for n in _read(store, plan) if base < n <= to] == list(range(base + 1, to + 1))


@given(STRETCHES)
def test_ranges_are_the_stretches_without_holes(stretches):
    ranges = chain.reachable([header_of(*each) for each in stretches], SET, FIRST)
    found = {n for each in ranges for n in range(LAST + 1) if each.start < at(n) <= each.end}
    assert found == _covered(stretches)
    assert all(one.end < two.start for one, two in itertools.pairwise(ranges))


@given(STRETCHES, st.data())
def test_the_fewest_slices_are_read_and_no_entry_twice(stretches, data):
    store = MemorySlices(*(slice_of(*each) for each in stretches))
    one = data.draw(st.sampled_from(chain.reachable(store.headers(), SET, FIRST)))
    plan = chain.plan(store.headers(), SET, base=one.start.ts, to=one.end.ts)
    read = _read(store, plan)
    assert read == sorted(set(read))
    names = [segment.header.name for segment in plan.segments]
    assert len(names) == len(set(names))


def test_a_recorded_gap_is_named_and_not_crossed():
    record = slices.gap(STACK, SET, FIRST, at(5), at(9), WALL, "the oplog rolled over")
    headers = [header_of(1, 5), record, header_of(10, 20)]
    with pytest.raises(
        TimeNotReachable, match=r"there is a gap on the way, .*rolled over"
    ) as error:
        chain.plan(headers, SET, base=ts(2), to=ts(12))
    assert [(each.start, each.end) for each in error.value.ranges] == [
        (at(0), at(5)),
        (at(9), at(20)),
    ]
    for each in error.value.ranges:
        assert each.words in str(error.value)
    assert [gap.reason for gap in chain.gaps(headers, SET, FIRST)] == ["the oplog rolled over"]


def test_a_missing_slice_is_a_gap_that_nobody_recorded():
    headers = [header_of(1, 5), header_of(7, 9)]
    assert "nothing is on record" in chain.gaps(headers, SET, FIRST)[0].words
    with pytest.raises(TimeNotReachable, match="a slice is missing"):
        chain.plan(headers, SET, base=ts(2), to=ts(8))


def test_a_gap_at_the_end_counts_before_anything_follows_it():
    record = slices.gap(STACK, SET, FIRST, at(5), at(9), WALL, "rolled over")
    assert [gap.end for gap in chain.gaps([header_of(1, 5), record], SET, FIRST)] == [at(9)]


@pytest.mark.parametrize(
    ("base", "to", "message"),
    [
        (5, 4, "before the restore point"),
        (5, 21, "the archive ends with"),
        (25, 26, "nothing is archived of"),
    ],
)
def test_why_a_time_is_not_reached_is_said(base, to, message):
    with pytest.raises(TimeNotReachable, match=message):
        chain.plan([header_of(1, 20)], SET, base=ts(base), to=ts(to))


def test_the_bases_own_time_needs_no_archive():
    assert chain.plan([], SET, base=ts(5), to=ts(5)).segments == ()


def test_an_empty_archive_and_an_unknown_epoch_are_told_apart():
    with pytest.raises(OpenHIMError, match="it is empty"):
        chain.plan([], SET, base=ts(5), to=ts(6))
    with pytest.raises(OpenHIMError, match=r"nothing of the epoch 3 .* it has the epochs 1"):
        chain.plan([header_of(1, 5)], SET, base=ts(1), to=ts(2), epoch=3)


def test_a_slice_that_was_taken_back_does_not_count():
    headers = [header_of(1, 5), header_of(6, 9)]
    void = slices.void(headers[1], "cut off")
    assert chain.reachable([*headers, void], SET, FIRST)[-1].end == at(5)


def test_slices_of_another_set_do_not_count():
    assert chain.reachable([header_of(1, 5)], "audit", FIRST) == []


def test_a_copy_lacks_what_it_has_neither_by_name_nor_piece_by_piece():
    one, two, three = header_of(1, 3), header_of(4, 6), header_of(7, 9)
    assert chain.not_copied([one, two, three], [one]) == [two, three]
    joined = slices.joined([one, two])
    assert chain.not_copied([joined, three], [one, two]) == [three]
    assert chain.not_copied([joined], [one]) == [joined]
    assert chain.not_copied([one], [joined]) == []


def test_a_copy_gets_what_was_taken_back_as_a_record_and_what_came_instead():
    one, two = header_of(1, 5), header_of(6, 9)
    void = slices.void(two, "cut off")
    assert chain.not_copied([one, two, void], [one]) == [void]
    again = header_of(6, 12)
    assert chain.not_copied([one, two, void, again], [one, two]) == [void, again]


def test_a_copy_does_not_take_another_history_for_its_own():
    other = header_of(1, 5, line=SECOND)
    assert chain.not_copied([other], [header_of(1, 9)]) == [other]


SECOND = Timeline(2, 3, FIRST.key, at(7))


class TestTimelines:
    """Epoch 1 archived 1 to 12; epoch 2 went on from 7."""

    @pytest.fixture
    def headers(self):
        after = slice_of(8, 15, line=SECOND, term=3, previous=at(7))[0]
        return [header_of(1, 5), header_of(6, 10), header_of(11, 12), after]

    def test_the_newest_history_is_followed_and_the_old_ones_end_is_left_out(self, headers):
        plan = chain.plan(headers, SET, base=ts(2), to=ts(14), base_epoch=1)
        assert plan.timeline == SECOND
        assert [(segment.after, segment.until) for segment in plan.segments] == [
            (at(0), at(5)),
            (at(5), at(7)),
            (at(7), at(15, 3)),
        ]

    def test_the_old_history_can_still_be_asked_for(self, headers):
        plan = chain.plan(headers, SET, base=ts(2), to=ts(12), epoch=1)
        assert {segment.header.timeline for segment in plan.segments} == {FIRST}

    def test_a_base_past_the_fork_is_not_on_the_new_history(self, headers):
        with pytest.raises(TimeNotReachable, match="history of epoch 1, which was left at"):
            chain.plan(headers, SET, base=ts(9), to=ts(14), base_epoch=1)

    def test_its_own_time_on_the_new_history_is_not_what_a_base_past_the_fork_shows(self, headers):
        with pytest.raises(TimeNotReachable, match="history of epoch 1, which was left at"):
            chain.plan(headers, SET, base=ts(9), to=ts(9), base_epoch=1)

    @pytest.mark.parametrize("epoch", [2, 3])
    def test_its_own_time_needs_nothing_archived(self, headers, epoch):
        assert chain.plan(headers, SET, base=ts(9), to=ts(9), base_epoch=epoch).segments == ()

    def test_a_base_of_the_new_epoch_is_on_it(self, headers):
        assert chain.plan(headers, SET, base=ts(9), to=ts(14), base_epoch=2).segments

    def test_a_base_of_unknown_epoch_where_both_have_the_time_is_refused(self, headers):
        with pytest.raises(TimeNotReachable, match="was left at"):
            chain.plan(headers, SET, base=ts(9), to=ts(14))

    def test_a_base_of_a_later_epoch_is_not_on_an_older_history(self, headers):
        with pytest.raises(TimeNotReachable, match="of epoch 2, after 1"):
            chain.plan(headers, SET, base=ts(9), to=ts(11), base_epoch=2, epoch=1)

    def test_what_was_left_behind_is_told(self, headers):
        lost = chain.abandoned(headers, SET, SECOND)
        assert [(each.after, each.until) for each in lost] == [(at(7), at(10)), (at(10), at(12))]

    def test_a_fork_within_an_epoch_is_a_timeline_too(self):
        line = Timeline(1, 2, FIRST.key, at(3))
        headers = [header_of(1, 5), slice_of(4, 9, line=line, term=2, previous=at(3))[0]]
        assert chain.timeline_of(headers, SET, 1) == line
        assert chain.reachable(headers, SET, line) == [chain.Range(at(0), at(9, 2))]
        with pytest.raises(TimeNotReachable, match="was left at"):
            chain.plan(headers, SET, base=ts(5), to=ts(8), base_epoch=1)

    def test_a_new_history_without_a_past_does_not_reach_into_the_old_one(self):
        line = Timeline(2, 1)
        headers = [header_of(1, 5), slice_of(20, 25, line=line)[0]]
        with pytest.raises(TimeNotReachable, match="nothing is archived of"):
            chain.plan(headers, SET, base=ts(3), to=ts(22))
        with pytest.raises(TimeNotReachable, match="does not begin with that history"):
            chain.plan(headers, SET, base=ts(21), to=ts(22), base_epoch=1)


def test_what_precedes_is_given_newest_first_without_holes():
    headers = [header_of(1, 2), header_of(4, 5), header_of(6, 8), header_of(9, 12)]
    plan = chain.plan(headers, SET, base=ts(10), to=ts(12))
    assert [segment.after for segment in plan.earlier] == [at(5), at(3)]


def test_overlapping_slices_of_two_histories_are_noticed():
    store = MemorySlices(slice_of(1, 5), slice_of(4, 9, previous=at(3)))
    store.files = dict(store.files)
    (one, two) = sorted(store.headers(), key=lambda header: header.previous)
    wrong = chain.Segment(two, Position(at(5).time, at(5).inc, 7), two.last)
    with pytest.raises(OpenHIMError, match="not of one history"):
        list(replay.read_segment(store, wrong))
    assert numbers(replay.read_segment(store, chain.Segment(two, one.last, two.last))) == [
        6, 7, 8, 9,
    ]  # fmt: skip


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, LAST))
def test_compaction_and_removal_change_nothing_of_what_a_kept_base_reaches(sizes, base):
    headers, first = [], 1
    for size in sizes:
        headers.append(header_of(first, first + size - 1))
        first += size
    end, base = first - 1, min(base, first - 1)
    left = [h for h in headers if h not in chain.unneeded(headers, SET, [ts(base)])]
    for group in chain.compactable(left, SET, until=ts(base), seconds=4):
        assert all(header.last.ts <= ts(base) for header in group)
        left = [h for h in left if h not in group] + [slices.joined(group)]
    if base < end:
        before = chain.plan(headers, SET, base=ts(base), to=ts(end))
        after = chain.plan(left, SET, base=ts(base), to=ts(end))
        assert before.segments[-1].until == after.segments[-1].until
        # A transaction may have begun in the slice before the base's.
        assert bool(before.earlier) <= bool(after.earlier) or base in (0, 1)
    assert any(header.last == at(end) for header in left)


def test_without_a_restore_point_nothing_is_unneeded():
    assert chain.unneeded([header_of(1, 5)], SET, []) == []


def test_a_damaged_slice_is_gone_round_where_others_have_its_entries():
    good, (bad, data) = slice_of(1, 5), slice_of(3, 9)
    store = MemorySlices(good, (bad, data[:-3]), slice_of(6, 9))
    plan, damaged = replay.sound_plan(store, store.headers(), SET, base=ts(2), to=ts(8))
    assert damaged == [bad.name]
    assert bad not in [segment.header for segment in plan.segments]


def test_a_damaged_slice_without_another_is_refused_before_anything_is_replayed():
    good, (bad, data) = slice_of(1, 5), slice_of(6, 9)
    store = MemorySlices(good, (bad, data[:-3]))
    with pytest.raises(TimeNotReachable, match="is cut off"):
        replay.sound_plan(store, store.headers(), SET, base=ts(2), to=ts(8))


def test_a_month_of_slices_is_planned_in_seconds():
    headers = [header_of(1, 1)]
    one = headers[0]
    for number in range(2, 43_000):
        headers.append(replace(one, previous=at(number - 1), first=at(number), last=at(number)))
    begun = time.process_time()
    plan = chain.plan(headers, SET, base=ts(20_000), to=ts(42_000))
    assert (len(plan.segments), len(plan.earlier)) == (22_000, 20_000)
    assert time.process_time() - begun < 20


def test_the_rpo_is_that_of_what_is_archived_and_a_gap_is_not():
    now = WALL + timedelta(seconds=100)
    record = slices.gap(STACK, SET, FIRST, at(5), at(9), now, "rolled over")
    assert chain.rpo_seconds([header_of(1, 5), record], SET, now) == 95
    assert chain.rpo_seconds([record], SET, now) is None


def test_a_damaged_slice_of_the_new_history_does_not_lead_back_to_the_old_one():
    old, (bad, data) = slice_of(1, 12), slice_of(8, 15, line=SECOND, term=3, previous=at(7))
    store = MemorySlices(old, (bad, data[:-3]))
    with pytest.raises(TimeNotReachable, match=r"cut off.*no other slice has the same entries"):
        replay.sound_plan(store, store.headers(), SET, base=ts(2), to=ts(10), base_epoch=1)
