"""RPO and RTO from what was seen: measured, never assumed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from saltext.openhim.errors import OpenHIMError


def moment(text: str, path: str) -> datetime:
    """A point in time from ISO 8601 text with a zone.

    path: what the text is, for the error.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it is anything else.
    """
    # Python 3.10 reads a fraction of three or six digits only, and no "Z".
    readable = re.sub(r"\.(\d+)", lambda found: f".{found[1]:0<6.6}", str(text))
    try:
        value = datetime.fromisoformat(readable.replace("Z", "+00:00"))
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise OpenHIMError(
            f"{path}: found {text!r}; an ISO 8601 time with its zone is needed, such as "
            "2026-01-31T12:00:00Z"
        )
    return value


def figures(
    disrupted_at: str | None,
    declared_at: str,
    served_at: str,
    survived_until: Iterable[str | None],
) -> dict[str, Any]:
    """RPO and RTO of a recovery, in seconds.

    survived_until: for each replica set, the time of the last write that its promoted member had;
    None where it could not tell.
    What cannot be known is None, and a sentence beside it says why.
    """
    served = moment(served_at, "served_at")
    found: dict[str, Any] = {
        "disrupted_at": disrupted_at,
        "declared_at": declared_at,
        "served_at": served_at,
        "rto_from_declaration_seconds": _seconds(served, moment(declared_at, "declared_at")),
        "rto_seconds": None,
        "rpo_seconds": None,
        "notes": [],
    }
    told = list(survived_until)
    known = [text for text in told if text is not None]
    kept = sorted(known, key=lambda text: moment(text, "survived_until"))
    found["survived_until"] = kept[0] if kept else None
    if disrupted_at is None:
        found["notes"].append(
            "RPO and RTO from the disruption are not known, because nobody said when it was"
        )
        return found
    disrupted = moment(disrupted_at, "disrupted_at")
    found["rto_seconds"] = _seconds(served, disrupted)
    if not told or len(known) < len(told):
        found["notes"].append("RPO is not known, because a promoted member has no older write")
        return found
    found["rpo_seconds"] = max(0.0, _seconds(disrupted, moment(kept[0], "survived_until")))
    found["notes"].append(
        "RPO is the time from the last write that the promoted member had to the disruption; "
        "writes of that time may be lost"
    )
    return found


def after_an_election(
    disrupted_at: str | None, declared_at: str, served_at: str, compared: Mapping[str, bool | None]
) -> dict[str, Any]:
    """RPO and RTO of a recovery in which MongoDB had elected a primary by itself.

    compared: each declared member → whether the primary has all that it has; None where nobody
    could ask it.
    """
    found = figures(disrupted_at, declared_at, served_at, [])
    if disrupted_at is None:
        found["notes"] = [
            "RTO from the disruption is not known, because nobody said when it was",
        ]
    else:
        found["notes"] = []
    missing = sorted(name for name, has in compared.items() if has is False)
    silent = sorted(name for name, has in compared.items() if has is None)
    if missing:
        found["notes"].append(
            f"RPO is not known: {', '.join(missing)} has writes that the elected primary has not. "
            "What OpenHIM was told is written was on a majority, and is not among them"
        )
    elif silent:
        found["notes"].append(
            "RPO is not known: MongoDB's own election decided what survived, and nobody can ask "
            f"{', '.join(silent)} what it had beyond that. What OpenHIM was told is written was on "
            "a majority, and survived"
        )
    else:
        found["rpo_seconds"] = 0.0
        found["notes"].append("every member was asked, and the primaries have all that they have")
    return found


def _seconds(later: datetime, earlier: datetime) -> float:
    return round((later - earlier).total_seconds(), 3)
