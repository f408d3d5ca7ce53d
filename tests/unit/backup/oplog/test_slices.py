"""A slice is what its header says, or reading it fails."""

import io
from dataclasses import replace
from datetime import datetime, timezone

import bson
import pytest
from bson import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup.digest import Digest
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.slices import (
    Collector,
    DamagedSlice,
    Header,
    Position,
    Timeline,
)
from saltext.openhim.backup.oplog.store import LocalSlices, compact
from saltext.openhim.errors import OpenHIMError

from tests.unit.backup.oplog.made import (
    FIRST,
    SET,
    WALL,
    MemorySlices,
    at,
    entry,
    header_of,
    numbers,
    slice_of,
)

U32 = st.integers(0, 2**32 - 1)
POSITIONS = st.builds(Position, U32, U32, st.integers(-1, 2**31))
LINES = st.builds(
    Timeline,
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.none() | st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)),
    st.none() | POSITIONS,
)


def _header(**values):
    defaults = {
        "stack": "test",
        "replica_set": "openhim",
        "timeline": FIRST,
        "previous": at(1),
        "last": at(2),
        "last_wall": WALL,
    }
    return Header(**{**defaults, **values})


@given(st.text(min_size=1), LINES, POSITIONS, POSITIONS, st.integers(0, 2**60), st.integers(0, 9))
def test_a_header_comes_back_as_it_was_written(name, line, previous, last, size, attempt):
    header = _header(
        replica_set=name, timeline=line, previous=previous, last=last, size=size, attempt=attempt
    )
    assert Header.decode(header.encode()) == header


@given(st.lists(st.tuples(st.integers(0, 9999), U32, U32), min_size=2, unique=True))
def test_names_sort_as_epochs_and_times_do(places):
    def made(place):
        epoch, time, inc = place
        return _header(timeline=Timeline(epoch, 1), previous=Position(time, inc, 1)).name

    assert sorted(map(made, places)) == [made(place) for place in sorted(places)]


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_names_of_different_sets_differ_and_are_file_names(one, two):
    names = [_header(replica_set=each).name for each in (one, two)]
    assert (names[0] == names[1]) == (one == two)
    assert not any("/" in name or name.startswith(".") for name in names)


def test_what_goes_in_comes_out():
    header, data = slice_of(5, 9)
    assert (header.previous, header.first, header.last, header.count) == (at(4), at(5), at(9), 5)
    assert numbers(slices.read(io.BytesIO(data), header)) == [5, 6, 7, 8, 9]


class _Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a pipe does."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def read(self, size=-1):
        return self.data.read(min(size, 7))


def test_a_stream_may_give_less_than_it_was_asked_for():
    header, data = slice_of(5, 9)
    assert numbers(slices.read(_Dribble(data), header)) == [5, 6, 7, 8, 9]


HEADER, DATA = slice_of(1, 6)


@given(st.integers(0, len(DATA) - 1))
def test_a_slice_cut_off_anywhere_is_damaged(length):
    with pytest.raises(DamagedSlice):
        slices.verify(io.BytesIO(DATA[:length]), HEADER)


@given(st.integers(len(HEADER.encode()), len(DATA) - 1), st.integers(0, 7))
def test_one_flipped_bit_in_the_entries_is_damage(at_byte, bit):
    flipped = bytearray(DATA)
    flipped[at_byte] ^= 1 << bit
    with pytest.raises(DamagedSlice):
        slices.verify(io.BytesIO(bytes(flipped)), HEADER)


@given(st.integers(0, len(HEADER.encode()) - 1), st.integers(0, 7))
def test_one_flipped_bit_in_the_header_is_not_taken_for_another_slice(at_byte, bit):
    flipped = bytearray(DATA)
    flipped[at_byte] ^= 1 << bit
    with pytest.raises(OpenHIMError):
        slices.verify(io.BytesIO(bytes(flipped)), HEADER)


def test_more_than_the_header_says_is_damage():
    with pytest.raises(DamagedSlice, match="expected 6 entries"):
        slices.verify(io.BytesIO(DATA + entry(7)), HEADER)


def test_entries_in_another_order_are_damage():
    head, one, two = HEADER.encode(), entry(1), entry(2)
    with pytest.raises(DamagedSlice, match="begins with"):
        slices.verify(io.BytesIO(head + two + one), HEADER)


def test_an_entry_twice_is_damage_whatever_the_digest_says():
    digest = Digest()
    digest.update([entry(1), entry(1), entry(2)])
    header = replace(header_of(1, 2), count=3, size=digest.bytes, digest=digest.hex())
    with pytest.raises(DamagedSlice, match="comes after"):
        slices.verify(io.BytesIO(header.encode() + entry(1) + entry(1) + entry(2)), header)


