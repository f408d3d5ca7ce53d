"""What an archive of slices can reach, from its headers alone. Pure.

A restore follows exactly one timeline: the slices of its own, and those of the timelines that it
came from up to where it left them. Slices may overlap (two archivers, a compaction that was cut
short); what counts is that there is no hole. What lies past a branch is not part of the history
that goes on: :func:`abandoned` gives it to who makes the list of lost writes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bson import Timestamp
from saltext.openhim.backup.oplog.slices import GAP, SLICE, VOID, Header, Position, Timeline, words
from saltext.openhim.errors import OpenHIMError, Refused


@dataclass(frozen=True)
class Segment:
    """What is taken of a slice: what comes after ``after``, up to and with ``until``."""

    header: Header
    after: Position
    until: Position


@dataclass(frozen=True)
class Range:
    """A stretch without holes: a base taken in it reaches every time from its own up to ``end``."""

    start: Position
    end: Position

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.start.words} to {self.end.words}"


@dataclass(frozen=True)
class Gap:
    """A stretch between two ranges; reason: what its record says, or that there is none."""

    start: Position
    end: Position
    reason: str

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.start.words} to {self.end.words}: {self.reason}"


@dataclass(frozen=True)
class Plan:
    """What a replay reads, in this order.

    after: the base's cluster time; to: the time that is wanted. earlier: what precedes the
    segments without a hole, newest first: a transaction that is committed after the base may have
    begun there.
    """

    replica_set: str
    timeline: Timeline | None
    after: Timestamp
    to: Timestamp
    segments: tuple[Segment, ...]
    earlier: tuple[Segment, ...] = ()


class TimeNotReachable(Refused):
    """The archive does not reach the time; ``ranges`` are those that it does reach."""

    def __init__(self, message: str, ranges: Sequence[Range]):
        super().__init__(message)
        self.ranges = list(ranges)


def usable(headers: Iterable[Header], replica_set: str) -> list[Header]:
    """The slices and gap records of one replica set, without what was taken back; sorted."""
    own = [header for header in headers if header.replica_set == replica_set]
    voided = {header.voids for header in own if header.kind == VOID}
    unique = {header.name: header for header in own if header.kind != VOID}
    return [unique[name] for name in sorted(unique) if name not in voided]


def timelines(headers: Iterable[Header], replica_set: str) -> list[Timeline]:
    """The timelines of one replica set, the oldest first."""
    found: dict[tuple[int, int], Timeline] = {}
    for header in usable(headers, replica_set):
        found.setdefault(header.timeline.key, header.timeline)
    return [found[key] for key in sorted(found)]


def timeline_of(headers: Iterable[Header], replica_set: str, epoch: int | None) -> Timeline:
    """The newest timeline, of one epoch or of all.

    Raises OpenHIMError when there is none.
    """
    every = timelines(headers, replica_set)
    own = [line for line in every if epoch is None or line.epoch == epoch]
    if not own:
        which = "" if epoch is None else f" of the epoch {epoch}"
        known = ", ".join(str(number) for number in sorted({line.epoch for line in every}))
        raise OpenHIMError(
            f"the oplog archive has nothing{which} of the replica set {replica_set!r}"
            + (f"; it has the epochs {known}" if known else "; it is empty")
        )
    return own[-1]


def newest(
    headers: Iterable[Header], replica_set: str, line: Timeline, kind: str | None = None
) -> Header | None:
    """The slice or gap record (or only one ``kind``) that reaches furthest on a timeline itself."""
    own = [
        each
        for each in usable(headers, replica_set)
        if each.timeline.key == line.key and kind in (None, each.kind)
    ]
    # Of a slice and a gap record with the same end, the slice knows more.
    return max(own, key=lambda each: (each.last, each.kind == SLICE), default=None)


def not_copied(headers: Sequence[Header], copied: Sequence[Header]) -> list[Header]:
    """The slices and records that a copy of the archive does not have yet, of every set.

    What was joined after its pieces were copied is there already, piece by piece.
    """
    settled = {each.voids for each in (*headers, *copied) if each.kind == VOID}
    settled |= {each.name for each in copied}
    held: dict[tuple[str, tuple[int, int]], list[Range]] = {}
    for name in {each.replica_set for each in copied}:
        for each in sorted(usable(copied, name), key=lambda each: (each.previous, each.last)):
            if each.kind == SLICE:
                _stretch(held.setdefault((name, each.timeline.key), []), each.previous, each.last)
    return [
        each
        for each in headers
        if each.name not in settled
        and not (
            each.kind == SLICE
            and any(
                one.start <= each.previous and each.last <= one.end
                for one in held.get((each.replica_set, each.timeline.key), ())
            )
        )
    ]


def _stretch(ranges: list[Range], after: Position, until: Position) -> None:
    """Adds a stretch to sorted ranges; it joins the last one where there is no hole between."""
    if ranges and after <= ranges[-1].end:
        ranges[-1] = replace(ranges[-1], end=max(ranges[-1].end, until))
    else:
        ranges.append(Range(after, until))


def rpo_seconds(headers: Iterable[Header], replica_set: str, now: datetime) -> float | None:
    """Seconds from the last archived entry to ``now``, the set's clock; None without a slice."""
    known = [each for each in usable(headers, replica_set) if each.kind == SLICE]
    last = max(known, key=lambda each: (each.timeline.key, each.last), default=None)
    return max(0.0, (now - last.last_wall).total_seconds()) if last else None


