"""What a decision can be: a step, a wait, done, or a refusal that says why.

Nothing here acts. Whoever runs a recovery asks, does the one step, and asks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Refusal:
    """It may not be done; each reason says what was found, what is expected and what to do."""

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.reasons)


@dataclass(frozen=True)
class Step:
    """The one thing to do next.

    name: a verb, see :mod:`saltext.openhim.recovery.steps`. hosts: the minions that do it; empty
    where the master itself does. epoch: the ID of the epoch on whose behalf, which a host compares
    with its own record before it obeys; None before there is one. details: what else the step needs
    (``set`` for a promotion, ``parent`` for a minting).
    """

    name: str
    hosts: tuple[str, ...] = ()
    epoch: str | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Wait:
    """Nothing to do but to let time pass, and to ask again. seconds: how long at most."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Done:
    """Everything that was asked for is seen to be so."""

    what: str


#: What the state machine answers.
Answer = Step | Wait | Done | Refusal
