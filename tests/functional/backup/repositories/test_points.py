"""Restore points in a real repository: committed by their manifest, and by nothing else."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from bson import Timestamp
from saltext.openhim.backup import manifest as manifests
from saltext.openhim.backup import points
from saltext.openhim.backup.repository import Damaged, RepositoryError
from saltext.openhim.backup.retention import Policy
from saltext.openhim.backup.verification import Verification
from saltext.openhim.errors import OpenHIMError, Refused

from .test_failures import flip, packs

ARCHIVE = os.urandom(3_000_000)


def dump(out):
    """What a dump answers; the archive's contents do not matter here."""
    out.write(ARCHIVE)
    index = {"v": 2, "key": {"b": 1, "a": -1}, "name": "b_1_a_-1"}
    found = SimpleNamespace(
        db="openhim", collection="channels", type="collection", count=3, bytes=300, digest="ab" * 32,
        options={"capped": True}, indexes=[index], uuid="", snapshot=True,
    )  # fmt: skip
    return SimpleNamespace(
        at=Timestamp(1_800_000_000, 7), server_version="6.0.5", fcv="6.0", namespaces=[found],
        left_out=[],
    )  # fmt: skip


def taking(repository, stack="demo"):
    return points.Taking(repository, stack, by="somebody", why="a test", epoch=4, epoch_id="e4")


def take(repository, stack="demo"):
    with taking(repository, stack) as point:
        point.store_dump("openhim", dump)
        return point.commit()


def verification(point, ok=True, **values):
    return Verification(
        point=point.id, stack=point.stack, manifest_sha256=point.manifest_sha256, ok=ok,
        at="2026-11-22T09:00:00Z", by="schedule", host="south-backup", **values,
    )  # fmt: skip


def test_a_point_is_listed_as_it_was_committed_and_its_parts_are_read_back(local, tmp_path):
    config = tmp_path / "etc" / "core.json"
    config.parent.mkdir()
    config.write_text('{"router": {}}')
    config.chmod(0o600)
    with taking(local) as point:
        dumped = point.store_dump("openhim", dump)
        (file,) = point.store_files([config.parent])
        assert points.listing(local, "demo").points == (), "it was listed before it was committed"
        committed = point.commit()
    assert dumped.at == Timestamp(1_800_000_000, 7)
    assert (file.path, file.mode) == (str(config), "0600")
    known = points.listing(local.uncached(), "demo")
    assert (known.points, known.leftovers, known.broken) == ((committed,), (), ())
    manifest = known.point(committed.id).manifest
    assert (manifest.epoch, manifest.epoch_id, manifest.why) == (4, "e4", "a test")
    assert manifest.times() == {"openhim": (1_800_000_000, 7)}
    (namespace,) = manifest.replica_sets[0].namespaces
    assert list(json.loads(namespace.indexes)[0]["key"]) == ["b", "a"], "the keys' order is lost"
    with points.open_part(local, committed, "openhim.archive") as stream:
        assert stream.read() == ARCHIVE
    points.restore_files(local, committed, tmp_path / "restored")
    restored = tmp_path / "restored" / str(config).lstrip("/")
    assert (restored.read_text(), restored.stat().st_mode & 0o777) == ('{"router": {}}', 0o600)
    with pytest.raises(Refused, match="is not empty"):
        points.restore_files(local, committed, tmp_path / "restored")
    with pytest.raises(manifests.ManifestError, match="no part 'nothing'; it has openhim"):
        points.open_part(local, committed, "nothing")


def test_what_is_not_committed_is_not_there(local):
    with pytest.raises(Refused, match="was not committed"), taking(local) as point:
        point.store_dump("openhim", dump)
    with pytest.raises(KeyError), taking(local) as point:
        point.store_dump("openhim", dump)
        raise KeyError
    with pytest.raises(Refused, match="holds no part"), taking(local) as point:
        point.commit()
    assert local.snapshots() == []


