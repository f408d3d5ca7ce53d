"""What the pillar says of drills (``openhim:drills``), as one host sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saltext.openhim import settings
from saltext.openhim.backup.schedule import WAIT
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.settings import Stack

FUNCTIONAL = "functional"
#: A functional drill is carried out by this package. In a full one people recover the stack, in a
#: tabletop one they talk it through; they record them.
KINDS = (FUNCTIONAL, "full", "tabletop")

#: How long OpenHIM is watched after it served: each of its timers has fired once by then, for the
#: slowest of those that reach out (alerts, retries) go by the minute.
OBSERVE_SECONDS = 65

SCHEDULE_PREFIX = "openhim-drill-"


@dataclass(frozen=True)
class Drills:
    """The declared drills of a stack, seen from one host."""

    stack: Stack
    host: str
    pillar: Mapping[str, Any] = field(repr=False)

    @property
    def entry(self) -> Mapping[str, Any]:
        """``openhim:drills``."""
        entry = self.stack.declared.get("drills") or {}
        if not entry:
            raise OpenHIMError("openhim:drills: found nothing; declare run_by and max_age_seconds")
        return entry

    @property
    def here(self) -> bool:
        """Whether drills run on this host."""
        return bool(self.entry.get("run_by") == self.host)

    @property
    def max_age(self) -> Mapping[str, int]:
        """By kind, the seconds after which the last drill that passed is too long ago."""
        return {kind: int(seconds) for kind, seconds in self.entry["max_age_seconds"].items()}

    @property
    def observe_seconds(self) -> float:
        """How long OpenHIM is watched after it served."""
        return float(self.entry.get("observe_seconds", OBSERVE_SECONDS))

    @property
    def targets(self) -> Mapping[str, Any]:
        """``openhim:targets``: what the business asks for."""
        return self.stack.declared.get("targets") or {}

    def require_here(self) -> None:
        """Refuse a drill on another host than the declared one."""
        if not self.here:
            raise Refused(
                f"drills are the task of {self.entry.get('run_by')} (openhim:drills:run_by), not "
                f"of {self.host}; run it there"
            )

    def schedule(self) -> dict[str, dict[str, Any]]:
        """This host's entries of Salt's schedule, by name; empty on another host."""
        every = (self.entry.get("schedule") or {}).get(FUNCTIONAL)
        if not (self.here and every):
            return {}
        return {
            f"{SCHEDULE_PREFIX}{FUNCTIONAL}": {
                "function": "openhim_drill.run",
                "seconds": int(every),
                "kwargs": {"by": "schedule", "wait": WAIT},
                "maxrunning": 1,
                "run_on_start": False,
            }
        }


def from_pillar(pillar: Mapping[str, Any], minion_id: str) -> Drills:
    """The drills that a pillar declares, as the host ``minion_id`` sees them."""
    return Drills(settings.from_pillar(pillar), minion_id, pillar)
