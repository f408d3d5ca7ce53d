"""Restore points when something fails at the worst moment."""

import time
from datetime import datetime, timedelta, timezone

import pytest
from saltext.openhim.backup import points
from saltext.openhim.backup.repository import (
    AppendOnly,
    Damaged,
    RepositoryError,
    RepositoryUnreachable,
)

from .memory import Memory

PART = "openhim.archive"


@pytest.fixture
def near():
    return Memory("near")


def take(repository):
    with points.Taking(repository, "demo", by="somebody", why="a test") as point:
        point.store(PART, lambda out: out.write(point.id.encode()))
        return point.commit()


def fails(verb, error, when=lambda about: True):
    def before(found, about):
        if found == verb and when(about):
            raise error

    return before


def test_points_of_the_same_second_sort_by_when_they_were_begun():
    second = datetime(2026, 11, 22, 7, 34, 5, tzinfo=timezone.utc)
    moments = [second.replace(microsecond=ms * 1000) for ms in (0, 1, 2, 500, 998, 999)]
    ids = [points.new_id(moment) for moment in moments]
    assert ids == sorted(ids)
    assert {points.point_time(one) for one in ids} == {second}
    assert len({points.new_id(second) for _ in range(8)}) > 1


def test_what_fails_after_its_manifest_was_stored_leaves_nothing(near):
    near.before = fails("read", RepositoryUnreachable("the line is cut"))
    with pytest.raises(RepositoryUnreachable, match="the line is cut"):
        take(near)
    assert near.held == {}


def test_a_manifest_that_cannot_be_removed_keeps_its_parts(near):
    def before(verb, about):
        if verb == "read":
            raise RepositoryUnreachable("the line is cut")
        if verb == "forget":
            raise AppendOnly("append-only")

    near.before = before
    with pytest.raises(RepositoryUnreachable):
        take(near)
    near.before = lambda *_: None
    known = points.listing(near, "demo")
    assert (len(known.points), known.broken, known.leftovers) == (1, (), ())

    def only_manifests(verb, about):
        if verb == "read":
            raise RepositoryUnreachable("the line is cut")
        if verb == "forget" and set(about) & set(near.parts("manifest")):
            raise AppendOnly("append-only")

    near.before = only_manifests
    with pytest.raises(RepositoryUnreachable):
        take(near)
    near.before = lambda *_: None
    assert points.listing(near, "demo").broken == ()


def aged(count):
    """A repository with so many restore points, an hour apart."""
    near = Memory("near")
    now = points.datetime.now(points.timezone.utc)
    made = []
    for number in range(count):
        at = now - timedelta(hours=count - number)

        class Then(points.datetime):
            @classmethod
            def now(cls, zone=None, at=at):
                return at

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(points, "datetime", Then)
            made.append(take(near))
    return near, made


def test_a_copy_brings_the_newest_first_and_a_damaged_one_holds_up_no_other():
    near, (old, middle, new) = aged(3)
    far = Memory("far")
    bad = middle.manifest.parts[0].snapshot
    order = []

    def before(verb, about):
        if verb == "copy":
            order.append(about)
        if verb == "copy" and about == bad:
            raise Damaged("what it holds is not what was stored")

    near.before = before
    words = rf"2 restore points were copied from near to far, and 1 could not be. {middle.id}: what"
    with pytest.raises(points.NotCopied, match=words) as told:
        points.copy(near, far, "demo")
    assert [one.id for one in told.value.copied] == [new.id, old.id]
    assert order == [one.manifest.parts[0].snapshot for one in (new, middle, old)]
    assert [one.id for one in points.listing(far, "demo").points] == [old.id, new.id]


def test_a_copy_ends_at_once_when_the_storage_does_not_answer():
    near, _ = aged(2)
    asked = []

    def before(verb, about):
        if verb == "copy":
            asked.append(about)
            raise RepositoryUnreachable("gone")

    near.before = before
    with pytest.raises(RepositoryUnreachable):
        points.copy(near, Memory("far"), "demo")
    assert len(asked) == 1


def test_what_a_copy_has_brought_so_far_is_no_old_leftover():
    """restic keeps the time of what it copies: a copy under way looks as old as its source."""
    near, _ = aged(2)
    far = Memory("far")
    near.before = fails("copy", RepositoryError("killed"), lambda _: len(far.held) > 0)
    with pytest.raises(points.NotCopied):
        points.copy(near, far, "demo")
    far.held = {k: v for k, v in far.held.items() if v[0].tag("part") != "manifest"}
    (left,) = points.listing(far, "demo").leftovers
    assert left.copied
    anything = timedelta(0)
    assert points.clean_leftovers(far, "demo", older_than=anything, confirm=True) == ()
    assert len(far.held) == 1
    assert points.clean_leftovers(far, "demo", confirm=True, copies=True) == (left,)
    assert far.held == {}


def test_leftovers_that_are_committed_meanwhile_stay(near):
    old, anything = take(near), timedelta(0)
    (manifest,) = near.parts("manifest")
    kept = near.held.pop(manifest)
    time.sleep(0.001)

    def before(verb, _):
        if verb == "snapshots":
            near.before = lambda *_: near.held.update({manifest: kept})

    near.before = before
    assert points.clean_leftovers(near, "demo", older_than=anything, confirm=True) == ()
    assert [one.id for one in points.listing(near, "demo").points] == [old.id]
