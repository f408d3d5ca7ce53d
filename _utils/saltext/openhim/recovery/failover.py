"""May OpenHIM move to another site, after its own is lost? Observations in, a verdict out.

MongoDB's recommended topology (two members at the primary site, one distant) cannot fail over by
itself when the primary site is lost: the survivor is a minority. Promotion is then a forced
reconfiguration, and a forced reconfiguration while a primary lives elsewhere makes two histories.
So every fact that could mean "somebody else is writable" refuses, and not hearing from a host is
never taken as proof of anything: it is listed, and the operator's confirmation stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.settings import Stack

#: The one answer which says that nothing takes connections there, as far as this host can tell. Any
#: other, "unauthorized" and "silent" among them, comes from something that runs.
UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Request:
    """What the person on call asked for.

    to_site: where OpenHIM should run. confirm: the stack's name, typed out. disrupted_at: when the
    service was lost, ISO 8601, or None when it is not known.
    """

    to_site: str
    confirm: str
    reason: str
    declared_by: str
    disrupted_at: str | None = None


@dataclass(frozen=True)
class Sighting:
    """What one host saw; ``answered`` is False when its minion gave no answer.

    members: ``set/host:port`` → what the member answered to this host: a state such as ``PRIMARY``,
    or ``unreachable``, ``unauthorized`` and so on. core_running: whether OpenHIM runs on this host;
    None where no core is declared or it is not known.
    """

    host: str
    answered: bool
    members: Mapping[str, str] = field(default_factory=dict)
    core_running: bool | None = None
    error: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether it is allowed, and if so what to do where.

    refusals: each a reason, empty when it is allowed. unseen: hosts that did not answer.
    lost_sites: the sites given up. promote: set → the host whose member becomes the primary. hosts:
    all that are brought to the new reality. cores: where OpenHIM will run. resume: the epoch that
    this continues, None when it is a new recovery.
    """

    refusals: tuple[str, ...]
    unseen: tuple[str, ...]
    lost_sites: tuple[str, ...]
    promote: Mapping[str, str]
    hosts: tuple[str, ...]
    cores: tuple[str, ...]
    resume: str | None

    @property
    def allowed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.refusals


def overlay(stack: Stack, request: Request, epoch: Epoch | None) -> dict[str, Any]:
    """What the failover would lay over the declaration: that of the epoch which it continues, or
    the next one's.

    Sites that were given up before stay given up; the one that takes over is not among them.
    """
    if epoch and _resumes(request, epoch):
        return epoch.overlay()
    lost = {stack.active_site, *(epoch.lost_sites if epoch else ())} - {request.to_site}
    return {
        "epoch": (epoch.number if epoch else 0) + 1,
        "kind": "failover",
        "active_site": request.to_site,
        "profile": "reduced",
        "lost_sites": sorted(lost),
    }


def verdict(
    stack: Stack,
    target: Stack,
    request: Request,
    sightings: Sequence[Sighting],
    epoch: Epoch | None,
) -> Verdict:
    """Decide on a failover.

    stack: as it is now. target: the same declaration as it would be after the failover. sightings:
    what every host that was asked has seen. epoch: the newest one, or None.
    """
    resume = _resumes(request, epoch)
    lost_sites = target.lost_sites
    answered = {sighting.host for sighting in sightings if sighting.answered}
    unseen = tuple(sorted({sighting.host for sighting in sightings} - answered))
    promote = {name: rs.initiator.host.id for name, rs in sorted(target.replica_sets.items())}
    cores = tuple(host.id for host in target.hosts_with("core", request.to_site))
    survivors = tuple(
        host.id
        for _, host in sorted(stack.hosts.items())
        if host.site not in lost_sites
        and host.id in answered
        and set(host.roles) & {"mongodb", "core"}
    )
    refusals = [
        *_consent(stack, request, resume),
        *_missing(request, answered, promote, cores),
        *_alive(stack, lost_sites, target, sightings, resume),
        *([] if resume else _majorities(stack, sightings)),
    ]
    return Verdict(
        tuple(refusals),
        unseen,
        tuple(lost_sites),
        promote,
        survivors,
        cores,
        epoch.id if resume and epoch else None,
    )


@dataclass(frozen=True)
class Traces:
    """What a survivor itself has of a promotion.

    votes: member → its votes in the configuration that the survivor has. noted: whether it noted
    that its promotion began, and epoch: in which one; None where the note does not say.
    """

    votes: Mapping[str, int]
    noted: bool = False
    epoch: int | None = None


def withdrawal_problem(
    earlier: Stack,
    target: Stack,
    history: Sequence[Epoch],
    sightings: Sequence[Sighting],
    traces: Mapping[str, Traces],
) -> str | None:
    """Why the newest failover cannot be taken back; None when it can.

    earlier: the stack as it was before the failover. target: as the failover has it. traces: set →
    what its survivor has of a promotion. Once a member is promoted, there may be writes that exist
    only there; and it need not be primary at the moment when one looks.
    """
    reason = not_under_way(history)
    if reason:
        return reason
    for name, replica_set in sorted(target.replica_sets.items()):
        survivor = f"{name}/{replica_set.initiator.name}"
        seen = {str(s.members.get(survivor)) for s in sightings if s.answered and s.members}
        if "PRIMARY" in seen:
            return f"{survivor} was promoted: its history has begun; finish the failover instead"
        if seen != {"SECONDARY"}:
            found = ", ".join(sorted(seen)) or "no answer"
            return (
                f"{survivor} must be seen as SECONDARY by every host that answers, and was seen as "
                f"{found}: so nobody knows if it was promoted. Finish the failover instead, or see "
                "what is wrong with that member"
            )
        given_up = {m.name for m in earlier.replica_sets[name].voters}
        given_up -= {m.name for m in replica_set.voters}
        trace = _trace(traces.get(name), given_up, history[-1].number)
        if trace:
            return f"{survivor} {trace}; finish the failover instead"
    return None


