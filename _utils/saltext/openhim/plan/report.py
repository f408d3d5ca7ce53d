"""The report: from facts to everything that is shown, as plain values. Pure.

The JSON is this model; the page (:mod:`saltext.openhim.plan.pages`) shows it. Every number in it
was declared, recorded or measured; none is written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from saltext.openhim.backup.manifest import utc
from saltext.openhim.plan import after_action, clauses, declared, exercises, words
from saltext.openhim.plan.exercises import Exercise
from saltext.openhim.plan.facts import Facts, Unknown
from saltext.openhim.recovery.figures import moment

FORMAT = 1

#: A member that is further behind is shown as lagging (seconds): MongoDB's heartbeats come every 2.
LAGS = 10

#: States of MongoDB in which a member has data that others may read.
_WELL = ("PRIMARY", "SECONDARY", "ARBITER")


def build(facts: Facts) -> dict[str, Any]:
    """The whole report, as values that JSON has."""
    judged = clauses.judged(facts)
    done = [*exercises.recoveries(facts.records), *exercises.drills(facts.records)]
    done.sort(key=lambda one: (one.at, one.record))
    return {
        "format": FORMAT,
        "stack": facts.stack,
        "organisation": facts.plan.get("organisation"),
        "at": utc(facts.now),
        "epoch": facts.epochs[-1]["number"] if facts.epochs else 0,
        "active_site": _active_site(facts),
        "digest": declared.digest(facts.openhim),
        "clauses": [_clause(one) for one in judged],
        "findings": _tally(judged),
        "targets": _targets(facts, done),
        "series": _series(facts, done),
        "repositories": _repositories(facts),
        "verifications": _verifications(facts),
        "exercises": [_exercise(one) for one in done],
        "recoveries": after_action.all_of(facts.epochs, facts.records, facts.plan, facts.now),
        "tests": [_due(one) for one in _calendar(facts)],
        "topology": _topology(facts),
        "evidence": _evidence(facts),
    }


def _active_site(facts: Facts) -> str:
    recovery = facts.openhim.get("recovery") or {}
    return str(recovery.get("active_site") or facts.openhim["active_site"])


def _clause(one: clauses.Clause) -> dict[str, Any]:
    return {**asdict(one), "state": one.state, "findings": [asdict(f) for f in one.findings]}


def _tally(judged: Iterable[clauses.Clause]) -> dict[str, int]:
    """How many findings of each state."""
    counts = Counter(finding.state for clause in judged for finding in clause.findings)
    return {state: counts[state] for state in (clauses.SHOWN, clauses.MISSING, clauses.UNKNOWN)}


def _targets(facts: Facts, done: Sequence[Exercise]) -> list[dict[str, Any]]:
    """Each tier's targets beside what the newest exercise measured; the stack's first."""
    strictest = declared.targets(facts.openhim)
    measured = {
        key: next((one for one in reversed(done) if getattr(one, key) is not None), None)
        for key in ("rpo_seconds", "rto_seconds")
    }
    rows: list[dict[str, Any]] = [
        {"tier": None, "strategy": None, "max_downtime_seconds": None, **strictest}
    ]
    rows += [
        {
            "tier": name,
            **{
                key: tier[key]
                for key in ("strategy", "max_downtime_seconds", "rpo_seconds", "rto_seconds")
            },
        }
        for name, tier in declared.tiers(facts.openhim)
    ]
    return [
        {**row, **{key.replace("_seconds", ""): _beside(row[key], one, key)
                   for key, one in measured.items()}}
        for row in rows
    ]  # fmt: skip


def _beside(target: float | None, one: Exercise | None, key: str) -> dict[str, Any]:
    """What was measured last, and whether it is within the target; None where that is unknown."""
    if one is None:
        return {"measured": None, "met": None, "at": None, "kind": None, "record": None}
    seconds = getattr(one, key)
    return {
        "measured": seconds,
        "met": None if target is None else seconds <= target,
        "at": utc(one.at),
        "kind": one.kind,
        "record": one.record,
    }


def _series(facts: Facts, done: Sequence[Exercise]) -> dict[str, Any]:
    """What is plotted over time: RPO and RTO as measured, and the age of each repository's newest
    restore point as it was at each look."""
    ages: dict[str, list[list[Any]]] = {}
    for one in facts.of(exercises.STATUS):
        for name, seen in sorted((one.content.get("repositories") or {}).items()):
            ages.setdefault(name, []).append([one.at, seen.get("newest_age_seconds")])
    return {
        "rpo": [[utc(o.at), o.rpo_seconds, o.kind] for o in done if o.rpo_seconds is not None],
        "rto": [[utc(o.at), o.rto_seconds, o.kind] for o in done if o.rto_seconds is not None],
        "backup_age": ages,
        "backup_age_limit": (facts.openhim.get("backup") or {}).get("max_age_seconds"),
    }


def _repositories(facts: Facts) -> dict[str, Any]:
    said = facts.backups
    if isinstance(said, Unknown):
        return {"state": "unknown", "reasons": [said.why], "seen": []}
    seen = [
        {
            "host": host,
            "repository": name,
            "state": one["state"],
            "reasons": list(one.get("reasons") or ()),
            "newest_age_seconds": one["figures"].get("newest_age_seconds"),
            "verified_age_seconds": one["figures"].get("verified_age_seconds"),
            "restore_points": one["figures"].get("restore_points"),
        }
        for host, each in sorted(said.get("hosts", {}).items())
        for name, one in sorted((each.get("repositories") or {}).items())
    ]
    return {"state": said["state"], "reasons": list(said.get("reasons") or ()), "seen": seen}


def _verifications(facts: Facts) -> dict[str, Any]:
    """How many there were by month, and the newest."""
    done = exercises.of_kind(facts.records, exercises.VERIFICATION)
    months: dict[str, Counter[str]] = {}
    for one in done:
        months.setdefault(utc(one.at)[:7], Counter())["good" if one.ok else "bad"] += 1
    return {
        "good": sum(1 for one in done if one.ok),
        "bad": sum(1 for one in done if not one.ok),
        "by_month": [[month, n["good"], n["bad"]] for month, n in sorted(months.items())],
        "failed": [_exercise(one) for one in done if not one.ok],
        "newest": _exercise(done[-1]) if done else None,
    }


def _exercise(one: Exercise) -> dict[str, Any]:
    return {**asdict(one), "at": utc(one.at)}


def _calendar(facts: Facts) -> list[exercises.Due]:
    return exercises.calendar(facts.plan.get("tests") or {}, facts.records, facts.now)


def _due(one: exercises.Due) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "every_days": one.every_days,
        "owner": one.owner,
        "last": _exercise(one.last) if one.last else None,
        "passed": _exercise(one.passed) if one.passed else None,
        "due": utc(one.due) if one.due else None,
        "overdue": one.overdue,
    }


def _topology(facts: Facts) -> list[dict[str, Any]]:
    """Every site with its hosts: what each is for, and what is seen of it now."""
    lost = (facts.openhim.get("recovery") or {}).get("lost_sites") or ()
    seen = _members(facts)
    return [
        {
            "site": site,
            "description": (entry or {}).get("description"),
            "active": site == _active_site(facts),
            "lost": site in lost,
            "hosts": [
                _host(facts, host_id, host, seen)
                for host_id, host in sorted(facts.openhim["hosts"].items())
                if host["site"] == site
            ],
        }
        for site, entry in facts.openhim["sites"].items()
    ]


def _members(facts: Facts) -> dict[str, list[dict[str, Any]]]:
    """What is seen of each host's members: set, state, lag."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, said in sorted(facts.members.items()):
        if isinstance(said, Unknown):
            continue
        for member in said["members"]:
            found.setdefault(member["host"], []).append(
                {
                    "set": name,
                    "state": member["state"],
                    "healthy": member["healthy"],
                    "lag_seconds": member["lag_seconds"],
                }
            )
    return found


