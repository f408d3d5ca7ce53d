"""Drills that people held: a full recovery, or one that was talked through."""

from __future__ import annotations

import secrets
from datetime import datetime, timezone

from saltext.openhim.drill import records
from saltext.openhim.drill.declaration import FUNCTIONAL, KINDS, Drills
from saltext.openhim.drill.records import Drill
from saltext.openhim.errors import OpenHIMError

_VERDICTS = (records.PASSED, records.FAILED)


def record(
    drills: Drills,
    kind: str,
    verdict: str,
    by: str,
    notes: str,
    began_at: str | None = None,
    rto_seconds: float | None = None,
    rpo_seconds: float | None = None,
) -> Drill:
    """Puts a drill on record; returns it as it was read back.

    kind: ``full`` or ``tabletop``. verdict: ``passed`` or ``failed``. by, notes: who says so, and
    what was learnt. began_at: ISO 8601 with zone, and not of the future; now when left out.

    Raises OpenHIMError for anything else, and Refused on another host.
    """
    drills.require_here()
    held = [each for each in KINDS if each != FUNCTIONAL]
    if kind not in held:
        raise OpenHIMError(f"the kind {kind!r} was given; expected one of {', '.join(held)}")
    if verdict not in _VERDICTS:
        raise OpenHIMError(f"the verdict {verdict!r} was given; expected passed or failed")
    if not str(by).strip() or not str(notes).strip():
        raise OpenHIMError("by or notes is empty; say who says so, and what was learnt")
    began = _moment(began_at)
    figures = (_seconds("rpo_seconds", rpo_seconds), _seconds("rto_seconds", rto_seconds))
    drill = Drill(
        id=f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
        kind=kind,
        stack=drills.stack.name,
        host=drills.host,
        by=str(by),
        began_at=began.isoformat(timespec="milliseconds"),
        ended_at=records.now(),
        verdict=verdict,
        reasons=() if verdict == records.PASSED else (str(notes),),
        rpo_seconds=figures[0],
        rto_seconds=figures[1],
        notes=str(notes),
    )
    records.append(drill)
    if drill not in records.read().drills:
        raise OpenHIMError(f"{drill.id} was written to {records.FILE}, and is not in it")
    return drill


def _moment(text: str | None) -> datetime:
    present = datetime.now(timezone.utc)
    try:
        began = datetime.fromisoformat(str(text).replace("Z", "+00:00")) if text else present
        if began.tzinfo is None or began > present:
            raise ValueError
    except ValueError:
        raise OpenHIMError(
            f"began_at: found {text!r}; expected a time of the past with its zone, such as "
            "2026-01-31T12:00:00Z"
        ) from None
    return began.astimezone(timezone.utc)


def _seconds(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise OpenHIMError(f"{name}: found {value!r}; expected a number of seconds")
    return seconds