@pytest.mark.parametrize("stack", ["", "a b", "a,b", "../x", "-x"])
def test_a_stack_s_name_cannot_become_something_else(local, stack):
    with pytest.raises(OpenHIMError, match="no name of a stack"):
        taking(local, stack)
    with pytest.raises(OpenHIMError, match="no name of a stack"):
        points.listing(local, stack)


def test_each_stack_sees_its_own_points(local):
    one, other = take(local, "one"), take(local, "other")
    assert points.listing(local, "one").points == (one,)
    assert {point.id for point in points.listing(local).points} == {one.id, other.id}
    with pytest.raises(
        points.NotCommitted, match=f"no restore point .*; the newest here: {one.id}"
    ):
        points.listing(local, "one").point(other.id)


def test_a_manifest_under_another_stack_s_tags_is_refused(local):
    point = take(local)
    data = point.manifest.to_json()
    tags = ["stack=other", f"point={point.id}", "part=manifest"]
    local.store_stream(lambda out: out.write(data), manifests.FILENAME, tags)
    (broken,) = points.listing(local, "other").broken
    assert "belongs to the stack 'demo', and this is 'other'" in broken.reason


def test_a_manifest_of_a_newer_format_is_refused_and_never_cleaned(local):
    point = take(local)
    content = json.loads(point.manifest.to_json())["manifest"] | {"format": 2}
    data = json.dumps({"manifest": content, "sha256": manifests.digest(content)}).encode()
    newer = "20261122T000000Z-abcdef"
    tags = ["stack=demo", f"point={newer}", "part=manifest"]
    local.store_stream(lambda out: out.write(data), manifests.FILENAME, tags)
    known = points.listing(local, "demo")
    assert [one.id for one in known.points] == [point.id]
    with pytest.raises(points.NotCommitted, match=r"has format 2; this version .* Upgrade"):
        known.point(newer)
    long_ago = timedelta(days=-1)
    assert points.clean_leftovers(local, "demo", older_than=long_ago, confirm=True) == ()
    assert points.listing(local, "demo") == known


def test_a_point_whose_part_is_gone_is_broken_not_committed(local):
    point = take(local)
    local.forget([point.manifest.parts[0].snapshot])
    known = points.listing(local, "demo")
    assert known.points == ()
    assert "the part openhim.archive" in known.broken[0].reason
    with pytest.raises(points.NotCommitted, match=r"cannot be used: .* is gone from"):
        known.point(point.id)


def test_a_part_that_is_not_the_manifest_s_raises_at_the_end(local):
    point = take(local)
    other = local.store_stream(lambda out: out.write(ARCHIVE[:-1] + b"!"), "openhim.archive")
    (part,) = point.manifest.parts
    swapped = replace(
        point, manifest=replace(point.manifest, parts=(replace(part, snapshot=other.snapshot),))
    )
    with (
        pytest.raises(Damaged, match=r"openhim.archive is not what the manifest describes"),
        points.open_part(local, swapped, "openhim.archive") as stream,
    ):
        # Who stops reading early is told all the same.
        assert len(stream.read(1000)) == 1000


def test_a_damaged_pack_is_never_restored_from(local):
    point = take(local)
    flip(packs(local)[0], 5000)
    with (
        pytest.raises(Damaged, match="what it holds is not what was stored"),
        open(os.devnull, "wb") as nowhere,  # noqa: PTH123
    ):
        points.read_part(local.uncached(), point, "openhim.archive", nowhere)


def test_an_unreadable_snapshot_stops_every_removal(local):
    old, new = take(local), take(local)
    flip(Path(local.url, "snapshots", old.manifest_snapshot), 30)
    fresh = local.uncached()
    known = points.listing(fresh, "demo")
    assert len(known.unreadable) == 1
    assert [point.id for point in known.points] == [new.id]
    for removal in (
        lambda: points.clean_leftovers(fresh, "demo", older_than=timedelta(0), confirm=True),
        lambda: points.prune(fresh, "demo", Policy(last=1), minimum_verified=0, confirm=True),
    ):
        with pytest.raises(Damaged, match="unknown what is still needed, and nothing was removed"):
            removal()


