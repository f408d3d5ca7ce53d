"""Ways to break the model, one each: the explorer must find every one of them.

Each is a mistake that somebody might make, put in place of one function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from saltext.openhim.recovery import closed, epochs, gates, leases, steps, verdicts
from saltext.openhim.recovery.closed import Closure
from saltext.openhim.recovery.epochs import Epoch, Known
from saltext.openhim.recovery.observations import Evidence

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """A mistake. world: in which it shows. found: what the explorer must say of it."""

    name: str
    apply: Callable[[Patch], None]
    world: str
    found: str


def _without(verb: str, stage: str) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        kept = tuple(one for one in steps.STAGES[verb] if one.__name__ != stage)
        assert len(kept) == len(steps.STAGES[verb]) - 1
        patch.setitem(steps.STAGES, verb, kept)

    return apply


def _unknown_is_dead(patch: Patch) -> None:
    """A site of which no host answers counts as gone, before the minting and after it."""
    by_word = closed._by_word

    def believed(evidence: Evidence, site: str, epoch: Epoch) -> str | None:
        silent = not any(host in evidence.heard for host in evidence.layout.at(site))
        return "nobody answers there" if silent else by_word(evidence, site, epoch)

    patch.setattr(closed, "_by_word", believed)
    patch.setattr(verdicts, "prospect", lambda _, site: Closure(site, "believed"))


def _some_host_is_enough(patch: Patch) -> None:
    def some(evidence: Evidence, site: str, epoch_id: str) -> str | None:
        hosts = evidence.layout.at(site)
        found = any(closed._host_is_closed(evidence, host, epoch_id) for host in hosts)
        return "one of its hosts is" if found else None

    patch.setattr(closed, "_by_its_hosts", some)


def _only_the_lost_site(patch: Patch) -> None:
    """Other sites are not asked, though one of them may vouch for the older epoch."""
    patch.setattr(
        steps.Run, "others", property(lambda run: run.epoch.lost_sites if run.epoch else ())
    )


def _no_skew(patch: Patch) -> None:
    patch.setattr(leases, "_left", lambda evidence, left: left)


def _clocks_agree_always(patch: Patch) -> None:
    patch.setattr(leases, "_clock_problems", lambda evidence, witness: [])


def _renewed_in_spite_of_clocks(patch: Patch) -> None:
    strict = leases.renewal_refusals
    patch.setattr(
        leases, "renewal_refusals",
        lambda layout, site, holder, witness, _: strict(layout, site, holder, witness, 0.0),
    )  # fmt: skip


def _lower_epoch_opens(patch: Patch) -> None:
    """The gate takes its own record for the newest, whatever the others know."""
    strict = gates.gate

    def own_only(
        site: str,
        own: tuple[Epoch, ...],
        vouchers: list[gates.Voucher],
        attestation: gates.HostAttestation | None = None,
        rejoined: str | None = None,
    ) -> gates.Gate:
        same = [replace(one, epochs=own, vouches=True) for one in vouchers]
        return strict(site, own, same, attestation, rejoined)

    patch.setattr(gates, "gate", own_only)


def _given_up_sites_open(patch: Patch) -> None:
    patch.setattr(gates, "_given_up", lambda *_: False)


def _no_compare_and_set(patch: Patch) -> None:
    """The next number is that of the parent which the declarer knew, one higher."""

    def minted(records: Iterable[Epoch], request: epochs.Minting, epoch_id: str) -> Epoch:
        parent = next((one for one in records if one.id == request.parent), None)
        number = (parent.number if parent else 0) + 1
        return Epoch(number=number, id=epoch_id, **request.__dict__)

    patch.setattr(epochs, "minted", minted)


def _conflict_is_let_through(patch: Patch) -> None:
    """Of two records with one number, the one with the greater ID is taken."""

    def lax(records: tuple[Epoch, ...]) -> Known:
        return Known(max(records, key=lambda e: (e.number, e.id), default=None))

    patch.setattr(epochs, "_known", lax)


def _late_commands_are_obeyed(patch: Patch) -> None:
    patch.setattr(epochs, "disobedience", lambda records, epoch_id: None)


def _rejoin_at_any_time(patch: Patch) -> None:
    patch.setattr(verdicts, "_finished", lambda evidence: iter(()))


def _late_fence_is_forgotten(patch: Patch) -> None:
    """A fence that an earlier recovery has sent is nobody's to lift."""
    admitted = steps._admitted

    def without(run: steps.Run) -> Any:
        answer = admitted(run)
        lifts = isinstance(answer, steps.Step) and answer.name == steps.UNFENCE
        return None if lifts else answer

    for verb, stages in steps.STAGES.items():
        kept = tuple(without if one is admitted else one for one in stages)
        patch.setitem(steps.STAGES, verb, kept)


TWO = "two writable epochs at once"
STUCK = "no way forward"

MUTATIONS = (
    Mutation(
        "no proof that other sites are closed", _without("failover", "_proven"), "cut off", TWO
    ),
    Mutation(
        "what is given up beside an election is not fenced",
        _without("core", "_fenced"),
        "elected",
        STUCK,
    ),
    Mutation("unknown counts as dead", _unknown_is_dead, "cut off without a lease", TWO),
    Mutation("one fenced host closes a site", _some_host_is_enough, "half deaf", TWO),
    Mutation("only the lost site is closed", _only_the_lost_site, "a third site", TWO),
    Mutation("the lease's skew is forgotten", _no_skew, "clocks", TWO),
    Mutation("a wrong clock is trusted", _clocks_agree_always, "wrong clocks", TWO),
    Mutation("a slow witness renews", _renewed_in_spite_of_clocks, "slow clock", TWO),
    Mutation("the gate opens on a lower epoch", _lower_epoch_opens, "power", TWO),
    Mutation("a given-up site opens by itself", _given_up_sites_open, "power", TWO),
    Mutation(
        "minting without compare-and-set", _no_compare_and_set, "two masters", "declared twice"
    ),
    Mutation("a conflict is let through", _conflict_is_let_through, "two masters", "contradict"),
    Mutation("late commands are obeyed", _late_commands_are_obeyed, "late promotion", TWO),
    Mutation("a rejoin before the end", _rejoin_at_any_time, "host by host", TWO),
    Mutation("nobody lifts a late fence", _late_fence_is_forgotten, "late fence", STUCK),
)