def history(headers: Iterable[Header], replica_set: str, line: Timeline) -> list[Segment]:
    """What is archived of a timeline and of those that it came from; sorted, may overlap."""
    known = usable(headers, replica_set)
    lines = {each.timeline.key: each.timeline for each in known}
    segments: list[Segment] = []
    end: Position | None = None
    seen: set[tuple[int, int]] = set()
    current: Timeline | None = line
    while current is not None and current.key not in seen:
        seen.add(current.key)
        for header in known:
            if header.kind != SLICE or header.timeline.key != current.key:
                continue
            until = header.last if end is None else min(header.last, end)
            if header.previous < until:
                segments.append(Segment(header, header.previous, until))
        if current.branch is not None:
            end = current.branch if end is None else min(current.branch, end)
        current = lines.get(current.parent) if current.parent else None
    return sorted(segments, key=lambda each: (each.after, each.until))


def reachable(headers: Iterable[Header], replica_set: str, line: Timeline) -> list[Range]:
    """The stretches without holes that a timeline has, the oldest first."""
    found: list[Range] = []
    for segment in history(headers, replica_set, line):
        _stretch(found, segment.after, segment.until)
    return found


def gaps(headers: Iterable[Header], replica_set: str, line: Timeline) -> list[Gap]:
    """What is missing between the ranges of a timeline, and a recorded gap at its very end."""
    known = usable(headers, replica_set)
    ranges = reachable(known, replica_set, line)
    records = [each for each in known if each.kind == GAP]
    holes = [(one.end, two.start) for one, two in itertools.pairwise(ranges)]
    last = newest(known, replica_set, line)
    if last and last.kind == GAP and ranges and ranges[-1].end < last.last:
        holes.append((ranges[-1].end, last.last))
    return [Gap(start, end, _reason(records, start, end)) for start, end in holes]


def _reason(records: Sequence[Header], start: Position, end: Position) -> str:
    for record in records:
        if record.previous < end and record.last > start:
            return record.reason or "recorded without a reason"
    return "a slice is missing, and nothing is on record about it"


def plan(
    headers: Iterable[Header],
    replica_set: str,
    *,
    base: Timestamp,
    to: Timestamp,
    base_epoch: int | None = None,
    epoch: int | None = None,
) -> Plan:
    """Which slices bring a base, taken at the cluster time ``base``, to the time ``to``.

    base_epoch: the epoch in which the base was taken. epoch: that of the history to follow; the
    newest one when left out.

    Raises :class:`TimeNotReachable`, with the reachable ranges, when there is a hole on the way or
    the base is not on that history.
    """
    known = usable(headers, replica_set)
    nothing_more = Plan(replica_set, None, base, to, ())
    if to == base and not any(epoch in (None, one.epoch) for one in timelines(known, replica_set)):
        return nothing_more
    line = timeline_of(known, replica_set, epoch)
    ranges = reachable(known, replica_set, line)
    if to < base:
        _refuse(f"it is before the restore point, which is of {words(base)}", to, ranges)
    left = _left_behind(known, replica_set, line, base, base_epoch)
    if left:
        _refuse(left, to, ranges)
    if to == base:
        return nothing_more
    _check_epoch(known, replica_set, line, base_epoch, to, ranges)
    holding = [each for each in ranges if each.start.ts <= base <= each.end.ts]
    if not holding:
        _refuse(f"nothing is archived of {words(base)}, the restore point's time", to, ranges)
    if to > holding[-1].end.ts:
        _refuse(_short_of(known, replica_set, line, holding[-1], to), to, ranges)
    segments = history(known, replica_set, line)
    needed = _cover(segments, base, to)
    return Plan(replica_set, line, base, to, needed, _before(segments, needed[0].after))


def _short_of(
    known: Sequence[Header], replica_set: str, line: Timeline, held: Range, to: Timestamp
) -> str:
    for each in gaps(known, replica_set, line):
        if each.start >= held.end and each.start.ts < to:
            return f"there is a gap on the way, {each.words}"
    return f"the archive ends with {held.end.words}"


def _left_behind(
    known: Sequence[Header],
    replica_set: str,
    line: Timeline,
    base: Timestamp,
    base_epoch: int | None,
) -> str | None:
    """Why the base is past a branch of the history that is followed; None where it is not."""
    for current, parent in _descent(known, replica_set, line):
        assert current.parent and current.branch
        older = base_epoch is not None and base_epoch <= current.parent[0] < current.epoch
        # Within one epoch only the time can tell on which side of a branch the base was taken.
        unclear = base_epoch is None or base_epoch == current.parent[0] == current.epoch
        end = newest(known, replica_set, parent) if parent else None
        unclear = unclear and end is not None and base <= end.last.ts
        if base > current.branch.ts and (older or unclear):
            return (
                f"the restore point of {words(base)} belongs to the history of epoch "
                f"{current.parent[0]}, which was left at {current.branch.words}; epoch "
                f"{current.epoch} went on from there. Take an earlier restore point, or follow "
                f"epoch {current.parent[0]}"
            )
    return None


