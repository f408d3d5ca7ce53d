"""Every message of the plan is judged: told in time, late, overdue, still in time, or not known."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from saltext.openhim.errors import Refused
from saltext.openhim.plan import after_action, notifications, pages, report, statements
from saltext.openhim.plan.clauses import MISSING

from tests.unit.plan import made

#: Of the example's failover.
DECLARED = datetime(2026, 10, 1, 12, 10, tzinfo=timezone.utc)
SERVED = datetime(2026, 10, 1, 12, 12, 0, 500000, tzinfo=timezone.utc)
LONG_AFTER = made.NOW


def message(whom: str = "laboratory", **changes: Any) -> dict[str, Any]:
    """A message that must be told within ten minutes of the declaration."""
    return {"when": "It is declared", "whom": [whom], "by": "coordinator", "within_seconds": 600,
            "template": "x", **changes}  # fmt: skip


def told(whom: str, at: datetime, **fields: Any) -> tuple[str, Any]:
    return made.statement(notified=whom, at=made.utc(at), **fields)


def judged(
    messages: list[dict[str, Any]], *news: Any, now: datetime = LONG_AFTER, **epoch: Any
) -> list[dict[str, Any]]:
    """Who was to be told in the example's failover, as its after-action report has it."""
    records = made.recorded([(made.NOW, one) for one in news])
    plan = {"communication": messages}
    (found,) = after_action.all_of([made.epoch(**epoch)], records, plan, now)
    notices: list[dict[str, Any]] = found["notifications"]
    return notices


def verdict(messages: list[dict[str, Any]], *news: Any, **more: Any) -> tuple[Any, Any]:
    """Whether the only one whom a message is for was in time, and that in words."""
    (only,) = judged(messages, *news, **more)
    return only["in_time"], only["words"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, (True, "told in time")),
        (600, (True, "told in time")),
        (601, (False, "told late by 1 s")),
        (600 + 5400, (False, "told late by 1 hour 30 minutes")),
    ],
)
def test_who_was_told_is_in_time_until_the_deadline_and_late_after_it(
    seconds: int, expected: tuple[bool, str]
) -> None:
    at = DECLARED + timedelta(seconds=seconds)
    assert verdict([message()], told("laboratory", at)) == expected


def test_who_was_not_told_is_still_in_time_and_then_overdue_by_the_clock() -> None:
    at_the_deadline = DECLARED + timedelta(seconds=600)
    in_time = (None, "not told yet, and still in time")
    assert verdict([message()], now=at_the_deadline) == in_time
    later = at_the_deadline + timedelta(minutes=5)
    assert verdict([message()], now=later) == (False, "not told, and overdue by 5 minutes")


def test_a_deadline_counts_from_the_moment_that_the_plan_names() -> None:
    at = SERVED + timedelta(seconds=599)
    for name, expected in (
        ("declaration", "told late by 2 minutes"),
        ("service", "told in time"),
    ):
        assert verdict([message(counts_from=name)], told("laboratory", at))[1] == expected
    completed = datetime(2026, 10, 1, 12, 20, tzinfo=timezone.utc)
    late = told("laboratory", completed + timedelta(seconds=630))
    assert verdict([message(counts_from="completion")], late)[1] == "told late by 30 s"


def test_before_its_moment_has_come_nobody_is_overdue_and_nobody_was_told() -> None:
    """Who was called at the declaration was not told that OpenHIM serves."""
    called = told("laboratory", DECLARED)
    waits = [message(counts_from="service")]
    running = {"result": None, "completed_at": None}
    assert verdict(waits, called, **running) == (None, "not due yet")
    assert verdict(waits, called)[1].startswith("not told, and overdue by ")
    (found,) = after_action.all_of(
        [made.epoch(**running)], made.recorded([]), {"communication": waits}, LONG_AFTER
    )
    assert found["open"][0]["words"] == (
        "notification (laboratory: It is declared): open since 2026-10-01 12:10 UTC, not due "
        "before OpenHIM serves again"
    )


def test_where_the_moment_is_not_known_it_is_not_known_whether_it_was_in_time() -> None:
    """It is completed, and nobody measured when it served: that is not in time, and stays open."""
    waits = [message(counts_from="service")]
    call = told("laboratory", DECLARED + timedelta(seconds=1), acknowledged_by="Chi")
    assert verdict(waits, result=None) == (None, "not told")
    unknown = (None, "told, and whether in time is not known")
    assert verdict(waits, call, result=None) == unknown
    records = made.recorded([(made.NOW, call)])
    (found,) = after_action.all_of(
        [made.epoch(result=None)], records, {"communication": waits}, LONG_AFTER
    )
    assert (
        "deadline (laboratory: It is declared, told, and whether in time is not known): open since "
        "2026-10-01 12:10 UTC"
    ) in [one["words"] for one in found["open"]]


def test_what_has_no_deadline_is_neither_in_time_nor_late() -> None:
    call = told("laboratory", DECLARED + timedelta(days=9))
    whenever = message()
    del whenever["within_seconds"]
    assert verdict([whenever], call) == (None, "told, without a deadline")
    assert verdict([whenever]) == (None, "not told")


