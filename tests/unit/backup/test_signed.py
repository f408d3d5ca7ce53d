"""Who may call a restore point good: not everybody who can add a record."""

import json
from dataclasses import replace

import pytest
from saltext.openhim.backup import points
from saltext.openhim.backup.declaration import PRUNE
from saltext.openhim.backup.verification import NotSigned, Verification
from saltext.openhim.errors import OpenHIMError

from .memory import Memory
from .test_points import PART, take
from .test_schedule import backups

SECRET = "the verifier's secret"


@pytest.fixture
def near():
    found = Memory("near")
    found.verification_secret = SECRET
    return found


def record(point, ok=True, hour=9, **changes):
    return Verification(
        point.id, point.stack, point.manifest_sha256, ok, f"2026-11-22T{hour:02}:00:00Z", "a", "h",
        **changes,
    )  # fmt: skip


def store(repository, point, part, data):
    tags = ["stack=demo", f"point={point.id}", f"part={part}"]
    repository.store_stream(lambda out: out.write(data), f"{part}.json", tags)


def listed(repository, point):
    return points.listing(repository, "demo").point(point.id)


def test_a_signed_record_counts_and_no_other(near):
    point = take(near)
    points.mark_verified(near, point, record(point))
    assert listed(near, point).verified
    for forged in (
        record(point, ok=False, hour=10).to_json(),
        record(point, ok=False, hour=10).to_json("another secret"),
    ):
        store(near, point, "verification", forged)
    assert listed(near, point).verified, "nobody else can call it bad either"
    other = take(near)
    store(near, other, "verification", record(other).to_json())
    assert not listed(near, other).verified


@pytest.mark.parametrize(
    "changes",
    [
        {"point": "20261122T000000Z-000000"},
        {"manifest_sha256": "f" * 64},
        {"ok": True},
        {"at": "2026-11-23T09:00:00Z"},
        {"sampled": True},
        {"stack": "other"},
    ],
)
def test_nothing_of_a_signed_record_can_be_changed(near, changes):
    point = take(near)
    signed = json.loads(record(point, ok=False).to_json(SECRET))
    changed = json.loads(replace(record(point, ok=False), **changes).to_json())
    assert Verification.from_json(json.dumps(signed).encode(), SECRET) == record(point, ok=False)
    with pytest.raises(NotSigned, match="anybody may have written it"):
        Verification.from_json(json.dumps(changed | {"hmac": signed["hmac"]}).encode(), SECRET)


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0)])
def test_an_old_record_that_is_stored_again_is_no_new_one(near, order):
    point = take(near)
    good, bad = record(point, hour=8), record(point, ok=False, hour=9)
    for one in ((good, bad)[number] for number in order):
        store(near, point, "verification", one.to_json(SECRET))
    assert listed(near, point).verifications == (good, bad)
    assert not listed(near, point).verified


def test_without_the_secret_a_host_shows_what_it_finds(near):
    point = take(near)
    store(near, point, "verification", record(point).to_json(SECRET))
    near.verification_secret = ""
    assert listed(near, point).verified


def test_a_second_manifest_that_says_something_else_is_told_and_not_used(near):
    point = take(near)
    store(near, point, "manifest", replace(point.manifest, why="forged").to_json())
    known = points.listing(near, "demo")
    assert (known.points, known.leftovers) == ((), ())
    assert "2 manifests" in known.broken[0].reason
    assert "somebody added one" in known.broken[0].reason


def test_a_second_manifest_that_is_not_whole_changes_nothing(near):
    point = take(near)
    gone = replace(point.manifest.parts[0], snapshot="0" * 64)
    store(near, point, "manifest", replace(point.manifest, parts=(gone,)).to_json())
    store(near, point, "manifest", b"junk")
    assert listed(near, point).manifest == point.manifest


def test_a_copy_that_lost_a_part_is_made_again_and_keeps_its_verifications(near):
    """Then there are two manifests, and only the snapshots in them differ."""
    take(near)
    far = Memory("far")
    far.verification_secret = SECRET
    (first,) = points.copy(near, far, "demo")
    del far.held[first.manifest.part(PART).snapshot]
    assert len(points.listing(far, "demo").broken) == 1
    points.copy(near, far, "demo")
    (again,) = points.listing(far, "demo").points
    assert again.manifest_snapshot != first.manifest_snapshot
    store(far, again, "verification", record(first).to_json())
    assert not listed(far, again).verified, "it is not signed"
    store(far, again, "verification", record(first).to_json(SECRET))
    assert listed(far, again).verified


def test_who_verifies_or_prunes_is_refused_without_the_secret():
    keeper = backups("north-core", verification_secret="signature", verified_by="north-core")
    keeper.pillar["openhim"]["secrets"] = {"near": "key", "far": "key"}
    for refused in (
        lambda: keeper.repository("near", PRUNE),
        lambda: keeper.require_role("verified_by", "verifying"),
    ):
        with pytest.raises(OpenHIMError, match="openhim:secrets:signature: found nothing"):
            refused()
    assert keeper.repository("near").verification_secret == ""
    keeper.pillar["openhim"]["secrets"]["signature"] = SECRET
    assert keeper.repository("near", PRUNE).verification_secret == SECRET
    assert keeper.repository("near").uncached().verification_secret == SECRET
    assert SECRET not in repr(keeper.repository("near"))
