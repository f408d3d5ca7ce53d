"""What is drawn is what was measured: at its place, with its peaks, and with its gaps."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from saltext.openhim.plan import plots

from tests.unit.plan.made import NOW

DAY = timedelta(days=1)


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_figures_are_at_their_places_beside_the_target() -> None:
    made = plots.figures("RTO", [(NOW - 10 * DAY, 100.0, "drill"), (NOW, 300.0, "recovery")],
                         200.0, NOW)  # fmt: skip
    assert made is not None
    first, last = made.marks
    assert (first.x, last.x) == (plots.LEFT, plots.WIDTH - plots.RIGHT)
    assert first.y > made.limit > last.y
    assert abs((first.y + last.y) / 2 - made.limit) <= 0.1
    assert made.summary.endswith("1 above the target 3 minutes.")
    assert first.text == "2026-11-12, drill: 100 s"


def test_nothing_measured_is_no_plot() -> None:
    assert plots.figures("RTO", [], 200.0, NOW) is None
    assert plots.courses("Age", [("store", [(NOW, None)])], 200.0, NOW) is None


@pytest.mark.parametrize("peak", range(1712, 1722))
def test_ten_years_are_few_points_and_no_peak_is_lost(peak: int) -> None:
    course = [(NOW - (3652 - n) * DAY, 5000.0 if n == peak else 100.0 + n % 9) for n in range(3653)]
    made = plots.courses("Age", [("store", course)], None, NOW)
    assert made is not None
    drawn = places(made.lines[0].path)
    assert len(drawn) <= 2 * (plots.WIDTH - plots.LEFT - plots.RIGHT + 1)
    assert min(y for _, y in drawn) < 40
    assert sum(1 for _, y in drawn if y < 100) == 1
    assert "to 1 hour 23 minutes" in made.summary


def test_where_nothing_is_known_the_line_has_a_gap() -> None:
    course = [(NOW - 9 * DAY, 10.0), (NOW - 8 * DAY, 10.0), (NOW - 5 * DAY, None), (NOW, 10.0)]
    made = plots.courses("Age", [("store", course)], None, NOW)
    assert made is not None
    assert made.lines[0].path.count("M") == 2


def test_a_single_figure_and_a_target_of_nothing_are_drawn() -> None:
    made = plots.figures("RPO", [(NOW, 0.0, "drill")], 0.0, NOW)
    assert made is not None
    assert made.limit is None
    assert "0 above the target 0 s" in made.summary
    assert all(plots.TOP <= mark.y <= plots.HEIGHT for mark in made.marks)
