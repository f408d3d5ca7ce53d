"""The after-action report of each recovery: its phases with their times, and what is open. Pure.

The phases are those of NIST SP 800-34: activation and notification, recovery, reconstitution. They
come from the epoch and from what people put on record of it; neither is changed by that. What
nobody has filled in yet is open, with the time since when.
https://csrc.nist.gov/pubs/sp/800/34/r1/upd1/final
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from saltext.openhim.backup.manifest import utc
from saltext.openhim.plan import exercises, notifications, statements, words
from saltext.openhim.plan.chain import Record
from saltext.openhim.plan.notifications import Moments, Notice
from saltext.openhim.recovery.figures import moment

ACTIVATION = "activation and notification"
RECOVERY = "recovery"
RECONSTITUTION = "reconstitution"

#: Epochs that end another one, and make nothing serve by themselves.
_ENDS = ("withdrawal", "decision")

#: Epochs of which nobody is alarmed and which have no cause to be found: planned, or taken back.
_NO_DISASTER = ("switchover", "failback", "withdrawal")

#: What is open, for a person.
_NAMES = {
    "notified": "notification",
    "acknowledged_by": "acknowledgement",
    "late_because": "deadline",
    "completed": "completion",
    "rejoined": "return",
    "root_cause": "root cause",
    "corrective_action": "corrective action",
}

#: Later than every day on which something is due.
_NEVER = "9999-12-31"


@dataclass(frozen=True)
class Step:
    """Something that happened. at: ISO 8601, UTC. record: the number of the evidence, if any."""

    at: str
    what: str
    by: str | None = None
    record: int | None = None


@dataclass(frozen=True)
class Open:
    """What is still to be filled in or to be done.

    due: a day, or a time (ISO 8601, UTC); overdue: whether that is over. waits_for: what must have
    happened before it can be done.
    """

    field: str
    what: str
    since: str
    due: str | None = None
    overdue: bool = False
    waits_for: str | None = None

    @property
    def words(self) -> str:
        """For a person."""
        what = f" ({self.what})" if self.what else ""
        since = words.time(moment(self.since, "since"))
        return f"{_NAMES[self.field]}{what}: open since {since}{self._until()}"

    def _until(self) -> str:
        if self.waits_for:
            return f", not due before {self.waits_for}"
        if self.due is None:
            return ""
        due = words.time(moment(self.due, "due")) if "T" in self.due else self.due
        return f", overdue since {due}" if self.overdue else f", due by {due}"


@dataclass
class _Phase:
    """Its steps, and what must be there before it has ended."""

    name: str
    began: str | None
    steps: list[Step] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    ended: str | None = None

    def told(self) -> dict[str, Any]:
        """As plain values."""
        state = "not begun" if self.began is None else "done" if self.ended else "under way"
        seconds = None
        if self.began and self.ended:
            seconds = (moment(self.ended, "at") - moment(self.began, "at")).total_seconds()
        steps = [asdict(one) for one in sorted(self.steps, key=lambda one: one.at)]
        return {
            "name": self.name, "state": state, "began": self.began, "ended": self.ended,
            "seconds": seconds, "steps": steps,
        }  # fmt: skip


def known(
    epochs: Iterable[Mapping[str, Any]], records: Iterable[Record]
) -> list[Mapping[str, Any]]:
    """Every epoch by its number: of the recovery record, and those that only the evidence has."""
    found = {
        one.content["id"]: one.content for one in records if one.kind == exercises.RECOVERY
    } | {one["id"]: one for one in epochs}
    return sorted(found.values(), key=lambda one: one["number"])


def all_of(
    epochs: Iterable[Mapping[str, Any]],
    records: Sequence[Record],
    plan: Mapping[str, Any],
    now: datetime,
) -> list[dict[str, Any]]:
    """The after-action report of every recovery, the oldest first.

    epochs: the recovery record, as mappings. plan: ``openhim:plan``, which says who is to be told.
    """
    line = known(epochs, records)
    told = [one for one in records if one.kind == exercises.AFTER_ACTION]
    return [
        _of(epoch, line[place + 1 :], [r for r in told if statements.of_epoch(r, epoch)], plan, now)
        for place, epoch in enumerate(line)
    ]


def _of(
    epoch: Mapping[str, Any],
    later: Sequence[Mapping[str, Any]],
    told: Sequence[Record],
    plan: Mapping[str, Any],
    now: datetime,
) -> dict[str, Any]:
    recovery = _recovery(epoch, later, told)
    asked = epoch["kind"] not in _NO_DISASTER
    notices = notifications.judged(plan, told, _moments(epoch, recovery), now, asked)
    activation = _activation(epoch, told, notices)
    late = [one for one in notices if one.unexplained]
    reconstitution = _reconstitution(epoch, later, told, late, recovery.ended, now)
    phases = [activation, recovery, reconstitution]
    still_open = [one for phase in phases for one in phase.open]
    cause = _newest(told, "root_cause")
    return {
        **{key: epoch[key] for key in ("number", "id", "kind", "active_site", "reason")},
        "declared_by": epoch["declared_by"],
        "declared_at": _time(epoch["declared_at"]),
        "phases": [one.told() for one in phases],
        "notifications": [
            {**asdict(one), "planned": one.planned, "in_time": one.in_time, "words": one.words}
            for one in notices
        ],
        "root_cause": cause.content["root_cause"] if cause else None,
        "corrective_actions": _actions(told, now),
        "open": [{**asdict(one), "words": one.words} for one in still_open],
    }


def _moments(epoch: Mapping[str, Any], recovery: _Phase) -> Moments:
    """What the deadlines of notifications count from."""
    served = (epoch.get("result") or {}).get("served_at")
    completed = epoch.get("completed_at")
    return Moments(
        declaration=_time(epoch["declared_at"]),
        service=_time(served) if served else None,
        completion=_time(completed) if completed else None,
        ended=recovery.ended,
    )


def _activation(
    epoch: Mapping[str, Any], told: Sequence[Record], notices: Sequence[Notice]
) -> _Phase:
    declared = _time(epoch["declared_at"])
    disrupted = epoch.get("disrupted_at")
    phase = _Phase(ACTIVATION, _time(disrupted) if disrupted else declared)
    if disrupted:
        phase.steps.append(Step(_time(disrupted), "the service was lost"))
    for one in epoch.get("attestations") or ():
        phase.steps.append(Step(_time(one["at"]), f"{one['site']}: {one['words']}", one["by"]))
    for one in epoch.get("power_offs") or ():
        phase.steps.append(Step(_time(one["at"]), f"{one['host']}: {one['words']}", one["by"]))
    phase.steps.append(Step(declared, f"declared: {epoch['reason']}", epoch["declared_by"]))
    first = {one.record for one in notices}
    for one in told:
        content = one.content
        if "notified" in content and ("late_because" not in content or one.number in first):
            confirmed = content.get("acknowledged_by")
            ending = f", and {confirmed} confirmed it" if confirmed else ""
            phase.steps.append(_step(one, f"told: {content['notified']}{ending}"))
        if "decision" in content and content["at"] <= declared:
            phase.steps.append(_step(one, f"decided: {content['decision']}"))
    phase.open = list(_unheard(epoch, notices))
    if not phase.open:
        phase.ended = max(one.at for one in phase.steps)
    return phase


def _unheard(epoch: Mapping[str, Any], notices: Sequence[Notice]) -> Iterator[Open]:
    """Who was not told, and who did not confirm it."""
    declared = _time(epoch["declared_at"])
    if not notices and epoch["kind"] not in _NO_DISASTER:
        yield Open("notified", "", declared)
    for one in notices:
        what = _message(one)
        if one.at is None:
            if one.verdict != notifications.NEVER:
                overdue = one.verdict == notifications.OVERDUE
                since = one.since or declared
                yield Open("notified", what, since, one.due, overdue, one.waits_for)
        elif one.unconfirmed:
            yield Open("acknowledged_by", what, one.at)


def _message(notice: Notice) -> str:
    return f"{notice.whom}: {notice.when}" if notice.planned else notice.whom


def _recovery(
    epoch: Mapping[str, Any], later: Sequence[Mapping[str, Any]], told: Sequence[Record]
) -> _Phase:
    phase = _Phase(RECOVERY, _time(epoch["declared_at"]))
    for one in epoch.get("timeline") or ():
        phase.steps.append(Step(_time(one["at"]), one["step"]))
    result = epoch.get("result") or {}
    if result.get("served_at"):
        phase.steps.append(Step(_time(result["served_at"]), "OpenHIM serves: a transaction found"))
    if epoch.get("completed_at"):
        done = _time(epoch["completed_at"])
        phase.steps.append(Step(done, "completed: every host that is left has confirmed it"))
        phase.ended = done
    ending = next((o for o in later if o["parent"] == epoch["id"] and o["kind"] in _ENDS), None)
    if epoch["kind"] in _ENDS:
        phase.ended = phase.ended or phase.began
    elif phase.ended is None and ending:
        phase.ended = _time(ending["declared_at"])
        what = f"ended by epoch {ending['number']} ({ending['kind']}): {ending['reason']}"
        phase.steps.append(Step(phase.ended, what, ending["declared_by"]))
    elif phase.ended is None:
        phase.open.append(Open("completed", "", _time(epoch["declared_at"])))
    phase.steps += _decided(told, phase.began or "", phase.ended)
    return phase


def _reconstitution(
    epoch: Mapping[str, Any],
    later: Sequence[Mapping[str, Any]],
    told: Sequence[Record],
    late: Sequence[Notice],
    began: str | None,
    now: datetime,
) -> _Phase:
    phase = _Phase(RECONSTITUTION, began)
    declared = _time(epoch["declared_at"])
    for site in epoch.get("lost_sites") or ():
        back = _back(site, [epoch, *later])
        if back:
            phase.steps.append(back)
        else:
            phase.open.append(Open("rejoined", site, declared))
    for one in told:
        phase.steps += list(_lessons(one))
    if began:
        phase.steps += _decided(told, began, None)
    phase.open += [
        Open("late_because", f"{_message(one)}, {one.words}", one.at or declared) for one in late
    ]
    if epoch["kind"] not in _NO_DISASTER:
        phase.open += list(_unfilled(declared, told))
    phase.open += [
        Open("corrective_action", f"{one['what']}, owner {one['owner']}", one["at"],
             one["due"], one["overdue"])
        for one in _actions(told, now) if one["done_at"] is None
    ]  # fmt: skip
    if began and not phase.open:
        phase.ended = max([began, *(one.at for one in phase.steps)])
    return phase


def _lessons(one: Record) -> Iterator[Step]:
    content = one.content
    if "late_because" in content:
        yield _step(one, f"why {content['notified']} was told late: {content['late_because']}")
    if "root_cause" in content:
        yield _step(one, f"root cause: {content['root_cause']}")
    if "corrective_action" in content:
        yield _step(one, f"{content['owner']} will do: {content['corrective_action']}")
    if "done" in content:
        yield _step(one, f"the corrective action of record {content['done']} is done")


def _unfilled(declared: str, told: Sequence[Record]) -> Iterator[Open]:
    for name in ("root_cause", "corrective_action"):
        if _newest(told, name) is None:
            yield Open(name, "", declared)


def _actions(told: Sequence[Record], now: datetime) -> list[dict[str, Any]]:
    """Every corrective action: whose it is, when it is due, and when it was done."""
    done = {one.content["done"]: one.content["at"] for one in told if "done" in one.content}
    return [
        {
            "record": one.number,
            "what": one.content["corrective_action"],
            "owner": one.content["owner"],
            "due": one.content.get("due"),
            "at": one.content["at"],
            "done_at": done.get(one.number),
            "overdue": one.number not in done and one.content.get("due", _NEVER) < utc(now)[:10],
        }
        for one in told
        if "corrective_action" in one.content
    ]


def _decided(told: Sequence[Record], after: str, until: str | None) -> list[Step]:
    """What was decided after one time, and until another."""
    return [
        _step(one, f"decided: {one.content['decision']}")
        for one in told
        if "decision" in one.content
        and after < one.content["at"]
        and (until is None or one.content["at"] <= until)
    ]


def _back(site: str, epochs: Sequence[Mapping[str, Any]]) -> Step | None:
    """When a lost site was brought back, or a later epoch did not give it up any more."""
    for place, epoch in enumerate(epochs):
        if place and site not in (epoch.get("lost_sites") or ()):
            at = _time(epoch["declared_at"])
            what = f"{site} is not given up any more (epoch {epoch['number']}, {epoch['kind']})"
            return Step(at, what, epoch["declared_by"])
        for one in epoch.get("rejoins") or ():
            if one["site"] == site:
                return Step(_time(one["at"]), f"{site} is back: {one['reason']}", one["by"])
    return None


def _newest(told: Sequence[Record], name: str) -> Record | None:
    return next((one for one in reversed(told) if name in one.content), None)


def _step(record: Record, what: str) -> Step:
    return Step(record.content["at"], what, record.content["by"], record.number)


def _time(at: str) -> str:
    """In the one form in which times are compared here."""
    return utc(moment(at, "at"))


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """All of it, for a person at a terminal."""
    if not reports:
        return "No recovery is on record."
    return "\n\n".join("\n".join(_lines(one)) for one in reports)


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Epoch {report['number']}: {report['kind']} to {report['active_site']}, declared by "
        f"{report['declared_by']}: {report['reason']}"
    )
    for phase in report["phases"]:
        took = f", {words.duration(phase['seconds'])}" if phase["seconds"] is not None else ""
        yield f"  {phase['name']}: {phase['state']}{took}"
        for one in phase["steps"]:
            by = f" [{one['by']}]" if one["by"] else ""
            record = f" (record {one['record']})" if one["record"] else ""
            yield f"    {one['at'][:19]}Z  {one['what']}{by}{record}"
    for one in report["open"]:
        yield f"  OPEN  {one['words']}"
    if not report["open"]:
        yield "  Nothing is open."
