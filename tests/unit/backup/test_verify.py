"""What a verification decides, from figures alone."""

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup import manifest as manifests
from saltext.openhim.backup import scratch, verify
from saltext.openhim.backup.manifest import Manifest, Namespace, ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.repository import Damaged
from saltext.openhim.backup.verification import Verification
from saltext.openhim.errors import Refused

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
WEEK = timedelta(days=7)
INDEXES = [
    {"v": 2, "key": {"_id": 1}, "name": "_id_"},
    {"v": 2, "key": {"a": 1, "b": -1}, "name": "a_b", "unique": True},
]
NAMESPACE = Namespace(
    "openhim",
    "channels",
    "collection",
    5,
    500,
    "ab",
    options=manifests.extended_json({"collation": {"locale": "fr"}}),
    indexes=manifests.extended_json(INDEXES),
)


def _point(hour, *verifications):
    """A restore point; its verifications as (age, ok) or (age, ok, sampled)."""
    point_id = f"20261122T{hour:02}0000Z-000000"
    manifest = Manifest("test", point_id, 0, (), (), (), "", "", "", "", "", 0)
    return RestorePoint(
        manifest,
        "",
        "",
        tuple(
            Verification(
                point_id, "test", "", ok, manifests.utc(NOW - age), "", "", sampled=any(sampled)
            )
            for age, ok, *sampled in verifications
        ),
    )


RECENTLY, LONG_AGO = timedelta(hours=1), timedelta(days=8)


@pytest.mark.parametrize(
    ("points", "chosen"),
    [
        ([], None),
        ([_point(1), _point(2)], 2),
        ([_point(1), _point(2, (RECENTLY, True))], None),
        ([_point(1, (RECENTLY, True)), _point(2)], 2),
        ([_point(1), _point(2, (RECENTLY, False))], 1),
        ([_point(1, (RECENTLY, True)), _point(2, (RECENTLY, False))], None),
        ([_point(1, (RECENTLY, False)), _point(2, (RECENTLY, False))], None),
        ([_point(1), _point(2, (LONG_AGO, True))], 2),
        ([_point(1), _point(2, (LONG_AGO, False))], 2),
        ([_point(1), _point(2, (LONG_AGO, False), (RECENTLY, True))], None),
    ],
)
def test_due_is_the_newest_that_nobody_looked_at_lately(points, chosen):
    found = verify.due(points, NOW, WEEK)
    assert (found and found.time.hour) == chosen


@pytest.mark.parametrize(
    ("points", "whole", "sampled"),
    [
        ([_point(1), _point(2, (RECENTLY, True, True))], 2, None),
        ([_point(1, (RECENTLY, True)), _point(2, (RECENTLY, True, True))], 2, None),
        ([_point(1), _point(2, (RECENTLY, True), (RECENTLY, True, True))], None, None),
        ([_point(1), _point(2, (LONG_AGO, True), (RECENTLY, True, True))], 2, None),
        ([_point(1), _point(2, (RECENTLY, False, True))], 1, 1),
        ([_point(1), _point(2, (RECENTLY, True), (RECENTLY, False, True))], 1, 1),
        ([_point(1), _point(2, (RECENTLY, False), (RECENTLY, True, True))], 1, None),
        ([_point(1), _point(2, (LONG_AGO, True, True))], 2, 2),
    ],
)
def test_a_sample_that_went_well_never_puts_off_the_whole(points, whole, sampled):
    for sample, expected in ((None, whole), (2000, sampled)):
        found = verify.due(points, NOW, WEEK, sample)
        assert (found and found.time.hour) == expected


