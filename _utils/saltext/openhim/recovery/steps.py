"""Steps: what to do next in a recovery, from what is seen, and from nothing that is remembered.

Each verb is a row of stages. A stage whose effect is seen has nothing to say; the first one that
has something to say is the answer. So a recovery goes on from wherever it stopped, whoever runs it,
and a step that is done twice is done once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saltext.openhim.recovery.answers import Answer, Done, Refusal, Step, Wait
from saltext.openhim.recovery.closed import closure
from saltext.openhim.recovery.epochs import DECISION, Epoch
from saltext.openhim.recovery.layout import Member
from saltext.openhim.recovery.observations import PRIMARY, Evidence, Finding
from saltext.openhim.recovery.verdicts import Request, left_behind, to_give_up, verdict

#: Write the next epoch into the record: ``epochs.minted``, with ``parent`` from the step's details.
MINT = "mint"
#: Give a host all records; it writes them down before it says so, and stops to admit clients where
#: another site is the active one.
TELL = "tell"
#: Take from a host's firewall what admits clients.
CLOSE = "close"
FENCE, UNFENCE = "fence", "unfence"
#: Let the provider switch off a host that nobody hears, and say whether it is off.
POWER_OFF = "power off"
#: Make a member the primary by a forced reconfiguration.
PROMOTE = "promote"
#: Make a member the primary by priorities and votes, with the old primary's help.
HAND_OVER = "hand over"
#: Let clients in again, in the name of the epoch.
ADMIT = "admit"
STOP_CORE, START_CORE = "stop core", "start core"
CUT_OVER = "cut over"
#: Send a synthetic transaction and find it again; measure, and write that into the epoch.
PROVE = "prove"
COMPLETE = "complete"
#: Set the diverged writes of a member aside; empty the member, so that it synchronises anew.
KEEP, RESYNC = "keep", "resync"
#: Note the rejoin on a host, and prove the epoch to its gate.
OPEN = "open"
KEEP_ASIDE, RESTORE = "keep aside", "restore"

#: How long to let MongoDB catch up before one looks again, in seconds.
LOOK_AGAIN = 5.0


@dataclass(frozen=True)
class Run:
    """A recovery at one moment: what is wanted, what is seen, and its own epoch once it has one."""

    request: Request
    evidence: Evidence
    epoch: Epoch | None

    @property
    def id(self) -> str | None:
        """The ID of the epoch in whose name steps are done."""
        return self.epoch.id if self.epoch else self.evidence.reality.epoch

    @property
    def others(self) -> tuple[str, ...]:
        """All sites but the one that is to serve."""
        return tuple(site for site in self.evidence.layout.sites if site != self.request.site)

    @property
    def targets(self) -> tuple[Member, ...]:
        """The members that are to be primaries."""
        return self.evidence.layout.promoted_at(self.request.site)

    @property
    def cores(self) -> tuple[str, ...]:
        """The hosts where OpenHIM is to run."""
        host = self.request.host
        return (host,) if host else self.evidence.layout.cores_at(self.request.site)


Stage = Callable[[Run], Answer | None]


def next_step(request: Request, evidence: Evidence) -> Answer:
    """The next step of a recovery, or that it is done, or why it cannot go on."""
    stages = STAGES.get(request.verb)
    if stages is None:
        known = ", ".join(STAGES)
        return Refusal((f"verb: found {request.verb!r}; those that have steps are {known}",))
    if evidence.known.problem:
        return Refusal((evidence.known.problem,))
    finished = _finished(request, evidence)
    if finished:
        return finished
    run = Run(request, evidence, own_epoch(request, evidence))
    answers = (stage(run) for stage in stages)
    return next((one for one in answers if one), Done(f"{request.verb} of {request.site}"))


def own_epoch(request: Request, evidence: Evidence) -> Epoch | None:
    """The epoch that this request began, if it is the newest and is not completed.

    A person's decision goes on as a failover to the site that was chosen.
    """
    newest = evidence.known.current
    if newest is None or newest.completed_at or newest.active_site != request.site:
        return None
    mine = newest.kind == request.verb
    return newest if mine or (newest.kind == DECISION and request.verb == "failover") else None


def _finished(request: Request, evidence: Evidence) -> Done | None:
    newest = evidence.known.current
    if newest is None or newest.completed_at is None or newest.kind != request.verb:
        return None
    if newest.active_site != request.site:
        return None
    if request.verb == "restore" and not _is_restored(Run(request, evidence, newest)):
        return None  # it was of another restore point
    if request.verb == "core" and not _serves_there(Run(request, evidence, newest)):
        return None  # it was, and is lost again
    return Done(f"{newest.words} was completed at {newest.completed_at}")


def _minted(run: Run) -> Answer | None:
    if run.epoch:
        return None
    judged = verdict(run.evidence, run.request)
    if not judged.allowed:
        return Refusal(judged.reasons)
    return _mint(run, to_give_up(run.evidence, run.request.site))


def _minted_planned(run: Run) -> Answer | None:
    """As above; but nothing is given up."""
    answer = _minted(run)
    return _mint(run, ()) if isinstance(answer, Step) else answer


def _mint(run: Run, lost: tuple[str, ...]) -> Step:
    details = {"parent": run.evidence.reality.epoch or "", "lost_sites": ",".join(lost)}
    return Step(MINT, details={**details, "kind": run.request.verb, "site": run.request.site})


def _minted_if_elsewhere(run: Run) -> Answer | None:
    """Another host of the active site needs no epoch: what is real stays as it was.

    Elsewhere a site of which nothing is left is given up: writes are counted without it.
    """
    if run.epoch or run.request.site != run.evidence.reality.active_site:
        answer = _minted(run)
        lost = left_behind(run.evidence, run.request.site)
        return _mint(run, lost) if isinstance(answer, Step) else answer
    judged = verdict(run.evidence, run.request)
    return None if judged.allowed or _serves_there(run) else Refusal(judged.reasons)


def _told(run: Run) -> Answer | None:
    heard = run.evidence.heard
    behind = tuple(host for host in sorted(heard) if not run.evidence.knows(host, run.id))
    return Step(TELL, behind, run.id) if behind else None


def _closed(run: Run) -> Answer | None:
    """Elsewhere nobody is admitted any more; only of hosts that are heard, which do it at once."""
    layout, heard = run.evidence.layout, run.evidence.heard
    hosts = tuple(
        host
        for site in run.others
        for host in layout.at(site)
        if host in heard and heard[host].admits is not False
    )
    return Step(CLOSE, hosts, run.id) if hosts else None


def _fenced(run: Run) -> Answer | None:
    """What is given up and is heard: it might be the primary still."""
    layout, heard = run.evidence.layout, run.evidence.heard
    lost = run.epoch.lost_sites if run.epoch else ()
    hosts = tuple(
        host
        for site in lost
        for host in layout.at(site)
        if host in heard and heard[host].fenced is not True
    )
    return Step(FENCE, hosts, run.id) if hosts else None


def _powered_off(run: Run) -> Answer | None:
    """Silent hosts for which there is no other proof yet; once in a run."""
    epoch, evidence = run.epoch, run.evidence
    if epoch is None or not evidence.switchable:
        return None
    asked = {one.host for one in evidence.powers if one.epoch == epoch.id}
    hosts = tuple(
        host
        for site in run.others
        if closure(evidence, site, epoch).proof is None
        for host in evidence.layout.at(site)
        if host not in asked and _may_be_switched_off(run, host, site in epoch.lost_sites)
    )
    return Step(POWER_OFF, hosts, run.id) if hosts else None


def _may_be_switched_off(run: Run, host: str, lost: bool) -> bool:
    """At a site that is not given up only what shows no life at all, and only where OpenHIM alone
    moves: its members may be what MongoDB's majority rests on."""
    if host in run.evidence.heard:
        return False
    return lost or (run.request.verb == "core" and not run.evidence.shows_life(host))


