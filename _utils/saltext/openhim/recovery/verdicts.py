"""Verdicts: for each verb whether it is allowed, or every reason why not.

A reason says what was found, what is expected, and the way forward. Some give way to force, which
must name what it overrules; none that keeps two histories apart does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saltext.openhim.recovery.closed import prospect
from saltext.openhim.recovery.layout import Member
from saltext.openhim.recovery.observations import SECONDARY, Evidence, Status

VERBS = (
    *("provision", "backup", "switchover", "failover", "core", "restore", "rebuild", "rejoin"),
    *("failback", "fence", "unfence", "drill"),
)


@dataclass(frozen=True)
class Force:
    """A person's wish to overrule reasons. confirm: the stack's name, typed out once more. primary:
    the name of the healthy primary, if there is one."""

    confirm: str
    primary: str = ""


@dataclass(frozen=True)
class Point:
    """A restore point: whether its manifest is there, and whether its checks passed (None: not
    checked)."""

    id: str
    committed: bool
    passed: bool | None = None


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    site: where to, or which one. host: of ``core``, which host; else empty. resync: of ``rejoin``,
    whether a diverged member may be wiped. point: of ``restore`` and ``rebuild``.
    """

    verb: str
    site: str = ""
    confirm: str = ""
    reason: str = ""
    declared_by: str = ""
    host: str = ""
    resync: bool = False
    point: Point | None = None
    force: Force | None = None


@dataclass(frozen=True)
class Reason:
    """Why not. forceable: whether force may overrule it."""

    text: str
    forceable: bool = False


@dataclass(frozen=True)
class Verdict:
    """reasons: why not, empty when it is allowed. overruled: what force has overruled, for the
    recovery record. unseen: hosts that gave no answer. wait: seconds until leases have run out."""

    verb: str
    reasons: tuple[str, ...]
    overruled: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    wait: float = 0.0

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


Reasons = Iterator[Reason]


def verdict(evidence: Evidence, request: Request) -> Verdict:
    """Whether a request is allowed, judged on what is seen now."""
    rule = RULES.get(request.verb)
    if rule is None:
        found = f"verb: found {request.verb!r}; it is one of {', '.join(VERBS)}"
        return Verdict(request.verb, (found,))
    reasons = [*_records(evidence, request), *rule(evidence, request)]
    weak = [reason.text for reason in reasons if reason.forceable]
    strong = [reason.text for reason in reasons if not reason.forceable]
    bad_force = list(_force_problems(evidence, request.force)) if request.force else []
    overruled = weak if request.force and not bad_force else []
    refused = strong + bad_force + ([] if overruled else weak)
    waits = [prospect(evidence, site).wait or 0.0 for site in _to_close(evidence, request)]
    return Verdict(
        request.verb,
        tuple(dict.fromkeys(refused)),
        tuple(overruled),
        evidence.unheard,
        max(waits, default=0.0),
    )


def verdicts(evidence: Evidence, requests: list[Request]) -> dict[str, Verdict]:
    """The verdict on each of several requests, by verb."""
    return {request.verb: verdict(evidence, request) for request in requests}


def to_give_up(evidence: Evidence, to_site: str) -> tuple[str, ...]:
    """The sites that a failover gives up: the active one, those given up before, and every one of
    which a host is not heard."""
    silent = {evidence.layout.site_of[host] for host in evidence.unheard}
    now = evidence.reality
    return tuple(sorted({now.active_site, *now.lost_sites, *silent} - {to_site}))


def left_behind(evidence: Evidence, to_site: str) -> tuple[str, ...]:
    """The sites that are given up where MongoDB helps itself, and only OpenHIM moves: those given
    up before, and every one of which no host is heard and no member seen alive.

    A site whose members still answer keeps its votes: it may be what the majority rests on.
    """
    answering = {evidence.layout.site_of[host] for host in evidence.heard}
    answering |= {m.site for m in evidence.layout.members if evidence.members[m.name].alive}
    gone = set(filter(evidence.layout.at, evidence.layout.sites)) - answering
    return tuple(sorted({*evidence.reality.lost_sites, *gone} - {to_site}))


def _records(evidence: Evidence, request: Request) -> Reasons:
    if evidence.known.problem and request.verb not in ("backup", "drill", "fence"):
        yield Reason(evidence.known.problem)


