"""How a page is built, for those who do not see it; and how long it takes."""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from saltext.openhim.errors import Refused
from saltext.openhim.plan import chain, evidence, pages, report, runbook
from saltext.openhim.plan.facts import Facts, Unknown

from tests.unit.plan import made

EVIL = "<script>alert(1)</script>\"'><img src=http://example.org/x>"


class Outline(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made_pages() -> dict[str, str]:
    facts = made.well()
    silent = {"members": {"openhim": Unknown("x")}, "backups": Unknown("x")}
    return {
        "report": pages.report(report.build(facts)),
        "report, all silent": pages.report(report.build(replace(facts, **silent))),
        "report of nothing": pages.report(report.build(Facts(made.openhim(), made.NOW))),
        "status page": pages.report(report.build(made.well(records=[])), 30),
        "runbook": pages.runbook(runbook.build(made.openhim(), made.NOW)),
    }


@pytest.fixture(
    scope="module",
    params=["report", "report, all silent", "report of nothing", "status page", "runbook"],
)
def outline(request: pytest.FixtureRequest) -> Outline:
    return Outline(made_pages()[request.param])


def test_nothing_comes_from_outside_and_there_is_no_script(outline: Outline) -> None:
    assert not outline.all("script") + outline.all("link")[1:] + outline.all("iframe")
    assert outline.all("link") == [{"rel": "icon", "href": "data:,"}]
    for _, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
        assert "src" not in attributes


def test_headings_form_an_outline(outline: Outline) -> None:
    levels = [int(tag[1]) for tag, _ in outline.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_screen_reader_finds_its_way(outline: Outline) -> None:
    assert outline.all("html") == [{"lang": "en"}]
    assert len(outline.all("main")) == 1
    assert outline.all("a")[0] == {"class": "skip", "href": "#main"}
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for _, attributes in outline.elements
             for name in (attributes.get("aria-labelledby") or "").split()}  # fmt: skip
    linked = {(attributes.get("href") or "").lstrip("#") for attributes in outline.all("a")}
    assert named | linked <= set(ids)
    for attributes in outline.all("svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"]
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert all(attributes["scope"] in ("col", "row") for attributes in outline.all("th"))


def test_whatever_scrolls_is_reached_by_the_keyboard(outline: Outline) -> None:
    regions = [one for one in outline.all("div") if one.get("class") == "wide"]
    assert regions
    for one in regions:
        assert (one["role"], one["tabindex"]) == ("region", "0")
        assert one["aria-label"]


def test_no_state_is_told_by_its_colour_alone() -> None:
    for page in made_pages().values():
        for start in page.split('class="bad">')[1:]:
            text = start.split("<", 1)[0]
            assert text.lstrip().startswith(("✗", "lost")) or "attention" in page, text[:40]


def test_nothing_that_hosts_say_becomes_markup() -> None:
    openhim = made.openhim()
    openhim["plan"]["organisation"] = EVIL
    openhim["sites"]["north"]["description"] = EVIL
    record = ("drill", {"at": "2026-11-01T00:00:00Z", "by": EVIL, "what": EVIL, "ok": False})
    facts = made.well(
        openhim=openhim,
        records=made.recorded([(made.NOW, record)]),
        backups=Unknown(EVIL),
        at_rest={"north-db1": Unknown(EVIL)},
    )
    page = pages.report(report.build(facts))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_a_status_page_loads_itself_anew_and_says_from_when_on_it_is_stale() -> None:
    """Without a script: a browser shows an old file as it shows a new one."""
    model = report.build(Facts(made.openhim(), made.NOW))
    page = pages.report(model, 60)
    assert '<meta http-equiv="refresh" content="60">' in page
    assert "Status page, written 2026-11-22 12:00:00 UTC." in page
    assert "After 2026-11-22 12:03:00 UTC it is stale:" in page
    plain = pages.report(model)
    assert 'http-equiv="refresh"' not in plain
    assert "stale" not in plain


@pytest.mark.parametrize(("given", "expected"), [(None, None), (5, 5), ("30", 30), (86400, 86400)])
def test_how_often_a_page_is_loaded_anew(given: object, expected: int | None) -> None:
    assert pages.seconds(given) == expected


@pytest.mark.parametrize("given", [0, 4, 86401, -30, "soon", "", True, False, 30.5, "1e3", [30]])
def test_a_refresh_that_is_no_number_of_seconds_is_named(given: object) -> None:
    with pytest.raises(Refused, match=f"refresh: found {re.escape(repr(given))}; allowed a whole"):
        pages.seconds(given)


def test_ten_years_of_daily_records_are_shown_within_seconds(tmp_path: Path) -> None:
    """From the file to the page: read, every record checked, judged, rendered; seconds of the CPU."""
    records = made.years(10)
    file = evidence.path("example", tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"".join(one.line() for one in records))
    assert len(records) > 2 * 3650
    begun = time.process_time()
    judged = chain.judge(evidence.read("example", tmp_path), "example")
    model = report.build(replace(made.well(records=[]), chain=judged))
    page, text = pages.report(model), json.dumps(model)
    seconds = time.process_time() - begun
    print(f"{len(records)} records: {seconds:.2f} s, {len(page)} and {len(text)} bytes")
    assert judged.whole
    assert f"<dd>{len(records)}" in page
    assert seconds < 5
    assert len(page.encode()) < 5_000_000
    assert len(text.encode()) < 5_000_000