def _proven(run: Run) -> Answer | None:
    """All other sites are closed for sure; a lease that still runs is waited for."""
    if run.epoch is None:
        return None
    found = [closure(run.evidence, site, run.epoch) for site in run.others]
    reasons = tuple(text for one in found for text in one.reasons)
    if reasons:
        return Refusal(reasons)
    waits = [one for one in found if one.wait is not None]
    if not waits:
        return None
    seconds = max(one.wait or 0.0 for one in waits)
    sites = ", ".join(one.site for one in waits)
    return Wait(seconds, f"the lease of {sites} has not run out yet")


def _alone(run: Run) -> Answer | None:
    """No primary but our own, at the last moment before there is one."""
    names = {member.name for member in run.targets}
    other = [one for one in run.evidence.primaries if one.subject not in names]
    return Refusal(tuple(_living(one) for one in other)) if other else None


def _living(finding: Finding) -> str:
    return (
        f"{finding.words}: nobody is promoted beside a living primary. Fence its host, then run "
        "this again"
    )


def _promoted(run: Run) -> Answer | None:
    for member in run.targets:
        if not _is_primary(run, member):
            silent = _unheard(run, (member.host,))
            return silent or Step(PROMOTE, (member.host,), run.id, {"set": member.set})
    return None


def _is_primary(run: Run, member: Member) -> bool:
    """Of this epoch's configuration: the primary of an older one is another history."""
    finding = run.evidence.members[member.name]
    return finding.state == PRIMARY and finding.epoch == run.id


