"""What a witness says of the leases, as evidence for a recovery. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import reports
from saltext.openhim.recovery.epochs import parsed
from saltext.openhim.recovery.observations import Grant, Report


def grants(told: Mapping[str, float | None]) -> tuple[Grant, ...]:
    """Grants from what ``openhim_lease.granted`` returns as ``grants``.

    A lease of which the witness does not know is one that never ends: unknown is not run out.
    """
    return tuple(
        Grant(site, math.inf if left is None else float(left))
        for site, left in sorted(told.items())
    )


def report(host: str, site: str, answer: Mapping[str, Any], at: float) -> Report:
    """The report of a witness that is none of the hosts which take part in a write.

    host, site: its own. answer: what ``openhim_lease.granted`` returned on it. at: when that
    arrived, in seconds since 1970 by the asker's clock.
    """
    try:
        return Report(
            host,
            True,
            site,
            epochs=tuple(parsed(answer["epochs"])),
            grants=grants(answer["grants"]),
            clock=round(float(answer["time"]) - at, 3),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OpenHIMError) as error:
        return reports.silent(
            host, site, f"its answer cannot be read: {error!r}; synchronise its modules"
        )