def _force_problems(evidence: Evidence, force: Force) -> Iterator[str]:
    stack = evidence.layout.stack
    if force.confirm != stack:
        yield f"force: found {force.confirm!r}; type the stack's name, {stack!r}, once more"
    primaries = sorted(finding.subject for finding in evidence.primaries)
    if primaries and force.primary not in primaries:
        yield (
            f"force: found the primary {force.primary!r}; {', '.join(primaries)} is healthy. Name "
            "it, so that it is certain that you know of it"
        )


def _consent(evidence: Evidence, request: Request) -> Reasons:
    stack = evidence.layout.stack
    if request.confirm != stack:
        yield Reason(f"confirm: found {request.confirm!r}; type the stack's name, {stack!r}")
    for name in ("reason", "declared_by"):
        if not getattr(request, name).strip():
            yield Reason(f"{name}: found nothing; it goes into the recovery record, say it")


def _site(evidence: Evidence, request: Request) -> Reasons:
    if request.site not in evidence.layout.sites:
        declared = ", ".join(evidence.layout.sites)
        yield Reason(f"site: found {request.site!r}; declared are {declared}")


def _to_close(evidence: Evidence, request: Request) -> tuple[str, ...]:
    """The sites that must be proven closed: for a request that moves OpenHIM, all others."""
    if request.verb not in ("failover", "rebuild", "core"):
        return ()
    return tuple(site for site in evidence.layout.sites if site != request.site)


def _closable(evidence: Evidence, request: Request) -> Reasons:
    for site in _to_close(evidence, request):
        yield from (Reason(text) for text in prospect(evidence, site).reasons)


def _heard(evidence: Evidence, hosts: tuple[str, ...], why: str) -> Reasons:
    for host in hosts:
        if host not in evidence.heard:
            yield Reason(
                f"{host} {evidence.silence(host)}, and {why}. Bring its minion and its network back"
            )


def _provision(evidence: Evidence, request: Request) -> Reasons:
    for finding in evidence.members.values():
        if finding.status == Status.UNAUTHORIZED:
            yield Reason(
                f"{finding.words}: it was set up by somebody else, or with another key. Give it "
                "our keyfile, or take it out of the declaration"
            )
    ids: dict[str, dict[str, set[str]]] = {}
    for report in evidence.heard.values():
        for look in report.members:
            if look.set_id and look.subject in evidence.members:
                of_set = ids.setdefault(evidence.member(look.subject).set, {})
                of_set.setdefault(look.set_id, set()).add(look.subject)
    for name, found in sorted(ids.items()):
        if len(found) > 1:
            said = "; ".join(f"{', '.join(sorted(who))}: {one}" for one, who in found.items())
            yield Reason(
                f"the members of {name} belong to different replica sets ({said}); one was "
                "expected. Empty those that are not ours, or take them out of the declaration"
            )


def _backup(evidence: Evidence, request: Request) -> Reasons:
    open_ones = (Status.ALIVE, Status.PARTITIONED)
    if not any(finding.status in open_ones for finding in evidence.repositories.values()):
        found = "; ".join(one.words for one in evidence.repositories.values()) or "none declared"
        yield Reason(
            f"no repository is reachable with its key: found {found}. Bring one back, or declare "
            "one with its key"
        )


def _switchover(evidence: Evidence, request: Request) -> Reasons:
    yield from _planned(evidence, request)
    yield from _lag(evidence, evidence.layout.promoted_at(request.site))
    for member in evidence.layout.promoted_at(request.site):
        report = evidence.heard.get(member.host)
        if report and report.caught_up is not True:
            yield Reason(
                f"{member.name} does not keep up with the primary, or does not reach it; it is to "
                "take over, and nobody is served while it catches up. See to the network between "
                "the sites, and wait until it has all writes"
            )


def _planned(evidence: Evidence, request: Request) -> Reasons:
    """What every planned move asks for: everybody is there, and well."""
    yield from _consent(evidence, request)
    yield from _site(evidence, request)
    if request.site == evidence.reality.active_site:
        yield Reason(f"{request.site} is the active site already; there is nothing to move")
    hosts = tuple(host for host, _ in evidence.layout.hosts)
    yield from _heard(evidence, hosts, "a planned move needs everybody; or use failover")
    yield from _settled(evidence, hosts)
    yield from _one_primary(evidence)
    # Between members: a core where OpenHIM is not active may be kept from all of them, by a lease.
    with_members = {member.host for member in evidence.layout.members}
    for finding in evidence.members.values():
        apart = [host for host in finding.missed_by if host in with_members]
        if finding.state not in ("PRIMARY", SECONDARY):
            yield Reason(
                f"{finding.words}: a healthy member was expected. Rejoin it first, or, if its site "
                "is lost, use failover"
            )
        elif apart:
            yield Reason(
                f"{finding.words}: {', '.join(apart)} do not reach it, so who takes over could not "
                "catch up. Repair the network first"
            )
    yield from _fenced_here(evidence, request.site)


