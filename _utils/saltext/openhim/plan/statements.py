"""What people put on record of a recovery: who was told, what was decided, why it happened. Pure.

Each statement is one record of the chain of evidence; a later one adds to it, and none is changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from saltext.openhim.backup.manifest import utc
from saltext.openhim.errors import Refused
from saltext.openhim.plan import notifications
from saltext.openhim.plan.chain import Record
from saltext.openhim.recovery.figures import moment

#: What may be told, and what each is.
TEXTS: Mapping[str, str] = {
    "notified": "who was told",
    "acknowledged_by": "who of them confirmed it",
    "message": "which message of the plan they were told",
    "late_because": "why they were told late",
    "decision": "what was decided",
    "root_cause": "why it happened",
    "corrective_action": "what will keep it from happening again",
    "owner": "who sees to the corrective action",
}

#: A field that says nothing without another one.
_WITH: Mapping[str, str] = {
    "acknowledged_by": "notified",
    "message": "notified",
    "late_because": "notified",
    "owner": "corrective_action",
    "due": "corrective_action",
}

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were named at all; an empty text was named."""
    return {name: value for name, value in fields.items() if value is not None}


def epoch_of(epochs: Sequence[Mapping[str, Any]], asked: Any) -> Mapping[str, Any]:
    """The epoch of a number or an ID.

    Raises :class:`~saltext.openhim.errors.Refused` when there is none.
    """
    found = [one for one in epochs if str(asked) in (str(one["number"]), one["id"])]
    if len(found) != 1:
        there = ", ".join(f"{one['number']} ({one['kind']})" for one in epochs)
        raise Refused(
            f"epoch: found {asked!r}; the epochs on record: {there or 'none'}. Name one by its "
            "number or its ID"
        )
    return found[0]


def content(
    epoch: Mapping[str, Any],
    fields: Mapping[str, Any],
    records: Iterable[Record],
    by: Any,
    at: Any,
    now: datetime,
    plan: Mapping[str, Any],
) -> dict[str, Any]:
    """What goes on record. fields: those of :func:`given`. at: when it was, now when None. plan:
    ``openhim:plan``, whose messages people are told.

    Raises :class:`~saltext.openhim.errors.Refused`, naming everything that is wrong.
    """
    problems = [*_empty({"by": by, **fields}), *_alone(fields)]
    when = utc(moment(str(at), "at") if at is not None else now)
    problems += [*_to_come(when, now), *_no_message(fields, plan.get("communication") or ())]
    problems += _not_to_be_done(fields, [one for one in records if of_epoch(one, epoch)])
    if "due" in fields and _day(fields["due"]) is None:
        problems.append(
            f"due: found {fields['due']!r}; a day such as 2026-12-31 is needed"
        )  # fmt: skip
    if problems:
        raise Refused("nothing was recorded:\n" + "\n".join(problems))
    told: dict[str, Any] = {name: str(value).strip() for name, value in fields.items()}
    if "done" in told:
        told["done"] = int(told["done"])
    return {
        "epoch": epoch["id"],
        "number": epoch["number"],
        "by": str(by).strip(),
        "at": when,
        **told,
    }


def of_epoch(record: Record, epoch: Mapping[str, Any]) -> bool:
    """Whether a statement is about an epoch."""
    return record.content.get("epoch") == epoch["id"]


def _empty(fields: Mapping[str, Any]) -> Iterator[str]:
    asked = {"by": "who puts it on record", **TEXTS}
    for name, what in asked.items():
        if name in fields and not str(fields[name] if fields[name] is not None else "").strip():
            yield f"{name}: found nothing; say {what}"


def _alone(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, other in _WITH.items():
        if name in fields and other not in fields:
            yield f"{name}: found {fields[name]!r} and no {other}; say {TEXTS[other]}, too"
    if "corrective_action" in fields and "owner" not in fields:
        yield f"owner: found nothing; say {TEXTS['owner']}, because what nobody owns is not done"


def _to_come(when: str, now: datetime) -> Iterator[str]:
    if when > utc(now):
        yield f"at: found {when}, which is still to come; it is {utc(now)} now"


def _no_message(fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where the plan has several messages for somebody, it must be said which one they were told,
    because each has its own deadline."""
    if "notified" not in fields:
        return
    mine = notifications.for_whom(messages, str(fields["notified"]).strip())
    there = "; ".join(mine) or "none"
    asked = fields.get("message")
    if asked is None and len(mine) > 1:
        yield f"message: found nothing; the plan's messages for {fields['notified']}: {there}"
    elif asked is not None and str(asked).strip().casefold() not in [m.casefold() for m in mine]:
        yield f"message: found {asked!r}; the plan's messages for {fields['notified']}: {there}"


def _not_to_be_done(fields: Mapping[str, Any], told: Sequence[Record]) -> list[str]:
    if "done" not in fields:
        return []
    actions = [str(one.number) for one in told if "corrective_action" in one.content]
    if str(fields["done"]).strip() in actions:
        return []
    there = ", ".join(actions) or "none"
    return [
        f"done: found {fields['done']!r}; the records with corrective actions of this epoch: "
        f"{there}"
    ]


def _day(value: Any) -> date | None:
    text = str(value).strip()
    try:
        return date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        return None
