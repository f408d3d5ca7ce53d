"""Which restore points to keep.

Pure: no clock, no repository. Decided on whole restore points, because restic's own policy would
judge the parts of one point separately.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from typing import Protocol

from saltext.openhim.errors import OpenHIMError, Refused

#: How far ahead of ours another host's clock may be before we distrust the time of its points.
CLOCK_TOLERANCE = timedelta(minutes=5)

#: For how long the data stays that a restore replaced, where the pillar does not say it.
KEEP_ASIDE = timedelta(days=30)

#: What a point's time is cut to, so that points of the same period are equal.
_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda time: (time.year, time.month, time.day, time.hour),
    "daily": lambda time: (time.year, time.month, time.day),
    "weekly": lambda time: tuple(time.isocalendar())[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: (time.year,),
}


@dataclass(frozen=True)
class Policy:
    """How many restore points to keep: the last ones, and one in each of the newest periods.

    Periods are those of UTC; weeks begin on Monday (ISO 8601). Periods without a point do not
    count.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __post_init__(self) -> None:
        """Refuse what would keep nothing, or makes no sense."""
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OpenHIMError(f"keep-{name} is {value!r}; expected a whole number, 0 or more")
        if not any(getattr(self, entry.name) for entry in fields(self)):
            raise OpenHIMError(
                "the retention policy keeps nothing; give at least one of "
                + ", ".join(f"keep-{entry.name}" for entry in fields(self))
            )

    @classmethod
    def from_mapping(cls, policy: Mapping[str, int]) -> Policy:
        """The policy of a mapping such as ``{"keep-last": 3, "keep-daily": 7}``."""
        known = {f"keep-{entry.name}": entry.name for entry in fields(cls)}
        if unknown := sorted(set(policy) - set(known)):
            raise OpenHIMError(
                f"unknown in the retention policy: {', '.join(unknown)}; known are "
                + ", ".join(known)
            )
        return cls(**{known[name]: value for name, value in policy.items()})


@dataclass(frozen=True)
class Candidate:
    """A committed restore point, as far as retention cares. ``time`` knows its time zone.

    aside: it is what a restore was about to replace.
    """

    id: str
    time: datetime
    verified: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Decision:
    """What to keep and why, and what to remove (the oldest first)."""

    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    #: Why nothing is removed though the policy would; empty when the policy was followed.
    held: str = ""


def decide(
    points: Iterable[Candidate],
    policy: Policy,
    *,
    minimum_verified: int = 1,
    now: datetime | None = None,
    protected: Collection[str] = (),
    keep_aside: timedelta = KEEP_ASIDE,
) -> Decision:
    """Sort the points into those to keep and those to remove.

    The newest point is always kept. Of the points of one period the newest *verified* one stays, or
    the newest when none is verified. Points whose time lies in the future are kept and take
    nobody's place: a clock was wrong, or somebody tries to push the good ones out. What was kept
    aside takes nobody's place either: it stays for a while of its own, and counts for nothing.

    minimum_verified: the floor; that many verified points stay, whatever the policy says. While
    fewer
        exist at all, nothing is removed.
    now: the present (default: the clock's).
    protected: points that stay in any case.
    keep_aside: for how long what a restore replaced stays.
    """
    if minimum_verified < 0:
        raise OpenHIMError(f"minimum_verified is {minimum_verified}; expected 0 or more")
    present = now or datetime.now(timezone.utc)
    every = sorted(points, key=lambda point: (point.time, point.id), reverse=True)
    if len({point.id for point in every}) != len(every):
        raise OpenHIMError("a restore point was listed twice; nothing was decided")
    future = [point for point in every if point.time > present + CLOCK_TOLERANCE]
    usable = [point for point in every[len(future) :] if not point.aside]
    reasons: dict[str, list[str]] = {}
    for point, reason in _kept(usable, policy):
        reasons.setdefault(point.id, []).append(reason)
    for point in future:
        reasons.setdefault(point.id, []).append("its time is in the future")
    for point in every:
        if point.aside and point.time > present - keep_aside:
            reasons.setdefault(point.id, []).append("kept aside")
        if point.id in protected:
            reasons.setdefault(point.id, []).append("protected")
    verified = [point for point in usable if point.verified]
    held = ""
    if len(verified) < minimum_verified:
        held = (
            f"only {len(verified)} of at least {minimum_verified} verified restore points exist, "
            "so nothing is removed; verify some first"
        )
        for point in every:
            reasons.setdefault(point.id, []).append("too few are verified")
    missing = minimum_verified - sum(point.id in reasons for point in verified)
    for point in verified:
        if missing > 0 and point.id not in reasons:
            reasons[point.id] = ["minimum of verified points"]
            missing -= 1
    return Decision(
        keep={point.id: tuple(reasons[point.id]) for point in every if point.id in reasons},
        remove=tuple(point.id for point in reversed(every) if point.id not in reasons),
        held=held,
    )


def _kept(points: list[Candidate], policy: Policy) -> Iterable[tuple[Candidate, str]]:
    """What the policy keeps of points sorted from the newest, with the reason of each."""
    if points:
        yield points[0], "newest"
    for point in points[: policy.last]:
        yield point, "last"
    for name, cut in _PERIODS.items():
        best: dict[tuple[int, ...], Candidate] = {}
        for point in points:
            period = cut(point.time.astimezone(timezone.utc))
            if period not in best or (point.verified and not best[period].verified):
                best[period] = point
        # dict keeps the order of the first entry: the newest periods come first.
        for point in list(best.values())[: getattr(policy, name)]:
            yield point, name


class Slice(Protocol):
    """A slice of the oplog, as far as retention cares; times are (seconds, increment)."""

    @property
    def id(self) -> str:
        """What it is forgotten by."""

    @property
    def replica_set(self) -> str:
        """Whose oplog it is of."""

    @property
    def last(self) -> tuple[int, int]:
        """The time of its last entry."""


def unneeded_slices(
    slices: Iterable[Slice], kept: Iterable[Mapping[str, tuple[int, int]]]
) -> list[str]:
    """The IDs of slices that no kept restore point needs: they end before the oldest one's time.

    kept: of each restore point that is kept (in *any* repository that the slices serve), the
    cluster
        time by replica set.

    Raises :class:`~saltext.openhim.errors.Refused` when a set that has slices has no kept point:
    its slices are then all that is left of it.
    """
    oldest: dict[str, tuple[int, int]] = {}
    for times in kept:
        for name, time in times.items():
            oldest[name] = min(oldest.get(name, time), time)
    known = list(slices)
    if orphaned := sorted({one.replica_set for one in known} - set(oldest)):
        raise Refused(
            f"no kept restore point holds the replica set {', '.join(orphaned)}, so its oplog "
            "slices "
            "are all that is left of it; nothing was removed. Take a restore point first"
        )
    return [one.id for one in known if tuple(one.last) <= oldest[one.replica_set]]
