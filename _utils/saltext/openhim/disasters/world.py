"""A stack on paper to which things happen, and what its hosts would report after them. Pure.

It knows how MongoDB elects and what a host can see. What that is evidence of, and what follows from
it, is left to :mod:`saltext.openhim.recovery`, which gets the same plain values as from real hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from saltext.openhim import settings
from saltext.openhim.disasters.case import Case, CaseError, layout_of
from saltext.openhim.disasters.vocabulary import Happening
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import epochs, reports
from saltext.openhim.recovery.answers import Refusal
from saltext.openhim.recovery.epochs import Epoch, Minting, known
from saltext.openhim.recovery.observations import (
    PRIMARY,
    SECONDARY,
    STOPPED,
    Attestation,
    Evidence,
    Look,
    Report,
    probed,
)
from saltext.openhim.settings import Member, Stack

#: When it all happens.
NOW = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)

#: A member that is not further behind than this has caught up, as on real hosts.
FRESH_SECONDS = 2.0

RUNNING, UNREACHABLE, SILENT, UNAUTHORIZED = "running", "unreachable", "silent", "unauthorized"


class Impossible(OpenHIMError):
    """Something cannot happen as things are."""


@dataclass
class Here:
    """How one host is.

    mongod: ``running``, ``not running``, ``silent`` or ``unauthorized``. lag: seconds that its
    members are behind. compared: whether its history was found to have diverged, and what did so to
    be kept; None while nobody looked. config: the epoch in whose name its members are configured.
    told: the recovery records that it has.
    """

    id: str
    site: str
    powered: bool = True
    rebooted: bool = False
    frozen: bool = False
    isolated: bool = False
    minion: bool = True
    fenced: bool = False
    mongod: str = RUNNING
    core: bool = False
    foreign: bool = False
    lag: float = 0.0
    data: bool = True
    room: bool = True
    egress_denied: bool = False
    compared: tuple[bool, bool] | None = None
    config: Epoch | None = None
    told: tuple[Epoch, ...] = ()

    @property
    def works(self) -> bool:
        """Whether its programs go on."""
        return self.powered and not self.frozen


class World:
    """The hosts of a declared stack, well and serving, until something happens.

    stack: as declared, before any recovery.
    """

    def __init__(self, stack: Stack):
        self._declared = stack
        self._layout = layout_of(stack)
        self.hosts = {
            host.id: Here(
                host.id,
                host.site,
                core="core" in host.roles and host.site == stack.active_site,
            )
            for host in stack.hosts.values()
        }
        master = next(iter(stack.hosts_with("master")), None)
        self._master = self.hosts[master.id] if master else Here("", "")
        self._records: tuple[Epoch, ...] = ()
        self._attested: list[Attestation] = []
        self._isolated: set[str] = set()
        self._apart: set[frozenset[str]] = set()
        self._repositories = dict.fromkeys(
            (stack.declared.get("backup") or {}).get("repositories") or {}, RUNNING
        )
        self._primaries: dict[str, set[str]] = {}
        self._settle()

    def happen(self, happening: Happening) -> None:
        """Let one thing happen, and everything come to rest after it.

        Raises :class:`Impossible` when it cannot.
        """
        getattr(self, f"on_{happening.word}")(**happening.values)
        self._settle()

    # Power, network, programs

    def on_power_lost(self, **place: str) -> None:
        for host in self._at(**place):
            host.powered = host.frozen = host.core = False

    def on_power_back(self, **place: str) -> None:
        for host in self._at(**place):
            if not host.powered:
                host.powered = host.rebooted = host.minion = True
                host.core = self._serves(host)
                if host.mongod == SILENT:
                    host.mongod = RUNNING

    def on_isolated(self, site: str = "", host: str = "") -> None:
        if site:
            self._isolated.add(site)
        else:
            self.hosts[host].isolated = True

    def on_partitioned(self, one: str, other: str) -> None:
        if one == other:
            raise Impossible(f"found {one!r} twice; two sites are kept apart")
        self._apart.add(frozenset((one, other)))

    def on_network_back(self, site: str = "", host: str = "") -> None:
        if host:
            self.hosts[host].isolated = False
            return
        self._isolated.discard(site)
        self._apart = {pair for pair in self._apart if site not in pair}

    def on_frozen(self, **place: str) -> None:
        for host in self._at(**place):
            host.frozen = True

    def on_thawed(self, **place: str) -> None:
        for host in self._at(**place):
            host.frozen = False

    def on_minion_stopped(self, **place: str) -> None:
        for host in self._at(**place):
            host.minion = False

    def on_minion_started(self, **place: str) -> None:
        for host in self._at(**place):
            host.minion = True

    def on_mongod_stopped(self, host: str) -> None:
        self.hosts[host].mongod = STOPPED

    def on_mongod_hangs(self, host: str) -> None:
        self.hosts[host].mongod = SILENT

    def on_mongod_started(self, host: str) -> None:
        self.hosts[host].mongod = RUNNING

    def on_core_stopped(self, host: str) -> None:
        self.hosts[host].core = False

    def on_core_started(self, host: str) -> None:
        self.hosts[host].core = True

    # Data, keys, clocks

    def on_unauthorized(self, host: str) -> None:
        self.hosts[host].mongod = UNAUTHORIZED

    def on_foreign_set(self, host: str) -> None:
        self.hosts[host].foreign = True

    def on_lagging(self, host: str, seconds: float) -> None:
        self.hosts[host].lag = seconds

    def on_disk_full(self, host: str) -> None:
        """MongoDB ends itself when it can write no more."""
        self.hosts[host].mongod, self.hosts[host].room = STOPPED, False

    def on_data_lost(self, host: str) -> None:
        self.hosts[host].mongod, self.hosts[host].data = STOPPED, False

    def on_data_corrupted(self, how: str) -> None:
        """Every member has it within a second, and no server notices."""

    def on_repository_unreachable(self, repository: str) -> None:
        self._repositories[repository] = UNREACHABLE

    def on_repository_unauthorized(self, repository: str) -> None:
        self._repositories[repository] = UNAUTHORIZED

    def on_repository_back(self, repository: str) -> None:
        self._repositories[repository] = RUNNING

    # What people do

    def on_new_master(self, site: str, record: str = "kept") -> None:
        """Minions that can follow it do; what another master goes on to do is not seen here."""
        self._master = Here("", site)
        if record == "lost":
            self._records = ()

    def on_recovered(
        self,
        to: str,
        by: str,
        kind: str = "failover",
        gave_up: Sequence[str] = (),
        finished: bool = True,
    ) -> None:
        if {m.set for m in self._layout.promoted_at(to)} != set(self._declared.replica_sets):
            raise Impossible(
                f"no member of every set is declared at {to}, so nobody can lead there"
            )
        newest = known(self._records).current
        asked = Minting(
            parent=newest.id if newest else None,
            stack=self._declared.name,
            kind=kind,
            active_site=to,
            profile="reduced" if gave_up else "production",
            lost_sites=tuple(gave_up),
            declared_by=by,
            reason="a disaster",
            declared_at=NOW.isoformat(),
        )
        identity = f"{(newest.number if newest else 0) + 1}-{by}"
        made = epochs.minted(self._records, asked, identity)
        if isinstance(made, Refusal):
            raise Impossible(str(made))
        if finished:
            done = NOW.isoformat()
            made = replace(made, result={"served_at": done}, completed_at=done)
        self._records = (*self._records, made)
        told = self._tell()
        for host in told:
            host.core = self._serves(host) and (finished or host.core)
            if finished and (host.site == to or host.site not in gave_up):
                host.config = made

    def on_decided(self, by: str, **chosen: str) -> None:
        heard = [e for host in self.hosts.values() if self._hears(host) for e in host.told]
        records = epochs.merged([*self._records, *heard])
        found = next((e for e in records if e.declared_by == chosen["for"]), None)
        if found is None:
            raise Impossible(f"nobody who is heard knows of a recovery by {chosen['for']!r}")
        made = epochs.decided(
            records, found.id, declared_by=by, reason="a disaster",
            declared_at=NOW.isoformat(), epoch_id=f"{found.number + 1}-{by}",
        )  # fmt: skip
        if isinstance(made, Refusal):
            raise Impossible(str(made))
        self._records = tuple(epochs.merged([*records, made]))
        self._tell()

    def on_fenced(self, **place: str) -> None:
        for host in self._at(**place):
            if not self._hears(host):
                raise Impossible(
                    f"{host.id} does not hear the master, so nobody can fence it; attest that its "
                    "site is off, if it is"
                )
            host.fenced, host.core = True, False

    def on_attested(self, site: str, by: str) -> None:
        newest = known(self._records).current
        self._attested.append(Attestation(site, by, newest.id if newest else None))

    def on_rejoined(self, site: str) -> None:
        if not self._records:
            raise Impossible("nothing was recovered, so no site has to rejoin")
        noted = {"site": site, "by": "somebody", "reason": "it is back", "at": NOW.isoformat()}
        self._records = tuple(epochs.rejoined(self._records, self._records[-1].id, noted))
        newest = self._records[-1]
        self._tell()
        for host in self._at(site=site):
            host.fenced, host.config, host.lag = False, newest, 0.0

    def on_compared(self, host: str, diverged: bool, kept: bool = False) -> None:
        self.hosts[host].compared = (diverged, kept)

    def on_egress_denied(self, site: str) -> None:
        for host in self._at(site=site):
            host.egress_denied = True

    # What follows

    def _at(self, site: str = "", host: str = "") -> list[Here]:
        if host:
            return [self.hosts[host]]
        return [one for one in self.hosts.values() if one.site == site]

    def _linked(self, one: Here, other: Here) -> bool:
        """Whether packets go between two hosts, whatever their programs do."""
        if one is other:
            return True
        if not (one.powered and other.powered) or one.isolated or other.isolated:
            return False
        sites = {one.site, other.site}
        return len(sites) == 1 or not (sites & self._isolated or frozenset(sites) in self._apart)

    def _hears(self, host: Here) -> bool:
        """Whether a host's minion answers the master."""
        there = self._master.works and host.works and host.minion
        return there and self._linked(self._master, host)

    def _tell(self) -> list[Here]:
        told = [host for host in self.hosts.values() if self._hears(host)]
        for host in told:
            host.told = tuple(epochs.merged([*host.told, *self._records]))
        return told

    def _serves(self, host: Here) -> bool:
        """Whether OpenHIM is to run on a host, by its own records."""
        if host.id not in self._layout.cores or host.fenced or not self._gate_open(host):
            return False
        newest = known(host.told).current
        return host.site == (newest.active_site if newest else self._layout.active_site)

    def _gate_open(self, host: Here) -> bool:
        """After a boot the master opens it, unless the site was given up."""
        gate = self._declared.declared.get("gate") or {}
        if not gate.get("enabled") or not host.rebooted:
            return True
        newest = known(self._records).current
        return self._hears(host) and not (newest and host.site in newest.still_lost)

    def _runs(self, host: Here) -> bool:
        """Whether a host's mongod takes part in its set."""
        there = host.works and host.mongod == RUNNING and not host.foreign
        return there and not host.fenced and self._gate_open(host)

    def _settle(self) -> None:
        """Members hear of a newer configuration, and elect."""
        for name, replica_set in sorted(self._declared.replica_sets.items()):
            here = [self.hosts[m.host.id] for m in replica_set.members]
            running = [host for host in here if self._runs(host)]
            for host in running * len(running):
                heard = [o.config for o in running if o.config and self._linked(host, o)]
                host.config = max([host.config, *heard], key=lambda e: e.number if e else 0)
            self._primaries[name] = self._elected(name, running)

    def _elected(self, name: str, running: Iterable[Here]) -> set[str]:
        """One primary at most for each configuration; who has a higher priority takes it over."""
        found: set[str] = set()
        groups: dict[str | None, list[Here]] = {}
        for host in running:
            groups.setdefault(host.config.id if host.config else None, []).append(host)
        for group in groups.values():
            members = self._now(group[0].config).replica_sets[name].voters
            voters = {member.host.id: member for member in members}
            able = [
                (-host.lag, voters[host.id].priority, host.id)
                for host in group
                if host.id in voters and self._majority(host, group, voters)
            ]
            if able:
                found.add(max(able)[-1])
        return found

    def _majority(self, host: Here, group: Sequence[Here], voters: Mapping[str, Member]) -> bool:
        votes = [one for one in group if one.id in voters and self._linked(host, one)]
        return len(votes) > len(voters) // 2

    def _now(self, newest: Epoch | None) -> Stack:
        overlay = newest.overlay() if newest else {}
        openhim = {**self._declared.declared, "recovery": overlay}
        return settings.from_pillar({"openhim": openhim})

    # What is reported

    def evidence(self) -> Evidence:
        """What the master finds when it asks now.

        Raises :class:`Impossible` when there is no master to ask with.
        """
        if not self._master.works:
            raise Impossible(
                "no master is left to ask with; say where the next one stands (new_master)"
            )
        now = self._now(self._records[-1] if self._records else None)
        written = tuple((name, NOW.timestamp()) for name in sorted(now.replica_sets))
        return Evidence(
            layout=self._layout,
            reports=tuple(self._report(self.hosts[host]) for host, _ in self._layout.hosts),
            asked_from=self._master.site,
            attestations=tuple(self._attested),
            last_committed=written,
            master_epochs=self._records,
            voters=tuple(
                f"{name}/{member.name}"
                for name, replica_set in sorted(now.replica_sets.items())
                for member in replica_set.voters
            ),
            looks=tuple(("the master", self._core_look(core)) for core in self._layout.cores),
        )

    def _core_look(self, core: str) -> Look:
        return probed(core, self._core_from(self._master, self.hosts[core]))

    def _report(self, host: Here) -> Report:
        if not self._hears(host):
            return reports.silent(host.id, host.site)
        report = reports.heard(
            host.id, host.site, self._sighting(host), NOW.timestamp(), self._records
        )
        # What no host can say by itself yet, but people have found out.
        if host.egress_denied:
            report = replace(report, egress_denied=True)
        if host.compared:
            return replace(report, diverged=host.compared[0], kept=host.compared[1])
        return replace(report, diverged=False) if self._follows(host) else report

    def _follows(self, host: Here) -> bool:
        """Whether the master, asking each set's primary, finds there what a host's members have. Of
        a site that was given up nobody knows before it was looked at."""
        newest = known(self._records).current
        if newest and host.site in newest.still_lost:
            return False
        sets = {member.set for member in self._layout.members if member.host == host.id}
        # Before any recovery nothing tells somebody else's primary from ours.
        strange = newest is None and any(one.foreign for one in self.hosts.values())
        if sets and (strange or not self._runs(host)):
            return False
        leaders = [[self.hosts[one] for one in self._primaries[name]] for name in sets]
        return all(
            len(found) == 1 and self._hears(found[0]) and found[0].config == host.config
            for found in leaders
        )

    def _sighting(self, host: Here) -> dict[str, Any]:
        """The plain values in which a host answers: :func:`saltext.openhim.sighting.look`."""
        newest = known(host.told).current
        active = newest.active_site if newest else self._layout.active_site
        members = {m.name: self.hosts[m.host] for m in self._layout.members}
        mine = [m for m in self._layout.members if m.host == host.id]
        return {
            "members": {m.name: self._member_from(host, m.set, m) for m in self._layout.members},
            "cores": {c: self._core_from(host, self.hosts[c]) for c in self._layout.cores},
            "repositories": self._repositories_from(host),
            "objections": {},
            "epochs": epochs.plain(host.told),
            "gate_open": self._gate_open(host),
            "fenced": host.fenced,
            "admits": not host.fenced and (active == host.site or host.core),
            "holds_data": host.data if mine else None,
            "can_keep_aside": host.room if mine else None,
            "caught_up": all(self._fresh(members[m.name], m.set) for m in mine) if mine else None,
            "time": NOW.timestamp(),
        }

    def _member_from(self, viewer: Here, name: str, member: Any) -> dict[str, Any]:
        host = self.hosts[member.host]
        word = self._mongod_from(viewer, host, name)
        answers = word in (PRIMARY, SECONDARY)
        return {
            "saw": word,
            "epoch": host.config.id if answers and host.config else None,
            "set_id": ("another set" if host.foreign else name) if answers else None,
            "committed": NOW.timestamp() - host.lag if answers and not host.foreign else None,
        }

    def _mongod_from(self, viewer: Here, host: Here, name: str) -> str:
        own = viewer is host
        if host.fenced or not self._gate_open(host) or host.mongod == STOPPED:
            return STOPPED if own else UNREACHABLE
        if not self._linked(viewer, host) or (viewer.fenced and not own):
            return UNREACHABLE
        if host.frozen or host.mongod == SILENT:
            return SILENT
        if host.mongod == UNAUTHORIZED:
            return UNAUTHORIZED
        return PRIMARY if host.foreign or host.id in self._primaries[name] else SECONDARY

    def _core_from(self, viewer: Here, core: Here) -> str:
        if viewer is core:
            return RUNNING if core.core else STOPPED
        reached = self._linked(viewer, core) and not core.fenced and not viewer.fenced
        return RUNNING if reached and core.core else UNREACHABLE

    def _repositories_from(self, host: Here) -> dict[str, str]:
        """Those into which a host takes restore points or pulls copies."""
        backup = self._declared.declared.get("backup") or {}
        return {
            name: self._repositories[name]
            for name, entry in (backup.get("repositories") or {}).items()
            if host.id == (entry.get("pulled_by") if "copy_of" in entry else backup.get("taken_by"))
        }

    def _fresh(self, host: Here, name: str) -> bool:
        if not self._runs(host):
            return False
        leads = any(self._linked(host, self.hosts[p]) for p in self._primaries[name])
        return leads and host.lag <= FRESH_SECONDS


def after(case: Case, more: Iterable[Happening] = ()) -> World:
    """The world of a case once everything in it has happened, and then ``more``.

    Raises :class:`~saltext.openhim.disasters.case.CaseError` for what cannot happen.
    """
    world = World(case.stack)
    for number, happening in enumerate((*case.happens, *more)):
        try:
            world.happen(happening)
        except Impossible as error:
            where = f"happens.yaml:{number}:{happening.word}"
            raise CaseError(case.name, [f"{where}: {error}"]) from error
    return world
