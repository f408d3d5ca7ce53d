"""Gathers the evidence for a recovery: every host is asked live, and the master looks itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from saltext.openhim import fleet, power_off, record, settings, sighting
from saltext.openhim.lease import declared as leases
from saltext.openhim.lease import evidence as witnesses
from saltext.openhim.mongo import connection
from saltext.openhim.recovery import layout, reports
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.observations import (
    Attestation,
    Evidence,
    Look,
    Power,
    Report,
    probed,
)
from saltext.openhim.settings import Stack

#: Seconds for a host to look into the data of members that do not run.
LOOK_INTO_DATA_TIMEOUT = 180

#: What the master is called where it is one who looks.
MASTER = "the master"


#: What must be the same in two questions, or what one brought to light does not answer the other.
_SAME = ("pillar", "history", "sites", "stopped", "power")

#: Stack → when this process began to gather evidence of it last, upon what question, and what it
#: was.
_LAST: dict[str, tuple[float, Question, Evidence]] = {}


@dataclass(frozen=True)
class Question:
    """A stack as the master knows it before it asks anybody.

    pillar: as its hosts get it. now: the stack with its newest epoch laid over the declaration.
    history: the record. attestations: what a person says with the present request. sites: whose
    members' histories are compared with the primary's; stopped: also those of members that do not
    run, into whose data a mongod looks for some seconds. power: whether the provider is asked of
    hosts that are silent. powers: what it has said of them in this run. silent: hosts that were
    silent a moment ago, so that nobody waits for them a second time. heard: hosts that answered a
    moment ago, and are waited for whatever others see of them.
    """

    opts: Mapping[str, Any]
    pillar: Mapping[str, Any]
    now: Stack
    history: tuple[Epoch, ...]
    attestations: tuple[Mapping[str, str], ...] = ()
    sites: tuple[str, ...] = ()
    stopped: bool = False
    power: bool = False
    powers: tuple[Power, ...] = ()
    silent: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Where the record is."""
        return fleet.directory(self.opts)


def question(
    opts: Mapping[str, Any],
    stack: str,
    attestations: Sequence[Mapping[str, str]] = (),
    parameter: str = "confirm",
) -> Question:
    """What the master knows of a stack. parameter: as which the person gave its name."""
    pillar = fleet.declaration(opts, stack, parameter)  # or the name itself is wrong
    history = tuple(record.history(stack, fleet.directory(opts)))
    overlay = history[-1].overlay() if history else {}
    now = settings.from_pillar(fleet.with_overlay(pillar, overlay))
    return Question(opts, pillar, now, history, tuple(attestations))


def gather(asked: Question, repositories: bool = False, remember: bool = True) -> Evidence:
    """All hosts' reports of this moment, with what the master itself sees and has on record.

    repositories: whether the hosts look at the backup repositories too, which takes seconds.
    remember: whether the last known times of writes are kept for later.
    """
    begun = time.monotonic()
    plan = declared_layout(asked)
    with ThreadPoolExecutor(max_workers=1) as pool:
        own = pool.submit(_own_looks, asked.now)
        answers = fleet.asked(
            asked.opts,
            [host for host, _ in plan.hosts],
            "openhim_dr.sighting",
            [repositories],
            sighting.REPOSITORY_SECONDS + fleet.ANSWER_TIMEOUT
            if repositories
            else fleet.ANSWER_TIMEOUT,
            silent=asked.silent,
            # Not waited for here: answers count as of when they are taken from Salt's bus.
            gone=lambda said: _gone(asked, plan, said, own.result()) if own.done() else (),
        )
        reasons = own.result()
    evidence = Evidence(
        layout=plan,
        reports=tuple(_report(host, site, answers, asked.history) for host, site in plan.hosts),
        asked_from=_site_of_the_master(asked),
        attestations=_attestations(asked),
        master_epochs=asked.history,
        voters=tuple(
            f"{name}/{member.name}"
            for name, replica_set in sorted(asked.now.replica_sets.items())
            for member in replica_set.voters
        ),
        looks=tuple((MASTER, _own_look(core, reason)) for core, reason in reasons.items()),
        powers=asked.powers,
        switchable=power_off.of(asked.pillar) is not None,
    )
    evidence = _with_powers(asked, evidence) if asked.power else evidence
    evidence = _with_witnesses(asked, evidence)
    evidence = _with_histories(asked, evidence) if asked.sites else evidence
    found = replace(evidence, last_committed=_last_committed(asked, evidence, remember))
    _LAST[asked.now.name] = (begun, asked, found)
    return found


