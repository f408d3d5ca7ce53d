"""What each clause of the HIPAA Security Rule asks of a contingency plan, and what shows it. Pure.

A clause has findings: evidence that is there, evidence that is missing (each is named), and what is
not known because it could not be asked. Nothing is left out for being absent, and nothing here says
that a stack complies: a person decides that, from what is shown.
https://www.ecfr.gov/current/title-45/subtitle-A/subchapter-C/part-164/subpart-C
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from saltext.openhim.plan import after_action, at_rest, declared, exercises, words
from saltext.openhim.plan.facts import Facts, Unknown
from saltext.openhim.schema.plan_table import RETENTION_YEARS

SHOWN = "shown"
MISSING = "missing"
UNKNOWN = "unknown"

_YEAR = timedelta(days=365.25)

#: Where a finding comes from.
DECLARED = "pillar"
LIVE = "asked live"
RECORDED = "evidence"


@dataclass(frozen=True)
class Finding:
    """One piece of evidence, or its absence, in a sentence; and where it comes from."""

    state: str
    text: str
    source: str


@dataclass(frozen=True)
class Clause:
    """A clause with what was found. needed: whether it is required or addressable."""

    id: str
    title: str
    asks: str
    needed: str
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """``missing`` if anything is, ``unknown`` if anything else is, ``shown`` if all is."""
        states = {one.state for one in self.findings}
        for state in (MISSING, UNKNOWN):
            if state in states:
                return state
        return SHOWN if states else MISSING


Found = Iterator[Finding]


def _if(good: Any, text: str, absent: str, source: str) -> Finding:
    return Finding(SHOWN, text, source) if good else Finding(MISSING, absent, source)


def judged(facts: Facts) -> list[Clause]:
    """Every clause, in the order of the rule."""
    return [
        Clause(id_, title, asks, needed, tuple(find(facts)))
        for id_, title, needed, asks, find in _CLAUSES
    ]


def _backup_plan(facts: Facts) -> Found:
    backup = facts.openhim.get("backup") or {}
    repositories = backup.get("repositories") or {}
    yield _if(
        len(repositories) > 1,
        f"Restore points go into {words.count(len(repositories), 'repository')}: "
        f"{words.several(sorted(repositories))}.",
        f"Two repositories or more; declared: {words.several(sorted(repositories))} "
        "(openhim:backup:repositories).",
        DECLARED,
    )
    yield _if(
        (backup.get("schedule") or {}).get("take"),
        f"A restore point is taken every {words.duration(_schedule(backup, 'take'))}, a copy is "
        f"pulled every {words.duration(_schedule(backup, 'copy'))}.",
        "A schedule for restore points (openhim:backup:schedule:take).",
        DECLARED,
    )
    yield from _can_meet_the_target(facts, backup)
    yield from _live_backups(facts)


def _schedule(backup: Any, name: str) -> float | None:
    return (backup.get("schedule") or {}).get(name)


def _can_meet_the_target(facts: Facts, backup: Any) -> Found:
    """How much a site with its members can lose to the schedule, beside how much it may."""
    target = declared.targets(facts.openhim)["rpo_seconds"]
    oplog = backup.get("oplog")
    between = (oplog or {}).get("interval_seconds", 60) if oplog else _schedule(backup, "take")
    if target is None:
        yield Finding(MISSING, "A target for the RPO (openhim:targets or a tier).", DECLARED)
    elif between is not None:
        way = "The oplog is archived" if oplog else "Restore points are taken"
        yield _if(
            between <= target,
            f"{way} every {words.duration(between)}; the strictest RPO is "
            f"{words.duration(target)}.",
            f"Backups often enough: {way[0].lower()}{way[1:]} every {words.duration(between)}, "
            f"and the strictest RPO is {words.duration(target)}.",
            DECLARED,
        )


def _live_backups(facts: Facts) -> Found:
    said = facts.backups
    if isinstance(said, Unknown):
        yield Finding(UNKNOWN, f"How the backups are: {said.why}.", LIVE)
        return
    for host, one in sorted(said.get("hosts", {}).items()):
        if not one.get("repositories"):
            why = words.several(one.get("reasons") or ["no reason given"])
            yield Finding(UNKNOWN, f"What {host} sees of the backups: {why}.", LIVE)
        for name, seen in sorted((one.get("repositories") or {}).items()):
            age = seen["figures"].get("newest_age_seconds")
            yield _live_repository(host, name, seen, age)


def _live_repository(host: str, name: str, seen: Any, age: float | None) -> Finding:
    if seen["state"] == "ok":
        points = seen["figures"].get("restore_points")
        text = f"{name}, as {host} sees it: {points} kept, the newest {words.duration(age)} old."
        return Finding(SHOWN, text, LIVE)
    state = UNKNOWN if seen["state"] == "unknown" else MISSING
    why = "; ".join(seen.get("reasons") or ["no reason given"])
    return Finding(state, f"{name} in good order, as {host} sees it: {seen['state']}, {why}.", LIVE)


def _recovery_plan(facts: Facts) -> Found:
    plan = facts.plan
    if not plan:
        yield Finding(MISSING, "A declared plan (openhim:plan).", DECLARED)
        return
    yield Finding(
        SHOWN,
        f"Activation criteria: {len(plan['activation'])}, each with who decides and what ends it.",
        DECLARED,
    )
    roles = plan["roles"]
    yield Finding(
        SHOWN,
        "Roles with successors: "
        + words.several(f"{name} ({len(one['holders'])} people)" for name, one in roles.items())
        + ".",
        DECLARED,
    )
    yield Finding(SHOWN, f"Messages and who gets them: {len(plan['communication'])}.", DECLARED)
    yield _if(
        len(plan.get("copies") or ()) > 1,
        f"Copies of the plan are kept at {len(plan.get('copies') or ())} places beside the hosts.",
        "Copies of the plan at two places beside the hosts (openhim:plan:copies).",
        DECLARED,
    )
    yield from _runbooks(facts)


def _runbooks(facts: Facts) -> Found:
    present = declared.digest(facts.openhim)
    epoch = (facts.openhim.get("recovery") or {}).get("epoch") or 0
    old: list[str] = []
    current: list[str] = []
    for host, said in sorted(facts.runbooks.items()):
        if isinstance(said, Unknown):
            yield Finding(UNKNOWN, f"The runbook on {host}: {said.why}.", LIVE)
        else:
            same = (said.get("digest"), said.get("epoch")) == (present, epoch)
            (current if same else old).append(host)
    if old:
        yield Finding(
            MISSING,
            f"The present runbook on {words.several(old)}: there is none, or one of another "
            "declaration or epoch (a highstate delivers it).",
            LIVE,
        )
    if current:
        sites = sorted({facts.openhim["hosts"][host]["site"] for host in current})
        yield Finding(
            SHOWN,
            f"The runbook of this declaration is on {words.count(len(current), 'host')}, at "
            f"{words.several(sites)}.",
            LIVE,
        )
    elif not facts.runbooks:
        yield Finding(UNKNOWN, "Which runbook the hosts hold: nobody was asked.", LIVE)


def _emergency_mode(facts: Facts) -> Found:
    mode = facts.plan.get("emergency_mode")
    channels = (facts.openhim.get("objects") or {}).get("channels") or {}
    if not mode:
        yield Finding(
            MISSING, "What still works in an emergency (openhim:plan:emergency_mode).", DECLARED
        )
    else:
        off = sorted(set(channels) - set(mode["channels"]))
        yield Finding(
            SHOWN,
            f"On in an emergency: {words.several(mode['channels'])}; off: {words.several(off)}. "
            f"{mode['entered_by']} decides.",
            DECLARED,
        )
    entered = {one.content.get("entered_at"): one for one in facts.of(exercises.EMERGENCY)}
    last = next(reversed(entered.values()), None)
    yield _if(
        last,
        f"Emergency mode, entered on record: {len(entered)} times, the last by "
        f"{last.content.get('entered_by') if last else ''} (record {last.number if last else ''}).",
        "A record of emergency mode, entered in earnest or in a drill.",
        RECORDED,
    )


def _tests(facts: Facts) -> Found:
    tests = facts.plan.get("tests") or {}
    if not tests:
        yield Finding(MISSING, "A calendar of tests (openhim:plan:tests).", DECLARED)
    for due in exercises.calendar(tests, facts.records, facts.now):
        every = f"every {due.every_days} days"
        if due.passed is None or due.due is None:
            failed = " It was tried, and did not pass." if due.last else ""
            yield Finding(
                MISSING, f"{due.name} ({due.kind}, {every}): never passed.{failed}", RECORDED
            )
        elif due.overdue:
            yield Finding(
                MISSING,
                f"{due.name} ({due.kind}, {every}): overdue since {words.day(due.due)}; it last "
                f"passed on {words.day(due.passed.at)} (record {due.passed.record}).",
                RECORDED,
            )
        else:
            yield Finding(
                SHOWN,
                f"{due.name} ({due.kind}, {every}): passed on {words.day(due.passed.at)} (record "
                f"{due.passed.record}); due again by {words.day(due.due)}.",
                RECORDED,
            )
    versions = facts.of(exercises.PLAN)
    yield _if(
        versions,
        f"Versions of the plan on record: {len(versions)}, the newest of "
        f"{versions[-1].at[:10] if versions else ''}.",
        "Any version of the plan on record (salt-run openhim_dr.evidence_collect).",
        RECORDED,
    )
    yield from _after_actions(facts)


def _after_actions(facts: Facts) -> Found:
    """What recoveries taught; each field that nobody filled in is named."""
    for one in after_action.all_of(facts.epochs, facts.records, facts.plan, facts.now):
        name = f"The after-action report of epoch {one['number']} ({one['kind']})"
        for each in one["open"]:
            yield Finding(MISSING, f"{name}: {each['words']}.", RECORDED)
        if not one["open"]:
            yield Finding(SHOWN, f"{name}: nothing is open.", RECORDED)


def _criticality(facts: Facts) -> Found:
    tiers = declared.tiers(facts.openhim)
    if not tiers:
        yield Finding(MISSING, "Criticality tiers (openhim:plan:tiers).", DECLARED)
        return
    for name, tier in tiers:
        inside = [*tier.get("databases", ()), *tier.get("channels", ()), *tier.get("services", ())]
        yield Finding(
            SHOWN,
            f"{tier['order']}. {name}: {words.several(inside)}. RPO "
            f"{words.duration(tier['rpo_seconds'])}, RTO {words.duration(tier['rto_seconds'])}, "
            f"tolerable at most {words.duration(tier['max_downtime_seconds'])}. {tier['impact']}.",
            DECLARED,
        )
    channels = set((facts.openhim.get("objects") or {}).get("channels") or {})
    left = sorted(channels - {one for _, tier in tiers for one in tier.get("channels", ())})
    if left:
        yield Finding(MISSING, f"A tier for the channels {words.several(left)}.", DECLARED)


def _facilities(facts: Facts) -> Found:
    facilities = facts.plan.get("facilities") or {}
    sites = sorted({host["site"] for host in facts.openhim["hosts"].values()})
    for site in sites:
        one = facilities.get(site)
        yield _if(
            one,
            f"{site}: {one['address'] if one else ''}; access by "
            f"{words.several(one['access'] if one else ())}.",
            f"Who lets people into {site} (openhim:plan:facilities).",
            DECLARED,
        )


def _exact_copy(facts: Facts) -> Found:
    done = exercises.of_kind(facts.records, exercises.VERIFICATION)
    good = [one for one in done if one.ok]
    yield _if(
        good,
        f"Restored and compared whole: {len(good)} restore points, the newest {good[-1].what} on "
        f"{words.day(good[-1].at)} (record {good[-1].record})."
        if good
        else "",
        "A restore point that was restored and compared (openhim_backup.verify).",
        RECORDED,
    )
    said = facts.backups
    if isinstance(said, Unknown):
        yield Finding(UNKNOWN, f"Whether an exact copy is there now: {said.why}.", LIVE)
        return
    ages = {
        f"{name} ({host})": seen["figures"]["verified_age_seconds"]
        for host, one in sorted(said.get("hosts", {}).items())
        for name, seen in sorted((one.get("repositories") or {}).items())
        if seen["figures"].get("verified_age_seconds") is not None
    }
    best = min(ages, key=lambda name: ages[name], default="")
    yield _if(
        ages,
        f"Before anything is moved: the newest verified copy is in {best}, "
        f"{words.duration(ages[best]) if ages else ''} old.",
        "A verified copy that can be fetched now.",
        LIVE,
    )


def _emergency_access(facts: Facts) -> Found:
    facilities, roles = facts.plan.get("facilities") or {}, facts.plan.get("roles") or {}
    yield _if(
        facilities and roles,
        "Who may enter, and who decides, is declared with successors.",
        "Who may enter and who decides (openhim:plan:facilities, openhim:plan:roles).",
        DECLARED,
    )
    backup = facts.openhim.get("backup") or {}
    yield _if(
        backup.get("bundle"),
        "The start bundle brings the Salt master back with one key "
        f"({words.several(sorted((backup.get('bundle') or {}).get('repositories', {})))}).",
        "A start bundle, without which nobody gets in when the master is lost "
        "(openhim:backup:bundle).",
        DECLARED,
    )
    yield from _stored_bundles(facts)
    yield _if(
        [one for one in facts.of(exercises.BREAK_GLASS) if one.content.get("what") == "closed"],
        "An account for the emergency was opened and closed on record.",
        "Emergency access that was tried: no time-boxed account was ever opened and closed on "
        "record.",
        RECORDED,
    )


def _stored_bundles(facts: Facts) -> Found:
    said = facts.backups
    if isinstance(said, Unknown):
        yield Finding(UNKNOWN, f"Whether the start bundle is stored: {said.why}.", LIVE)
        return
    for host, one in sorted(said.get("hosts", {}).items()):
        for name, seen in sorted((one.get("repositories") or {}).items()):
            if name.startswith("start bundle"):
                yield _live_repository(host, name, seen, seen["figures"].get("newest_age_seconds"))


def _encryption_at_rest(facts: Facts) -> Found:
    by_provider = facts.plan.get("encryption_at_rest") or {}
    for host, said in sorted(facts.at_rest.items()):
        if isinstance(said, Unknown):
            yield Finding(UNKNOWN, f"The disks of {host}: {said.why}.", LIVE)
            continue
        for one in said:
            yield _disk(host, one, by_provider.get(host))
    if not facts.at_rest:
        yield Finding(UNKNOWN, "The hosts' disks: nobody was asked.", LIVE)
    repositories = (facts.openhim.get("backup") or {}).get("repositories") or {}
    if repositories:
        yield Finding(
            SHOWN,
            f"restic encrypts every repository ({words.several(sorted(repositories))}), each with "
            "a key of its own.",
            DECLARED,
        )


def _disk(host: str, one: Any, by_provider: str | None) -> Finding:
    where = f"{one['path']} on {host}"
    if one["state"] in (at_rest.ENCRYPTED, at_rest.MEMORY):
        return Finding(SHOWN, f"{where}: {one['why']}.", LIVE)
    if by_provider:
        return Finding(
            SHOWN, f"{where}: declared, and not seen by the host: {by_provider}.", DECLARED
        )
    if one["state"] == at_rest.UNKNOWN:
        return Finding(UNKNOWN, f"{where}: {one['why']}.", LIVE)
    return Finding(MISSING, f"Encryption of {where}: {one['why']}.", LIVE)


def _transmission(facts: Facts) -> Found:
    mongodb = facts.openhim["mongodb"]
    yield _if(
        mongodb.get("tls"),
        "MongoDB's members and clients speak TLS, and refuse anything else.",
        "TLS between MongoDB's members and clients (openhim:mongodb:tls).",
        DECLARED,
    )
    answered = sorted(name for name, said in facts.members.items() if not isinstance(said, Unknown))
    if mongodb.get("tls") and answered:
        yield Finding(SHOWN, f"Over TLS answered: {words.several(answered)}.", LIVE)
    for name, said in sorted(facts.members.items()):
        if isinstance(said, Unknown):
            yield Finding(UNKNOWN, f"Whether {name} answers over TLS: {said.why}.", LIVE)
    yield from _to_the_repositories(facts)
    yield from _channels_in_the_clear(facts)


def _to_the_repositories(facts: Facts) -> Found:
    backup = facts.openhim.get("backup") or {}
    clear = [
        name
        for name, one in sorted((backup.get("repositories") or {}).items())
        if "http://" in one.get("url", "")
    ]
    if clear:
        yield Finding(
            MISSING,
            f"TLS on the way to {words.several(clear)}: the contents are encrypted, the "
            "credentials of the store are not (an http:// URL).",
            DECLARED,
        )


def _channels_in_the_clear(facts: Facts) -> Found:
    channels = (facts.openhim.get("objects") or {}).get("channels") or {}
    clear = sorted(
        name
        for name, one in channels.items()
        if any(not route.get("secured") for route in one.get("routes", ()))
    )
    if clear:
        yield Finding(
            MISSING,
            f"TLS to the upstreams of {words.several(clear)} (`secured` in their routes).",
            DECLARED,
        )


def _documentation(facts: Facts) -> Found:
    years = facts.plan.get("retention_years", RETENTION_YEARS)
    if facts.plan:
        yield Finding(SHOWN, f"Kept for {years} years: plans, records and evidence.", DECLARED)
    records = facts.records
    if not records:
        yield Finding(
            MISSING, "Any evidence on record (salt-run openhim_dr.evidence_collect).", RECORDED
        )
    else:
        yield Finding(
            SHOWN,
            f"{words.count(len(records), 'record')} from {records[0].at[:10]} to "
            f"{records[-1].at[:10]}; nothing is ever removed from the chain.",
            RECORDED,
        )
    for fault in facts.chain.faults:
        yield Finding(MISSING, f"An untouched chain of evidence: {fault}.", RECORDED)
    if records and facts.chain.whole:
        yield _if(
            facts.chain.proved,
            f"The chain is whole, and anchors confirm it up to record {facts.chain.proved} of "
            f"{len(records)}.",
            "An anchor of the chain in a repository (salt-run openhim_dr.evidence_anchor).",
            RECORDED,
        )
    for host, why in sorted(facts.anchors_asked.items()):
        if why is not None:
            yield Finding(UNKNOWN, f"The anchors that {host} sees: {why}.", LIVE)


_REQUIRED, _ADDRESSABLE = "required", "addressable"

_CLAUSES: tuple[tuple[str, str, str, str, Callable[[Facts], Found]], ...] = (
    ("164.308(a)(7)(ii)(A)", "Data backup plan", _REQUIRED,
     "Create and maintain retrievable exact copies of ePHI.", _backup_plan),
    ("164.308(a)(7)(ii)(B)", "Disaster recovery plan", _REQUIRED,
     "Restore any loss of data.", _recovery_plan),
    ("164.308(a)(7)(ii)(C)", "Emergency mode operation plan", _REQUIRED,
     "Critical processes go on, and ePHI stays protected, in emergency mode.", _emergency_mode),
    ("164.308(a)(7)(ii)(D)", "Testing and revision procedures", _ADDRESSABLE,
     "Test and revise contingency plans periodically.", _tests),
    ("164.308(a)(7)(ii)(E)", "Applications and data criticality analysis", _ADDRESSABLE,
     "Assess the relative criticality of applications and data.", _criticality),
    ("164.310(a)(2)(i)", "Contingency operations", _ADDRESSABLE,
     "Facility access in support of the restoration of lost data.", _facilities),
    ("164.310(d)(2)(iv)", "Data backup and storage", _ADDRESSABLE,
     "A retrievable exact copy of ePHI before equipment is moved.", _exact_copy),
    ("164.312(a)(2)(ii)", "Emergency access procedure", _REQUIRED,
     "Obtain necessary ePHI during an emergency.", _emergency_access),
    ("164.312(a)(2)(iv)", "Encryption and decryption", _ADDRESSABLE,
     "Encrypt and decrypt ePHI at rest.", _encryption_at_rest),
    ("164.312(e)", "Transmission security", _ADDRESSABLE,
     "Guard against access to ePHI that is transmitted over a network.", _transmission),
    ("164.316(b)(2)(i)", "Time limit of documentation", _REQUIRED,
     "Keep documentation for six years.", _documentation),
)  # fmt: skip
