"""What the pillar declares, as typed values: the one place that knows the meaning of ``openhim:``.

:func:`from_pillar` reads the declaration, lays the recovery record over it (which site is active
*now*), applies the profile, and yields a :class:`Stack`. Everything else (states, modules, the
state tree, the lab) asks the stack and never the raw pillar, so that "the distant site runs alone"
is decided here once.

The schema (:mod:`saltext.openhim.schema`) has checked the pillar before; this module assumes a
declaration that is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from saltext.openhim.errors import OpenHIMError, PillarError

DEFAULT_MONGODB_PORT = 27017
#: OpenHIM\'s own ports where the pillar leaves them out.
DEFAULT_CORE_PORTS = {"api": 8080, "http": 5001, "https": 5000}

#: The tag that names a member's site; write durability ``every-site`` counts it.
SITE_TAG = "site"

#: The tag that is different for every voting member; ``every-site`` counts a majority of it.
VOTER_TAG = "voter"

#: The tag that says in which epoch's name the configuration was made; none before any recovery.
EPOCH_TAG = "epoch"

#: The name of the write concern that durability ``every-site`` defines.
EVERY_SITE = "everySite"

#: Where each host keeps what this package must remember across reboots.
STATE_DIRECTORY = "/var/lib/saltext-openhim"

#: Where the certificates and keys of a host are.
TLS_DIRECTORY = "/etc/openhim-tls"


@dataclass(frozen=True)
class Host:
    """One declared host: its minion ID, and where it stands."""

    id: str
    site: str
    address: str
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """One member of a replica set, as the active profile wants it."""

    host: Host
    port: int
    priority: float
    votes: int
    hidden: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``host:port``, as the replica-set configuration names the member."""
        return f"{self.host.name}:{self.port}"


