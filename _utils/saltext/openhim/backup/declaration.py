"""What the pillar says of backups, as one host may use it.

A host has the credentials of the repositories that it works with and of no others, so what cannot
be done here is refused by name and not found out half-way.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from pymongo import MongoClient
from saltext.openhim import secrets, settings
from saltext.openhim.backup import repository
from saltext.openhim.backup.repository import Repository
from saltext.openhim.backup.retention import CLOCK_TOLERANCE, KEEP_ASIDE, Policy
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo import connection
from saltext.openhim.schema import needs
from saltext.openhim.settings import ReplicaSet, Stack

#: A dump reads for hours, but a server that says nothing for so long is gone (milliseconds).
SOCKET_TIMEOUT_MS = 600_000

#: ``max_age_seconds`` when the pillar does not say it.
MAX_AGE = 86400

#: A member that is further behind another one is not read before it (seconds).
LAG = 300

#: Where restic keeps a host's copy of each repository's index.
CACHE = repository.CACHE

#: What a host does with a repository.
USE = "use"
PRUNE = "prune"


@dataclass(frozen=True)
class Backups:
    """The declared backups of a stack, seen from one host."""

    stack: Stack
    host: str
    pillar: Mapping[str, Any] = field(repr=False)

    @property
    def entry(self) -> Mapping[str, Any]:
        """``openhim:backup``."""
        entry = self.stack.declared.get("backup") or {}
        if not entry:
            raise OpenHIMError(
                "openhim:backup: found nothing; declare repositories, a user and taken_by"
            )
        return entry

    @property
    def repositories(self) -> Mapping[str, Mapping[str, Any]]:
        """The declared repositories, by name."""
        return self.entry["repositories"]

    @property
    def first(self) -> list[str]:
        """The repositories into which restore points are taken, not copied."""
        return [name for name, entry in self.repositories.items() if "copy_of" not in entry]

    @property
    def pulled_here(self) -> list[str]:
        """The repositories into which this host pulls copies."""
        return [n for n, entry in self.repositories.items() if entry.get("pulled_by") == self.host]

    @property
    def pruned_here(self) -> list[str]:
        """The repositories from which this host removes old restore points."""
        return [n for n, entry in self.repositories.items() if entry.get("pruned_by") == self.host]

    @property
    def visible(self) -> list[str]:
        """The repositories whose credentials this host has."""
        return [name for name, entry in self.repositories.items() if self.opens(entry)]

    def opens(self, entry: Mapping[str, Any]) -> bool:
        """Whether this host has the credentials that a repository's entry names.

        A host that only prunes has those for pruning, and looks with them too.
        """
        if self._has(entry, USE):
            return True
        return entry.get("pruned_by") == self.host and self._has(entry, PRUNE)

    def _has(self, entry: Mapping[str, Any], purpose: str) -> bool:
        known = (self.pillar.get("openhim") or {}).get("secrets") or {}
        url, environment = _way(entry, purpose)
        return {entry["secret"], *environment.values(), *needs.in_url(url)} <= set(known)

    @property
    def epoch(self) -> int:
        """The epoch of the recovery record; 0 before the first recovery."""
        return int((self.stack.declared.get("recovery") or {}).get("epoch") or 0)

    @property
    def epoch_id(self) -> str | None:
        """The ID of that epoch; None before the first recovery."""
        return (self.stack.declared.get("recovery") or {}).get("id")

    @property
    def keep_aside(self) -> timedelta:
        """For how long the data is kept that a restore replaced."""
        days = self.entry.get("keep_aside_days")
        return KEEP_ASIDE if days is None else timedelta(days=float(days))

    @property
    def policy(self) -> Policy | None:
        """What retention keeps; None keeps everything."""
        declared = dict(self.entry.get("retention") or {})
        declared.pop("minimum_verified", None)
        return Policy(**declared) if declared else None

    @property
    def minimum_verified(self) -> int:
        """So many verified restore points stay, whatever the policy says."""
        return int((self.entry.get("retention") or {}).get("minimum_verified", 1))

    def repository(self, name: str | None = None, purpose: str = USE) -> Repository:
        """A declared repository, with the credentials that this host has for a purpose.

        name: may be left out where there is only one to take restore points into.
        """
        name = name or self._only()
        if name not in self.repositories:
            known = ", ".join(sorted(self.repositories))
            raise OpenHIMError(
                f"the repository {name!r} is not in openhim:backup:repositories; declared are "
                f"{known}"
            )
        return self.opened(self.repositories[name], purpose)

    def opened(self, entry: Mapping[str, Any], purpose: str = USE) -> Repository:
        """A repository by its entry in the pillar, with this host's credentials for a purpose."""
        if not self._has(entry, purpose) and self.opens(entry):
            purpose = PRUNE
        url, environment = _way(entry, purpose)
        return Repository(
            self._filled(url),
            secrets.lookup(self.pillar, entry["secret"]),
            environment={v: secrets.lookup(self.pillar, s) for v, s in environment.items()},
            options=tuple(entry.get("options") or ()),
            cache_dir=CACHE,
            verification_secret=self._verification_secret(required=purpose == PRUNE),
        )

    def _verification_secret(self, required: bool) -> str:
        """What signs verifications; empty where this host does not have it, and need not.

        Such a host, as one that takes restore points, can tell good records from forged ones by
        no means: what it shows is what it was told.
        """
        name = self.entry.get("verification_secret")
        known = (self.pillar.get("openhim") or {}).get("secrets") or {}
        return secrets.lookup(self.pillar, name) if name and (required or name in known) else ""

    def _filled(self, url: str) -> str:
        """A URL with its secrets in their places."""
        for name in needs.in_url(url):
            url = url.replace(f"{{{name}}}", quote(secrets.lookup(self.pillar, name), safe=""))
        return url

    def _only(self) -> str:
        if len(self.first) != 1:
            raise OpenHIMError(
                f"which repository is meant? Declared are {', '.join(sorted(self.repositories))}; "
                "name one with repository=NAME"
            )
        return self.first[0]

    def require_role(self, key: str, what: str) -> None:
        """Refuse what the pillar gives to another host."""
        if self.entry.get(key) != self.host:
            raise Refused(
                f"{what} is the task of {self.entry.get(key) or 'no declared host'} "
                f"(openhim:backup:{key}), not of {self.host}; run it there"
            )
        if key == "verified_by":
            self._verification_secret(required=True)

    def databases(self) -> dict[str, list[str]]:
        """The databases to be kept, by replica set; main and audit may share a set, or be one."""
        found: dict[str, list[str]] = {}
        for database in self.stack.databases.values():
            names = found.setdefault(database.replica_set.name, [])
            if database.name not in names:
                names.append(database.name)
        return found

    def required(self) -> set[str]:
        """The databases that a stack which serves has: an empty one was dropped, or is another.

        OpenHIM writes an audit event at every start, unless it sends them elsewhere.
        """
        core = self.stack.declared.get("core") or {}
        audits = ((core.get("config") or {}).get("auditing") or {}).get("auditEvents") or {}
        needed = (
            {"main", "audit"} if audits.get("interface", "internal") == "internal" else {"main"}
        )
        return {database.name for kind, database in self.stack.databases.items() if kind in needed}

    @contextmanager
    def source(self, set_name: str, max_age: float | None = None) -> Iterator[MongoClient]:
        """A connection to the member that a dump reads: a secondary, best at this host's site.

        max_age: seconds; what the majority has may not be older. A member that is cut off from its
        primary stays a secondary, and shows the same moment for ever.
        """
        access = self.access()
        member, newest = _best_member(self.stack.replica_sets[set_name], self._site(), access)
        age = clock.time() - newest
        if max_age is not None and age > max_age:
            raise Refused(
                f"the newest that {member} knows to be on the majority of {set_name} is "
                f"{age:.0f} s old, allowed are {max_age:.0f}: the set has no primary, this site is "
                "cut off from it, or this host's clock is wrong. See to that; or say "
                "old_data=True, to take what there is"
            )
        with connection.connected(member, access, socketTimeoutMS=SOCKET_TIMEOUT_MS) as client:
            yield client

    def _site(self) -> str:
        return self.stack.host(self.host).site

    def access(self) -> connection.Access:
        """As whom MongoDB is read: ``openhim:backup:user``."""
        user = self.entry["user"]
        declared = self.stack.declared["mongodb"]["users"][user]
        tls_ca = connection.Access.from_pillar(self.stack, self.pillar).tls_ca_file
        password = secrets.lookup(self.pillar, declared["secret"])
        return connection.Access(user, password, None, tls_ca)