def _fenced_here(evidence: Evidence, site: str) -> Reasons:
    for host in evidence.layout.at(site):
        report = evidence.heard.get(host)
        if report and report.fenced:
            yield Reason(f"{host} is fenced, and is to take over; lift the fence by a rejoin")


def _finished(evidence: Evidence) -> Reasons:
    """Until then nobody knows which writes the history has, and which it has not."""
    newest = evidence.known.current
    if newest and newest.completed_at is None and newest.kind != "withdrawal":
        yield Reason(f"{newest.words} is not finished; run it again, to its end, first")


def _settled(evidence: Evidence, hosts: tuple[str, ...]) -> Reasons:
    """A recovery that is under way is finished first; then everybody knows of it."""
    yield from _finished(evidence)
    for host in hosts:
        if host in evidence.heard and not evidence.knows(host, evidence.reality.epoch):
            yield Reason(
                f"{host} does not know the newest epoch; tell it (salt-run openhim_dr.tell), or "
                "rejoin its site, if that was given up"
            )


def _one_primary(evidence: Evidence) -> Reasons:
    sets = {member.set for member in evidence.layout.members}
    with_one = {evidence.member(finding.subject).set for finding in evidence.primaries}
    for name in sorted(sets - with_one):
        yield Reason(
            f"{name} has no primary that anybody sees; one was expected. Wait for the election, or "
            "use failover"
        )
    for name in sorted(sets):
        found = [one for one in evidence.primaries if evidence.member(one.subject).set == name]
        if len(found) > 1:
            told = "; ".join(finding.words for finding in found)
            yield Reason(
                f"{name} has {len(found)} primaries ({told}); one was expected. Fence the one "
                "whose history is not the newest epoch's"
            )


def _lag(evidence: Evidence, members: tuple[Member, ...]) -> Reasons:
    newest = dict(evidence.last_committed)
    for member in members:
        finding = evidence.members[member.name]
        if finding.committed is None or member.set not in newest:
            continue
        behind = newest[member.set] - finding.committed
        if behind > evidence.layout.max_lag:
            yield Reason(
                f"{member.name} is {behind:.0f} s behind the last known write; at most "
                f"{evidence.layout.max_lag:.0f} s may be given up. Wait until it has caught up, "
                "restore to that time instead, or force it",
                forceable=True,
            )


def _failover(evidence: Evidence, request: Request) -> Reasons:
    """What the members themselves object is asked last, and is seen by most others too."""
    reasons = list(_failover_as_seen(evidence, request))
    yield from reasons
    if all(reason.forceable for reason in reasons):
        for member in evidence.layout.promoted_at(request.site):
            for name, text in evidence.heard[member.host].objections:
                if name == member.set:
                    yield Reason(f"{member.name}, which is to take over, objects: {text}")


def _failover_as_seen(evidence: Evidence, request: Request) -> Reasons:
    yield from _consent(evidence, request)
    yield from _site(evidence, request)
    yield from _active_already(evidence, request.site)
    yield from _heard(evidence, evidence.layout.at(request.site), "it is to take over")
    yield from _living(evidence, request.site)
    yield from _elective(evidence)
    targets = evidence.layout.promoted_at(request.site)
    if not targets:
        yield Reason(f"no member is declared at {request.site!r} that could become the primary")
    for member in targets:
        yield from _can_take_over(evidence, member)
    yield from _lag(evidence, targets)
    yield from _fenced_here(evidence, request.site)
    yield from _closable(evidence, request)


def _active_already(evidence: Evidence, site: str) -> Reasons:
    """A planned move to a site which loses its source half-way ends by a failover to that site."""
    newest = evidence.known.current
    under_way = newest is not None and newest.completed_at is None and newest.kind != "failover"
    if site == evidence.reality.active_site and not under_way:
        yield Reason(f"{site} is the active site already; there is nothing to fail over")