def _unheard(run: Run, hosts: tuple[str, ...]) -> Refusal | None:
    silent = [host for host in hosts if host not in run.evidence.heard]
    if not silent:
        return None
    return Refusal(
        (
            f"{', '.join(silent)} does not answer, and is needed for the next step. Bring its "
            "minion and its network back and run this again; or, if it is lost too, fail over to "
            "another site, or rebuild",
        )
    )


def _caught_up(run: Run) -> Answer | None:
    heard = run.evidence.heard
    hosts = tuple(m.host for m in run.targets if not _is_primary(run, m))
    silent = _unheard(run, hosts)
    if silent:
        return silent
    behind = [host for host in hosts if heard[host].caught_up is not True]
    text = f"{', '.join(behind)} has not all writes yet"
    return Wait(LOOK_AGAIN, text) if behind else None


def _handed_over(run: Run) -> Answer | None:
    """The primary gives way, by votes and priorities: no write is lost."""
    for member in run.targets:
        if _is_primary(run, member):
            continue
        finding = run.evidence.members[member.name]
        primary = next((p for p in run.evidence.primaries if _set(run, p) == member.set), None)
        if finding.epoch == run.id:
            return Wait(LOOK_AGAIN, f"{member.name} has its configuration, and is not elected yet")
        if primary is None:
            return Refusal(
                (
                    f"{member.set} has no primary that anybody sees, which could hand over. Bring "
                    "it back; or, if it is lost, fail over to this site",
                )
            )
        if primary.epoch == run.id:
            return Wait(LOOK_AGAIN, f"{member.name} has not heard of the configuration yet")
        host = run.evidence.member(primary.subject).host
        return _unheard(run, (host,)) or Step(HAND_OVER, (host,), run.id, {"set": member.set})
    return None


def _set(run: Run, finding: Finding) -> str:
    return run.evidence.member(finding.subject).set


def _primary_there(run: Run) -> Answer | None:
    sets = {member.set for member in run.evidence.layout.members}
    missing = sorted(sets - {_set(run, one) for one in run.evidence.primaries})
    if missing and all(name in run.evidence.elective for name in missing):
        return Wait(LOOK_AGAIN, f"{', '.join(missing)} elects a primary")
    text = f"{', '.join(missing)} has no primary; bring a majority back, or use failover"
    return Refusal((text,)) if missing else None


def _admitted(run: Run) -> Answer | None:
    hosts = run.evidence.layout.at(run.request.site)
    heard = run.evidence.heard
    fenced = tuple(host for host in hosts if host in heard and heard[host].fenced)
    if fenced:  # by an earlier recovery, whose fence came late
        return Step(UNFENCE, fenced, run.id)
    shut = tuple(host for host in hosts if host in heard and heard[host].gate_open is False)
    if shut:
        return Step(OPEN, shut, run.id)
    closed = tuple(host for host in hosts if host in heard and heard[host].admits is not True)
    return Step(ADMIT, closed, run.id) if closed else None


def _served(run: Run) -> Answer | None:
    silent = _unheard(run, run.cores)
    missing = tuple(host for host in run.cores if host not in _alive(run, run.cores))
    return silent or (Step(START_CORE, missing, run.id) if missing else None)


