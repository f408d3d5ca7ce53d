"""Gates: hosts boot closed, and open only on proof of the current epoch.

A place that was off may have missed a recovery, and cannot know that it has not. So neither MongoDB
nor OpenHIM starts there until somebody vouches for the epoch who has been up since it was proven to
them, or a person does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saltext.openhim.recovery.epochs import Epoch, Known, known
from saltext.openhim.recovery.layout import Layout, reality


@dataclass(frozen=True)
class Voucher:
    """What a place outside says: a member's host, or the master.

    vouches: whether it knows that its newest epoch is the newest of all, see :func:`vouches`.
    """

    host: str
    site: str
    epochs: tuple[Epoch, ...]
    vouches: bool


@dataclass(frozen=True)
class HostAttestation:
    """A person's word, on the host, that an epoch is the newest (None: nothing was recovered)."""

    by: str
    epoch: str | None


@dataclass(frozen=True)
class Gate:
    """Whether a host may start its services; if so, in which epoch, and what it learned by it.

    reasons: why it stays closed, one per voucher; empty when it opens.
    """

    opens: bool
    epoch: str | None
    learned: tuple[Epoch, ...]
    reasons: tuple[str, ...]


def gate(
    site: str,
    own: Sequence[Epoch],
    vouchers: Sequence[Voucher],
    attestation: HostAttestation | None = None,
    rejoined: str | None = None,
) -> Gate:
    """Decide for a host that has booted.

    site: where it stands. rejoined: the ID of the epoch in which a rejoin of this host is noted;
    the gate of a site that was given up opens only after that. A voucher of the same site proves
    nothing, for what the host has missed, that one may have missed with it; this goes for a master
    inside the site, too.
    """
    learned = tuple(dict.fromkeys([*own, *(e for one in vouchers for e in one.epochs)]))
    found = known(learned)
    if found.problem:
        return Gate(False, None, learned, (found.problem,))
    newest = found.current.id if found.current else None
    if _given_up(site, found, rejoined):
        return Gate(False, newest, learned, (_REJOIN.format(site=site),))
    proofs = [one for one in vouchers if not _worthless(site, one, newest)]
    if proofs or (attestation is not None and attestation.epoch == newest):
        return Gate(True, newest, learned, ())
    reasons = [text for one in vouchers if (text := _worthless(site, one, newest))]
    if attestation is not None:
        reasons.append(
            f"{attestation.by} attests the epoch {attestation.epoch}, and the newest that is known "
            f"here is {newest}; look at the recovery record, and attest the newest"
        )
    return Gate(False, newest, learned, (*reasons, _WAY_FORWARD))


_WAY_FORWARD = (
    "the gate stays closed until a host at another site that knows the newest epoch answers; where "
    "everything was off, a person who knows attests the epoch on this host"
)


_REJOIN = "{site} was given up, and its data may be of another history; rejoin it"


def _given_up(site: str, found: Known, rejoined: str | None) -> bool:
    newest = found.current
    return newest is not None and site in newest.lost_sites and rejoined != newest.id


def _worthless(site: str, voucher: Voucher, newest: str | None) -> str | None:
    """Why a voucher's word opens nothing; None when it does."""
    own = known(voucher.epochs)
    if voucher.site == site:
        return f"{voucher.host} is at {site} too, and may have missed the same"
    if not voucher.vouches:
        return f"{voucher.host} does not know itself that its epoch is the newest"
    if (own.current.id if own.current else None) != newest:
        return f"{voucher.host} has not the newest epoch, {newest}"
    return None


def vouches(
    layout: Layout,
    site: str,
    found: Known,
    *,
    gate_open: bool,
    fenced: bool,
    lease_left: float,
) -> bool:
    """Whether a place may vouch for its newest epoch, to gates and for leases.

    It was proven to it since it booted (its gate is open), nobody has fenced it, and if it is the
    active site with a lease, this has not run out: otherwise all others may have moved on.
    """
    now = reality(layout, found.current)
    holds = now.active_site != site or not now.witnesses or lease_left > 0
    return gate_open and not fenced and not found.conflict and holds


def admission_refusals(
    layout: Layout,
    site: str,
    found: Known,
    *,
    gate_open: bool,
    fenced: bool,
    admitted: str | None,
    lease_left: float,
) -> tuple[str, ...]:
    """Why a host must not admit clients; empty when it may.

    admitted: the ID of the epoch in whose name a recovery opened it last (None: the declaration's).
    """
    now = reality(layout, found.current)
    return tuple(_closed_by(site, found, now.active_site)) + tuple(
        text
        for wrong, text in (
            (not gate_open, "its gate is closed: prove the newest epoch to it"),
            (fenced, "it is fenced: lift the fence by a rejoin"),
            (admitted != now.epoch, "no recovery has opened it in this epoch yet: run it on"),
            (
                bool(now.witnesses) and lease_left <= 0,
                f"its lease has run out: see that one of {', '.join(now.witnesses)} hears it",
            ),
        )
        if wrong
    )


def core_refusals(
    site: str,
    core_site: str,
    active_site: str,
    found: Known,
    *,
    gate_open: bool,
    fenced: bool,
    rejoined: str | None,
) -> tuple[str, ...]:
    """Why a member's host must not let in OpenHIM of another site; empty when it may.

    active_site: by this host's own records. Which core may write is a matter of belief here too:
    the primary of a history that was given up must not be found by the core of the new one.
    """
    reasons = list(_closed_by(core_site, found, active_site))
    if not gate_open:
        reasons.append("its gate is closed: prove the newest epoch to it")
    if fenced:
        reasons.append("it is fenced: lift the fence by a rejoin")
    if _given_up(site, found, rejoined):
        reasons.append(_REJOIN.format(site=site))
    return tuple(reasons)


def _closed_by(site: str, found: Known, active_site: str) -> Iterable[str]:
    if found.problem:
        yield found.problem
    elif active_site != site:
        yield f"{active_site} is the active site, not {site}"
