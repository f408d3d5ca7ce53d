"""Every recovery has its phases with their times, and what nobody filled in stays visibly open."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.plan import after_action, pages, report, statements
from saltext.openhim.plan.chain import Record
from saltext.openhim.plan.clauses import MISSING

from tests.unit.plan import made

PLAN = made.openhim()["plan"]
DECLARED = "2026-10-01 12:10 UTC"


def told(*news: tuple[str, Any]) -> list[Record]:
    return made.recorded([(made.NOW, one) for one in news])


def of(epochs: list[dict[str, Any]], *news: tuple[str, Any], plan: Any = PLAN) -> dict[str, Any]:
    """The after-action report of the first of some epochs."""
    return after_action.all_of(epochs, told(*news), plan, made.NOW)[0]


def words(found: dict[str, Any]) -> list[str]:
    return [one["words"] for one in found["open"]]


def phase(found: dict[str, Any], number: int) -> dict[str, Any]:
    one: dict[str, Any] = found["phases"][number]
    return one


def test_a_recovery_of_which_nobody_said_anything_is_open_in_every_field() -> None:
    found = of([made.epoch(completed_at=None, result=None, rejoins=())])
    assert words(found) == [
        f"notification (technical-lead: The disaster is declared): open since {DECLARED}, overdue "
        "since 2026-10-01 12:20 UTC",
        f"notification (communications: The disaster is declared): open since {DECLARED}, overdue "
        "since 2026-10-01 12:20 UTC",
        f"notification (laboratory: OpenHIM serves again): open since {DECLARED}, not due before "
        "OpenHIM serves again",
        f"completion: open since {DECLARED}",
        f"return (north): open since {DECLARED}",
        f"root cause: open since {DECLARED}",
        f"corrective action: open since {DECLARED}",
    ]
    assert [one["state"] for one in found["phases"]] == ["under way", "under way", "not begun"]


def test_without_a_declared_plan_it_is_still_open_who_was_told() -> None:
    assert words(of([made.epoch()], plan={}))[0] == f"notification: open since {DECLARED}"


def test_the_phases_have_the_times_of_the_record() -> None:
    attested = {"site": "north", "words": "its power is cut", "by": "Ben",
                "at": "2026-10-01T12:09:00+00:00"}  # fmt: skip
    step = {"step": "no other site takes writes", "at": "2026-10-01T12:10:30+00:00"}
    off = {"site": "north", "host": "north-db1", "words": "provider: it says 'off'", "by": "Ben",
           "at": "2026-10-01T12:09:30+00:00"}  # fmt: skip
    known = made.epoch(attestations=(attested,), power_offs=(off,), timeline=(step,))
    found = of([known], made.statement(decision="south it is"))
    activation, recovery, reconstitution = found["phases"]
    assert [(one["at"], one["what"]) for one in activation["steps"]] == [
        ("2026-10-01T12:00:00.000Z", "the service was lost"),
        ("2026-10-01T12:09:00.000Z", "north: its power is cut"),
        ("2026-10-01T12:09:30.000Z", "north-db1: provider: it says 'off'"),
        ("2026-10-01T12:10:00.000Z", "declared: fire"),
    ]
    assert [one["at"] for one in recovery["steps"]] == [
        "2026-10-01T12:10:30.000Z", "2026-10-01T12:12:00.500Z", "2026-10-01T12:13:00.000Z",
        "2026-10-01T12:20:00.000Z",
    ]  # fmt: skip
    assert recovery["steps"][0]["what"] == "no other site takes writes"
    assert (recovery["state"], recovery["seconds"]) == ("done", 600.0)
    assert recovery["steps"][2]["what"] == "decided: south it is"
    assert [one["what"] for one in reconstitution["steps"]] == ["north is back: its power is back"]
    assert reconstitution["began"] == recovery["ended"]


def test_a_decision_belongs_to_the_phase_in_which_it_was_taken() -> None:
    hours = {0: "2026-10-01T12:05:00.000Z", 1: "2026-10-01T12:11:00.000Z",
             2: "2026-10-02T12:00:00.000Z"}  # fmt: skip
    news = [made.statement(decision=f"number {one}", at=at) for one, at in hours.items()]
    found = of([made.epoch()], *news)
    for number, at in hours.items():
        decided = [one for one in phase(found, number)["steps"] if "decided" in one["what"]]
        assert [(one["at"], one["what"]) for one in decided] == [(at, f"decided: number {number}")]


def test_who_was_told_and_did_not_confirm_it_is_open_until_then() -> None:
    first = made.statement(notified="Laboratory", at="2026-10-01T12:30:00.000Z")
    found = of([made.epoch()], first)
    assert (
        "acknowledgement (laboratory: OpenHIM serves again): open since 2026-10-01 12:30 UTC"
    ) in words(found)
    confirmed = made.statement(
        notified="laboratory", acknowledged_by="Chi", at="2026-10-01T14:00:00.000Z"
    )
    later = of([made.epoch()], first, confirmed)
    assert not [one for one in words(later) if "laboratory" in one]
    (entry,) = [one for one in later["notifications"] if one["whom"] == "laboratory"]
    assert (entry["acknowledged_by"], entry["at"]) == ("Chi", "2026-10-01T12:30:00.000Z")


def test_a_corrective_action_is_open_until_it_is_done_and_overdue_after_its_day() -> None:
    action = made.statement(corrective_action="a second pump", owner="Ben", due="2026-11-21")
    found = of([made.epoch()], action)
    assert (
        "corrective action (a second pump, owner Ben): open since 2026-10-01 12:13 UTC, overdue "
        "since 2026-11-21"
    ) in words(found)
    on_its_day = after_action.all_of(
        [made.epoch()], told(action), PLAN, datetime(2026, 11, 21, 23, tzinfo=timezone.utc)
    )[0]
    (still,) = [one for one in on_its_day["open"] if one["field"] == "corrective_action"]
    assert (still["overdue"], still["words"].endswith(", due by 2026-11-21")) == (False, True)
    done = of([made.epoch()], action, made.statement(done=1, at="2026-11-22T11:00:00.000Z"))
    assert not [one for one in words(done) if "corrective action" in one]
    assert done["corrective_actions"][0]["done_at"] == "2026-11-22T11:00:00.000Z"


def test_the_later_of_two_root_causes_counts_and_both_are_steps() -> None:
    found = of([made.epoch()], made.statement(root_cause="fire"), made.statement(root_cause="pump"))
    assert found["root_cause"] == "pump"
    said = [one["what"] for one in phase(found, 2)["steps"]]
    assert {"root cause: fire", "root cause: pump"} <= set(said)


def test_what_was_said_of_another_epoch_fills_nothing() -> None:
    second = made.epoch(2, parent="epoch-1")
    found = of([made.epoch(), second], made.statement(2, root_cause="pump"))
    assert found["root_cause"] is None
    assert f"root cause: open since {DECLARED}" in words(found)


def test_when_everything_is_filled_in_every_phase_is_done() -> None:
    found = after_action.all_of([made.epoch()], made.years(1), PLAN, made.NOW)[0]
    assert found["open"] == []
    assert [one["state"] for one in found["phases"]] == ["done", "done", "done"]
    assert phase(found, 2)["ended"] == "2026-10-09T12:00:00.000Z"


def test_a_recovery_that_was_withdrawn_has_ended_and_its_cause_is_still_asked() -> None:
    begun = made.epoch(completed_at=None, result=None, rejoins=())
    back = made.epoch(2, parent="epoch-1", kind="withdrawal", lost_sites=(), reason="north is back",
                      declared_at="2026-10-01T12:15:00+00:00", disrupted_at=None)  # fmt: skip
    first, second = after_action.all_of([begun, back], [], PLAN, made.NOW)
    assert phase(first, 1)["ended"] == "2026-10-01T12:15:00.000Z"
    assert [one["field"] for one in first["open"]] == ["notified"] * 2 + [
        "root_cause", "corrective_action",
    ]  # fmt: skip
    assert second["open"] == []


def test_a_planned_move_has_no_cause_to_be_found() -> None:
    for kind in ("switchover", "failback"):
        assert of([made.epoch(kind=kind, lost_sites=(), rejoins=())])["open"] == []


def test_a_site_that_is_back_by_a_later_epoch_is_not_missed_by_the_first() -> None:
    first = made.epoch(rejoins=())
    later = made.epoch(2, parent="epoch-1", declared_at="2026-10-05T00:00:00+00:00")
    found = after_action.all_of([first, later], [], PLAN, made.NOW)[0]
    assert not [one for one in found["open"] if one["field"] == "rejoined"]
    assert "north is back" in phase(found, 2)["steps"][0]["what"]


def test_an_epoch_that_only_the_evidence_has_is_not_left_out() -> None:
    found = after_action.all_of([], told(("recovery", made.epoch())), PLAN, made.NOW)
    assert [one["number"] for one in found] == [1]


def test_the_table_says_what_is_open_and_what_is_not() -> None:
    assert after_action.table([]) == "No recovery is on record."
    text = after_action.table([of([made.epoch()], made.statement(decision="south it is"))])
    assert "Epoch 1: failover to south, declared by Ada: fire" in text
    assert "    2026-10-01T12:13:00Z  decided: south it is [Ada] (record 1)" in text
    assert f"  OPEN  root cause: open since {DECLARED}" in text
    whole = after_action.all_of([made.epoch()], made.years(1), PLAN, made.NOW)
    assert "Nothing is open." in after_action.table(whole)


def test_the_report_lists_what_is_open_in_its_clause_its_page_and_its_json() -> None:
    records = told(("recovery", made.epoch()))
    model = report.build(made.well(records=records))
    line = f"root cause: open since {DECLARED}"
    (clause,) = [one for one in model["clauses"] if one["id"].endswith("(ii)(D)")]
    assert any(line in one["text"] and one["state"] == MISSING for one in clause["findings"]), (
        clause
    )
    page = pages.report(model)
    assert f"<strong>Open:</strong> {line}" in page
    assert "Recovery: done, 10 minutes" in page
    assert line in json.dumps(model)
    whole = pages.report(report.build(made.well()))
    assert "<strong>Open:</strong>" not in whole
    assert "Nothing is open." in whole


def content(records: list[Record] | None = None, by: Any = "Ada", at: Any = None, **fields: Any):
    return statements.content(made.epoch(), fields, records or [], by, at, made.NOW, PLAN)


def test_a_statement_is_kept_with_who_said_it_and_when() -> None:
    given = content(corrective_action=" a pump ", owner="Ben", due="2026-12-31")
    assert given == {
        "epoch": "epoch-1", "number": 1, "by": "Ada", "at": "2026-11-22T12:00:00.000Z",
        "corrective_action": "a pump", "owner": "Ben", "due": "2026-12-31",
    }  # fmt: skip
    earlier = content(decision="x", at=(made.NOW - timedelta(hours=1)).isoformat())
    assert earlier["at"] == "2026-11-22T11:00:00.000Z"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"by": " ", "root_cause": "x"}, "by: found nothing; say who puts it on record"),
    ({"by": None, "root_cause": "x"}, "by: found nothing"),
    ({"root_cause": ""}, "root_cause: found nothing; say why it happened"),
    ({"corrective_action": "a pump"}, "owner: found nothing; say who sees to the corrective"),
    ({"corrective_action": "a pump", "owner": "  "}, "owner: found nothing"),
    ({"owner": "Ben"}, "owner: found 'Ben' and no corrective_action"),
    ({"acknowledged_by": "Chi"}, "acknowledged_by: found 'Chi' and no notified"),
    ({"corrective_action": "a", "owner": "B", "due": "soon"}, "due: found 'soon'; a day such as"),
    ({"corrective_action": "a", "owner": "B", "due": "2026-02-30"}, "due: found '2026-02-30'"),
    ({"done": 7}, "done: found 7; the records with corrective actions of this epoch: none"),
    ({"message": "OpenHIM serves again"}, "message: found 'OpenHIM serves again' and no notified"),
    ({"late_because": "busy"}, "late_because: found 'busy' and no notified"),
    (
        {"notified": "laboratory", "message": "It rains"},
        "message: found 'It rains'; the plan's messages for laboratory: OpenHIM serves again",
    ),
    ({"notified": "the press", "message": "It rains"}, "messages for the press: none"),
    (
        {"notified": "laboratory", "at": "2026-11-22T12:00:01Z"},
        "at: found 2026-11-22T12:00:01.000Z, which is still to come",
    ),
    ({"decision": "x", "at": "yesterday"}, "at: found 'yesterday'; an ISO 8601 time"),
]


@pytest.mark.parametrize(("given", "expected"), BAD, ids=[text[:40] for _, text in BAD])
def test_what_says_too_little_is_refused_by_its_name(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(OpenHIMError) as refused:
        content(**given)
    assert expected in str(refused.value)


def test_only_a_corrective_action_of_the_same_epoch_can_be_done() -> None:
    action = {"corrective_action": "a", "owner": "B"}
    records = told(made.statement(2, **action), made.statement(1, **action))
    assert content(records, done="2")["done"] == 2
    with pytest.raises(OpenHIMError, match=r"found 1; the records .* of this epoch: 2"):
        content(records, done=1)


def test_an_epoch_is_found_by_its_number_or_its_id_and_an_unknown_one_is_named() -> None:
    epochs = [made.epoch(), made.epoch(2)]
    for asked in (2, "2", "epoch-2"):
        assert statements.epoch_of(epochs, asked)["id"] == "epoch-2"
    for asked in (3, None, ""):
        with pytest.raises(OpenHIMError, match=r"epoch: found .*: 1 \(failover\), 2 \(failover\)"):
            statements.epoch_of(epochs, asked)
