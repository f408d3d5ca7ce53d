"""What a replay will read is read before, so that it ends before anything is written."""

import pytest
from saltext.openhim.backup.oplog import replay
from saltext.openhim.backup.oplog.chain import TimeNotReachable

from tests.unit.backup.oplog.made import SET, MemorySlices, entry, slice_of, ts
from tests.unit.backup.oplog.test_transactions import _chain

#: A transaction of three entries: the first before the base at 5, the last after it.
PIECES, _ = _chain(4, [1, 1, 1])


def _slice(first, last, pieces=PIECES):
    begun = {4 + number: bytes(piece.raw) for number, piece in enumerate(pieces)}
    numbers = range(first, last + 1)
    return slice_of(first, last, entries=[begun.get(number) or entry(number) for number in numbers])


BEFORE, AFTER = _slice(1, 5), _slice(6, 9)


def _cut(made):
    header, data = made
    return header, data[:-3]


def _sound(*made, to=8):
    store = MemorySlices(*made)
    return replay.sound_plan(store, store.headers(), SET, base=ts(5), to=ts(to))


def test_a_damaged_slice_in_which_a_transaction_began_is_found_before_anything_is_replayed():
    with pytest.raises(TimeNotReachable, match=r"began before what the archive has.*is cut off"):
        _sound(_cut(BEFORE), AFTER)


def test_it_is_gone_round_where_others_have_its_entries():
    other = _slice(3, 5)
    plan, damaged = _sound(_cut(BEFORE), other, AFTER)
    assert damaged == [BEFORE[0].name]
    assert [segment.header for segment in plan.earlier] == [other[0]]


def test_a_transaction_whose_beginning_is_not_archived_is_found_too():
    with pytest.raises(TimeNotReachable, match="began before what the archive has"):
        _sound(_slice(5, 5), AFTER)


@pytest.mark.parametrize(
    ("after", "to"),
    [
        (slice_of(6, 9), 8),  # no transaction at all
        (_slice(6, 9, _chain(6, [1, 1])[0]), 8),  # one that began after the base
        (_slice(6, 9, _chain(4, [1] * 4)[0]), 6),  # it is committed after the time that is wanted
    ],
)
def test_what_is_not_needed_is_not_read(after, to):
    store = MemorySlices(_cut(BEFORE), after)
    store.get = lambda name: pytest.fail(name) if name == BEFORE[0].name else get(name)
    get = MemorySlices(after).get
    _, damaged = replay.sound_plan(store, store.headers(), SET, base=ts(5), to=ts(to))
    assert damaged == []
