"""The head of the chain of evidence in real repositories, and who cannot make them forget it."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from saltext.openhim.backup import points
from saltext.openhim.backup.repository import AppendOnly
from saltext.openhim.plan import anchors, evidence
from saltext.openhim.plan.chain import judge


def recorded(tmp_path, count=3):
    evidence.append("example", [("drill", {"n": n}) for n in range(count)], tmp_path)
    return evidence.head("example", tmp_path)


def anchored(repository, head):
    return anchors.store(repository, "store", "example", head.number, head.sha256, "south-db1")


def test_a_head_is_remembered_once_and_read_back(local, tmp_path):
    head = recorded(tmp_path)
    first, second = anchored(local, head), anchored(local, head)
    assert first == second
    assert (first.number, first.sha256, first.repository) == (3, head.sha256, "store")
    assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(first.at.replace("Z", "+00:00"))
                ).total_seconds()) < 60  # fmt: skip
    with local.read(first.snapshot, anchors.FILENAME) as stream:
        assert stream.read() == (
            f'{{"number":3,"sha256":"{head.sha256}","stack":"example"}}\n'.encode()
        )
    assert judge(evidence.read("example", tmp_path), "example", [first]).proved == 3


def test_restore_points_do_not_see_it_and_other_stacks_neither(local, tmp_path):
    anchored(local, recorded(tmp_path))
    assert points.listing(local, "example") == points.Listing()
    assert points.clean_leftovers(local, "example", confirm=True) == ()
    assert anchors.listing(local, "store", "another") == []
    assert len(anchors.listing(local, "store", "example")) == 1


def test_who_takes_over_the_master_cannot_make_an_append_only_repository_forget(
    make, rest, tmp_path
):
    """He cuts the chain off, writes it anew, and removes what he can: it is found all the same."""
    repository = make(rest.url())
    repository.initialise()
    anchor = anchored(repository, recorded(tmp_path))
    evidence.path("example", tmp_path).unlink()
    evidence.append("example", [("drill", {"n": "better"})] * 3, tmp_path)
    with pytest.raises(AppendOnly):
        repository.forget([anchor.snapshot])
    anchored(repository, evidence.head("example", tmp_path))
    found = anchors.listing(repository, "store", "example")
    assert [one.number for one in found] == [3, 3]
    (fault,) = judge(evidence.read("example", tmp_path), "example", found).faults
    assert fault.startswith("record 3 is not the one that the anchor of")