def _alive(run: Run, hosts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(host for host in hosts if run.evidence.cores[host].alive)


def _serves_there(run: Run) -> bool:
    return _alive(run, run.cores) == run.cores


def _stopped(run: Run) -> Answer | None:
    """OpenHIM writes all the time; nothing may while the data is replaced."""
    if _is_restored(run) or _proven_in(run):
        return None
    running = _alive(run, run.evidence.layout.cores)
    return _unheard(run, running) or (Step(STOP_CORE, running, run.id) if running else None)


def _cut_over(run: Run) -> Answer | None:
    hosts = run.evidence.layout.at(run.request.site)
    seen = {run.evidence.heard[host].points_to for host in hosts if host in run.evidence.heard}
    return None if seen == {run.request.site} else Step(CUT_OVER, (), run.id)


def _proved(run: Run) -> Answer | None:
    return None if _proven_in(run) else Step(PROVE, run.cores, run.id)


def _proven_in(run: Run) -> bool:
    reports = (run.evidence.heard.get(host) for host in run.cores)
    return all(report is not None and report.proven == run.id for report in reports)


def _completed(run: Run) -> Answer | None:
    return Step(COMPLETE, (), run.id) if run.epoch else None


def _allowed(run: Run) -> Answer | None:
    judged = verdict(run.evidence, run.request)
    return None if judged.allowed else Refusal(judged.reasons)


def _at_site(run: Run, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    return tuple(host for host in run.evidence.layout.at(run.request.site) if wanted(host))


def _kept(run: Run) -> Answer | None:
    heard = run.evidence.heard
    hosts = _at_site(run, lambda host: bool(heard[host].diverged) and not heard[host].kept)
    return Step(KEEP, hosts, run.id) if hosts else None


def _resynced(run: Run) -> Answer | None:
    """While the member is stopped or fenced still: emptied, it has no history to defend."""
    hosts = _at_site(run, lambda host: bool(run.evidence.heard[host].diverged))
    return Step(RESYNC, hosts, run.id) if hosts else None


def _unfenced(run: Run) -> Answer | None:
    hosts = _at_site(run, lambda host: run.evidence.heard[host].fenced is not False)
    return Step(UNFENCE, hosts, run.id) if hosts else None


def _opened(run: Run) -> Answer | None:
    """The rejoin is noted, which lets the gate of a site that was given up open."""
    newest = run.evidence.known.current
    given_up = newest is not None and run.request.site in newest.lost_sites
    heard = run.evidence.heard
    hosts = _at_site(
        run,
        lambda h: heard[h].gate_open is not True or (given_up and heard[h].rejoined != run.id),
    )
    return Step(OPEN, hosts, run.id) if hosts else None


def _in_step(run: Run) -> Answer | None:
    with_members = {member.host for member in run.evidence.layout.members}
    heard = run.evidence.heard
    hosts = _at_site(run, lambda h: h in with_members and heard[h].caught_up is not True)
    return Wait(LOOK_AGAIN, f"{', '.join(hosts)} has not all writes yet") if hosts else None


def _kept_aside(run: Run) -> Answer | None:
    hosts = _to_fill(run)
    kept = all(run.evidence.heard[host].kept for host in hosts if host in run.evidence.heard)
    done = kept or _is_restored(run)
    return _unheard(run, hosts) or (None if done else Step(KEEP_ASIDE, hosts, run.id))


def _to_fill(run: Run) -> tuple[str, ...]:
    found = (member.host for member in run.evidence.layout.members)
    return tuple(
        dict.fromkeys(h for h in found if run.evidence.layout.site_of[h] == run.request.site)
    )


def _is_restored(run: Run) -> bool:
    point = run.request.point
    reports = [run.evidence.heard.get(host) for host in _to_fill(run)]
    return point is not None and all(r is not None and r.restored == point.id for r in reports)


def _restored(run: Run) -> Answer | None:
    """OpenHIM makes a root user in an empty database, so this is before its first start."""
    if _is_restored(run):
        return None
    point = run.request.point
    if point is None:
        return Refusal(("point: found nothing; name the restore point, as before",))
    hosts = _to_fill(run)
    return _unheard(run, hosts) or Step(RESTORE, hosts, run.id, {"point": point.id})


#: How every recovery that moves OpenHIM ends.
_SERVE: tuple[Stage, ...] = (_admitted, _served, _cut_over, _proved, _completed)

_MOVE: tuple[Stage, ...] = (
    *(_minted_planned, _told, _closed, _proven, _caught_up, _handed_over),
    *_SERVE,
)

#: The stages of each verb, in their order.
STAGES: dict[str, tuple[Stage, ...]] = {
    "failover": (
        *(_minted, _told, _closed, _fenced, _powered_off, _proven, _alone, _promoted),
        *_SERVE,
    ),
    "switchover": _MOVE,
    "failback": _MOVE,
    "core": (
        *(_minted_if_elsewhere, _told, _closed, _fenced, _powered_off, _proven, _primary_there),
        *_SERVE,
    ),
    "rebuild": (_minted, _told, _closed, _fenced, _proven, _alone, _restored, *_SERVE),
    "restore": (_minted_planned, _told, _stopped, _kept_aside, _restored, *_SERVE),
    "rejoin": (_told, _allowed, _kept, _resynced, _unfenced, _opened, _in_step),
}
