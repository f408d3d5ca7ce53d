"""What is known when a report is made: declared, recorded, and seen live on the hosts.

Whatever could not be asked is there with the reason why (:class:`Unknown`), so that nobody takes it
for absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from saltext.openhim.plan.chain import Anchor, Judgement, Record


@dataclass(frozen=True)
class Unknown:
    """It is not known, and this is why."""

    why: str


#: What a host said to a question, or why it is not known.
Said = Any | Unknown


@dataclass(frozen=True)
class Facts:
    """All that a report is made from.

    openhim: the declaration, with the recovery record laid over it and without secrets. epochs: the
    recovery record, as mappings, the oldest first. chain: the evidence as it was judged; anchors:
    those against which. anchors_asked: by host, None or why its repositories are not known.
    backups: what ``openhim_dr.status`` says. members: by replica set, what a member says of all;
    cores: by host, whether OpenHIM runs there. at_rest, runbooks: by host.
    """

    openhim: Mapping[str, Any]
    now: datetime
    epochs: Sequence[Mapping[str, Any]] = ()
    chain: Judgement = field(default_factory=Judgement)
    anchors: Sequence[Anchor] = ()
    anchors_asked: Mapping[str, str | None] = field(default_factory=dict)
    backups: Said = field(default_factory=lambda: Unknown("nobody asked"))
    members: Mapping[str, Said] = field(default_factory=dict)
    cores: Mapping[str, Said] = field(default_factory=dict)
    at_rest: Mapping[str, Said] = field(default_factory=dict)
    runbooks: Mapping[str, Said] = field(default_factory=dict)

    @property
    def stack(self) -> str:
        """The stack's name."""
        return str(self.openhim["stack"])

    @property
    def plan(self) -> Mapping[str, Any]:
        """``openhim:plan``; empty where none is declared."""
        return self.openhim.get("plan") or {}

    @property
    def records(self) -> Sequence[Record]:
        """The evidence, the oldest first."""
        return self.chain.records

    def of(self, *kinds: str) -> list[Record]:
        """The evidence of some kinds, the oldest first."""
        return [one for one in self.records if one.kind in kinds]
