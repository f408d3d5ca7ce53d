"""The colours can be told apart by everybody: WCAG AA, computed."""

from __future__ import annotations

import re

import pytest
from saltext.openhim.plan import style


@pytest.mark.parametrize("palette", [style.LIGHT, style.DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "behind", "least"), style.PAIRS)
def test_every_colour_has_contrast(
    palette: dict[str, str], front: str, behind: str, least: float
) -> None:
    assert style.contrast(palette[front], palette[behind]) >= least


def test_the_formula_is_that_of_wcag() -> None:
    """Its extremes, and the grey that is the lightest on white with 4.5."""
    assert style.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert style.contrast("#123456", "#123456") == pytest.approx(1)
    assert style.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert style.contrast("#777777", "#ffffff") < style.TEXT


def test_both_palettes_have_the_same_colours_and_the_sheet_uses_no_other() -> None:
    assert style.LIGHT.keys() == style.DARK.keys()
    sheet = style.sheet()
    assert set(re.findall(r"var\(--(\w+)\)", sheet)) <= set(style.LIGHT)
    assert set(re.findall(r"#[0-9a-f]{6}", sheet)) == {
        *style.LIGHT.values(), *style.DARK.values(),
    }  # fmt: skip
