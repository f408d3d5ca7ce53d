"""How the drills are: when each kind was last passed, what was measured, and what is overdue.

The judgement is pure. Overdue is an alarm: nobody knows any more that the recovery works.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from saltext.openhim.backup.status import (
    DEGRADED,
    FAILING,
    OK,
    STATES,
    UNKNOWN,
    Judgement,
    in_words,
    worst,
)
from saltext.openhim.drill import records
from saltext.openhim.drill.declaration import Drills
from saltext.openhim.drill.records import Drill, Known
from saltext.openhim.errors import OpenHIMError

#: Seconds that another clock may be ahead of ours.
_TOLERANCE = 300.0


def judge(kind: str, drills: list[Drill], max_age: float, now: datetime) -> Judgement:
    """The state of one kind of drill. drills: of that kind, the oldest first. Pure.

    max_age: seconds after which the last one that was passed is too long ago.
    """
    ended = [drill for drill in drills if drill.verdict != records.UNDER_WAY]
    passed = next((drill for drill in reversed(ended) if drill.verdict == records.PASSED), None)
    figures: dict[str, Any] = {"drills": len(ended), "passed_at": passed and passed.began_at}
    if passed:
        age = (now - passed.began).total_seconds()
        figures["age_seconds"] = round(age, 1)
        figures |= {key: getattr(passed, key) for key in ("rpo_seconds", "rto_seconds", "point")}
    failing, degraded = [], []
    if ended and ended[-1].verdict != records.PASSED:
        last = ended[-1]
        failing.append(f"the last {kind} drill ({last.id}) is {last.verdict}: {_why(last)}")
    if passed is None:
        degraded.append(f"no {kind} drill was ever passed")
    elif age < -_TOLERANCE:
        failing.append(f"the last {kind} drill is of the future ({passed.began_at}): set the clock")
    elif age > max_age:
        failing.append(
            f"the last {kind} drill that was passed is of {in_words(age)} ago, allowed are "
            f"{in_words(max_age)}: hold one"
        )
    state = FAILING if failing else DEGRADED if degraded else OK
    return Judgement(state, failing + degraded, figures)


def judged(known: Known, max_age: Mapping[str, float], now: datetime) -> dict[str, Judgement]:
    """The state of every declared kind. Pure."""
    return {kind: judge(kind, known.of(kind), age, now) for kind, age in max_age.items()}


def status(drills: Drills, now: datetime | None = None) -> dict[str, Any]:
    """The drills as this host's record has them: ``state``, ``reasons``, figures by ``kinds``.

    Reads one file, and talks to no server. On another host than the declared one that is refused:
    no record is not a bad one.
    """
    drills.require_here()
    present = now or datetime.now(timezone.utc)
    found: dict[str, Any] = {
        "stack": drills.stack.name,
        "host": drills.host,
        "at": present.isoformat(timespec="seconds"),
        "targets": dict(drills.targets),
    }
    try:
        known = records.read()
    except OpenHIMError as error:
        return {**found, "state": UNKNOWN, "reasons": [str(error)], "kinds": {}}
    kinds = judged(known, drills.max_age, present)
    reasons = [reason for one in kinds.values() for reason in one.reasons]
    states = [one.state for one in kinds.values()]
    if known.unreadable:
        lines = ", ".join(map(str, known.unreadable))
        reasons.append(f"{records.FILE} cannot be read in the lines {lines}; see what they say")
        states.append(DEGRADED)
    return {
        **found,
        "state": worst(states),
        "reasons": reasons,
        "kinds": {kind: {"state": one.state, **one.figures} for kind, one in kinds.items()},
    }


def metrics(found: Mapping[str, Any]) -> str:
    """A judgement as Prometheus reads it from a text file.

    https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
    """
    stack = found["stack"]
    lines = [
        "# HELP openhim_drill_state 1 for the state that the drills are in, 0 for the others.",
        "# TYPE openhim_drill_state gauge",
        *(
            f'openhim_drill_state{{stack="{stack}",state="{each}"}} {int(found["state"] == each)}'
            for each in STATES
        ),
    ]
    for key, words in (
        ("age_seconds", "Since the last drill that was passed."),
        ("rpo_seconds", "Age of the data that it restored."),
        ("rto_seconds", "From its start until a transaction was found."),
    ):
        samples = [
            f'openhim_drill_{key}{{stack="{stack}",kind="{kind}"}} {one[key]:g}'
            for kind, one in found["kinds"].items()
            if one.get(key) is not None
        ]
        if samples:
            lines += [f"# HELP openhim_drill_{key} {words}", f"# TYPE openhim_drill_{key} gauge"]
            lines += samples
    seconds = datetime.fromisoformat(found["at"]).timestamp()
    lines += [
        "# HELP openhim_drill_looked_at_seconds When the record was looked at (Unix time).",
        "# TYPE openhim_drill_looked_at_seconds gauge",
        f'openhim_drill_looked_at_seconds{{stack="{stack}"}} {seconds:.0f}',
    ]
    return "\n".join(lines) + "\n"


def _why(drill: Drill) -> str:
    return "; ".join(drill.reasons) or drill.notes or "no reason is recorded"
