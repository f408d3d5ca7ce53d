"""A declared stack of two sites whose primary one is lost, and what its hosts say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saltext.openhim import settings
from saltext.openhim.recovery import layout
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.observations import Evidence, Report, probed

DECLARED: dict[str, Any] = {
    "stack": "example",
    "active_site": "north",
    "sites": {"north": {}, "south": {}},
    "hosts": {
        "north-db1": {"site": "north", "address": "10.0.1.1", "roles": ["mongodb"]},
        "north-db2": {"site": "north", "address": "10.0.1.2", "roles": ["mongodb"]},
        "north-core": {"site": "north", "address": "10.0.1.3", "roles": ["core"]},
        "south-db1": {"site": "south", "address": "10.0.2.1", "roles": ["mongodb"]},
        "south-core": {"site": "south", "address": "10.0.2.3", "roles": ["core"]},
    },
    "mongodb": {
        "replica_sets": {
            "rs": {
                "members": {
                    "north-db1": {"priority": 10},
                    "north-db2": {"priority": 9},
                    "south-db1": {"priority": 1},
                }
            }
        },
        "databases": {
            "main": {"name": "openhim", "replica_set": "rs"},
            "audit": {"name": "audit", "replica_set": "rs"},
        },
    },
}
OVERLAY = {"epoch": 1, "active_site": "south", "profile": "reduced", "lost_sites": ["north"]}
SURVIVOR = "rs/south-db1:27017"
GONE = {"rs/north-db1:27017": "unreachable", "rs/north-db2:27017": "unreachable"}
VOTES = {"north-db1:27017": 1, "north-db2:27017": 1, "south-db1:27017": 1}
WHY = {"declared_by": "Ada", "reason": "north is back"}
ASKED = {"to_site": "south", "confirm": "example", "declared_by": "Ada", "reason": "fire"}
OFF = {"north": "its power is cut, seen by Ada"}


def stack(**overlay: Any) -> settings.Stack:
    """The stack, with what a recovery lays over it."""
    return settings.from_pillar({"openhim": {**DECLARED, "recovery": overlay}})


def epoch(**changes: Any) -> Epoch:
    """The failover to south."""
    values: dict[str, Any] = {
        "number": 1, "id": "a", "parent": None, "kind": "failover", "stack": "example",
        "active_site": "south", "profile": "reduced", "lost_sites": ("north",),
        "declared_by": "Ada", "reason": "fire", "declared_at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    return Epoch(**{**values, **changes})


def looks(**states: str) -> tuple[Any, ...]:
    """What a host at south sees: north is gone; by the hosts' names with ``_`` what is otherwise."""
    words = {**GONE, SURVIVOR: "SECONDARY"}
    words |= {f"rs/{host.replace('_', '-')}:27017": word for host, word in states.items()}
    return tuple(probed(name, word) for name, word in words.items() if word)


def lost(records: tuple[Epoch, ...] = (), **changes: Report) -> Evidence:
    """North does not answer, and south sees that; some hosts' reports may be others."""
    plan = layout.from_stack(stack())
    reports = {
        host: Report(
            host, True, site, members=looks(), epochs=records,
            cores=(probed("south-core", "not running"),) if host == "south-core" else (),
            gate_open=True, fenced=False, admits=bool(records),
        )
        if site == "south"
        else Report(host, False, site)
        for host, site in plan.hosts
    }  # fmt: skip
    reports |= {host.replace("_", "-"): report for host, report in changes.items()}
    voters = tuple(f"rs/{name}" for name in VOTES)
    found = Evidence(plan, tuple(reports.values()), "", master_epochs=records)
    return found if records else replace(found, voters=voters)


def seeing(found: Evidence, host: str, **states: str) -> Evidence:
    """The same, but that one host sees members otherwise."""
    return replace(
        found,
        reports=tuple(
            replace(r, members=looks(**states)) if r.host == host else r for r in found.reports
        ),
    )