def not_under_way(history: Sequence[Epoch]) -> str | None:
    """Why there is no failover that could be taken back; None when there is."""
    newest = history[-1] if history else None
    if newest is None or newest.kind != "failover" or newest.result is not None:
        return "the newest recovery is no failover that is still under way; nothing to take back"
    return None


def _trace(found: Traces | None, given_up: set[str], epoch: int) -> str | None:
    """What says that a member was promoted, or that its promotion began."""
    if found is None:
        return "did not say what its configuration is"
    # One forced reconfiguration takes the votes of all of them.
    if given_up and not any(found.votes.get(member) for member in given_up):
        return f"was promoted: in its configuration {', '.join(sorted(given_up))} have no vote"
    if found.noted and found.epoch in (None, epoch):
        return f"has noted that its promotion in epoch {epoch} began"
    return None


def before(declared: Mapping[str, Any], history: Sequence[Epoch]) -> dict[str, Any]:
    """Which site was active, in which profile, before the newest epoch."""
    if len(history) > 1:
        last = history[-2]
        return {
            "active_site": last.active_site,
            "profile": last.profile,
            "lost_sites": last.lost_sites,
        }
    profile = declared.get("profile", "production")
    return {"active_site": declared["active_site"], "profile": profile, "lost_sites": ()}


def _resumes(request: Request, epoch: Epoch | None) -> bool:
    return (
        epoch is not None
        and epoch.kind == "failover"
        and epoch.active_site == request.to_site
        and epoch.completed_at is None
    )


def _consent(stack: Stack, request: Request, resume: bool) -> list[str]:
    found = []
    if request.confirm != stack.name:
        found.append(
            f"confirm: found {request.confirm!r}; type the stack's name, {stack.name!r}, to "
            "confirm that its primary site is given up"
        )
    if not request.reason.strip():
        found.append("reason: found nothing; say why, it goes into the recovery record")
    if not request.declared_by.strip():
        found.append("declared_by: found nothing; say who declares the disaster")
    if request.to_site not in stack.sites:
        found.append(
            f"to_site: found {request.to_site!r}; declared sites are "
            f"{', '.join(sorted(stack.sites))}"
        )
    elif request.to_site == stack.active_site and not resume:
        found.append(
            f"OpenHIM's active site already is {request.to_site!r}; there is nothing to fail over"
        )
    return found


def _missing(
    request: Request, answered: set[str], promote: Mapping[str, str], cores: Sequence[str]
) -> list[str]:
    found = []
    if not cores:
        found.append(f"no host with the role core is declared at {request.to_site!r}")
    for host in cores:
        if host not in answered:
            found.append(f"{host} does not answer, and OpenHIM is to run there")
    for name, host in promote.items():
        if host not in answered:
            found.append(
                f"{host} does not answer, and its member of the set {name!r} is to be promoted"
            )
    return found


def _majorities(stack: Stack, sightings: Sequence[Sighting]) -> list[str]:
    """Sets that still can elect a primary by themselves, and are perhaps about to."""
    found = []
    for name, replica_set in sorted(stack.replica_sets.items()):
        voters = {f"{name}/{member.name}" for member in replica_set.voters}
        alive = {
            member
            for sighting in sightings
            if sighting.answered
            for member, state in sighting.members.items()
            if member in voters and state in ("PRIMARY", "SECONDARY")
        }
        if len(alive) > len(voters) // 2:
            found.append(
                f"{len(alive)} of the {len(voters)} voters of {name} answer "
                f"({', '.join(sorted(alive))}): they elect a primary by themselves as soon as they "
                "see each other. Wait for it, or see what keeps them apart."
            )
    return found


def _alive(
    stack: Stack,
    lost_sites: Sequence[str],
    target: Stack,
    sightings: Sequence[Sighting],
    resume: bool,
) -> list[str]:
    """Every sign that the site which is to be given up, or anybody else, still is writable."""
    site_of = {
        f"{name}/{member.name}": member.host.site
        for name, rs in target.replica_sets.items()
        for member in rs.members
    }
    promoted = {f"{name}/{rs.initiator.name}" for name, rs in target.replica_sets.items()}
    found: dict[str, str] = {}
    for sighting in sightings:
        if not sighting.answered:
            continue
        for member, state in sorted(sighting.members.items()):
            if state == "PRIMARY" and not (resume and member in promoted):
                found.setdefault(
                    member,
                    f"{member} is PRIMARY, seen from {sighting.host}: MongoDB still takes writes. "
                    "Never promote beside a living primary; fence it first, or use it.",
                )
            elif state != UNREACHABLE and site_of.get(member) in lost_sites and not resume:
                found.setdefault(
                    member,
                    f"{member} at the site to be given up is alive ({state}), seen from "
                    f"{sighting.host}: the site is not lost. Shut it off first.",
                )
        if sighting.core_running and stack.hosts[sighting.host].site in lost_sites:
            found[sighting.host] = (
                f"OpenHIM still runs on {sighting.host}, at the site to be given up. Stop it first."
            )
    return list(found.values())
