"""What hosts answered, as reports: plain values in, observations out.

The other end is :mod:`saltext.openhim.sighting`, on each host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery.epochs import Epoch, parsed
from saltext.openhim.recovery.observations import Look, Report, probed

#: What a host says of itself in plain values, and a report under the same names.
_OWN = ("gate_open", "fenced", "admits", "holds_data", "can_keep_aside", "caught_up")


def silent(host: str, site: str, error: str = "") -> Report:
    """The report of a host that gave no answer, or (``error``) could not say what it sees."""
    return Report(host, False, site, error=error)


def heard(
    host: str, site: str, answer: Mapping[str, Any], at: float, records: tuple[Epoch, ...]
) -> Report:
    """The report of a host that answered.

    answer: as :func:`saltext.openhim.sighting.look` returns it. at: when it arrived, in seconds
    since 1970 by the asker's clock. records: the asker's own; a rejoin of a site that is noted
    there is noted of its hosts.
    """
    try:
        report = Report(
            host,
            True,
            site,
            members=tuple(_member(name, seen) for name, seen in answer["members"].items()),
            cores=tuple(probed(name, word) for name, word in answer["cores"].items()),
            repositories=tuple(probed(n, word) for n, word in answer["repositories"].items()),
            objections=tuple(
                (name, words) for name, said in answer["objections"].items() for words in said
            ),
        )
        return refreshed(report, answer, at, records)
    except (KeyError, TypeError, AttributeError, OpenHIMError) as error:
        # Another version of this package answers there, for instance: what it means is not known.
        return silent(host, site, f"its answer cannot be read: {error!r}; synchronise its modules")


def refreshed(
    report: Report, own: Mapping[str, Any], at: float, records: tuple[Epoch, ...]
) -> Report:
    """The report with what its host says of itself now; what it saw of others stays.

    own: as :func:`saltext.openhim.sighting.own` returns it. at, records: as for :func:`heard`.
    """
    epochs = tuple(parsed(own["epochs"]))
    noted = next((e.id for e in reversed(records) if report.site in e.rejoined), None)
    return replace(
        report,
        epochs=epochs,
        clock=round(own["time"] - at, 3),
        rejoined=noted,
        **{name: own[name] for name in _OWN},
    )


def _member(name: str, seen: Mapping[str, Any]) -> Look:
    details = {key: seen[key] for key in ("epoch", "set_id", "committed")}
    return probed(name, seen["saw"], **details)
