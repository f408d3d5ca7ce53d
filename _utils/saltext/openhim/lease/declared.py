"""The lease as the pillar declares it: who holds one, who witnesses it, how long it holds."""

from __future__ import annotations

from dataclasses import dataclass

from saltext.openhim.errors import PillarError
from saltext.openhim.settings import Stack

SECONDS = 30.0
RENEW_EVERY = 5.0
MAX_SKEW = 2.0
PORT = 4520

#: The roles of hosts that serve clients.
_SERVING = frozenset({"mongodb", "core"})


@dataclass(frozen=True)
class Lease:
    """What is declared as ``openhim:lease``, all times in seconds.

    seconds: how long a lease holds. renew_every: how often a host asks. max_skew: how far the
    clocks of a host and the witness may be apart, and how much longer than ``seconds`` the witness
    waits until it counts a lease as run out. witness: a minion ID. port: where the witness listens.
    """

    seconds: float
    renew_every: float
    max_skew: float
    witness: str
    port: int


def lease(stack: Stack) -> Lease | None:
    """The declared lease; None where there is none, or it is not enabled.

    Raises :class:`~saltext.openhim.errors.PillarError` when nobody can be its witness.
    """
    entry = stack.declared.get("lease") or {}
    if not entry.get("enabled"):
        return None
    return Lease(
        seconds=float(entry.get("seconds", SECONDS)),
        renew_every=float(entry.get("renew_every_seconds", RENEW_EVERY)),
        max_skew=float(entry.get("max_skew_seconds", MAX_SKEW)),
        witness=entry.get("witness") or _master(stack),
        port=int(entry.get("port", PORT)),
    )


def holds(stack: Stack, minion_id: str) -> bool:
    """Whether a host serves clients when its site is the active one, so that it needs the lease."""
    return lease(stack) is not None and bool(_SERVING & set(stack.host(minion_id).roles))


def witnesses(stack: Stack, minion_id: str) -> bool:
    """Whether a host is the lease's witness."""
    found = lease(stack)
    return found is not None and found.witness == minion_id


def _master(stack: Stack) -> str:
    masters = [host.id for host in stack.hosts_with("master")]
    if len(masters) != 1:
        raise PillarError(
            [
                f"openhim:lease:witness: found nothing, and {', '.join(masters) or 'no host'} with "
                "the role master; name the host that witnesses the lease"
            ]
        )
    return masters[0]