@dataclass(frozen=True)
class ReplicaSet:
    """One replica set, as the active profile wants it."""

    name: str
    port: int
    members: tuple[Member, ...]
    durability: str
    election_timeout_ms: int
    write_timeout_ms: int

    @property
    def voters(self) -> tuple[Member, ...]:
        """The members that vote."""
        return tuple(member for member in self.members if member.votes)

    @property
    def initiator(self) -> Member:
        """The one member that may initiate the set: the highest priority, then the first name.

        All hosts run the same highstate at once, so all must name the same one.
        """
        return min(self.members, key=lambda member: (-member.priority, member.name))

    def member_on(self, host_id: str) -> Member | None:
        """The member that runs on ``host_id``, or None."""
        return next((m for m in self.members if m.host.id == host_id), None)

    @property
    def write_modes(self) -> dict[str, dict[str, int]]:
        """``settings.getLastErrorModes`` of the replica-set configuration.

        ``every-site`` asks for every site *and* a majority of the voters: a custom mode by itself
        is not a majority, and what is not on a majority can be rolled back.
        https://www.mongodb.com/docs/manual/reference/replica-configuration/#mongodb-rsconf-rsconf.settings.getLastErrorModes
        """
        if self.durability != "every-site":
            return {}
        sites = {member.host.site for member in self.voters}
        return {EVERY_SITE: {SITE_TAG: len(sites), VOTER_TAG: len(self.voters) // 2 + 1}}

    @property
    def write_concern(self) -> dict[str, Any]:
        """The write concern of every connection of OpenHIM, with MongoDB's URL option names."""
        if self.durability == "every-site":
            # Without a timeout a write hangs for as long as one site is away.
            return {"w": EVERY_SITE, "journal": True, "wtimeoutMS": self.write_timeout_ms}
        return {"w": "majority"}


@dataclass(frozen=True)
class Database:
    """One of OpenHIM's two databases."""

    kind: str
    name: str
    replica_set: ReplicaSet


@dataclass(frozen=True)
class Stack:
    """The whole declaration, with the recovery record and the profile applied."""

    name: str
    profile: str
    active_site: str
    lost_sites: tuple[str, ...]
    sites: Mapping[str, Mapping[str, Any]]
    hosts: Mapping[str, Host]
    replica_sets: Mapping[str, ReplicaSet]
    databases: Mapping[str, Database]
    declared: Mapping[str, Any]

    @property
    def core_ports(self) -> dict[str, int]:
        """OpenHIM's own ports: ``api``, ``http`` and ``https``."""
        return core_ports(self.declared)

    def host(self, minion_id: str) -> Host:
        """The declared host of a minion.

        Raises :class:`~saltext.openhim.errors.OpenHIMError` when the pillar does not declare it.
        """
        try:
            return self.hosts[minion_id]
        except KeyError:
            raise OpenHIMError(
                f"the minion {minion_id!r} is not in openhim:hosts; declared are "
                f"{', '.join(sorted(self.hosts))}. Declare it with its site, address and roles."
            ) from None

    def sets_on(self, minion_id: str) -> list[ReplicaSet]:
        """The replica sets that have a member on this host, in the order of their names."""
        return [rs for _, rs in sorted(self.replica_sets.items()) if rs.member_on(minion_id)]

    def hosts_with(self, role: str, site: str | None = None) -> list[Host]:
        """The hosts with a role, at one site or at all, in the order of their IDs."""
        return [
            host
            for _, host in sorted(self.hosts.items())
            if role in host.roles and site in (None, host.site)
        ]

    def core_is_active(self, minion_id: str) -> bool:
        """Whether OpenHIM runs on this host now; elsewhere it is installed and kept stopped."""
        host = self.host(minion_id)
        return "core" in host.roles and host.site == self.active_site

    def database_url(
        self, kind: str, user: str, password: str, tls: Mapping[str, str] | None = None
    ) -> str:
        """The connection string of one database, for OpenHIM and for us.

        kind: ``main`` or ``audit``. tls: URL options such as ``tlsCAFile``; empty when TLS is off.
        """
        database = self.databases[kind]
        replica_set = database.replica_set
        hosts = ",".join(m.name for m in replica_set.members if m.votes)
        options: dict[str, Any] = {
            "replicaSet": replica_set.name,
            "authSource": "admin",
            **replica_set.write_concern,
            **(tls or {}),
        }
        options = {k: str(v).lower() if isinstance(v, bool) else v for k, v in options.items()}
        return (
            f"mongodb://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}"
            f"/{database.name}?{urlencode(options, safe='/')}"
        )


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, mapping by mapping; both stay as they are."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def core_ports(declared: Mapping[str, Any]) -> dict[str, int]:
    """OpenHIM's own ports by what they are for, as far as a declaration goes."""
    return {**DEFAULT_CORE_PORTS, **((declared.get("core") or {}).get("ports") or {})}


def with_standby(pillar: Mapping[str, Any], site: str) -> dict[str, Any]:
    """The pillar in which the hosts that stand by at a site are hosts like all others."""
    hosts = {
        host_id: {key: value for key, value in entry.items() if key != "standby"}
        if entry["site"] == site
        else entry
        for host_id, entry in pillar["openhim"]["hosts"].items()
    }
    return {**pillar, "openhim": {**pillar["openhim"], "hosts": hosts}}


def from_pillar(pillar: Mapping[str, Any]) -> Stack:
    """The stack that a pillar declares.

    pillar: the minion's whole pillar (with the key ``openhim``).

    Raises :class:`~saltext.openhim.errors.PillarError` when there is no ``openhim`` in it.
    """
    declared = pillar.get("openhim")
    if not isinstance(declared, Mapping) or not declared:
        raise PillarError(
            ["openhim: found nothing; this minion's pillar must contain the stack's declaration"]
        )
    recovery = declared.get("recovery") or {}
    profile = recovery.get("profile") or declared.get("profile", "production")
    active_site = recovery.get("active_site") or declared["active_site"]
    lost_sites = tuple(recovery.get("lost_sites") or ())
    hosts = {
        host_id: Host(
            id=host_id,
            site=entry["site"],
            address=str(entry["address"]),
            name=entry.get("name", host_id),
            roles=tuple(entry.get("roles") or ()),
        )
        for host_id, entry in declared["hosts"].items()
        if not entry.get("standby") or entry["site"] == active_site
    }
    mongodb = declared["mongodb"]
    # A rebuilt set begins anew: members of the lost one belong to another set of the same name.
    rebuilt = recovery.get("kind") == "rebuild"
    members = {
        host_id: host
        for host_id, host in hosts.items()
        if not (rebuilt and host.site in lost_sites)
    }
    replica_sets = {
        name: _replica_set(
            name, entry, mongodb, members, profile, active_site, lost_sites, recovery
        )
        for name, entry in mongodb["replica_sets"].items()
    }
    databases = {
        kind: Database(kind, entry["name"], replica_sets[entry["replica_set"]])
        for kind, entry in mongodb["databases"].items()
    }
    return Stack(
        name=declared["stack"],
        profile=profile,
        active_site=active_site,
        lost_sites=lost_sites,
        sites=declared["sites"],
        hosts=hosts,
        replica_sets=replica_sets,
        databases=databases,
        declared=declared,
    )


def _replica_set(
    name: str,
    entry: Mapping[str, Any],
    mongodb: Mapping[str, Any],
    hosts: Mapping[str, Host],
    profile: str,
    active_site: str,
    lost_sites: tuple[str, ...],
    recovered: Mapping[str, Any],
) -> ReplicaSet:
    port = int(entry.get("port", DEFAULT_MONGODB_PORT))
    members = [
        Member(
            host=hosts[host_id],
            port=int((values or {}).get("port", port)),
            priority=(values or {}).get("priority", 1),
            votes=(values or {}).get("votes", 1),
            hidden=bool((values or {}).get("hidden", False)),
        )
        for host_id, values in entry["members"].items()
        if host_id in hosts
    ]
    if profile == "reduced":
        members = _reduced(members, active_site, keep_others=bool(lost_sites))
    elif recovered:
        members = _led_from(members, active_site, lost_sites)
    return ReplicaSet(
        name=name,
        port=port,
        members=tuple(_tagged(member, recovered.get("id")) for member in members),
        durability=mongodb.get("durability", "majority"),
        election_timeout_ms=int(mongodb.get("election_timeout_ms", 10000)),
        write_timeout_ms=int(mongodb.get("write_timeout_ms", 10000)),
    )


def _reduced(members: list[Member], active_site: str, keep_others: bool) -> list[Member]:
    """One voting member at the active site.

    After a failover the others stay in the configuration without a vote (``keep_others``). A
    member that is kept learns the newer configuration by heartbeat as soon as the network is back
    and steps down; one that is removed would never hear of it, and two removed members would elect
    a primary between them.
    """
    here = [member for member in members if member.host.site == active_site]
    if not here:
        raise PillarError(
            [
                f"openhim:active_site: found {active_site!r}, where no member of the replica set "
                f"is declared; members are at {', '.join(sorted({m.host.site for m in members}))}"
            ]
        )
    best = max(here, key=lambda member: (member.votes, member.priority))
    others = [member for member in members if member is not best] if keep_others else []
    return [_with(best, priority=1, votes=1, hidden=False)] + [
        _with(member, priority=0, votes=0, hidden=False) for member in others
    ]


def _led_from(members: list[Member], site: str, lost_sites: tuple[str, ...]) -> list[Member]:
    """All members as declared, but that the primary is at one site, and a lost one has no vote.

    MongoDB hands over to the highest priority, so those at the site come above all others.
    """
    present = [member for member in members if member.host.site not in lost_sites]
    lost = [
        _with(member, priority=0, votes=0) for member in members if member.host.site in lost_sites
    ]
    here = [m for m in present if m.host.site == site and m.votes and not m.hidden]
    others = max((m.priority for m in present if m not in here), default=0)
    if not here or min(m.priority for m in here) > others:
        return present + lost
    raised = {m.name: others + max(m.priority, 1) for m in here}
    # MongoDB takes no more than 1000.
    scale = min(1.0, 1000 / max(raised.values()))
    led = [_with(m, priority=raised.get(m.name, m.priority)) for m in present]
    if scale < 1:
        led = [_with(m, priority=m.priority * scale) for m in led]
    return led + lost


def _with(member: Member, **changes: Any) -> Member:
    values = {**member.__dict__, **changes}
    return Member(**values)


def _tagged(member: Member, epoch_id: str | None = None) -> Member:
    tags = {SITE_TAG: member.host.site}
    if member.votes:
        tags[VOTER_TAG] = member.host.id
    if epoch_id:
        tags[EPOCH_TAG] = epoch_id
    return _with(member, tags=tags)