def _living(evidence: Evidence, to_site: str) -> Reasons:
    given_up = to_give_up(evidence, to_site)
    for member in evidence.layout.members:
        finding = evidence.members[member.name]
        report = evidence.heard.get(member.host)
        if finding.state == "PRIMARY":
            yield Reason(
                f"{finding.words}: MongoDB takes writes there. Use orch.core or orch.switchover, "
                "which go with the primary, or fence it first",
                forceable=True,
            )
        elif member.site in given_up and finding.alive and not (report and report.fenced):
            yield Reason(
                f"{finding.words}: the site {member.site} is not lost. Use switchover, or fence "
                "this host first",
                forceable=True,
            )


def _elective(evidence: Evidence) -> Reasons:
    """An election takes seconds, and in them nobody is primary."""
    for name, members in evidence.elective.items():
        yield Reason(
            f"{len(members)} voters of {name} answer ({', '.join(members)}), a majority: they "
            "elect a primary by themselves as soon as they see each other. Wait for it, and use "
            "orch.core then; or see what keeps them apart"
        )


def _can_take_over(evidence: Evidence, member: Member) -> Reasons:
    finding, report = evidence.members[member.name], evidence.heard.get(member.host)
    if finding.state not in ("PRIMARY", SECONDARY):
        yield Reason(
            f"{finding.words}: it is to be promoted, so it must be a SECONDARY. See what is wrong "
            "with it, choose another site, or rebuild from a restore point"
        )
    if report and report.diverged:
        yield Reason(
            f"{member.name} has writes of a history that was given up; promoted, they would come "
            "back. Rejoin it first, or choose another site"
        )


def _core(evidence: Evidence, request: Request) -> Reasons:
    yield from _consent(evidence, request)
    yield from _site(evidence, request)
    host = request.host
    if evidence.layout.site_of.get(host) != request.site or host not in evidence.layout.cores:
        here = ", ".join(evidence.layout.cores_at(request.site)) or "none"
        yield Reason(f"host: found {host!r}; those at {request.site!r} with a core are {here}")
    yield from _heard(evidence, (host,), "OpenHIM is to run there")
    if request.site in evidence.reality.lost_sites:
        yield Reason(
            f"{request.site} was given up, and its members have no vote; bring it back by a rejoin "
            "first, or choose another site"
        )
    yield from _one_primary(evidence)
    for other, finding in evidence.cores.items():
        report = evidence.heard.get(other)
        if other != host and finding.alive and not (report and report.fenced):
            yield Reason(
                f"OpenHIM runs on {other} and is not fenced; one core was expected. Fence {other}, "
                "or stop OpenHIM there"
            )
        elif other != host and finding.status != Status.DEAD and _beside(evidence, request, other):
            yield Reason(
                f"OpenHIM on {other}: {finding.status.value}. Fence the host, or bring its minion "
                "back so that it says so"
            )
    yield from _closable(evidence, request)


def _beside(evidence: Evidence, request: Request, other: str) -> bool:
    """Whether a host that is not heard is at the same site: then no proof of a site covers it."""
    return other not in evidence.heard and evidence.layout.site_of[other] == request.site


def _restore(evidence: Evidence, request: Request) -> Reasons:
    yield from _consent(evidence, request)
    yield from _point(request)
    site = evidence.reality.active_site
    if request.site != site:
        yield Reason(
            f"site: found {request.site!r}; data is restored where it is used, at {site!r}. To "
            "restore it elsewhere, rebuild or drill there"
        )
    yield from _heard(evidence, evidence.layout.at(site), "its data is to be replaced")
    for host, finding in evidence.cores.items():
        if host not in evidence.heard and finding.status != Status.DEAD:
            yield Reason(
                f"OpenHIM on {host}: {finding.status.value}; it must be known to be stopped. Fence "
                "the host, or bring its minion back"
            )
    for host in _with_members(evidence, site):
        report = evidence.heard.get(host)
        if report and report.can_keep_aside is not True and report.restored is None:
            yield Reason(
                f"{host} is not seen to have room to keep the present data aside; corrupt data is "
                "evidence, and may be all there is. Make room, or give it another disk"
            )


def _with_members(evidence: Evidence, site: str) -> tuple[str, ...]:
    found = (member.host for member in evidence.layout.members if member.site == site)
    return tuple(dict.fromkeys(found))


