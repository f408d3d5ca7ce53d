"""Whatever is done to one record of a hundred is found, and named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.plan import chain
from saltext.openhim.plan.chain import Anchor, Record, WrongStack, judge

STACK = "example"
COUNT = 100


def made(count: int = COUNT, stack: str = STACK) -> list[Record]:
    """A chain of drills."""
    records: list[Record] = []
    for day in range(count):
        content = {"rto_seconds": 300 + day, "lost": day % 2 == 0, "by": "Ada", "share": day / 7}
        at = f"2026-{1 + day // 28:02}-{1 + day % 28:02}T12:00:00.000Z"
        before = records[-1] if records else None
        records.append(chain.following(before, stack, "drill", content, at))
    return records


RECORDS = made()
LINES = [one.line() for one in RECORDS]
HEAD = Anchor(STACK, COUNT, RECORDS[-1].sha256, "2026-05-01T00:00:00.000Z", "store", "ab12")


def edited(number: int, **changes: Any) -> bytes:
    """A line whose contents were changed, and nothing else."""
    entry = json.loads(LINES[number - 1])
    entry["content"] |= changes
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def rewritten(first: int) -> list[bytes]:
    """The chain whose records from one on were made anew by somebody who knows how."""
    records = list(RECORDS[: first - 1])
    for one in RECORDS[first - 1 :]:
        content = {**one.content, "rto_seconds": 1} if one.number == first else one.content
        before = records[-1] if records else None
        records.append(chain.following(before, STACK, one.kind, content, one.at))
    return [one.line() for one in records]


def forged(number: int) -> bytes:
    """A record that has a right SHA-256 of its own."""
    false = replace(RECORDS[number - 1], content={"rto_seconds": 1})
    return false.line()


def test_a_whole_chain_is_whole_and_proved_by_its_anchor() -> None:
    found = judge(b"".join(LINES), STACK, [HEAD])
    assert (found.whole, found.proved, found.records) == (True, COUNT, tuple(RECORDS))


def test_without_an_anchor_nothing_is_proved() -> None:
    found = judge(b"".join(LINES), STACK)
    assert (found.whole, found.proved) == (True, 0)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([*LINES[:42], edited(43, rto_seconds=1), *LINES[43:]],
         ["record 43 (drill of 2026-02-15T12:00:00.000Z) was edited"]),
        ([*LINES[:42], forged(43), *LINES[43:]],
         ["record 44 (drill of 2026-02-16T12:00:00.000Z) does not follow record 43"]),
        ([*LINES[:42], *LINES[43:]], ["record 43 is missing: removed"]),
        ([*LINES[:42], *LINES[50:]], ["records 43 to 50 are missing: removed"]),
        (LINES[1:], ["record 1 is missing: removed"]),
        ([*LINES[:43], forged(43), *LINES[43:]], ["line 44: record 43", "was inserted"]),
        ([*LINES[:42], forged(43), *LINES[42:]], ["line 43: record 43", "was inserted"]),
        ([*LINES[:43], LINES[42], *LINES[43:]], ["line 44: record 43", "was inserted"]),
        ([*LINES[:42], LINES[43], LINES[42], *LINES[44:]], ["line 44: record 43", "was moved"]),
        ([*LINES[:42], b"{not a record\n", *LINES[43:]],
         ["line 43 is no record that can be read", "record 43 is missing"]),
        ([*LINES[:42], b"[]\n", *LINES[43:]], ["line 43 is no record that can be read"]),
        ([*LINES[:99], LINES[99][:50]], ["cut off in the middle of a line", "knows record 100"]),
        (LINES[:90], ["the chain was cut off: it ends with record 90", "knows record 100"]),
        ([], ["the chain was cut off: it ends with record 0", "the anchor of 2026-05-01"]),
        (rewritten(43), ["record 100 is not the one that the anchor of", "in the repository store"]),
        (rewritten(1), ["record 100 is not the one", "or one before it, was rewritten"]),
        ([*LINES, made(3, "another")[0].line()],
         ["line 101: record 1", "is of the stack 'another' and does not belong here"]),
    ],
    ids=["edited", "replaced", "removed", "several removed", "the first removed", "inserted after",
         "inserted before", "repeated", "moved", "damaged", "no record", "cut in a line", "cut off",
         "all gone", "rewritten", "rewritten from the first", "another stack's"],
)  # fmt: skip
def test_tampering_is_found_and_named(lines: list[bytes], named: list[str]) -> None:
    found = judge(b"".join(lines), STACK, [HEAD])
    said = "\n".join(found.faults)
    assert not found.whole
    assert found.proved == 0 or "100" not in said
    for one in named:
        assert one in said, said


def test_an_honest_edit_blames_one_record_alone() -> None:
    """A hundred faults after one edit would name nobody."""
    for lines in ([*LINES[:42], edited(43, by="Bob"), *LINES[43:]], [*LINES[:42], *LINES[43:]]):
        assert len(judge(b"".join(lines), STACK, [HEAD]).faults) == 1


def test_a_chain_of_another_stack_is_refused() -> None:
    with pytest.raises(WrongStack, match="is of the stack 'another'; expected 'example'"):
        judge(b"".join(one.line() for one in made(3, "another")), STACK)
    with pytest.raises(WrongStack, match="Evidence of two stacks is kept apart"):
        chain.following(made(1, "another")[0], STACK, "drill", {}, "2026-01-01T00:00:00Z")


def test_an_anchor_of_another_stack_proves_nothing() -> None:
    found = judge(b"".join(LINES), STACK, [replace(HEAD, stack="another")])
    assert found.faults == (
        "the anchor of 2026-05-01T00:00:00.000Z in the repository store is of the stack 'another', "
        "not of 'example'",
    )


def test_another_text_for_the_same_number_is_an_edit() -> None:
    text = LINES[1].replace(b"0.14285714285714285", b"0.142857142857142849")
    assert text != LINES[1]
    assert json.loads(text) == json.loads(LINES[1])
    (fault,) = judge(b"".join([LINES[0], text, *LINES[2:]]), STACK, [HEAD]).faults
    assert fault.startswith("record 2 (drill of ")


FEW = LINES[:10]


@given(position=st.integers(0, sum(map(len, FEW)) - 1), bit=st.integers(0, 7))
def test_no_bit_can_be_flipped(position: int, bit: int) -> None:
    data = bytearray(b"".join(FEW))
    data[position] ^= 1 << bit
    head = replace(HEAD, number=10, sha256=RECORDS[9].sha256)
    assert judge(b"".join(FEW), STACK, [head]).whole
    assert not judge(bytes(data), STACK, [head]).whole


@given(order=st.permutations(range(12)), kept=st.integers(0, 12))
def test_no_other_order_and_no_part_is_whole(order: list[int], kept: int) -> None:
    records = made(12)
    head = Anchor(STACK, 12, records[-1].sha256, "2026-05-01T00:00:00.000Z")
    chosen = order[:kept]
    found = judge(b"".join(records[one].line() for one in chosen), STACK, [head])
    assert found.whole == (chosen == list(range(12)))