@pytest.mark.parametrize(
    ("points", "sample", "words"),
    [
        ([], None, "it holds no restore point"),
        ([_point(1, (RECENTLY, True))], None, ": it was verified at .*, and it is the newest"),
        ([_point(1, (RECENTLY, True, True))], 9, ": a sample of it was verified at .* the newest"),
        (
            [_point(1, (RECENTLY, True)), _point(2, (RECENTLY, False))],
            None,
            "20261122T010000Z-000000: it was verified at .*, and the 1 newer failed recently",
        ),
        ([_point(1, (RECENTLY, False))], None, "none is good; take a new one"),
    ],
)
def test_why_nothing_is_due_is_said_as_it_is(points, sample, words):
    assert verify.due(points, NOW, WEEK, sample) is None
    assert re.search(words, verify._nothing_due(points, sample))


@given(st.lists(st.integers(0, 10_000), max_size=12), st.integers(1, 40_000))
def test_a_sample_is_the_smallest_that_fit(sizes, limit):
    namespaces = [replace(NAMESPACE, collection=f"c{n}", bytes=s) for n, s in enumerate(sizes)]
    chosen = verify.sampled(namespaces, limit)
    inside = [n.bytes for n in namespaces if f"openhim.{n.collection}" in chosen]
    outside = [n.bytes for n in namespaces if f"openhim.{n.collection}" not in chosen]
    assert sum(inside) <= limit
    assert not outside or sum(inside) + min(outside) > limit
    assert not inside or not outside or max(inside) <= min(outside)


def test_a_sample_of_nothing_is_refused():
    with pytest.raises(Refused, match="a sample of 0 bytes is none"):
        verify.sampled([NAMESPACE], 0)


def _changed_index(**changes):
    return {"indexes": manifests.extended_json([INDEXES[0], {**INDEXES[1], **changes}])}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"count": 4}, ["documents 4, the manifest says 5"]),
        ({"bytes": 501}, ["bytes 501, the manifest says 500"]),
        ({"type": "view"}, ["it is a view, the manifest says collection"]),
        ({"digest": "cd"}, ["of other contents"]),
        ({"count": 4, "digest": "cd"}, ["documents 4"]),
        ({"options": "{}"}, ["its option collation is another one"]),
        ({"indexes": manifests.extended_json(INDEXES[:1])}, ["the index a_b is missing"]),
        (_changed_index(unique=False), ["the index a_b is another one"]),
        (_changed_index(key={"b": -1, "a": 1}), ["the index a_b is another one"]),
        (_changed_index(name="c"), ["the index a_b is missing", "the index c is not in the"]),
        # A newer server tells more of the same index, and of the same options.
        (_changed_index(more=1), []),
        (
            {"options": manifests.extended_json({"collation": {"locale": "fr"}, "more": 1})},
            [],
        ),
    ],
)
def test_what_differs_from_the_manifest_is_told_in_words(changes, words):
    told = verify.differences(NAMESPACE, replace(NAMESPACE, **changes))
    assert len(told) == len(words)
    assert all(word in one for word, one in zip(words, told, strict=True))


def _with_filter(value):
    return {**INDEXES[1], "partialFilterExpression": {"at": {"$lt": value}, "b": {"$regex": "^c"}}}


def test_dates_that_python_does_not_know_are_compared_as_well():
    far = DatetimeMS(10**15)
    one = replace(
        NAMESPACE,
        options=manifests.extended_json({"validator": {"at": {"$lt": far}}}),
        indexes=manifests.extended_json([INDEXES[0], _with_filter(far)]),
    )
    assert verify.differences(one, one) == []
    other = manifests.extended_json([INDEXES[0], _with_filter(DatetimeMS(10**15 + 1))])
    told = verify.differences(one, replace(one, indexes=other))
    assert told == ["openhim.channels: the index a_b is another one than the manifest says"]


ASSERTION = {
    "collection": "openhim.transactions",
    "at_least": 10,
    "newest": {"field": "at", "within_seconds": 60},
}


@pytest.mark.parametrize(
    ("count", "age", "words"),
    [
        (10, 60, []),
        (10, -600, []),
        (9, 60, ["has 9 documents, asserted are 10 or more"]),
        (10, 61, ["is 61 s older than the restore point, asserted are 60 s at most"]),
        (0, None, ["has 0 documents", "no document of openhim.transactions has a date in at"]),
    ],
)
def test_an_assertion_is_asked_at_the_restore_points_time(count, age, words):
    newest = None if age is None else NOW - timedelta(seconds=age)
    told = verify.asserted(ASSERTION, count, newest, NOW)
    assert len(told) == len(words)
    assert all(word in one for word, one in zip(words, told, strict=True))


