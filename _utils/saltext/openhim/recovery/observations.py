"""Observations: what each vantage point says, and what all of them together are evidence of.

Every host that was asked is a vantage point, also one that gave no answer. What one look showed and
what is true are two things: a mongod that nobody reaches may be dead, or cut off, or fenced. Only
its own host can say that it does not run. Unknown is never absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from saltext.openhim.recovery.epochs import Epoch, Known, known
from saltext.openhim.recovery.layout import Layout, Member, Reality, reality

PRIMARY = "PRIMARY"
SECONDARY = "SECONDARY"


class Saw(str, Enum):
    """What one look at one server, or repository, showed."""

    RUNNING = "running"
    NOT_RUNNING = "not running"
    UNREACHABLE = "unreachable"
    UNAUTHORIZED = "unauthorized"
    SLOW = "silent"
    UNKNOWN = "not known"


class Status(str, Enum):
    """What all looks at one server, or repository, are evidence of."""

    ALIVE = "alive"
    PARTITIONED = "reached by some and not by others"
    UNAUTHORIZED = "alive, and refuses our credentials"
    SLOW = "takes connections and says nothing"
    DEAD = "not running, says its own host"
    UNKNOWN = "not known: nobody reaches it, and its host does not say that it is not running"


@dataclass(frozen=True)
class Look:
    """One look at a member (``set/host:port``), a core (its host) or a repository (its name).

    state: of a member, such as ``PRIMARY``. epoch: of a member, the ID of the epoch in whose name
    its configuration was made; None for the configuration from before any recovery. set_id: of a
    member, its replica set's. committed: of a member, its last majority-committed time, in seconds.
    """

    subject: str
    saw: Saw
    state: str = ""
    epoch: str | None = None
    set_id: str | None = None
    committed: float | None = None


@dataclass(frozen=True)
class Grant:
    """What a witness says of a lease. left: seconds until it runs out, by the witness's own clock,
    negative once it has."""

    site: str
    left: float


@dataclass(frozen=True)
class Report:
    """What one host said; with ``answered=False`` nothing in it counts.

    Of others: members, cores, repositories. Of itself, None where it did not say: gate_open
    (services may run), fenced, admits (its firewall admits clients), vouches (it is up since an
    epoch was last proven to it, see :mod:`saltext.openhim.recovery.gates`), clock (seconds that its
    clock is ahead of the asker's), holds_data, can_keep_aside (there is room for the data to be
    replaced), egress_denied, diverged (its member has writes which the history has not),
    kept (those are kept apart), rejoined (the ID of the epoch in which a rejoin of it is noted),
    caught_up (its member has all that the primary has), restored (the
    restore point that its data is). epochs: all records that it has. grants: the leases that it has
    renewed. points_to: the site to which clients are led, as it sees it. proven: the ID of the
    epoch in which a synthetic transaction was sent from here and found again. objections: set and
    words, for each thing that its members say to their own promotion.
    """

    host: str
    answered: bool
    site: str = ""
    members: tuple[Look, ...] = ()
    cores: tuple[Look, ...] = ()
    repositories: tuple[Look, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    grants: tuple[Grant, ...] = ()
    gate_open: bool | None = None
    fenced: bool | None = None
    admits: bool | None = None
    vouches: bool | None = None
    clock: float | None = None
    holds_data: bool | None = None
    can_keep_aside: bool | None = None
    egress_denied: bool | None = None
    diverged: bool | None = None
    kept: bool | None = None
    rejoined: str | None = None
    caught_up: bool | None = None
    restored: str | None = None
    points_to: str | None = None
    proven: str | None = None
    objections: tuple[tuple[str, str], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Attestation:
    """A person's word that a site is off, and is kept off until the recovery is done.

    epoch: the ID of the newest epoch when it was given, None where there was none. It counts for
    the recovery that was declared upon that one, and for no later one.
    """

    site: str
    by: str
    epoch: str | None


@dataclass(frozen=True)
class Power:
    """What the provider says of a host's power.

    off: whether it was read back as off, which alone proves anything. said: in words. epoch: the ID
    of the epoch in whose name the host was to be switched off; None where the provider was only
    asked. answers: whether it said anything at all of the host.
    """

    host: str
    off: bool
    said: str
    epoch: str | None = None
    answers: bool = True


@dataclass(frozen=True)
class Finding:
    """What is known of one subject. state: of a member that answered. seen_by, missed_by: hosts."""

    subject: str
    status: Status
    state: str = ""
    epoch: str | None = None
    seen_by: tuple[str, ...] = ()
    missed_by: tuple[str, ...] = ()
    committed: float | None = None

    @property
    def alive(self) -> bool:
        """Whether something answers there: also what refuses us, or hangs, is alive."""
        return self.status not in (Status.DEAD, Status.UNKNOWN)

    @property
    def words(self) -> str:
        """The finding as one clause."""
        text = f"{self.subject}: {self.state or self.status.value}"
        return text + (f" (seen from {', '.join(self.seen_by)})" if self.seen_by else "")


def seen(looks: Iterable[tuple[str, Look]], subject: str, own_host: str | None) -> Finding:
    """What looks at one subject, each with the host that looked, are evidence of.

    own_host: the host that it runs on; None for a repository, of which nobody can say for sure that
    it is gone.
    """
    at = [(host, look) for host, look in looks if look.subject == subject]
    reached = [(host, look) for host, look in at if look.saw == Saw.RUNNING]
    missed = tuple(host for host, look in at if look.saw == Saw.UNREACHABLE)
    others = {look.saw for _, look in at}
    if reached:
        states = [look for _, look in reached]
        # One who saw a primary outweighs all who saw it as anything else, a moment before or after.
        best = next((look for look in states if look.state == PRIMARY), states[0])
        return Finding(
            subject,
            Status.PARTITIONED if missed else Status.ALIVE,
            best.state,
            best.epoch,
            tuple(host for host, _ in reached),
            missed,
            max((look.committed for look in states if look.committed is not None), default=None),
        )
    for saw, status in ((Saw.UNAUTHORIZED, Status.UNAUTHORIZED), (Saw.SLOW, Status.SLOW)):
        if saw in others:
            by = tuple(host for host, look in at if look.saw == saw)
            return Finding(subject, status, seen_by=by, missed_by=missed)
    own = [host for host, look in at if look.saw == Saw.NOT_RUNNING and host == own_host]
    status = Status.DEAD if own else Status.UNKNOWN
    return Finding(subject, status, seen_by=tuple(own), missed_by=missed)


@dataclass(frozen=True)
class Evidence:
    """All reports of one moment, and what follows from them.

    asked_from: the site of the master that asks. attestations: what people say. last_committed: set
    → the newest majority-committed time that anybody ever told, as pairs. voters: the members that
    have a vote now; none where that is not known. looks: those from places that are no hosts of the
    stack, such as the master, each with the place's name. powers: what the provider says of hosts
    that are silent. switchable: whether there is a provider that can switch a host off.
    """

    layout: Layout
    reports: tuple[Report, ...]
    asked_from: str
    attestations: tuple[Attestation, ...] = ()
    last_committed: tuple[tuple[str, float], ...] = ()
    master_epochs: tuple[Epoch, ...] = ()
    voters: tuple[str, ...] = ()
    looks: tuple[tuple[str, Look], ...] = ()
    powers: tuple[Power, ...] = ()
    switchable: bool = False

    @cached_property
    def heard(self) -> dict[str, Report]:
        """The reports of the hosts that answered."""
        return {report.host: report for report in self.reports if report.answered}

    @cached_property
    def unheard(self) -> tuple[str, ...]:
        """Declared hosts that gave no answer, which proves nothing about them."""
        return tuple(host for host, _ in self.layout.hosts if host not in self.heard)

    def silence(self, host: str) -> str:
        """What is known of why a host is not heard."""
        said = next((r.error for r in self.reports if r.host == host and r.error), "")
        return f"cannot say what it sees ({said})" if said else "does not answer"

    @cached_property
    def records(self) -> tuple[Epoch, ...]:
        """Every record of every place that was heard."""
        own = list(self.master_epochs)
        return tuple(dict.fromkeys(own + [e for r in self.heard.values() for e in r.epochs]))

    @cached_property
    def known(self) -> Known:
        """What these records say together."""
        return known(self.records)

    @cached_property
    def reality(self) -> Reality:
        """What holds now, as far as is heard."""
        return reality(self.layout, self.known.current)

    @cached_property
    def members(self) -> dict[str, Finding]:
        """Each declared member."""
        looks = [*self.looks, *((r.host, k) for r in self.heard.values() for k in r.members)]
        return {m.name: seen(looks, m.name, m.host) for m in self.layout.members}

    @cached_property
    def cores(self) -> dict[str, Finding]:
        """Each host that may run OpenHIM."""
        looks = [*self.looks, *((r.host, k) for r in self.heard.values() for k in r.cores)]
        return {host: seen(looks, host, host) for host in self.layout.cores}

    @cached_property
    def repositories(self) -> dict[str, Finding]:
        """Each repository that anybody looked at."""
        looks = [(r.host, look) for r in self.heard.values() for look in r.repositories]
        return {name: seen(looks, name, None) for name in sorted({k.subject for _, k in looks})}

    @property
    def primaries(self) -> tuple[Finding, ...]:
        """Members that anybody saw as PRIMARY."""
        return tuple(one for one in self.members.values() if one.state == PRIMARY)

    def knows(self, host: str, epoch_id: str | None) -> bool:
        """Whether a host was heard to have an epoch as the newest (None: that it has none)."""
        return host in self._newest and self._newest[host] == epoch_id

    @cached_property
    def _newest(self) -> dict[str, str | None]:
        """The newest epoch of each host that was heard and whose records agree."""
        found = {host: known(report.epochs) for host, report in self.heard.items()}
        return {
            host: own.current.id if own.current else None
            for host, own in found.items()
            if not own.conflict
        }

    @cached_property
    def elective(self) -> dict[str, tuple[str, ...]]:
        """Set → its voters that answer, where they are a majority and none of them is primary."""
        found = {}
        for name in sorted({member.set for member in self.layout.members}):
            voters = [one for one in self.voters if one in self.members and self._of(one) == name]
            well = [one for one in voters if self.members[one].state in (PRIMARY, SECONDARY)]
            leads = any(self.members[one].state == PRIMARY for one in well)
            if len(well) > len(voters) // 2 and not leads:
                found[name] = tuple(well)
        return found

    def _of(self, name: str) -> str:
        return self.member(name).set

    def shows_life(self, host: str) -> bool:
        """Whether a host, or anything that should run on it, answers anybody."""
        alive = any(self.members[m.name].alive for m in self.layout.members if m.host == host)
        return alive or host in self.heard or (host in self.cores and self.cores[host].alive)

    def power(self, host: str) -> Power | None:
        """What the provider said last of a host; None where it was not asked, or where the host
        shows life, and so is not off whatever the provider says."""
        if self.shows_life(host):
            return None
        return next((one for one in reversed(self.powers) if one.host == host), None)

    def attested(self, site: str, epoch_ids: Sequence[str | None]) -> Attestation | None:
        """A person's word for a site that was given upon one of these epochs."""
        return next((a for a in self.attestations if a.site == site and a.epoch in epoch_ids), None)

    def member(self, name: str) -> Member:
        """The declared member of a name."""
        return next(one for one in self.layout.members if one.name == name)


#: What the own host of a server says of it, once it is sure.
STOPPED = "not running"

#: How the probe of :mod:`saltext.openhim.mongo.connection` calls what is not a running member.
_PROBED = {
    STOPPED: Saw.NOT_RUNNING,
    "unreachable": Saw.UNREACHABLE,
    "silent": Saw.SLOW,
    "unauthorized": Saw.UNAUTHORIZED,
    "wrong keyfile": Saw.UNAUTHORIZED,
}


def probed(subject: str, text: str, **details: Any) -> Look:
    """A look from the word that a host's sighting has for a member: a kind, or a state.

    details: ``epoch``, ``set_id`` and ``committed`` of the look.
    """
    saw = _PROBED.get(text, Saw.RUNNING)
    return Look(subject, saw, text if saw == Saw.RUNNING else "", **details)
