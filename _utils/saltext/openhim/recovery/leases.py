"""Leases: the active site admits clients for a while, and only a witness elsewhere lengthens it.

The lease is an element with a timeout in the set of the kernel's packet filter that admits clients.
So it ends by itself where the site is cut off, and where whatever should end it is frozen. A holder
counts from the moment when it asked, which is never later than the witness's own count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from saltext.openhim.recovery.epochs import Epoch, Known, ancestry, known
from saltext.openhim.recovery.layout import Layout, Reality, reality
from saltext.openhim.recovery.observations import Evidence, Grant, Report


def witnesses(layout: Layout, records: Iterable[Epoch], newest: Epoch | None, site: str) -> Reality:
    """What held when a site was active the last time; one that never was has no witnesses."""
    line = ancestry(records, newest)
    for epoch in line:
        if epoch.active_site == site:
            return reality(layout, epoch)
    declared = reality(layout, None)
    return declared if declared.active_site == site else Reality(None, site, (), ())


def renewal_refusals(
    layout: Layout,
    holder_site: str,
    holder: Known,
    witness: Report,
    difference: float | None,
) -> tuple[str, ...]:
    """Why a witness must not lengthen the lease of a site; empty when it may.

    holder: what the holder's records say. witness: what the witness says of itself. difference:
    seconds that the two clocks are apart, None where that is not known.
    """
    found = []
    own = known(witness.epochs)
    if own.problem or holder.problem:
        found.append(own.problem or holder.problem or "")
    elif reality(layout, own.current).epoch != reality(layout, holder.current).epoch:
        theirs = own.current.words if own.current else "no epoch"
        found.append(
            f"{witness.host} knows {theirs} as the newest, and the holder another; "
            "tell the one that is behind"
        )
    now = reality(layout, holder.current)
    if now.active_site != holder_site:
        found.append(f"{holder_site} is not the active site, {now.active_site} is; it must close")
    if witness.host not in now.witnesses or witness.site == holder_site:
        found.append(
            f"{witness.host} is no witness of {holder_site}'s lease; a witness is one that the "
            "newest epoch names, at another site"
        )
    if not witness.vouches:
        found.append(
            f"{witness.host} does not know that its epoch is the newest (it was off, cut off or "
            "fenced); prove the epoch to it first"
        )
    if difference is None or abs(difference) > layout.max_skew:
        found.append(
            f"the clocks of {witness.host} and {holder_site} are {difference} s apart, "
            f"{layout.max_skew} s are allowed; see to their clock servers"
        )
    return tuple(found)


def expiry(evidence: Evidence, site: str, epoch_id: str | None) -> tuple[float, tuple[str, ...]]:
    """How many seconds are left until a site's lease has surely run out, and what speaks against
    taking that for a proof.

    epoch_id: the epoch that every witness must know, because then none of them renews the lease;
    None before it is minted, when only whether it could become a proof is of interest.
    """
    held = witnesses(evidence.layout, evidence.records, evidence.known.current, site)
    outside = [one for one in held.witnesses if evidence.layout.site_of.get(one) != site]
    if not outside:
        return 0.0, (f"{site} has no lease which a host at another site witnesses",)
    found, left = [], 0.0
    for witness in outside:
        report = evidence.heard.get(witness)
        if report is None:
            found.append(
                f"{witness} witnesses the lease of {site} and does not answer, so it may still "
                "renew it"
            )
            continue
        if epoch_id is not None and not evidence.knows(witness, epoch_id):
            found.append(f"{witness} witnesses the lease of {site} and does not know of the epoch")
        found += _clock_problems(evidence, report)
        ends = [_left(evidence, grant.left) for grant in _grants(report, site)]
        if not ends or math.isinf(max(ends)):
            found.append(
                f"{witness} does not know whether all of {site} needs a lease: it has not granted "
                "one to each of its hosts"
            )
        else:
            left = max(left, *ends)
    return left, tuple(found)


def _left(evidence: Evidence, left: float) -> float:
    """Seconds until a grant has run out for sure: a clock may have been set right meanwhile."""
    return left + evidence.layout.max_skew


def _grants(report: Report, site: str) -> list[Grant]:
    return [grant for grant in report.grants if grant.site == site]


def _clock_problems(evidence: Evidence, witness: Report) -> list[str]:
    """A lease is a matter of clocks; one clock alone cannot tell that it is wrong."""
    limit = evidence.layout.max_skew
    if witness.clock is None:
        return [f"how {witness.host}'s clock differs is not known; see to its clock server"]
    others = [r for r in evidence.heard.values() if r.site != witness.site and r.clock is not None]
    if not others:
        return [
            f"no host at another site than {witness.host} tells its time, so nobody would notice "
            "a wrong clock"
        ]
    apart = [r.host for r in others if abs((r.clock or 0.0) - witness.clock) > limit]
    return [
        f"the clocks of {witness.host} and {host} are more than {limit} s apart; see to them"
        for host in apart
    ]
