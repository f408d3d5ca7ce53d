"""Whether a witness grants a lease: its records, its book and a request in, an answer out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltext.openhim.lease.book import Book
from saltext.openhim.lease.words import Answer, Request
from saltext.openhim.recovery.epochs import Epoch, known
from saltext.openhim.recovery.layout import Layout, reality
from saltext.openhim.recovery.leases import renewal_refusals
from saltext.openhim.recovery.observations import Report


@dataclass(frozen=True)
class Told:
    """What a witness was told at its start.

    host, site: its own. holders: minion ID → site and name (in its certificate) of each host that
    may hold the lease.
    """

    host: str
    site: str
    holders: Mapping[str, tuple[str, str]]
    layout: Layout

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Told:
        """From the mapping that :func:`saltext.openhim.lease.host.witness_config` makes."""
        holders = {
            host: (str(entry["site"]), str(entry["name"]))
            for host, entry in config["holders"].items()
        }
        return cls(
            host=config["host"],
            site=config["site"],
            holders=holders,
            layout=Layout(
                stack=config["stack"],
                active_site=config["active_site"],
                sites=tuple(sorted({site for site, _ in holders.values()})),
                hosts=tuple((host, site) for host, (site, _) in sorted(holders.items())),
                members=(),
                cores=(),
                promote=(),
                witnesses=(config["host"],),
                lease_seconds=float(config["seconds"]),
                max_skew=float(config["max_skew"]),
            ),
        )


def stranger(told: Told, request: Request, names: Sequence[str]) -> str | None:
    """Why nobody here has to answer a request; None when its sender is who it says.

    names: the DNS names of the certificate with which it was sent.
    """
    if request.stack != told.layout.stack:
        return f"stack: found {request.stack!r}; this is the witness of {told.layout.stack!r}"
    if request.host not in told.holders:
        return f"host: found {request.host!r}; no host of that name may hold the lease"
    if told.holders[request.host][1] not in names:
        return (
            f"host: found {request.host!r}, sent with a certificate of {', '.join(names)}; each "
            "host asks for itself"
        )
    return None


def decide(
    told: Told,
    request: Request,
    records: Sequence[Epoch],
    book: Book,
    *,
    vouches: bool,
    now: float,
    wall: float,
) -> Answer:
    """The answer to a request for a lease.

    records: that the witness has. vouches: whether it knows that they are the newest. now: by the
    clock of the book. wall: seconds since 1970.
    """
    site = told.holders[request.host][0]
    own, holder = known(records), known(request.records)
    report = Report(told.host, True, told.site, epochs=tuple(records), vouches=vouches)
    apart = round(wall - request.time, 3)
    reasons = list(renewal_refusals(told.layout, site, holder, report, apart))
    wait = book.elsewhere(site, now, told.layout.max_skew)
    if wait > 0:
        reasons.append(
            f"another site may still hold a lease for {wait:.1f} s; it is waited for, and then "
            "this one is granted"
        )
    holds = reality(told.layout, own.current)
    # One that knows of an epoch which the witness has not heard of is not told what to do.
    knows_more = {epoch.id for epoch in request.records} - {epoch.id for epoch in records}
    certain = own.problem is None and not knows_more and vouches
    behind = (own.current and own.current.id) != (holder.current and holder.current.id)
    return Answer(
        granted=not reasons,
        seconds=told.layout.lease_seconds,
        epoch=own.current.number if own.current else 0,
        reasons=tuple(reasons),
        given_up=certain and holds.active_site != site,
        unneeded=certain and holds.active_site == site and not holds.witnesses and wait <= 0,
        records=tuple(records) if behind or holder.problem else (),
    )
