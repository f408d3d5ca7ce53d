"""The declaration without its secrets and without the recovery record, and its digest.

Every host computes the same digest, whichever secrets it holds: so one can say which declaration a
runbook was made from, and whether that is still the present one. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.openhim.backup import manifest
from saltext.openhim.errors import Refused

#: What belongs to a host or to a recovery, and not to the declaration.
_NOT_DECLARED = ("secrets", "recovery")

#: Characters of a digest that a person reads.
SHORT = 12


def of(openhim: Mapping[str, Any]) -> dict[str, Any]:
    """``openhim`` of a pillar as all hosts have it."""
    return {key: value for key, value in openhim.items() if key not in _NOT_DECLARED}


def digest(openhim: Mapping[str, Any]) -> str:
    """The SHA-256 of the declaration."""
    return manifest.digest(of(openhim))


def plan(openhim: Mapping[str, Any]) -> Mapping[str, Any]:
    """``openhim:plan``.

    Raises :class:`~saltext.openhim.errors.Refused` when none is declared.
    """
    found: Mapping[str, Any] = openhim.get("plan") or {}
    if not found:
        raise Refused(
            "openhim:plan: found nothing; declare the plan (docs/reference/pillar.md), because "
            "nobody else can say who decides and what matters most"
        )
    return found


def tiers(openhim: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The tiers with their names, in the order in which they are restored."""
    found = (openhim.get("plan") or {}).get("tiers") or {}
    return sorted(found.items(), key=lambda one: one[1]["order"])


def targets(openhim: Mapping[str, Any]) -> dict[str, float | None]:
    """The strictest ``rpo_seconds`` and ``rto_seconds`` of the stack; None where there is none.

    A recovery brings both databases back as one, so the strictest tier's targets are the stack's.
    """
    asked = [openhim.get("targets") or {}, *(tier for _, tier in tiers(openhim))]
    return {
        key: min((float(one[key]) for one in asked if key in one), default=None)
        for key in ("rpo_seconds", "rto_seconds")
    }