def _point(request: Request) -> Reasons:
    point = request.point
    if point is None:
        yield Reason("point: found nothing; name the restore point")
    elif not point.committed:
        yield Reason(
            f"the restore point {point.id} has no manifest, so it never was finished; choose one "
            "that is"
        )
    elif point.passed is not True:
        found = "was not checked" if point.passed is None else "fails its checks"
        yield Reason(f"the restore point {point.id} {found}; verify it, or choose another")


def _rebuild(evidence: Evidence, request: Request) -> Reasons:
    yield from _consent(evidence, request)
    yield from _site(evidence, request)
    yield from _point(request)
    hosts = _with_members(evidence, request.site)
    yield from _heard(evidence, evidence.layout.at(request.site), "the stack is rebuilt there")
    for host in hosts:
        report = evidence.heard.get(host)
        if report and report.holds_data is not False and report.restored is None:
            found = "holds data" if report.holds_data else "does not say if it holds data"
            yield Reason(f"{host} {found}; an empty host was expected. Choose one, or restore")
    for member in evidence.layout.members:
        finding = evidence.members[member.name]
        if finding.alive and member.site != request.site:
            yield Reason(
                f"{finding.words}: a member survives. Use failover; or fence {member.host}, if its "
                "data is lost",
                forceable=True,
            )
    yield from _closable(evidence, request)


def _rejoin(evidence: Evidence, request: Request) -> Reasons:
    yield from _site(evidence, request)
    yield from _heard(evidence, evidence.layout.at(request.site), "it is to rejoin")
    yield from _finished(evidence)
    if request.site == evidence.reality.active_site:
        yield Reason(f"{request.site} is the active site; only others rejoin it")
    for host in _with_members(evidence, request.site):
        report = evidence.heard.get(host)
        if report and report.diverged is None:
            yield Reason(
                f"{host} does not say whether its history diverged: no primary could be asked, or "
                "its member does not run. orch.rejoin looks into the data of one that is stopped"
            )
        elif report and report.diverged and not request.resync:
            yield Reason(
                f"{host} has writes of a history that was given up. They are kept, and its member "
                "is wiped and synchronised anew, only with resync: true"
            )


def _failback(evidence: Evidence, request: Request) -> Reasons:
    yield from _planned(evidence, request)
    for host in _with_members(evidence, request.site):
        report = evidence.heard.get(host)
        if report and (report.diverged is not False or report.caught_up is not True):
            yield Reason(f"{host} has not caught up; rejoin it, and wait until it has")


def _fence(evidence: Evidence, request: Request) -> Reasons:
    yield from _site(evidence, request)
    if request.site == evidence.reality.active_site and not evidence.known.conflict:
        hosts = evidence.layout.at(request.site)
        may = [h for h in hosts if h not in evidence.heard or evidence.heard[h].admits is not False]
        if may:
            yield Reason(
                f"{request.site} is the only writable site, as far as is known "
                f"({', '.join(may)}); fenced, nobody is served. Fail over instead, or force it",
                forceable=True,
            )


def _unfence(evidence: Evidence, request: Request) -> Reasons:
    yield from _site(evidence, request)
    for host in evidence.layout.at(request.site):
        report = evidence.heard.get(host)
        if not evidence.knows(host, evidence.reality.epoch):
            yield Reason(f"{host} does not know the newest epoch; rejoin the site, which tells it")
        elif report and report.diverged is not False and not report.kept:
            yield Reason(
                f"{host} may have writes of a history that was given up, and they are not kept; "
                "rejoin the site, which keeps them"
            )


def _drill(evidence: Evidence, request: Request) -> Reasons:
    yield from _site(evidence, request)
    for host in evidence.layout.at(request.site):
        report = evidence.heard.get(host)
        if report is None or report.egress_denied is not True:
            yield Reason(
                f"{host} is not seen to deny egress; OpenHIM would send real messages to real "
                "people. Deny egress there first"
            )


#: Why a verb is refused, for each.
RULES: dict[str, Callable[[Evidence, Request], Reasons]] = {
    "provision": _provision,
    "backup": _backup,
    "switchover": _switchover,
    "failover": _failover,
    "core": _core,
    "restore": _restore,
    "rebuild": _rebuild,
    "rejoin": _rejoin,
    "failback": _failback,
    "fence": _fence,
    "unfence": _unfence,
    "drill": _drill,
}
