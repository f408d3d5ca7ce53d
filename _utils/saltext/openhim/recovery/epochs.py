"""Epochs: which history is the real one.

Every recovery adds one. An epoch names its parent, so that two recoveries which started from the
same state cannot both be declared. Pure: :mod:`saltext.openhim.record` keeps them on disk.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saltext.openhim.errors import OpenHIMError, Refused


@dataclass(frozen=True)
class Epoch:
    """One decision about which history is the real one.

    number: counts from 1. id: unique. parent: the ID of the epoch before, or None for the first.
    kind: ``failover`` and, later, the other verbs. Times are ISO 8601 with a zone. evidence: what
    was seen when it was declared; result: what was measured when it served, None until then.
    completed_at: when every host that is left had confirmed it, None until then.
    """

    number: int
    id: str
    parent: str | None
    kind: str
    stack: str
    active_site: str
    profile: str
    lost_sites: tuple[str, ...]
    declared_by: str
    reason: str
    declared_at: str
    disrupted_at: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    completed_at: str | None = None

    def overlay(self) -> dict[str, Any]:
        """What this epoch lays over the declaration, as ``openhim:recovery`` in the pillar."""
        return {
            "epoch": self.number,
            "kind": self.kind,
            "active_site": self.active_site,
            "profile": self.profile,
            "lost_sites": list(self.lost_sites),
        }


def declared(
    history: Sequence[Epoch],
    *,
    parent: str | None,
    stack: str,
    kind: str,
    active_site: str,
    profile: str,
    lost_sites: Sequence[str],
    declared_by: str,
    reason: str,
    declared_at: str,
    disrupted_at: str | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Epoch:
    """The next epoch, if ``parent`` still is the newest one (compare and set).

    Raises :class:`~saltext.openhim.errors.Refused` when another epoch was declared meanwhile.
    """
    newest = history[-1] if history else None
    if (newest.id if newest else None) != parent:
        found = (
            f"epoch {newest.number}, {newest.kind} to {newest.active_site} by {newest.declared_by}"
            if newest
            else "no epoch at all"
        )
        raise Refused(
            f"the recovery record of {stack!r} has changed meanwhile: it now ends with {found}. "
            "Look at it before you declare another recovery."
        )
    return Epoch(
        number=(newest.number if newest else 0) + 1,
        id=str(uuid.uuid4()),
        parent=parent,
        kind=kind,
        stack=stack,
        active_site=active_site,
        profile=profile,
        lost_sites=tuple(lost_sites),
        declared_by=declared_by,
        reason=reason,
        declared_at=declared_at,
        disrupted_at=disrupted_at,
        evidence=dict(evidence or {}),
    )


def concluded(history: Sequence[Epoch], epoch_id: str, result: Mapping[str, Any]) -> list[Epoch]:
    """The history with what was measured written into one epoch, which must not have it yet.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when there is no such epoch.
    """
    if not any(epoch.id == epoch_id for epoch in history):
        raise OpenHIMError(f"the recovery record has no epoch {epoch_id}")
    return [
        replace(epoch, result=dict(result))
        if epoch.id == epoch_id and epoch.result is None
        else epoch
        for epoch in history
    ]


def completed(history: Sequence[Epoch], epoch_id: str, at: str) -> list[Epoch]:
    """The history with one epoch marked as done to its last step."""
    return [
        replace(epoch, completed_at=epoch.completed_at or at) if epoch.id == epoch_id else epoch
        for epoch in history
    ]
