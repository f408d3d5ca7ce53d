"""What was tried and what happened, as the evidence has it: recoveries, drills, tests. Pure.

The chain holds a new record whenever more is known of one of them; here each is told once, as it is
known by its newest record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from saltext.openhim.plan.chain import Record
from saltext.openhim.recovery.figures import moment

RECOVERY = "recovery"
DRILL = "drill"
VERIFICATION = "verification"
TABLETOP = "tabletop"
CONTACTS = "contacts"
STATUS = "status"
PLAN = "plan"
NOTE = "note"
EMERGENCY = "emergency"
BREAK_GLASS = "break-glass"
AFTER_ACTION = "after-action"

#: What a person may put on record by hand.
BY_HAND = (DRILL, TABLETOP, CONTACTS, NOTE)

_PASSED = ("passed", True)


@dataclass(frozen=True)
class Exercise:
    """One of them. at: when it began. ok: None while nobody knows. RPO and RTO in seconds, None
    where they were not measured. record: the number of the evidence."""

    kind: str
    at: datetime
    ok: bool | None
    by: str
    what: str
    record: int
    rpo_seconds: float | None = None
    rto_seconds: float | None = None


def recoveries(records: Iterable[Record]) -> list[Exercise]:
    """Every recovery; a withdrawal or a decision measures nothing."""
    return [_recovery(one) for one in _newest(records, RECOVERY)]


def drills(records: Iterable[Record]) -> list[Exercise]:
    """Every drill that people or machines carried out, without tabletops."""
    return [one for one in map(_drill, _newest(records, DRILL)) if one.kind == DRILL]


def of_kind(records: Sequence[Record], kind: str) -> list[Exercise]:
    """All of one kind of test in the plan's calendar, the oldest first."""
    if kind == DRILL:
        return drills(records)
    if kind == TABLETOP:
        told = [one for one in map(_drill, _newest(records, DRILL)) if one.kind == TABLETOP]
        return _sorted([*told, *map(_by_hand, _newest(records, TABLETOP))])
    if kind == VERIFICATION:
        return _sorted(map(_verification, _newest(records, VERIFICATION)))
    return _sorted(map(_by_hand, _newest(records, kind)))


@dataclass(frozen=True)
class Due:
    """A test of the calendar: when it last passed, and when the next is due."""

    name: str
    kind: str
    every_days: int
    owner: str
    last: Exercise | None
    passed: Exercise | None
    due: datetime | None
    overdue: bool


def calendar(tests: Mapping[str, Any], records: Sequence[Record], now: datetime) -> list[Due]:
    """Every declared test with what the evidence says of it; never done is overdue."""
    found = []
    for name, test in sorted(tests.items()):
        done = of_kind(records, test["kind"])
        passed = [one for one in done if one.ok]
        due = passed[-1].at + timedelta(days=test["every_days"]) if passed else None
        found.append(
            Due(
                name, test["kind"], test["every_days"], test["owner"],
                done[-1] if done else None, passed[-1] if passed else None,
                due, due is None or due < now,
            )
        )  # fmt: skip
    return found


def _newest(records: Iterable[Record], kind: str) -> list[Record]:
    """The newest record of each thing of a kind; what has no ID is a thing of its own."""
    found: dict[Any, Record] = {}
    for one in records:
        if one.kind == kind:
            found[one.content.get("id") or one.number] = one
    return list(found.values())


def _recovery(record: Record) -> Exercise:
    content = record.content
    result = content.get("result") or {}
    return Exercise(
        RECOVERY,
        moment(content["declared_at"], "declared_at"),
        True if content.get("completed_at") or result else None,
        str(content.get("declared_by", "")),
        f"{content['kind']} to {content['active_site']}: {content.get('reason', '')}",
        record.number,
        _number(result.get("rpo_seconds")),
        _number(result.get("rto_seconds")),
    )


def _drill(record: Record) -> Exercise:
    content = record.content
    said = content.get("verdict", content.get("ok"))
    why = "; ".join(content.get("reasons") or ())
    what = content.get("what") or content.get("kind") or "drill"
    return Exercise(
        TABLETOP if content.get("kind") == TABLETOP else DRILL,
        moment(content.get("began_at") or content.get("at") or record.at, "at"),
        None if said in (None, "under way") else said in _PASSED,
        str(content.get("by", "")),
        f"{what}: {why}" if why else str(what),
        record.number,
        _number(content.get("rpo_seconds")),
        _number(content.get("rto_seconds")),
    )


def _verification(record: Record) -> Exercise:
    content = record.content
    return Exercise(
        VERIFICATION,
        moment(content["at"], "at"),
        bool(content["ok"]),
        str(content.get("host", "")),
        f"{content['point']} in {content['repository']}",
        record.number,
    )


def _by_hand(record: Record) -> Exercise:
    content = record.content
    at = moment(content.get("at") or record.at, "at")
    return Exercise(
        record.kind, at, bool(content.get("ok")), str(content.get("by", "")),
        str(content.get("what", "")), record.number,
    )  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _sorted(found: Iterable[Exercise]) -> list[Exercise]:
    return sorted(found, key=lambda one: (one.at, one.record))
