"""May a recovery that was declared be taken back? Observations in, a reason why not out.

As long as nobody is primary by it, nothing exists that would be lost with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.observations import PRIMARY, SECONDARY, Evidence
from saltext.openhim.settings import Stack

#: What can be taken back: what ends with another member as the primary.
KINDS = ("failover", "switchover", "failback")


@dataclass(frozen=True)
class Traces:
    """What a survivor itself has of a promotion.

    votes: member → its votes in the configuration that the survivor has. noted: whether it noted
    that its promotion began, and epoch: in which one; None where the note does not say.
    """

    votes: Mapping[str, int]
    noted: bool = False
    epoch: int | None = None


def problem(
    earlier: Stack,
    target: Stack,
    history: Sequence[Epoch],
    evidence: Evidence,
    traces: Mapping[str, Traces],
) -> str | None:
    """Why the newest recovery cannot be taken back; None when it can.

    earlier: the stack as it was before it. target: as it has the stack. traces: set → what its
    survivor has of a promotion. Once a member is promoted, there may be writes that exist only
    there; and it need not be primary at the moment when one looks.
    """
    reason = not_under_way(history)
    if reason:
        return reason
    newest = history[-1]
    for name, replica_set in sorted(target.replica_sets.items()):
        survivor = f"{name}/{replica_set.initiator.name}"
        reason = _seen_otherwise(evidence, survivor)
        if reason:
            return reason
        if evidence.members[survivor].epoch == newest.id:
            return f"{survivor} has the configuration of {newest.words} already; finish it instead"
        given_up = {m.name for m in earlier.replica_sets[name].voters}
        given_up -= {m.name for m in replica_set.voters}
        trace = _trace(traces.get(name), given_up, newest.number)
        if trace:
            return f"{survivor} {trace}; finish the {newest.kind} instead"
    return None


def not_under_way(history: Sequence[Epoch]) -> str | None:
    """Why there is nothing that could be taken back; None when there is."""
    newest = history[-1] if history else None
    if newest is None or newest.kind not in KINDS or newest.result is not None:
        return (
            "the newest recovery is none that is still under way and promotes somebody; nothing to "
            "take back"
        )
    return None


def before(declared: Mapping[str, Any], history: Sequence[Epoch]) -> dict[str, Any]:
    """Which site was active, in which profile, before the newest epoch."""
    if len(history) > 1:
        last = history[-2]
        profile = declared.get("profile", "production") if last.rejoined else last.profile
        return {
            "active_site": last.active_site,
            "profile": profile,
            "lost_sites": last.still_lost,
        }
    profile = declared.get("profile", "production")
    return {"active_site": declared["active_site"], "profile": profile, "lost_sites": ()}


def _seen_otherwise(evidence: Evidence, survivor: str) -> str | None:
    """What speaks against it that a survivor is a secondary for everybody who answers."""
    own = evidence.member(survivor).host
    states = {
        look.state or look.saw.value
        for report in evidence.heard.values()
        for look in report.members
        if look.subject == survivor
    }
    if PRIMARY in states:
        return f"{survivor} was promoted: its history has begun; finish it instead"
    if states != {SECONDARY} or own not in evidence.heard:
        found = ", ".join(sorted(states)) or "no answer"
        return (
            f"{survivor} must be seen as SECONDARY by every host that answers, its own among them, "
            f"and was seen as {found}: so nobody knows if it was promoted. Finish it instead, or "
            "see what is wrong with that member"
        )
    return None


def _trace(found: Traces | None, given_up: set[str], epoch: int) -> str | None:
    """What says that a member was promoted, or that its promotion began."""
    if found is None:
        return "did not say what its configuration is"
    # One forced reconfiguration takes the votes of all of them.
    if given_up and not any(found.votes.get(member) for member in given_up):
        return f"was promoted: in its configuration {', '.join(sorted(given_up))} have no vote"
    if found.noted and found.epoch in (None, epoch):
        return f"has noted that its promotion in epoch {epoch} began"
    return None
