"""What a recovery must know of a declaration: who stands where, and how clocks are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.settings import Stack


@dataclass(frozen=True)
class Member:
    """One declared mongod. name: ``set/host:port``. host: its minion."""

    name: str
    set: str
    host: str
    site: str


@dataclass(frozen=True)
class Layout:
    """A stack's sites and hosts, as declared, before any recovery.

    hosts: minion ID → site, as pairs, of all that can take part in a write: those with a member or
    a core. cores: the hosts that may run OpenHIM. promote: site, set → the member that would become
    the primary there, as triples. witnesses: the hosts of which any one renews the active site's
    lease, the master's own among them; with none there are no leases. lease_seconds: how long a
    lease holds. max_skew: how far, in seconds, two clocks may be apart. max_lag: how many seconds
    of writes may be given up without force.
    """

    stack: str
    active_site: str
    sites: tuple[str, ...]
    hosts: tuple[tuple[str, str], ...]
    members: tuple[Member, ...]
    cores: tuple[str, ...]
    promote: tuple[tuple[str, str, str], ...]
    witnesses: tuple[str, ...] = ()
    lease_seconds: float = 30.0
    max_skew: float = 0.5
    max_lag: float = 60.0

    @cached_property
    def site_of(self) -> dict[str, str]:
        """The site of each host."""
        return dict(self.hosts)

    def at(self, site: str) -> tuple[str, ...]:
        """The hosts of a site."""
        return tuple(host for host, where in self.hosts if where == site)

    def cores_at(self, site: str) -> tuple[str, ...]:
        """The hosts of a site that may run OpenHIM."""
        return tuple(host for host in self.cores if self.site_of[host] == site)

    def promoted_at(self, site: str) -> tuple[Member, ...]:
        """The members that would be the primaries, were this site the active one."""
        names = {name for where, _, name in self.promote if where == site}
        return tuple(member for member in self.members if member.name in names)


@dataclass(frozen=True)
class Reality:
    """What holds now: the newest epoch's word, or the declaration's where there is none."""

    epoch: str | None
    active_site: str
    lost_sites: tuple[str, ...]
    witnesses: tuple[str, ...]


def reality(layout: Layout, epoch: Epoch | None) -> Reality:
    """What an epoch says, or the declaration where there is none."""
    if epoch is None:
        return Reality(None, layout.active_site, (), layout.witnesses)
    return Reality(epoch.id, epoch.active_site, epoch.still_lost, epoch.witnesses)


def from_stack(
    stack: Stack,
    *,
    witnesses: Sequence[str] = (),
    lease_seconds: float = 30.0,
    max_skew: float = 0.5,
    max_lag: float = 60.0,
) -> Layout:
    """The layout of a declared stack (the one before any recovery)."""
    members = tuple(
        Member(f"{name}/{member.name}", name, member.host.id, member.host.site)
        for name, replica_set in sorted(stack.replica_sets.items())
        for member in replica_set.members
    )
    return Layout(
        stack=stack.name,
        active_site=stack.active_site,
        sites=tuple(sorted(stack.sites)),
        hosts=tuple(
            (host.id, host.site)
            for _, host in sorted(stack.hosts.items())
            if set(host.roles) & {"mongodb", "core"}
        ),
        members=members,
        cores=tuple(host.id for host in stack.hosts_with("core")),
        promote=tuple(_promoted(stack)),
        witnesses=tuple(witnesses),
        lease_seconds=lease_seconds,
        max_skew=max_skew,
        max_lag=max_lag,
    )


def _promoted(stack: Stack) -> list[tuple[str, str, str]]:
    found = []
    for name, replica_set in sorted(stack.replica_sets.items()):
        for site in sorted(stack.sites):
            here = [m for m in replica_set.members if m.host.site == site and not m.hidden]
            if here:
                best = min(here, key=lambda m: (-m.votes, -m.priority, m.name))
                found.append((site, name, f"{name}/{best.name}"))
    return found