def _descent(
    known: Sequence[Header], replica_set: str, line: Timeline
) -> Iterator[tuple[Timeline, Timeline | None]]:
    """Each timeline that left another one, from ``line`` back, with that one if it is archived."""
    lines = {each.key: each for each in timelines(known, replica_set)}
    current: Timeline | None = line
    while current is not None and current.parent and current.branch:
        parent = lines.get(current.parent)
        yield current, parent
        current = parent


def _check_epoch(
    known: Sequence[Header],
    replica_set: str,
    line: Timeline,
    base_epoch: int | None,
    to: Timestamp,
    ranges: Sequence[Range],
) -> None:
    """The history that is followed must be one that the base's epoch is part of."""
    if base_epoch is None:
        return
    descent = _descent(known, replica_set, line)
    epochs = {line.epoch, *(each.parent[0] for each, _ in descent if each.parent)}
    if base_epoch > line.epoch:
        _refuse(f"the restore point is of epoch {base_epoch}, after {line.epoch}", to, ranges)
    if base_epoch < min(epochs):
        _refuse(
            f"the restore point is of epoch {base_epoch}, and the archive of epoch {line.epoch} "
            "does not begin with that history",
            to,
            ranges,
        )


def _refuse(why: str, to: Timestamp, ranges: Sequence[Range]) -> None:
    found = "; ".join(each.words for each in ranges) or "none"
    raise TimeNotReachable(
        f"{words(to)} can't be reached: {why}. Reachable, from a restore point within the same "
        f"range: {found}",
        ranges,
    )


def _cover(segments: Sequence[Segment], base: Timestamp, to: Timestamp) -> tuple[Segment, ...]:
    """The fewest segments from ``base`` to ``to``; the caller knows that there is no hole."""
    chosen: list[Segment] = []
    waiting = deque(segments)  # by their beginning; a month has tens of thousands
    best: Segment | None = None
    at = base
    while at < to:
        while waiting and waiting[0].after.ts <= at:
            each = waiting.popleft()
            if best is None or each.until > best.until:
                best = each
        if best is None or best.until.ts <= at:
            raise OpenHIMError(f"no slice goes on from {words(at)}")
        after = max(best.after, chosen[-1].until) if chosen else best.after
        chosen.append(replace(best, after=after))
        at = best.until.ts
    return tuple(chosen)


def _before(segments: Sequence[Segment], start: Position) -> tuple[Segment, ...]:
    """What reaches ``start`` from behind without a hole, newest first."""
    chosen: list[Segment] = []
    waiting = sorted(segments, key=lambda each: each.until)
    best: Segment | None = None
    at = start
    while True:
        while waiting and waiting[-1].until >= at:
            each = waiting.pop()
            if best is None or each.after < best.after:
                best = each
        if best is None or best.after >= at:
            return tuple(chosen)
        chosen.append(replace(best, until=at))
        at = best.after


def abandoned(headers: Iterable[Header], replica_set: str, line: Timeline) -> list[Segment]:
    """What was archived of a timeline's parent past the branch: writes that did not survive."""
    if line.parent is None or line.branch is None:
        return []
    return [
        Segment(header, max(header.previous, line.branch), header.last)
        for header in usable(headers, replica_set)
        if header.kind == SLICE and header.timeline.key == line.parent and header.last > line.branch
    ]


def compactable(
    headers: Iterable[Header], replica_set: str, *, until: Timestamp, seconds: int = 3600
) -> list[list[Header]]:
    """Groups of slices that may become one each: adjacent, of one timeline and one span of time.

    until: the newest restore point's time; what ends later stays as it is. seconds: the span.
    """
    groups: list[list[Header]] = []
    for header in usable(headers, replica_set):
        if header.kind != SLICE or header.last.ts > until:
            continue
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last.timeline == header.timeline
            and last.last == header.previous
            and last.last.time // seconds == header.last.time // seconds
        ):
            groups[-1].append(header)
        else:
            groups.append([header])
    return [group for group in groups if len(group) > 1]


def unneeded(
    headers: Iterable[Header], replica_set: str, bases: Iterable[Timestamp]
) -> list[Header]:
    """Slices and records that no restore from one of these bases reads; none without a base.

    The last one of each timeline before the oldest base stays: a transaction may have begun in it,
    and the archiver goes on from it.
    """
    oldest = min(bases, default=None)
    if oldest is None:
        return []
    before: dict[tuple[int, int], list[Header]] = {}
    for header in headers:
        if header.replica_set == replica_set and header.last.ts < oldest:
            before.setdefault(header.timeline.key, []).append(header)
    kept = {max(each.last for each in own) for own in before.values()}
    return [each for own in before.values() for each in own if each.last not in kept]