def of_just_now(asked: Question, seconds: float, remember: bool = True) -> Evidence:
    """The evidence that this process began to gather within ``seconds``, upon the same record and
    declaration, for a decision that follows its preview; where there is none, it is gathered now.

    What a person attests with the present question is in it, and nothing that was attested then.
    """
    when, then, found = _LAST.get(asked.now.name, (0.0, None, None))
    if found is None or then is None or time.monotonic() - when > seconds:
        return gather(asked, remember=remember)
    if any(getattr(then, name) != getattr(asked, name) for name in _SAME):
        return gather(asked, remember=remember)
    return replace(found, attestations=_attestations(asked))


def with_own_words(
    evidence: Evidence, answers: Mapping[str, Mapping[str, Any]], asked: Question
) -> Evidence:
    """The evidence with what some hosts have just said of themselves, and the record as it is now.

    answers: host → ``ret`` (as :func:`saltext.openhim.sighting.own` returns it) and ``at``.
    """

    def renewed(report: Report) -> Report:
        answer = answers.get(report.host)
        if answer is None:
            return report
        return reports.refreshed(report, answer["ret"], answer["at"], asked.history)

    return replace(
        evidence,
        reports=tuple(renewed(report) for report in evidence.reports),
        master_epochs=asked.history,
        attestations=_attestations(asked),
    )


def reread(asked: Question) -> Question:
    """The same question with the record as it is on disk now."""
    name = str(asked.pillar["openhim"]["stack"])
    history = tuple(record.history(name, asked.directory))
    overlay = history[-1].overlay() if history else {}
    now = settings.from_pillar(fleet.with_overlay(asked.pillar, overlay))
    return replace(asked, history=history, now=now)


def histories(asked: Question, seen: Evidence) -> dict[str, dict[str, bool | None]]:
    """Host → set → whether the primary has all that its member has: a member whose newest write is
    older than the primary's oplog has left the history as well, for it cannot follow it any more.

    Only of hosts that told where they stand, of sets whose primary can be asked.
    """
    hosts = [h for h, site in seen.layout.hosts if site in asked.sites and h in seen.heard]
    timeout = LOOK_INTO_DATA_TIMEOUT if asked.stopped else fleet.ANSWER_TIMEOUT
    said = fleet.cmd(asked.opts, hosts, "openhim_dr.positions", [asked.stopped], timeout)
    told = {host: one["ret"] for host, one in said.items() if not one["retcode"]}
    found: dict[str, dict[str, bool | None]] = {host: {} for host in told}
    for name in sorted({member.set for member in seen.layout.members}):
        stand = {host: sets[name] for host, sets in told.items() if name in sets}
        for host in (host for host, where in stand.items() if where is None):
            found[host][name] = True  # it has nothing, and so nothing that others have not
        ask = {host: where for host, where in stand.items() if where is not None}
        leader = _leader(seen, name)
        if not leader or not ask:
            continue
        answer = fleet.cmd(
            asked.opts, [leader], "openhim_dr.has_writes", [name, ask], fleet.ANSWER_TIMEOUT
        ).get(leader)
        if answer and not answer["retcode"]:
            for host, has in answer["ret"].items():
                found[host][name] = bool(has)
    return found