def test_a_confirmation_is_missing_only_where_one_is_asked_for() -> None:
    call = told("laboratory", DECLARED)
    for asked, missing in ((True, ["acknowledged_by"]), (False, [])):
        records = made.recorded([(made.NOW, call)])
        plan = {"communication": [message(acknowledged=asked)]}
        (found,) = after_action.all_of([made.epoch()], records, plan, LONG_AFTER)
        fields = [one["field"] for one in found["open"]]
        assert [one for one in fields if one == "acknowledged_by"] == missing


def test_the_first_time_counts_and_a_confirmation_comes_later() -> None:
    first = told("laboratory", DECLARED + timedelta(minutes=5))
    again = told("laboratory", DECLARED + timedelta(hours=2), acknowledged_by="Chi")
    (one,) = judged([message(acknowledged=True)], again, first)
    assert one["in_time"] is True
    assert (one["acknowledged_by"], one["acknowledged_at"]) == ("Chi", "2026-10-01T14:10:00.000Z")
    assert one["record"] == 2


def test_one_message_says_nothing_of_another_to_the_same_people() -> None:
    """Called at the declaration is not called when it serves, however often they were called."""
    both = [message(), message(when="It serves", counts_from="service")]
    at = DECLARED + timedelta(minutes=3)
    calls = [told("laboratory", at), told("laboratory", at)]
    assert [one["in_time"] for one in judged(both, *calls)] == [True, False]
    named = told("laboratory", at, message="It serves")
    assert [one["in_time"] for one in judged(both, named)] == [False, True]
    same = [message(), message()]
    assert [one["in_time"] for one in judged(same, calls[0])] == [True, True]


def test_where_the_plan_has_several_messages_for_somebody_it_is_asked_which_one() -> None:
    plan = {"communication": [message(), message(when="It serves", counts_from="service")]}

    def content(**fields: Any) -> dict[str, Any]:
        return statements.content(made.epoch(), fields, [], "Ada", None, made.NOW, plan)

    with pytest.raises(Refused, match=r"message: found nothing; .*: It is declared; It serves"):
        content(notified="Laboratory")
    assert content(notified="Laboratory", message="it serves")["message"] == "it serves"
    assert content(notified="the press")["notified"] == "the press"


def test_who_is_late_stays_open_until_somebody_says_why_and_is_late_still() -> None:
    late = told("laboratory", DECLARED + timedelta(minutes=28))
    why = made.statement(notified="laboratory", late_because="its line was busy",
                         at="2026-10-05T08:00:00.000Z")  # fmt: skip
    plan = {"communication": [message()]}
    records = made.recorded([(made.NOW, late)])
    (found,) = after_action.all_of([made.epoch()], records, plan, LONG_AFTER)
    line = (
        "deadline (laboratory: It is declared, told late by 18 minutes): open since "
        "2026-10-01 12:38 UTC"
    )
    assert line in [one["words"] for one in found["open"]]
    records = made.recorded([(made.NOW, late), (made.NOW, why)])
    (found,) = after_action.all_of([made.epoch()], records, plan, LONG_AFTER)
    assert line not in [one["words"] for one in found["open"]]
    (one,) = found["notifications"]
    assert (one["in_time"], one["late_because"]) == (False, "its line was busy")
    steps = [step["what"] for phase in found["phases"] for step in phase["steps"]]
    assert steps.count("told: laboratory") == 1
    assert "why laboratory was told late: its line was busy" in steps


def test_a_recovery_that_was_taken_back_before_it_served_has_nobody_to_tell_that_it_does() -> None:
    begun = made.epoch(completed_at=None, result=None)
    back = made.epoch(2, parent="epoch-1", kind="withdrawal", lost_sites=(),
                      declared_at="2026-10-01T12:15:00+00:00")  # fmt: skip
    plan = {"communication": [message(counts_from="service"), message("coordinator")]}
    first, second = after_action.all_of([begun, back], [], plan, LONG_AFTER)
    assert [one["verdict"] for one in first["notifications"]] == [
        notifications.NEVER, notifications.OVERDUE,
    ]  # fmt: skip
    told_of = [one["what"] for one in first["open"] if one["field"] == "notified"]
    assert told_of == ["coordinator: It is declared"]
    assert second["notifications"] == []


def test_a_missed_deadline_is_a_gap_of_the_report_and_is_on_its_page() -> None:
    epoch = ("recovery", made.epoch())
    late = told("laboratory", SERVED + timedelta(minutes=48))
    model = report.build(made.well(records=made.recorded([(made.NOW, epoch), (made.NOW, late)])))
    (clause,) = [one for one in model["clauses"] if one["id"].endswith("(ii)(D)")]
    missing = "\n".join(one["text"] for one in clause["findings"] if one["state"] == MISSING)
    assert "deadline (laboratory: OpenHIM serves again, told late by 18 minutes)" in missing
    assert (
        "notification (technical-lead: The disaster is declared): open since 2026-10-01 12:10 UTC, "
        "overdue since 2026-10-01 12:20 UTC"
    ) in missing
    page = pages.report(model)
    assert "✗ told late by 18 minutes" in page
    assert "✗ not told, and overdue by " in page
    assert "✗ missing" in page
    whole = pages.report(report.build(made.well()))
    assert "✓ told in time" in whole
    assert "told late" not in whole
    assert "overdue by" not in whole
