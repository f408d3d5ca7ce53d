"""The chain on the disk: appended to, never rewritten, whole after a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.plan import evidence
from saltext.openhim.plan.chain import WrongStack


def drills(count: int) -> list[tuple[str, dict[str, Any]]]:
    return [("drill", {"number": number}) for number in range(count)]


def test_what_is_appended_is_whole_and_read_back(tmp_path: Path) -> None:
    for _ in range(3):
        evidence.append("example", drills(2), tmp_path)
    found = evidence.judged("example", tmp_path)
    assert found.whole
    assert [one.number for one in found.records] == [1, 2, 3, 4, 5, 6]
    assert evidence.path("example", tmp_path).stat().st_mode & 0o777 == 0o600
    assert evidence.path("example", tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_nothing_recorded_is_no_fault(tmp_path: Path) -> None:
    assert evidence.judged("example", tmp_path).records == ()
    assert evidence.head("example", tmp_path) is None
    assert evidence.append("example", [], tmp_path) == []
    assert not evidence.path("example", tmp_path).exists()


@pytest.mark.parametrize("written", [1, 50])
def test_a_record_that_a_crash_left_half_written_is_replaced(tmp_path: Path, written: int) -> None:
    first, second = evidence.append("example", drills(2), tmp_path)
    evidence.path("example", tmp_path).write_bytes(first.line() + second.line()[:written])
    assert "cut off in the middle" in evidence.judged("example", tmp_path).faults[0]
    evidence.append("example", [("plan", {"digest": "x"})], tmp_path)
    found = evidence.judged("example", tmp_path)
    assert found.whole
    assert [one.kind for one in found.records] == ["drill", "plan"]


def test_a_long_half_of_a_record_leaves_nothing_behind_a_short_one(tmp_path: Path) -> None:
    (first,) = evidence.append("example", drills(1), tmp_path)
    evidence.path("example", tmp_path).write_bytes(first.line() + b'{"at":"' + b"x" * 5000)
    evidence.append("example", drills(1), tmp_path)
    found = evidence.judged("example", tmp_path)
    assert found.whole
    assert len(found.records) == 2


def test_nothing_is_added_to_a_damaged_end(tmp_path: Path) -> None:
    evidence.append("example", drills(2), tmp_path)
    file = evidence.path("example", tmp_path)
    damaged = file.read_bytes().replace(b'"number":1}', b'"number":7}')
    file.write_bytes(damaged)
    with pytest.raises(
        OpenHIMError, match=r"the last record in .* is damaged, and nothing was added"
    ):
        evidence.append("example", drills(1), tmp_path)
    assert file.read_bytes() == damaged


def test_records_of_another_stack_are_refused(tmp_path: Path) -> None:
    evidence.append("another", drills(2), tmp_path)
    evidence.path("another", tmp_path).rename(evidence.path("example", tmp_path))
    with pytest.raises(WrongStack, match="holds evidence of the stack 'another'"):
        evidence.append("example", drills(1), tmp_path)
    with pytest.raises(WrongStack):
        evidence.judged("example", tmp_path)


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpenHIMError, match="is no name of a stack"):
        evidence.append("../example", drills(1), tmp_path)


def test_a_record_longer_than_the_end_that_is_looked_at_first(tmp_path: Path) -> None:
    evidence.append("example", [("plan", {"text": "x" * 200_000})], tmp_path)
    evidence.append("example", drills(1), tmp_path)
    assert evidence.judged("example", tmp_path).whole


def test_a_chain_that_is_cut_off_is_found_without_asking_anybody(tmp_path: Path) -> None:
    """By the anchors that are remembered here; who cuts those off too is found by the live ones."""
    evidence.append("example", drills(5), tmp_path)
    head = evidence.head("example", tmp_path)
    assert head is not None
    evidence.keep_anchors("example", [head], tmp_path)
    assert evidence.judged("example", tmp_path).proved == 5
    file = evidence.path("example", tmp_path)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    (fault,) = evidence.judged("example", tmp_path).faults
    assert fault.startswith("the chain was cut off: it ends with record 3")
    evidence.keep_anchors("example", [head], tmp_path)
    assert len(evidence.kept_anchors("example", tmp_path)) == 1
