"""Figures as a person reads them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

_UNITS = ((31557600, "year"), (86400, "day"), (3600, "hour"), (60, "minute"))


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units, such as ``2 hours 5 minutes``."""
    if seconds is None:
        return "not known"
    rest = round(seconds)
    if rest < 120:
        return f"{seconds:.1f} s" if seconds < 10 and seconds % 1 else f"{rest} s"
    parts = []
    for size, name in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(parts[:2])


def day(at: datetime) -> str:
    """The date, in UTC."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d}"


def time(at: datetime) -> str:
    """Date and time, in UTC."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def second(at: datetime) -> str:
    """Date and time to the second, in UTC."""
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def several(names: Iterable[str], none: str = "none") -> str:
    """Names, one after the other."""
    return ", ".join(names) or none


def count(number: int, thing: str) -> str:
    """``1 drill``, ``2 drills``."""
    ending = "ies" if thing.endswith("y") else f"{thing[-1]}s"
    return f"{number} {thing}" if number == 1 else f"{number} {thing[:-1]}{ending}"
