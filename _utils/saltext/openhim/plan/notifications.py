"""Whether everybody was told in time of a recovery, as the plan's messages ask for it. Pure.

A deadline counts from a moment of the recovery: from its declaration, from the first transaction,
or from its completion. Where that moment is not known, it is not known whether it was in time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from saltext.openhim.backup.manifest import utc
from saltext.openhim.plan import words
from saltext.openhim.plan.chain import Record
from saltext.openhim.recovery.figures import moment

DECLARATION, SERVICE, COMPLETION = "declaration", "service", "completion"

#: What must have happened before a message of this moment can be told.
_BEFORE = {
    DECLARATION: "it is declared",
    SERVICE: "OpenHIM serves again",
    COMPLETION: "every host has confirmed the recovery",
}

#: The verdicts on one message to one of those whom it is for.
IN_TIME = "told in time"
LATE = "told late"
TOLD = "told, without a deadline"
UNJUDGED = "told, and whether in time is not known"
OVERDUE = "not told, and overdue"
PENDING = "not told yet, and still in time"
WAITING = "not due yet"
UNTOLD = "not told"
NEVER = "not asked for: the recovery was taken back before"

#: Verdicts of those who were told.
_HEARD = (IN_TIME, LATE, TOLD, UNJUDGED)


@dataclass(frozen=True)
class Moments:
    """When a recovery reached what deadlines count from; None: it did not, as far as is known.

    ended: when nothing of it can happen any more, because it is completed or was taken back.
    """

    declaration: str
    service: str | None
    completion: str | None
    ended: str | None

    def of(self, name: str) -> str | None:
        """One of them, by the name that a message counts from."""
        return {
            DECLARATION: self.declaration,
            SERVICE: self.service,
            COMPLETION: self.completion,
        }[name]


@dataclass(frozen=True)
class Notice:
    """One of those who are told of a recovery, and what is known of it.

    when: the plan's message; None for whom no message names. since, due: the moment from which its
    deadline counts, where that has come, and the deadline. at, by, record: who put on record when
    they were told. late_seconds: how long after the deadline that was, or now is. waits_for: what
    must happen before they can be told.
    """

    whom: str
    when: str | None
    since: str | None
    due: str | None
    at: str | None
    by: str | None
    record: int | None
    verdict: str
    late_seconds: float | None
    acknowledgement_asked: bool
    acknowledged_by: str | None
    acknowledged_at: str | None
    late_because: str | None
    waits_for: str | None = None

    @property
    def planned(self) -> bool:
        """Whether a message of the plan names them."""
        return self.when is not None

    @property
    def in_time(self) -> bool | None:
        """Whether the deadline was kept; None where there is none, or where nobody knows yet."""
        return {IN_TIME: True, LATE: False, OVERDUE: False}.get(self.verdict)

    @property
    def heard(self) -> bool:
        """Whether they were told."""
        return self.verdict in _HEARD

    @property
    def unconfirmed(self) -> bool:
        """Whether a confirmation is asked for and is not there."""
        return self.heard and self.acknowledgement_asked and self.acknowledged_by is None

    @property
    def unexplained(self) -> bool:
        """Whether it was late, or may have been, and nobody has said why."""
        return self.verdict in (LATE, UNJUDGED) and self.late_because is None

    @property
    def words(self) -> str:
        """The verdict, for a person."""
        if self.late_seconds is None:
            return self.verdict
        return f"{self.verdict} by {words.duration(self.late_seconds)}"


def judged(
    plan: Mapping[str, Any],
    told: Sequence[Record],
    moments: Moments,
    now: datetime,
    asked: bool = True,
) -> list[Notice]:
    """Each message to each of those whom it is for, then those whom no message names.

    told: what people put on record of this recovery. asked: whether the plan's messages are for a
    recovery such as this one.
    """
    messages = list(plan.get("communication") or ()) if asked else []
    spoken = [one for one in told if "notified" in one.content]
    found, used = [], set()
    for number, message in enumerate(messages):
        for whom in message["whom"]:
            for_it = [one for one in spoken if _is_for(one, whom, number, messages, moments)]
            used.update(one.number for one in for_it)
            found.append(_notice(whom, message, for_it, moments, now))
    return [*found, *_others([one for one in spoken if one.number not in used], messages)]


def _is_for(
    record: Record,
    whom: str,
    number: int,
    messages: Sequence[Mapping[str, Any]],
    moments: Moments,
) -> bool:
    """Whether somebody was told this message. Nobody can be told what has not happened yet; where
    no message is named, it is the first one of them that could be told then."""
    content = record.content
    if not _same(content["notified"], whom):
        return False
    can_be = {
        place: one["when"]
        for place, one in enumerate(messages)
        if any(_same(name, whom) for name in one["whom"])
        and _could_be_told(one, content["at"], moments)
        and _same(content.get("message", one["when"]), one["when"])
    }
    # Two messages may be for the same moment: whoever names it means both.
    return number in can_be and _same(can_be[number], next(iter(can_be.values())))


def for_whom(messages: Sequence[Mapping[str, Any]], whom: str) -> list[str]:
    """The moments of the messages that are for somebody, each once."""
    mine = (one for one in messages if any(_same(name, whom) for name in one["whom"]))
    return list(dict.fromkeys(one["when"] for one in mine))


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _could_be_told(message: Mapping[str, Any], at: str, moments: Moments) -> bool:
    since = moments.of(_counts_from(message))
    if since is None:
        # It is completed, and when this was is not known: what they were told may have been that.
        return moments.completion is not None
    return at >= since


def _counts_from(message: Mapping[str, Any]) -> str:
    return str(message.get("counts_from", DECLARATION))


def _notice(
    whom: str,
    message: Mapping[str, Any],
    told: Sequence[Record],
    moments: Moments,
    now: datetime,
) -> Notice:
    since = moments.of(_counts_from(message))
    due = _deadline(since, message.get("within_seconds"))
    first = min(told, key=lambda one: one.content["at"], default=None)
    if first is None:
        verdict = _not_told(message, since, due, moments, now)
        late = _after(utc(now), due) if verdict == OVERDUE else None
    else:
        verdict = _told(message, first.content["at"], due)
        late = _after(first.content["at"], due) if verdict == LATE else None
    return Notice(
        whom=whom,
        when=message["when"],
        since=since,
        due=due,
        verdict=verdict,
        late_seconds=late,
        acknowledgement_asked=bool(message.get("acknowledged", False)),
        waits_for=_BEFORE[_counts_from(message)] if verdict == WAITING else None,
        **_on_record(first, told),
    )


def _on_record(first: Record | None, told: Sequence[Record]) -> dict[str, Any]:
    """What people said of one message to one of those whom it is for."""
    confirmed = next((one for one in told if one.content.get("acknowledged_by")), None)
    because = next((one for one in reversed(told) if one.content.get("late_because")), None)
    return {
        "at": first.content["at"] if first else None,
        "by": first.content["by"] if first else None,
        "record": first.number if first else None,
        "acknowledged_by": confirmed.content["acknowledged_by"] if confirmed else None,
        "acknowledged_at": confirmed.content["at"] if confirmed else None,
        "late_because": because.content["late_because"] if because else None,
    }


def _deadline(since: str | None, within: float | None) -> str | None:
    if since is None or within is None:
        return None
    return utc(moment(since, "since") + timedelta(seconds=within))


def _told(message: Mapping[str, Any], at: str, due: str | None) -> str:
    if message.get("within_seconds") is None:
        return TOLD
    if due is None:
        return UNJUDGED
    return IN_TIME if at <= due else LATE


def _not_told(
    message: Mapping[str, Any],
    since: str | None,
    due: str | None,
    moments: Moments,
    now: datetime,
) -> str:
    if since is None and moments.ended is None:
        return WAITING
    if since is None and moments.completion is None:
        return NEVER
    if due is None:
        return UNTOLD
    return OVERDUE if due < utc(now) else PENDING


def _after(at: str, due: str | None) -> float | None:
    return (moment(at, "at") - moment(due, "due")).total_seconds() if due else None


def _others(told: Sequence[Record], messages: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """Those who were told and whom no message of the plan names: they are asked to confirm it."""
    planned = {whom.casefold() for one in messages for whom in one["whom"]}
    by_name: dict[str, list[Record]] = {}
    for one in told:
        by_name.setdefault(one.content["notified"].casefold(), []).append(one)
    for name, records in by_name.items():
        if name not in planned:
            first = min(records, key=lambda one: one.content["at"])
            yield Notice(
                whom=records[0].content["notified"], when=None, since=None, due=None,
                verdict=TOLD, late_seconds=None, acknowledgement_asked=True,
                **_on_record(first, records),
            )  # fmt: skip