def test_one_bad_snapshot_does_not_hide_the_others(local):
    point = take(local)

    def store(point_id, part, filename, data):
        tags = ["stack=demo", f"point={point_id}", f"part={part}"]
        local.store_stream(lambda out: out.write(data), filename, tags)

    bad = "20261122T000000Z-abcdef"
    store(bad, "manifest", "something-else", b"x")
    store(point.id, "verification", "something-else", b"x")
    store("20269999T000000Z-abcdef", "manifest", "manifest.json", b"no such day")
    known = points.listing(local, "demo")
    assert [one.id for one in known.points] == [point.id]
    assert [one.id for one in known.broken] == [bad]
    assert "not that file in it" in known.broken[0].reason


def test_leftovers_are_cleaned_on_request_and_young_ones_left_alone(local):
    point = take(local)
    for number in range(2):
        tags = ["stack=demo", f"point=20261101T00000{number}Z-aaaaaa", "part=openhim.archive"]
        time = datetime.now(timezone.utc) - timedelta(hours=30 if number else 1)
        local.store_stream(lambda out: out.write(b"half"), "openhim.archive", tags, time=time)
    known = points.listing(local, "demo")
    assert len(known.leftovers) == 2
    with pytest.raises(points.NotCommitted, match="was never committed"):
        known.point(known.leftovers[0].id)
    (old,) = points.clean_leftovers(local, "demo")
    assert old.id == "20261101T000001Z-aaaaaa"
    assert points.listing(local, "demo") == known, "it was a dry run"
    points.clean_leftovers(local, "demo", confirm=True)
    after = points.listing(local, "demo")
    assert (after.points, [one.id for one in after.leftovers]) == (
        (point,),
        ["20261101T000000Z-aaaaaa"],
    )


def test_a_verification_is_kept_with_the_point(local):
    point = take(local)
    assert not point.verified
    marked = points.mark_verified(local, point, verification(point, details={"namespaces": 1}))
    listed = points.listing(local.uncached(), "demo").point(point.id)
    assert listed.verified
    assert listed.verifications == marked.verifications
    points.mark_verified(local, listed, verification(point, ok=False, reasons=("channels: 0",)))
    listed = points.listing(local, "demo").point(point.id)
    assert not listed.verified, "a good old verification hides a bad new one"
    other = take(local)
    with pytest.raises(Refused, match="of another restore point"):
        points.mark_verified(local, other, verification(point))


def test_a_copy_is_committed_by_its_own_manifest_and_goes_on_where_it_stopped(
    local, make, tmp_path, monkeypatch
):
    point = take(local)
    points.mark_verified(local, point, verification(point))
    second = make(tmp_path / "second", password="the password of the second")
    second.initialise(copy_chunker_from=local)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(points, "_commit", killed)
        points.copy(local, second, "demo")
    interrupted = points.listing(second, "demo")
    assert (interrupted.points, len(interrupted.leftovers)) == ((), 1)
    (copied,) = points.copy(local, second, "demo", [point.id])
    assert points.copy(local, second, "demo") == []
    after = points.listing(second.uncached(), "demo")
    assert (after.points, after.leftovers) == ((copied,), ())
    assert not copied.verified, "a copy is verified when it was restored itself"
    assert copied.manifest.copied_from["manifest_sha256"] == point.manifest_sha256
    assert copied.manifest.parts[0].tree == point.manifest.parts[0].tree
    with points.open_part(second, copied, "openhim.archive") as stream:
        assert stream.read() == ARCHIVE
    with pytest.raises(Refused, match="one and the same repository"):
        points.copy(local, make(), "demo")
    with pytest.raises(points.NotCommitted):
        points.copy(local, second, "demo", ["20260101T000000Z-000000"])