def test_another_slice_in_its_place_is_damage():
    with pytest.raises(DamagedSlice, match="holds another slice"):
        slices.verify(io.BytesIO(DATA), header_of(1, 5))


def test_a_newer_format_is_refused_by_name():
    data = replace(HEADER, format=slices.FORMAT + 1).encode()
    with pytest.raises(OpenHIMError, match=r"has the format 2, .* reads up to 1"):
        Header.decode(data)


def test_what_is_no_slice_at_all_is_said_to_be_none():
    with pytest.raises(DamagedSlice, match="no oplog slice"):
        Header.decode(bson.encode({"format": 1}))
    with pytest.raises(DamagedSlice, match="is empty"):
        slices.read_header(io.BytesIO(b""))


def test_a_slice_that_was_taken_back_has_another_name_when_it_is_archived_again():
    known, names = [HEADER], {HEADER.name}
    for _ in range(3):
        again = slices.under_a_free_name(HEADER, known)
        assert again.name not in names or again == HEADER
        known += [again, slices.void(again, "cut off")]
        names |= {each.name for each in known}
    assert len(names) == 6
    assert chain.usable(known, SET) == []
    good = slices.under_a_free_name(HEADER, known)
    assert chain.usable([*known, good], SET) == [good]


def test_entries_must_follow_each_other():
    collected = Collector(at(3))
    collected.add(entry(4))
    for wrong in (entry(4), entry(4, term=2), entry(3), entry(5, term=0)):
        with pytest.raises(DamagedSlice, match="after"):
            collected.add(wrong)


def test_a_moment_is_before_all_of_its_second():
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    assert slices.moment(moment) < Timestamp(int(moment.timestamp()), 1)
    with pytest.raises(OpenHIMError, match="has no zone"):
        slices.moment(datetime(2026, 1, 1))


def test_slices_of_another_stack_are_refused():
    with pytest.raises(OpenHIMError, match="slices of another stack, test"):
        slices.check_stack([HEADER], "production")


class TestFolder:
    def test_a_slice_is_there_whole_or_not_at_all(self, tmp_path):
        store = LocalSlices(tmp_path)

        def failing():
            yield DATA[:50]
            raise RuntimeError("died")

        with pytest.raises(RuntimeError):
            store.put(HEADER, failing())
        assert list(tmp_path.iterdir()) == []
        store.put(HEADER, [DATA])
        assert store.headers() == [HEADER]
        with store.get(HEADER.name) as stream:
            assert stream.read() == DATA
        assert (tmp_path / HEADER.name).stat().st_mode & 0o777 == 0o600

    def test_a_folder_that_is_away_says_so(self, tmp_path):
        store = LocalSlices(tmp_path / "gone")
        for call in (store.headers, lambda: store.put(HEADER, [DATA]), lambda: store.get("x")):
            with pytest.raises(OpenHIMError, match="No such file or directory"):
                call()

    def test_removing_twice_is_no_error(self, tmp_path):
        store = LocalSlices(tmp_path)
        store.put(HEADER, [DATA])
        store.remove([HEADER.name])
        store.remove([HEADER.name])
        assert store.headers() == []


class TestCompaction:
    def test_several_become_one_with_the_same_entries(self):
        files = [slice_of(1, 3), slice_of(4, 4), slice_of(5, 9)]
        store = MemorySlices(*files)
        joined = compact(store, [header for header, _ in files])
        assert list(store.files) == [joined.name]
        assert (joined.previous, joined.first, joined.last) == (at(0), at(1), at(9))
        assert numbers(slices.read(store.get(joined.name), joined)) == list(range(1, 10))

    def test_a_hole_is_not_bridged(self):
        files = [slice_of(1, 3), slice_of(5, 9)]
        store = MemorySlices(*files)
        with pytest.raises(OpenHIMError, match="only neighbours"):
            compact(store, [header for header, _ in files])
        assert len(store.files) == 2

    def test_what_was_joined_before_and_taken_back_is_no_obstacle(self):
        files = [slice_of(1, 3), slice_of(4, 9)]
        run = [header for header, _ in files]
        taken_back = slices.void(slices.joined(run), "cut off")
        store = MemorySlices(*files, (taken_back, taken_back.encode()))
        compact(store, run)
        assert chain.reachable(store.headers(), SET, FIRST) == [chain.Range(at(0), at(9))]

    def test_nothing_is_removed_when_a_source_is_damaged(self):
        one, (header, data) = slice_of(1, 3), slice_of(4, 9)
        store = MemorySlices(one, (header, data[:-5]))
        with pytest.raises(DamagedSlice):
            compact(store, [one[0], header])
        assert {one[0].name, header.name} == set(store.files)
