"""The rebuild: may the stack be made anew at a site, and what would be done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from saltext.openhim import settings
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.figures import figures
from saltext.openhim.recovery.observations import Evidence, Report
from saltext.openhim.recovery.verdicts import Point, Request, verdict

KIND = "rebuild"


@dataclass(frozen=True)
class Target:
    """Where the stack is made anew. hosts: all of the site that take part in a write. restored_by:
    who restores. cores: who serves. lost_sites: what is given up."""

    hosts: tuple[str, ...]
    restored_by: str
    cores: tuple[str, ...]
    lost_sites: tuple[str, ...]


def overlay(site: str, lost_sites: tuple[str, ...], number: int) -> dict[str, Any]:
    """What a rebuild's epoch lays over the declaration."""
    return {
        "epoch": number,
        "kind": KIND,
        "active_site": site,
        "profile": "reduced",
        "lost_sites": list(lost_sites),
    }


def target(pillar: Mapping[str, Any], site: str) -> Target:
    """The target of a rebuild, from a pillar without a recovery.

    Raises OpenHIMError for a site where no set has a member.
    """
    declared = settings.from_pillar(settings.with_standby(pillar, site))
    working = [h for h in declared.hosts.values() if set(h.roles) & {"mongodb", "core"}]
    lost = tuple(sorted({host.site for host in working} - {site}))
    future = {**pillar["openhim"], "recovery": overlay(site, lost, 0)}
    rebuilt = settings.from_pillar({**pillar, "openhim": future})
    first = min(rebuilt.replica_sets.values(), key=lambda one: one.name)
    return Target(
        tuple(sorted(host.id for host in working if host.site == site)),
        first.initiator.host.id,
        tuple(host.id for host in rebuilt.hosts_with("core", site)),
        lost,
    )


def reasons(evidence: Evidence, request: Request) -> tuple[str, ...]:
    """Why not; empty when the stack may be made anew.

    Beside what the model asks for: a host of another site that answers must be fenced already, for
    a rebuild fences nobody.
    """
    found = list(verdict(evidence, request).reasons)
    for report in evidence.heard.values():
        if report.site != request.site and report.fenced is not True:
            found.append(
                f"{report.host} at {report.site} answers and is not fenced. If anything there "
                "survives, use failover or restore; else fence it (openhim_fence.fence), or switch "
                "it off"
            )
    return tuple(dict.fromkeys(found))


def with_bare(evidence: Evidence, hosts: tuple[str, ...]) -> Evidence:
    """The evidence as if silent target hosts were empty: before they have a minion, nobody can ask
    them, and they are asked before anything is declared."""
    reports = [
        Report(report.host, True, report.site, holds_data=False)
        if report.host in hosts and not report.answered
        else report
        for report in evidence.reports
    ]
    return replace(evidence, reports=tuple(reports))


def with_reports(evidence: Evidence, reports: Mapping[str, Report]) -> Evidence:
    """The evidence with what target hosts say of themselves."""
    return replace(
        evidence, reports=tuple(reports.get(report.host, report) for report in evidence.reports)
    )


def point(found: Mapping[str, Any]) -> Point:
    """A restore point as a host found it; what was never verified is compared while restored."""
    return Point(str(found["id"]), committed=True, passed=not found["bad"])


def result(epoch: Epoch, served_at: str, synthetic: Mapping[str, Any]) -> dict[str, Any]:
    """What a rebuild measured, for its epoch."""
    restored = epoch.evidence["point"]
    until = datetime.fromtimestamp(restored["as_of"], timezone.utc).isoformat()
    found = figures(epoch.disrupted_at, epoch.declared_at, served_at, [until])
    if found["rpo_seconds"] is not None:
        found["notes"] = [
            "RPO is the time from the moment that the restored data shows to the disruption; "
            "writes of that time are lost"
        ]
    return {
        **found,
        "epoch": epoch.number,
        "active_site": epoch.active_site,
        "point": dict(restored),
        "synthetic": dict(synthetic),
    }


def under_way(epoch: Epoch | None, site: str) -> bool:
    """Whether the newest epoch is a rebuild at this site that has not come to its end."""
    return bool(
        epoch and epoch.kind == KIND and epoch.active_site == site and not epoch.completed_at
    )
