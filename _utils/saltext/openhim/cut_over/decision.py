"""Where a public name points, and what would have to change. Pure: what was seen comes in."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from saltext.openhim.errors import Refused
from saltext.openhim.schema.kinds import did_you_mean

#: To one site, to several places, to no address, to addresses of no site, or nobody knows.
SITE, SEVERAL, NONE, ELSEWHERE, UNKNOWN = "site", "several", "none", "elsewhere", "unknown"

#: The record types that lead to an address, by the IP version.
TYPES = {4: "A", 6: "AAAA"}


@dataclass(frozen=True)
class Records:
    """The addresses of one type that a name has, and for how many seconds clients keep them.

    ttl: None where there are no addresses.
    """

    addresses: frozenset[str] = frozenset()
    ttl: int | None = None

    def told(self) -> dict[str, Any]:
        """In the form that people and other programs read."""
        return {"addresses": sorted(self.addresses), "ttl": self.ttl}


@dataclass(frozen=True)
class Seen:
    """What the authoritative name server has for a name.

    records: by type, ``A`` and ``AAAA``, both always there. negative_ttl: seconds for which clients
    keep the answer that there is no such name.
    """

    records: Mapping[str, Records]
    negative_ttl: int

    @property
    def addresses(self) -> frozenset[str]:
        """All of them, of both types."""
        return frozenset().union(*(one.addresses for one in self.records.values()))

    def kept_for(self, kind: str) -> int:
        """Seconds for which a client that asked for a type just now goes on with the answer."""
        ttl = self.records[kind].ttl
        return self.negative_ttl if ttl is None else ttl

    def told(self) -> dict[str, Any]:
        """In the form that people and other programs read."""
        return {kind: one.told() for kind, one in sorted(self.records.items()) if one.addresses}


@dataclass(frozen=True)
class Pointing:
    """Where clients are led: one of the constants of this module, and the reason where none is."""

    state: str
    sites: tuple[str, ...] = ()
    because: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> str | None:
        """The one site, or None."""
        return self.sites[0] if self.state == SITE else None

    def told(self) -> dict[str, Any]:
        """In the form that people and other programs read."""
        told = {"state": self.state, "site": self.site, "sites": list(self.sites), **self.facts}
        return {**told, "because": self.because} if self.because else told


@dataclass(frozen=True)
class Moved:
    """What a cut-over did, or would do.

    before, after: what leads clients, as it was and as it was read back. kept_for: seconds for
    which clients may go on to the old place, None where nobody knows. confirmed: whether it was
    read back that the site is now the one.
    """

    changed: bool
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    kept_for: int | None
    confirmed: bool
    comment: str

    def told(self) -> dict[str, Any]:
        """In the form that people and other programs read."""
        return {
            "changed": self.changed,
            "before": dict(self.before),
            "after": dict(self.after),
            "old_place_kept_seconds": self.kept_for,
            "confirmed": self.confirmed,
            "comment": self.comment,
        }


class Way(Protocol):
    """A way to lead clients to a site."""

    def points_to(self) -> Pointing:
        """Where they are led now; never raises for what cannot be known."""

    def move(self, site: str, test: bool = False) -> Moved:
        """Lead them to a site, unless they are led there already; with ``test`` only say so."""


def require_site(site: str, declared: Iterable[str], path: str, what: str) -> None:
    """Raise :class:`~saltext.openhim.errors.Refused` for a site that nothing is declared for.

    path: where it would be declared. what: what is missing, in words.
    """
    known = tuple(sorted(declared))
    if site not in known:
        raise Refused(
            f"site: found {site!r}, which has no {what}; {path} has them for "
            f"{', '.join(known) or 'no site'}{did_you_mean(site, known)}. Declare them first"
        )


def canonical(address: str) -> str:
    """An address in the one form that compares: ``2001:DB8:0::1`` is ``2001:db8::1``."""
    return str(ipaddress.ip_address(address))


def wanted(addresses: Iterable[str], ttl: int) -> dict[str, Records]:
    """The records that lead to a site's addresses; both types, one of them perhaps empty."""
    by_type: dict[str, set[str]] = {kind: set() for kind in TYPES.values()}
    for address in addresses:
        by_type[TYPES[ipaddress.ip_address(address).version]].add(canonical(address))
    return {
        kind: Records(frozenset(found), ttl if found else None) for kind, found in by_type.items()
    }


def changes(seen: Seen, target: Mapping[str, Records]) -> dict[str, Records]:
    """The types whose records are not as they should be, with what they should be."""
    return {kind: records for kind, records in target.items() if seen.records[kind] != records}


def old_answer_kept_for(seen: Seen, target: Mapping[str, Records]) -> int:
    """Seconds after which every client that keeps to the TTL goes to the new addresses.

    It has left the old ones when the longest of their answers has run out, and finds the new ones
    as soon as one type of them is not known to be absent any more.
    """
    leaves = [seen.kept_for(kind) for kind, one in seen.records.items() if one.addresses]
    finds = [seen.kept_for(kind) for kind, one in target.items() if one.addresses]
    return max([*leaves, min(finds)])


def pointing(seen: Seen, sites: Mapping[str, Iterable[str]]) -> Pointing:
    """Where a name leads, by the addresses that each site has.

    A site counts as soon as one of its addresses is there; ``missing`` names those that are not.
    """
    of_site = {site: {canonical(one) for one in addresses} for site, addresses in sites.items()}
    found = tuple(sorted(site for site, own in of_site.items() if own & seen.addresses))
    strangers = seen.addresses.difference(*of_site.values())
    missing = sorted(set().union(*(of_site[site] for site in found)) - seen.addresses)
    facts: dict[str, Any] = {"records": seen.told()}
    if strangers:
        facts["of_no_site"] = sorted(strangers)
    if missing:
        facts["missing"] = missing
    if not seen.addresses:
        return Pointing(NONE, because="the name has no address", facts=facts)
    if not found:
        return Pointing(ELSEWHERE, because="its addresses are of no declared site", facts=facts)
    if len(found) > 1 or strangers:
        return Pointing(SEVERAL, found, "its addresses are not of one site", facts)
    return Pointing(SITE, found, facts=facts)
