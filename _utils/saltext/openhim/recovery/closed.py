"""What proves that a site cannot take writes: its fences, its power, its lease, or a person's word.

Proven means: it admits no client now, and nothing but a later recovery can change that.
"""

from __future__ import annotations

from dataclasses import dataclass

from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.leases import expiry
from saltext.openhim.recovery.observations import Evidence


@dataclass(frozen=True)
class Closure:
    """How far a site is proven closed.

    proof: what proves it, None while nothing does. wait: seconds after which its lease will have;
    None where waiting is of no use. reasons: what is missing, and how to go on.
    """

    site: str
    proof: str | None
    wait: float | None = None
    reasons: tuple[str, ...] = ()


def closure(evidence: Evidence, site: str, epoch: Epoch) -> Closure:
    """Whether a site is proven closed to an epoch that is on record already.

    Only then is it final: who is told of the epoch neither renews a lease nor vouches for an older
    one any more.
    """
    proof = _by_its_hosts(evidence, site, epoch.id) or _by_word(evidence, site, epoch)
    if proof:
        return Closure(site, proof)
    left, problems = expiry(evidence, site, epoch.id)
    if problems:
        return Closure(site, None, None, _missing(evidence, site, epoch.id, problems))
    if left > 0:
        return Closure(site, None, left)
    return Closure(site, "its lease has run out, and its witnesses renew it no more")


def prospect(evidence: Evidence, site: str) -> Closure:
    """Whether a site could be proven closed, were an epoch minted now upon the newest.

    A host that is heard can be told and fenced then.
    """
    newest = evidence.known.current
    upon = newest.id if newest else None
    unheard = [host for host in evidence.layout.at(site) if host not in evidence.heard]
    if not unheard:
        return Closure(site, "its hosts answer, and can be fenced")
    word = evidence.attested(site, (upon,))
    if word:
        return Closure(site, f"{word.by} attests that it is off")
    if all(_can_be_switched_off(evidence, host) for host in unheard):
        return Closure(site, "its provider can switch off those of its hosts that are silent")
    left, problems = expiry(evidence, site, None)
    if problems:
        return Closure(site, None, None, _missing(evidence, site, upon, problems))
    return Closure(site, None, max(left, 0.0))


def _by_its_hosts(evidence: Evidence, site: str, epoch_id: str) -> str | None:
    """Each of them, not some: one host left open is enough to take writes."""
    hosts = evidence.layout.at(site)
    if not all(_host_is_closed(evidence, host, epoch_id) for host in hosts):
        return None
    return (
        "each of its hosts is fenced, or knows the epoch and admits nobody, or is switched off"
        if hosts
        else ("no host is declared there that could take part in a write")
    )


def _host_is_closed(evidence: Evidence, host: str, epoch_id: str) -> bool:
    report = evidence.heard.get(host)
    if report is None:
        power = evidence.power(host)
        return power is not None and power.off and power.epoch == epoch_id
    told = evidence.knows(host, epoch_id) and report.admits is False
    return report.fenced is True or told


def _can_be_switched_off(evidence: Evidence, host: str) -> bool:
    """It can be found out only by doing it; but a provider that does not even answer cannot."""
    power = evidence.power(host)
    return evidence.switchable and power is not None and power.answers


def _by_word(evidence: Evidence, site: str, epoch: Epoch) -> str | None:
    word = evidence.attested(site, (epoch.id, epoch.parent))
    return f"{word.by} attests that it is off, and kept off" if word else None


def _missing(
    evidence: Evidence, site: str, epoch_id: str | None, problems: tuple[str, ...]
) -> tuple[str, ...]:
    open_hosts = [
        host
        for host in evidence.layout.at(site)
        if epoch_id is None or not _host_is_closed(evidence, host, epoch_id)
    ]
    return (
        f"{site} is not proven closed: found no fence and no closed host of the newest epoch on "
        f"{', '.join(open_hosts)} (no answer is no proof), and no lease to rely on "
        f"({'; '.join(problems)}){_by_the_provider(evidence, open_hosts)}. Fence each of these "
        "hosts, or switch the site off, see that it stays off, and attest that",
    )


def _by_the_provider(evidence: Evidence, hosts: list[str]) -> str:
    said = [(host, power.said) for host in hosts if (power := evidence.power(host))]
    told = "; ".join(f"of {host}: {words}" for host, words in said)
    return f", and its provider does not say that they are off ({told})" if told else ""