def _way(entry: Mapping[str, Any], purpose: str) -> tuple[str, Mapping[str, str]]:
    """The URL and the environment that a repository's entry declares for a purpose."""
    url, environment = entry["url"], entry.get("environment") or {}
    if purpose == PRUNE:
        url = entry.get("prune_url", url)
        environment = entry.get("prune_environment") or environment
    return url, environment


def from_pillar(pillar: Mapping[str, Any], minion_id: str) -> Backups:
    """The backups that a pillar declares, as the host ``minion_id`` may use them."""
    # Salt's __pillar__ has nothing in any other thread than that of the function it was given to.
    return Backups(settings.from_pillar(pillar), minion_id, dict(pillar))


def _best_member(
    replica_set: ReplicaSet, site: str, access: connection.Access
) -> tuple[str, float]:
    """The member to read, and the time of the newest write that it knows to be on the majority.

    Of the living one that is not far behind the others; of those a secondary before the primary;
    of those one here before others.
    """
    found: list[tuple[float, bool, bool, str]] = []
    clocks: dict[str, datetime] = {}
    silent: list[str] = []
    for member in replica_set.members:
        try:
            with connection.connected(member.name, access, connection.NOBODY) as client:
                hello = client.admin.command("hello")
        except OpenHIMError as error:
            silent.append(str(error))
            continue
        if hello.get("secondary") or hello.get("isWritablePrimary"):
            primary = bool(hello.get("isWritablePrimary"))
            newest = float(hello["lastWrite"]["majorityOpTime"]["ts"].time)
            found.append((newest, primary, member.host.site != site, member.name))
            clocks[member.name] = hello["localTime"].replace(tzinfo=timezone.utc)
        else:
            silent.append(f"{member.name} is neither primary nor secondary")
    if not found:
        raise Unreachable(
            f"no member of {replica_set.name} can be read: {'; '.join(silent)}. A restore point "
            "needs one that is up"
        )
    freshest = max(newest for newest, *_ in found)
    best = min(found, key=lambda one: (freshest - one[0] > LAG, *one[1:]))
    _refuse_another_time(best[3], clocks[best[3]])
    return best[3], best[0]


def _refuse_another_time(member: str, there: datetime) -> None:
    """A restore point is named by this host's clock, and its age is told by all others'."""
    here = datetime.now(timezone.utc)
    if abs(here - there) > CLOCK_TOLERANCE:
        raise Refused(
            f"this host's clock says {here:%Y-%m-%d %H:%M} UTC, that of {member} "
            f"{there:%Y-%m-%d %H:%M} UTC; expected the same. No restore point was taken: set the "
            "clocks (the state tree's clock does)"
        )
