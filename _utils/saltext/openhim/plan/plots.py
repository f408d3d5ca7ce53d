"""The geometry of the plots: what a template draws as SVG, without a script. Pure.

Ten years of daily figures are more points than a screen has columns: of each column the lowest and
the highest are drawn, so that no peak is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from saltext.openhim.plan import words

#: Of the picture, in its own units, which a browser scales.
WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 92, 12, 14, 34

#: Steps between two lines of the grid, in seconds: what people count in.
_STEPS = (1, 5, 10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)

#: Lines of the grid, at most.
_LINES = 6

Point = tuple[datetime, float, str]


@dataclass(frozen=True)
class Mark:
    """A figure of its own: where it is, of which kind, and what it says."""

    x: float
    y: float
    kind: str
    text: str


@dataclass(frozen=True)
class Line:
    """Figures that are joined. path: as SVG draws it. gaps are not bridged."""

    name: str
    path: str


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A whole plot. limit: where the target's line is, None where there is none above zero."""

    title: str
    summary: str
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    along: tuple[Tick, ...]
    limit: float | None
    limit_text: str


@dataclass(frozen=True)
class _Frame:
    """How time and seconds become places in the picture."""

    first: float
    last: float
    top: float

    def x(self, at: datetime) -> float:
        share = (at.timestamp() - self.first) / (self.last - self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, seconds: float) -> float:
        return round(HEIGHT - BOTTOM - seconds / self.top * (HEIGHT - TOP - BOTTOM), 1)


def figures(
    title: str, points: Sequence[Point], limit: float | None, until: datetime
) -> Plot | None:
    """Single figures beside their target; None where there are none. until: the right edge."""
    if not points:
        return None
    frame = _frame([point[:2] for point in points], limit, until)
    marks = tuple(
        Mark(frame.x(at), frame.y(value), kind, f"{words.day(at)}, {kind}: {words.duration(value)}")
        for at, value, kind in points
    )
    values = [value for _, value, _ in points]
    return _plot(title, frame, marks, (), limit, values)


def courses(
    title: str,
    series: Sequence[tuple[str, Sequence[tuple[datetime, float | None]]]],
    limit: float | None,
    until: datetime,
) -> Plot | None:
    """Figures that follow each other, one line for each series; None where there are none."""
    known = [(at, value) for _, course in series for at, value in course if value is not None]
    if not known:
        return None
    frame = _frame(known, limit, until)
    lines = tuple(Line(name, _path(course, frame)) for name, course in series)
    return _plot(title, frame, (), lines, limit, [value for _, value in known])


def _frame(
    points: Iterable[tuple[datetime, float]], limit: float | None, until: datetime
) -> _Frame:
    points = list(points)
    first = min(at.timestamp() for at, _ in points)
    last = max(until.timestamp(), max(at.timestamp() for at, _ in points))
    if last - first < 86400:
        first = last - 86400
    return _Frame(first, last, max([1.0, limit or 0.0, *(value for _, value in points)]) * 1.08)


def _plot(
    title: str,
    frame: _Frame,
    marks: tuple[Mark, ...],
    lines: tuple[Line, ...],
    limit: float | None,
    values: Sequence[float],
) -> Plot:
    summary = (
        f"{len(values)} figures, from {words.duration(min(values))} to "
        f"{words.duration(max(values))}"
    )
    text = ""
    if limit is not None:
        above = sum(1 for value in values if value > limit)
        text = f"target {words.duration(limit)}"
        summary += f"; {above} above the {text}"
    return Plot(
        title, f"{summary}.", marks, lines, _across(frame), _along(frame),
        frame.y(limit) if limit else None, text,
    )  # fmt: skip


def _across(frame: _Frame) -> tuple[Tick, ...]:
    """Lines of equal seconds."""
    step = next((s for s in _STEPS if frame.top / s <= _LINES), None)
    if step is None:
        step = 86400 * max(1, round(frame.top / 86400 / _LINES + 0.5))
    count = int(frame.top // step)
    return tuple(
        Tick(frame.y(step * n), words.duration(step * n) if n else "0") for n in range(count + 1)
    )


def _along(frame: _Frame) -> tuple[Tick, ...]:
    """Dates below the axis: the ends and what is between them."""
    found = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = datetime.fromtimestamp(frame.first + share * (frame.last - frame.first), timezone.utc)
        found.append(Tick(frame.x(at), words.day(at)))
    return tuple(found)


def _path(course: Sequence[tuple[datetime, float | None]], frame: _Frame) -> str:
    """The line, with a gap where nothing is known."""
    parts: list[str] = []
    pen = "M"
    for x, values in _columns(course, frame):
        if values is None:
            pen = "M"
            continue
        for value in values:
            parts.append(f"{pen}{x} {frame.y(value)}")
            pen = "L"
    return "".join(parts)


def _columns(
    course: Sequence[tuple[datetime, float | None]], frame: _Frame
) -> list[tuple[float, list[float] | None]]:
    """The lowest and the highest of each column of the picture, in the order in which they came."""
    found: list[tuple[float, list[float] | None]] = []
    for at, value in course:
        column = float(round(frame.x(at)))
        if value is None:
            found.append((column, None))
        elif found and found[-1][0] == column and found[-1][1] is not None:
            kept = found[-1][1]
            if len(kept) == 1:
                kept.append(value)
            elif value < min(kept):
                kept[kept.index(min(kept))] = value
            elif value > max(kept):
                kept[kept.index(max(kept))] = value
        else:
            found.append((column, [value]))
    return found
