"""A chain of records in which an edited, removed, inserted or moved one shows. Pure.

One record a line, in canonical JSON, each with the SHA-256 of the one before. Whoever can rewrite
all of it can make another whole chain: so its head is anchored where nothing can be removed
(:mod:`saltext.openhim.plan.anchors`), and a chain is judged against its anchors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltext.openhim.backup.manifest import MALFORMED, canonical, digest
from saltext.openhim.errors import OpenHIMError

FORMAT = 1


class WrongStack(OpenHIMError):
    """The evidence is of another stack."""


@dataclass(frozen=True)
class Record:
    """One piece of evidence.

    number: counts from 1. at: when it was written (ISO 8601, UTC). kind: such as ``recovery``.
    previous: the SHA-256 of the record before; of the stack's name for the first.
    """

    number: int
    at: str
    stack: str
    kind: str
    content: Mapping[str, Any]
    previous: str
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """Of everything in it, and so of all records before it."""
        return digest(vars(self))

    @property
    def words(self) -> str:
        """Which one it is, for a person."""
        return f"record {self.number} ({self.kind} of {self.at})"

    def line(self) -> bytes:
        """As it is stored."""
        return canonical({**vars(self), "sha256": self.sha256}) + b"\n"


@dataclass(frozen=True)
class Anchor:
    """What a repository that nobody can remove from remembers of a chain.

    number, sha256: of the newest record when it was stored. at: when (ISO 8601, UTC).
    repository, snapshot: where, as far as that is known.
    """

    stack: str
    number: int
    sha256: str
    at: str
    repository: str = ""
    snapshot: str = ""

    @property
    def words(self) -> str:
        """Which one it is, for a person."""
        where = f" in the repository {self.repository}" if self.repository else ""
        return f"the anchor of {self.at}{where}"


@dataclass(frozen=True)
class Judgement:
    """What a look at a chain showed.

    records: those that can be read, in their order. faults: what is wrong, each naming its record.
    proved: the number up to which an anchor confirms it; 0 where none does. A chain that is cut off
    after its newest anchor cannot be told from one that ended there.
    """

    records: tuple[Record, ...] = ()
    faults: tuple[str, ...] = ()
    proved: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults


@dataclass
class _Line:
    """One line: which, the record in it, the SHA-256 that it carries, and whether it is right."""

    position: int
    record: Record
    carried: str
    right: bool


def beginning(stack: str) -> str:
    """What the first record of a stack's chain follows."""
    return hashlib.sha256(f"saltext-openhim evidence {FORMAT}\n{stack}".encode()).hexdigest()


def following(
    before: Record | None, stack: str, kind: str, content: Mapping[str, Any], at: str
) -> Record:
    """The record after another one, or the first of a stack.

    Raises :class:`WrongStack` when the one before is of another stack.
    """
    if before is not None and before.stack != stack:
        raise WrongStack(
            f"{before.words} is of the stack {before.stack!r}; expected {stack!r}. Evidence of two "
            "stacks is kept apart: name the right one"
        )
    # What JSON makes of it is what is hashed: a tuple becomes a list, a key a text.
    plain = json.loads(canonical(content))
    if before is None:
        return Record(1, at, stack, kind, plain, beginning(stack))
    return Record(before.number + 1, at, stack, kind, plain, before.sha256)


def parsed(line: bytes) -> tuple[Record, str, bool]:
    """The record in a line, the SHA-256 that it carries, and whether that is the right one.

    It is not when the line is another one than was written, be it by a byte: many texts mean the
    same number. Raises ValueError when there is no record in it.
    """
    try:
        entry = json.loads(line)
        exact = canonical(entry) == line
        carried = entry.pop("sha256")
        record = Record(**entry)
        right = (
            isinstance(record.number, int)
            and isinstance(record.content, Mapping)
            and all(isinstance(v, str) for v in (record.at, record.stack, record.kind, carried))
        )
    except MALFORMED as error:
        raise ValueError(str(error)) from error
    if not right or record.format != FORMAT:
        raise ValueError("it is of another format")
    return record, carried, exact and digest(entry) == carried