def _leader(seen: Evidence, name: str) -> str | None:
    """The host of a set's primary: of several, the one of the newest epoch's configuration."""
    found = [one for one in seen.primaries if seen.member(one.subject).set == name]
    if len(found) > 1:
        found = [one for one in found if one.epoch == seen.reality.epoch]
    hosts = [seen.member(one.subject).host for one in found]
    return hosts[0] if len(hosts) == 1 and hosts[0] in seen.heard else None


def _with_histories(asked: Question, seen: Evidence) -> Evidence:
    """Each report says whether its host's members have left the history; None where unknown."""
    found = histories(asked, seen)
    sets = {
        host: {member.set for member in seen.layout.members if member.host == host}
        for host in found
    }

    def diverged(host: str) -> bool | None:
        told = found.get(host)
        if told is None or set(told) != sets[host]:
            return None
        return not all(told.values())

    compared = tuple(replace(r, diverged=diverged(r.host)) for r in seen.reports)
    return replace(seen, reports=compared)


def declared_layout(asked: Question) -> layout.Layout:
    """What a recovery must know of the declaration, as it is before any recovery."""
    declared = settings.from_pillar(fleet.with_overlay(asked.pillar, {}))
    targets = declared.declared.get("targets") or {}
    lease = leases.lease(declared)
    plan = layout.from_stack(declared)
    if lease:
        plan = replace(
            plan,
            witnesses=(lease.witness,),
            lease_seconds=lease.seconds,
            max_skew=lease.max_skew,
        )
    return replace(plan, max_lag=float(targets.get("rpo_seconds", plan.max_lag)))


def _with_powers(asked: Question, seen: Evidence) -> Evidence:
    """What the provider says of silent hosts, which it only looks at."""
    switch = power_off.of(asked.pillar)
    return replace(seen, powers=switch.looked(seen.unheard)) if switch and seen.unheard else seen


def _with_witnesses(asked: Question, seen: Evidence) -> Evidence:
    """Whoever witnesses a lease, or did in an epoch, says until when each site holds one.

    Asked last, when the record is what the asker will go by: a witness that knows the newest epoch
    has granted nothing in an older one since. One that takes part in writes and is silent about
    itself stays silent.
    """
    named = {*seen.layout.witnesses, *(one for epoch in asked.history for one in epoch.witnesses)}
    sites = {host.id: host.site for host in asked.now.hosts.values() if host.id in named}
    if not sites:
        return seen
    answers = fleet.asked(asked.opts, sorted(sites), "openhim_lease.granted", silent=asked.silent)
    said = {host: _witness(host, site, answers) for host, site in sites.items()}

    def with_grants(report: Report) -> Report:
        witness = said.get(report.host)
        if witness is None or not (witness.answered and report.answered):
            return report
        return replace(report, grants=witness.grants, epochs=witness.epochs, clock=witness.clock)

    alone = [one for host, one in said.items() if host not in seen.layout.site_of]
    return replace(seen, reports=(*map(with_grants, seen.reports), *alone))


def _witness(host: str, site: str, answers: fleet.Answers) -> Report:
    answer = answers.returned.get(host)
    if answer is None:
        return reports.silent(host, site)
    if answer["retcode"] or not isinstance(answer["ret"], Mapping):
        return reports.silent(host, site, str(answer["ret"]))
    return witnesses.report(host, site, answer["ret"], answer["at"])


def _report(host: str, site: str, answers: fleet.Answers, history: tuple[Epoch, ...]) -> Report:
    if host not in answers.present:
        return reports.silent(host, site)
    answer = answers.returned.get(host)
    if answer is None:
        return reports.silent(host, site, "it is there, and gave no answer in time")
    if answer["retcode"] or not isinstance(answer["ret"], Mapping):
        return reports.silent(host, site, str(answer["ret"]))
    return reports.heard(host, site, answer["ret"], answer["at"], history)


