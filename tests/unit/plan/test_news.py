"""What is new goes on record once, and again when more is known of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from saltext.openhim.plan import chain, news

from tests.unit.plan import made


def recorded(found: list[Any], records: list[chain.Record]) -> list[chain.Record]:
    for kind, content in found:
        before = records[-1] if records else None
        at = "2026-11-22T12:00:00.000Z"
        records = [*records, chain.following(before, "example", kind, content, at)]
    return records


ALL: dict[str, Any] = {
    "epochs": [made.epoch(lost_sites=("north",), result=None, completed_at=None)],
    "verifications": [made.verification(made.NOW)[1]],
    "drills": [made.drill(made.NOW, 1)[1]],
    "emergencies": [{"entered_at": "2026-11-22T10:00:00Z", "entered_by": "Ada", "left_at": None}],
    "accounts": [{"what": "opened", "name": "ada", "at": "2026-11-22T10:00:00+00:00"}],
    "backups": {"state": "ok", "hosts": {"a": {"repositories": {"store": made.repository()}}}},
}


def test_everything_is_recorded_once() -> None:
    first = news.found([], made.openhim(), made.NOW, **ALL)
    assert [kind for kind, _ in first] == [
        "plan", "recovery", "verification", "drill", "emergency", "break-glass", "status",
    ]  # fmt: skip
    records = recorded(first, [])
    assert news.found(records, made.openhim(), made.NOW, **ALL) == []


def test_what_has_gone_on_is_recorded_again() -> None:
    records = recorded(news.found([], made.openhim(), made.NOW, **ALL), [])
    later = {**ALL, "epochs": [made.epoch()],
             "emergencies": [{**ALL["emergencies"][0], "left_at": "2026-11-22T11:00:00Z"}]}  # fmt: skip
    found = news.found(records, made.openhim(), made.NOW, **later)
    assert [kind for kind, _ in found] == ["recovery", "emergency"]


def test_the_backups_are_looked_at_once_a_day() -> None:
    records = recorded(news.found([], made.openhim(), made.NOW, **ALL), [])
    for hours, kinds in ((19, []), (20, ["status"])):
        now = made.NOW + timedelta(hours=hours)
        assert [k for k, _ in news.found(records, made.openhim(), now, **ALL)] == kinds


def test_a_plan_that_comes_back_is_a_version_of_its_own() -> None:
    other = made.openhim()
    other["plan"]["organisation"] = "Another"
    records: list[chain.Record] = []
    for openhim in (made.openhim(), other, made.openhim()):
        found = news.found(records, openhim, made.NOW)
        assert [kind for kind, _ in found] == ["plan"]
        records = recorded(found, records)


def test_what_was_not_asked_is_not_recorded_as_nothing() -> None:
    assert [k for k, _ in news.found([], made.openhim(), made.NOW)] == ["plan"]