class _Unread:
    """A repository of which nothing can be read: here only what is asked of it counts."""

    location = "nowhere"

    def __init__(self):
        self.asked = []

    def read(self, *asked):
        self.asked.append(asked)
        raise Damaged("it cannot be read")


def _looking(repository, *sets, databases=(), folder=None):
    """A verification of a restore point whose sets have a database each, of so many bytes."""
    manifest = Manifest("test", "", 0, (), (), (), "", "", "", "", "", 0)
    found = tuple(
        ReplicaSet(db, None, "6.0.5", None, db, (replace(NAMESPACE, db=db, bytes=size),))
        for db, size in sets
    )
    point = RestorePoint(replace(manifest, replica_sets=found), "", "", ())
    backups = SimpleNamespace(required=lambda: set(databases), entry={})
    return verify._Looking(backups, repository, point, None, folder, "/bin/mongod", None)


def test_a_declared_database_that_is_not_in_a_restore_point_makes_it_bad():
    looking = _looking(_Unread(), databases=["openhim", "openhim_audit"])
    looking.all()
    assert [reason[:58] for reason in looking.found.reasons[1:]] == [
        "the restore point holds no collections of openhim, which o",
        "the restore point holds no collections of openhim_audit, w",
    ]
    whole = _looking(_Unread(), ("openhim", 1), databases=["openhim"])
    whole._declared_databases()
    assert whole.found.reasons == []


def test_a_set_that_was_dumped_hours_later_may_have_later_documents():
    looking = _looking(_Unread(), ("openhim", 1))
    (one,) = looking.manifest.replica_sets
    looking.point = _point(1)
    assert looking._until(one) == looking.point.time + verify._CLOCKS_DIFFER
    later = looking.point.time + timedelta(hours=5)
    at = (int(later.timestamp()), 1)
    assert looking._until(replace(one, at=at)) == later + verify._CLOCKS_DIFFER


def test_too_little_room_is_told_with_what_is_needed_and_what_there_is():
    with pytest.raises(scratch.NoRoom, match=r"has .* free, and 1000000\.0 GB of documents need"):
        scratch.refuse_without_room(Path("/"), 10**15)


def test_too_little_room_for_the_last_set_is_told_before_anything_is_read(tmp_path):
    repository = _Unread()
    looking = _looking(repository, ("small", 10), ("large", 10**15), folder=tmp_path)
    with pytest.raises(scratch.NoRoom, match=r"1000000\.0 GB of documents need"):
        looking.all()
    assert repository.asked == []


def test_a_folder_in_memory_is_held_against_the_memory_that_is_available(monkeypatch, tmp_path):
    # The memory of the machine that runs the tests is not to be used up for one.
    monkeypatch.setattr(scratch, "_in_memory", lambda folder: True)
    monkeypatch.setattr(scratch, "_memory_available", lambda: 600 << 20)
    with pytest.raises(scratch.NoRoom, match="629 MB of memory available"):
        scratch.refuse_without_room(tmp_path, 0)


def test_a_folder_is_in_memory_as_its_mount_says(tmp_path):
    assert scratch._in_memory(Path("/dev/shm")) is True
    assert scratch._in_memory(Path("/proc")) is False


def test_only_scratch_folders_that_nobody_holds_are_removed(tmp_path):
    for name in (f"{scratch.PREFIX}dead", f"{scratch.PREFIX}new", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / f"{scratch.PREFIX}dead" / "lock").touch()
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(tmp_path / "other")
    assert scratch.remove_abandoned(tmp_path) == [tmp_path / f"{scratch.PREFIX}dead"]
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {f"{scratch.PREFIX}new", f"{scratch.PREFIX}link", "other"}