def _own_looks(stack: Stack) -> dict[str, str | None]:
    """Each core's host → why the master does not reach OpenHIM there; None where it does.

    OpenHIM's ports are for everybody, and so for the master; MongoDB's are not.
    """
    cores = stack.hosts_with("core")
    addresses = [sighting.core_address(stack, core) for core in cores]
    with ThreadPoolExecutor(max_workers=max(1, len(cores))) as pool:
        found = pool.map(connection.reach, addresses)
        return {core.id: reason for core, reason in zip(cores, found, strict=True)}


def _own_look(core: str, reason: str | None) -> Look:
    return probed(core, sighting.UNREACHABLE if reason else sighting.RUNNING)


def _gone(
    asked: Question,
    plan: layout.Layout,
    returned: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[str, str | None],
) -> set[str]:
    """Hosts from which nobody who looked got an answer of any kind, and somebody looked: not even
    a refusal, as a host gives it whose services are stopped.

    Only of the site that is active, or was until the recovery that is under way: elsewhere a lease
    or a fence may be what makes a host silent to all but the master. And none that was heard a
    moment ago.

    returned: as of :class:`saltext.openhim.fleet.Answers`. reasons: of :func:`_own_looks`.
    """
    host_of = {member.name: member.host for member in plan.members}
    answered = {host: [reason != connection.TIMED_OUT] for host, reason in reasons.items()}
    for answer in returned.values():
        if answer["retcode"] or not isinstance(answer["ret"], Mapping):
            continue
        for name, seen in answer["ret"].get("members", {}).items():
            if name in host_of:
                found = answered.setdefault(host_of[name], [])
                found.append(seen.get("detail") != connection.TIMED_OUT)
        for core, word in answer["ret"].get("cores", {}).items():
            if word != sighting.UNREACHABLE:
                answered.setdefault(core, []).append(True)
    at_stake = {host for site in _at_stake(asked, plan) for host in plan.at(site)}
    silent = {host for host, looks in answered.items() if not any(looks)}
    return silent & at_stake - set(asked.heard)


def _at_stake(asked: Question, plan: layout.Layout) -> set[str]:
    """The active site, and the one that was it before the recovery that is under way."""
    newest, *earlier = reversed(asked.history) if asked.history else [None]
    sites = {layout.reality(plan, newest).active_site}
    if newest and not newest.completed_at:
        sites.add(layout.reality(plan, earlier[0] if earlier else None).active_site)
    return sites


def _site_of_the_master(asked: Question) -> str:
    """Where this master stands, if it is one of the declared hosts; else nowhere."""
    here = {asked.opts.get("id", ""), str(asked.opts.get("id", "")).removesuffix("_master")}
    return next((h.site for h in asked.now.hosts_with("master") if h.id in here), "")


def _attestations(asked: Question) -> tuple[Attestation, ...]:
    """What is said now, upon the newest epoch, and what was said for that one, upon its parent:
    an old word counts for no later recovery."""
    newest = asked.history[-1] if asked.history else None
    upon = newest.id if newest else None
    before = newest.attestations if newest else ()
    parent = newest.parent if newest else None
    return tuple(
        [Attestation(one["site"], one["by"], parent) for one in before]
        + [Attestation(one["site"], one["by"], upon) for one in asked.attestations]
    )


def _last_committed(
    asked: Question, evidence: Evidence, remember: bool
) -> tuple[tuple[str, float], ...]:
    """The newest times that anybody tells now, or has ever told; none of the future."""
    newest = record.last_committed(asked.now.name, asked.directory)
    now = time.time()
    told: dict[str, float] = {}
    for member in evidence.layout.members:
        when = evidence.members[member.name].committed
        if when is not None and when <= now + evidence.layout.max_skew:
            told[member.set] = max(when, told.get(member.set, 0.0))
    if remember and any(when > newest.get(name, 0.0) for name, when in told.items()):
        record.remember_committed(asked.now.name, told, asked.directory)
    return tuple(
        (name, max(newest.get(name, 0.0), told.get(name, 0.0))) for name in sorted({*newest, *told})
    )