def judge(data: bytes, stack: str, anchors: Iterable[Anchor] = ()) -> Judgement:
    """What is wrong with a stored chain; every fault names its record, or its line.

    Raises :class:`WrongStack` when the whole chain is of another stack.
    """
    lines, faults = _read(data)
    strangers = [one for one in lines if one.record.stack != stack]
    if strangers and len(strangers) == len(lines):
        raise WrongStack(
            f"the evidence is of the stack {strangers[0].record.stack!r}; expected {stack!r}. Name "
            "the stack that it is of, or the right file"
        )
    for one in strangers:
        faults.append(
            f"line {one.position}: {one.record.words} is of the stack {one.record.stack!r} and "
            "does not belong here"
        )
    own = [one for one in lines if one.record.stack == stack]
    faults += list(_edited(own))
    faults += list(_misplaced(own, stack))
    records = tuple(one.record for one in own)
    proved, contradictions = _against(anchors, {one.record.number: one for one in own}, stack)
    return Judgement(records, tuple(faults + contradictions), proved)


def _read(data: bytes) -> tuple[list[_Line], list[str]]:
    lines, faults = [], []
    whole, _, rest = data.rpartition(b"\n")
    for position, line in enumerate(whole.split(b"\n") if whole else (), 1):
        try:
            lines.append(_Line(position, *parsed(line)))
        except ValueError as error:
            faults.append(f"line {position} is no record that can be read: {error}")
    if rest:
        faults.append(
            f"the end is cut off in the middle of a line ({len(rest)} bytes after the last record)"
        )
    return lines, faults


def _edited(lines: Sequence[_Line]) -> Iterator[str]:
    for one in lines:
        if not one.right:
            yield (
                f"{one.record.words} was edited: its contents do not have the SHA-256 that it "
                "carries"
            )


def _misplaced(lines: Sequence[_Line], stack: str) -> Iterator[str]:
    """What was removed, inserted, moved or replaced: numbers first, then what follows what."""
    genuine = _genuine(lines)
    highest = 0
    for one in lines:
        if genuine[one.record.number] is not one:
            yield (
                f"line {one.position}: {one.record.words} was inserted: another record has that "
                "number, and the chain leads through that one"
            )
        elif one.record.number < highest:
            yield f"line {one.position}: {one.record.words} was moved: it is after {highest}"
        else:
            highest = one.record.number
    for first, last in _gaps(set(genuine)):
        names = f"record {first} is" if first == last else f"records {first} to {last} are"
        yield f"{names} missing: removed"
    for number, one in sorted(genuine.items()):
        before = genuine.get(number - 1)
        expected = beginning(stack) if number == 1 else before.carried if before else None
        if expected is not None and one.record.previous != expected:
            yield (
                f"{one.record.words} does not follow "
                f"{before.record.words if before else 'the beginning'} that is there: one of them "
                "was replaced"
            )


def _genuine(lines: Sequence[_Line]) -> dict[int, _Line]:
    """By number; where there are several, the one that the next record names, or the first."""
    named = {one.record.previous for one in lines}
    found: dict[int, _Line] = {}
    for one in lines:
        other = found.setdefault(one.record.number, one)
        if other is not one and other.carried not in named and one.carried in named:
            found[one.record.number] = one
    return found


def _gaps(there: set[int]) -> Iterator[tuple[int, int]]:
    first = None
    for number in range(1, max(there, default=0) + 1):
        if number not in there:
            first = first or number
        elif first is not None:
            yield first, number - 1
            first = None


def _against(
    anchors: Iterable[Anchor], lines: Mapping[int, _Line], stack: str
) -> tuple[int, list[str]]:
    """Up to which number the anchors confirm the chain, and which of them contradict it."""
    proved, faults = 0, []
    last = max(lines, default=0)
    for anchor in sorted(anchors, key=lambda one: (one.number, one.at)):
        if anchor.stack != stack:
            faults.append(f"{anchor.words} is of the stack {anchor.stack!r}, not of {stack!r}")
        elif anchor.number > last:
            faults.append(
                f"the chain was cut off: it ends with record {last}, and {anchor.words} knows "
                f"record {anchor.number}"
            )
        elif anchor.number not in lines or lines[anchor.number].carried != anchor.sha256:
            faults.append(
                f"record {anchor.number} is not the one that {anchor.words} knows: it, or one "
                "before it, was rewritten"
            )
        else:
            proved = max(proved, anchor.number)
    return (0 if faults else proved), faults