def _host(
    facts: Facts, host_id: str, host: Mapping[str, Any], seen: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    if host.get("standby") and host["site"] != _active_site(facts):
        return _shown(host_id, host, [], ["stands by for a rebuild"], False)
    notes, bad = [], False
    for member in seen.get(host_id, []):
        lag = member["lag_seconds"]
        notes.append(f"{member['set']}: {member['state']}")
        if lag is not None and member["state"] == "SECONDARY":
            notes[-1] += f", {words.duration(lag)} behind"
        bad |= not member["healthy"] or member["state"] not in _WELL or (lag or 0) > LAGS
    if "mongodb" in host["roles"] and host_id not in seen:
        notes.append("members: not known")
        bad = True
    core = facts.cores.get(host_id)
    if isinstance(core, Unknown) or (core is None and "core" in host["roles"]):
        notes.append("OpenHIM: not known")
        bad = True
    elif core is not None:
        wanted = host["site"] == _active_site(facts)
        notes.append("OpenHIM runs" if core else "OpenHIM is stopped")
        bad |= bool(core) != wanted
    return _shown(host_id, host, seen.get(host_id, []), notes, bad)


def _shown(
    host_id: str,
    host: Mapping[str, Any],
    members: list[dict[str, Any]],
    notes: list[str],
    attention: bool,
) -> dict[str, Any]:
    return {
        "host": host_id,
        "roles": list(host["roles"]),
        "address": str(host["address"]),
        "primary_of": [one["set"] for one in members if one["state"] == "PRIMARY"],
        "members": members,
        "notes": notes,
        "attention": attention,
    }


def _evidence(facts: Facts) -> dict[str, Any]:
    records = facts.records
    newest = max((one.at for one in facts.anchors), default=None)
    return {
        "records": len(records),
        "by_kind": dict(sorted(Counter(one.kind for one in records).items())),
        "first": records[0].at if records else None,
        "last": records[-1].at if records else None,
        "head": records[-1].sha256 if records else None,
        "faults": list(facts.chain.faults),
        "proved": facts.chain.proved,
        "anchors": len(facts.anchors),
        "newest_anchor": newest,
    }


def parsed(at: str) -> datetime:
    """A time of the model."""
    return moment(at, "at")