def test_pruning_keeps_the_floor_and_is_a_dry_run_unless_confirmed(local):
    verified, *_, newest = [take(local) for _ in range(3)]
    held = points.prune(local, "demo", Policy(last=1), minimum_verified=1, confirm=True)
    assert "only 0 of at least 1 verified" in held.decision.held
    assert (held.removed, len(points.listing(local, "demo").points)) == ((), 3)
    points.mark_verified(local, verified, verification(verified))
    dry = points.prune(local, "demo", Policy(last=1))
    assert (len(dry.decision.remove), dry.removed) == (1, ())
    assert len(points.listing(local, "demo").points) == 3
    done = points.prune(local, "demo", Policy(last=1), confirm=True)
    assert done.removed == dry.decision.remove
    after = points.listing(local.uncached(), "demo")
    assert {point.id for point in after.points} == {verified.id, newest.id}
    assert (after.leftovers, after.broken) == ((), ())
    with points.open_part(local, after.point(verified.id), "openhim.archive") as stream:
        assert hashlib.sha256(stream.read()).digest() == hashlib.sha256(ARCHIVE).digest()


def test_what_is_protected_is_not_pruned(local):
    first, second, third = (take(local) for _ in range(3))
    asked = []

    def needed(known):
        asked.extend(point.id for point in known)
        return [first.manifest.parts[0].snapshot]

    done = points.prune(
        local, "demo", Policy(last=1), minimum_verified=0, protected=needed, confirm=True
    )
    assert asked == [first.id, second.id, third.id]
    assert (done.removed, done.protected) == ((second.id,), (first.id,))


KILLED = """
import os, signal, sys
from saltext.openhim.backup import points
from saltext.openhim.backup.repository import Repository
stage, url, cache = sys.argv[1:]
repository = Repository(url, sys.stdin.readline().strip(), cache_dir=cache)
def die(): os.kill(os.getpid(), signal.SIGKILL)
def write(out):
    out.write(b"a" * 2_000_000)
    if stage == "first part": die()
with points.Taking(repository, "demo", by="x", why="x") as point:
    point.store("openhim.archive", write)
    if stage == "between": die()
    point.store("audit.archive", lambda out: [out.write(b"b" * 2_000_000), stage == "second part" and die()])
    if stage == "before the manifest": die()
    if stage == "manifest":
        real = repository.stream
        def store(producer, *rest):
            return real(lambda out: [out.write(b'{"manifest": {'), out.flush(), die()], *rest)
        repository.stream = store
    point.commit()
    if stage == "after the manifest": die()
"""


@pytest.mark.parametrize(
    "stage",
    [
        "first part",
        "between",
        "second part",
        "before the manifest",
        "manifest",
        "after the manifest",
    ],
)
def test_killed_at_any_stage_what_is_committed_restores(local, stage):
    good = take(local)
    script = [sys.executable, "-c", KILLED, stage, local.url, str(local.cache_dir)]
    died = subprocess.run(
        script,
        input=f"{local.password}\n",
        text=True,
        check=False,
        capture_output=True,
        timeout=300,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    _until_restic_is_gone(local)
    known = points.listing(local.uncached(), "demo")
    committed = {"after the manifest": 2}.get(stage, 1)
    assert (len(known.points), good.id in {point.id for point in known.points}) == (committed, True)
    for point in known.points:
        for part in point.manifest.parts:
            with points.open_part(local, point, part.name) as stream:
                assert len(stream.read()) == part.size
    points.clean_leftovers(local, "demo", older_than=timedelta(0), confirm=True)
    after = points.listing(local, "demo")
    assert (len(after.points), after.leftovers) == (committed, ())


def _until_restic_is_gone(repository):
    """restic outlives the killed process for a moment: it sees the end of its input."""
    for _ in range(600):
        try:
            repository.unlock_stale()
            if not repository.locks():
                return
        except RepositoryError:
            continue
    pytest.fail(f"still locked: {repository.locks()}")
