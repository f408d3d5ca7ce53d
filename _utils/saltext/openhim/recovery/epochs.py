"""Epochs: which history is the real one.

Every recovery adds one. An epoch names its parent, so that two recoveries which started from the
same state cannot both be declared in one place. In two places that cannot hear each other they can;
then two different records have the same number, and both are refused until a person decides.
Pure: :mod:`saltext.openhim.record` keeps them on disk.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.recovery.answers import Refusal

#: The kind of the epoch by which a person ends a conflict.
DECISION = "decision"

#: What of an epoch is a list.
_LISTS = (
    *("lost_sites", "witnesses", "rejects", "attestations", "power_offs", "rejoins", "timeline"),
)

#: What of an epoch is written later than the epoch itself: two copies may differ in it.
PROGRESS = ("result", "completed_at", "attestations", "power_offs", "rejoins", "timeline")


@dataclass(frozen=True)
class Epoch:
    """One decision about which history is the real one.

    number: counts from 1. id: unique. parent: the ID of the epoch before, or None for the first.
    kind: ``failover``, ``withdrawal``, ``decision`` and the other verbs. Times are ISO 8601 with a
    zone. evidence: what was seen when it was declared; result: what was measured when it served,
    None until then. completed_at: when every host that is left had confirmed it, None until then.
    fork_point: the cluster time up to which the parent's history is also this one's, None where it
    is not known. config_digest: of the declaration that it was made for. witnesses: the hosts of
    which any one renews the active site's lease; none where it has no lease. rejects: IDs of the
    epochs that this one declares to be no history of ours. attestations: what people said in it of
    sites that are off: ``site``, ``words``, ``by``, ``at``. power_offs: of hosts that their
    provider has switched off, and reads back as off: the same, and ``host``. rejoins: of lost sites
    that have been brought back since: ``site``, ``by``, ``reason``, ``at``. timeline: when each
    step of it was done for the first time: ``step``, ``at``, and ``waited_seconds`` where it had to
    wait.
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
    fork_point: str | None = None
    config_digest: str | None = None
    witnesses: tuple[str, ...] = ()
    rejects: tuple[str, ...] = ()
    attestations: tuple[Mapping[str, str], ...] = ()
    rejoins: tuple[Mapping[str, str], ...] = ()
    timeline: tuple[Mapping[str, Any], ...] = ()
    power_offs: tuple[Mapping[str, str], ...] = ()

    def __hash__(self) -> int:
        return hash((self.number, self.id))

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Epoch:
        """An epoch from the mapping that it was stored as.

        Raises TypeError, ValueError or KeyError for what is none.
        """
        values = {key: tuple(entry[key]) for key in _LISTS if key in entry}
        return cls(**{**entry, **values, "lost_sites": tuple(entry["lost_sites"])})

    @property
    def words(self) -> str:
        """Which one it is, for a person."""
        return f"epoch {self.number} ({self.kind} to {self.active_site} by {self.declared_by})"

    @property
    def waited(self) -> float:
        """For how many seconds this recovery waited for what only time brings, such as a lease."""
        return round(sum(one.get("waited_seconds", 0.0) for one in self.timeline), 3)

    @property
    def rejoined(self) -> tuple[str, ...]:
        """Those of the lost sites that have been brought back since."""
        return tuple(one["site"] for one in self.rejoins)

    @property
    def still_lost(self) -> tuple[str, ...]:
        """The lost sites that nobody has brought back."""
        return tuple(site for site in self.lost_sites if site not in self.rejoined)

    def overlay(self) -> dict[str, Any]:
        """What this epoch lays over the declaration, as ``openhim:recovery`` in the pillar.

        Once a site is back the declared profile holds again, for what is there.
        """
        profile = {} if self.rejoined else {"profile": self.profile}
        return {
            "epoch": self.number,
            "id": self.id,
            "kind": self.kind,
            "active_site": self.active_site,
            **profile,
            "lost_sites": list(self.still_lost),
        }


@dataclass(frozen=True)
class Known:
    """What all records together say.

    current: the highest epoch, None when there never was one, or when there is a conflict.
    conflict: the newest epochs of the histories of which a person must choose one; empty when there
    is only one history.
    """

    current: Epoch | None
    conflict: tuple[Epoch, ...] = ()

    @property
    def problem(self) -> str | None:
        """The conflict in words, with the way out of it; None when there is none."""
        if not self.conflict:
            return None
        found = "; ".join(f"{epoch.words}, ID {epoch.id}" for epoch in self.conflict)
        return (
            f"the recovery records contradict each other: found {found}. One history was expected. "
            "Find out which of them was carried out, then decide for it by its ID; the others are "
            "rejected by that"
        )


def known(records: Iterable[Epoch]) -> Known:
    """What the records of all places say together: the highest wins, and a contradiction is told.

    The epochs are one chain, from the highest to its oldest ancestor. A record beside the chain
    that has the number of one in it is a conflict, unless an epoch of the chain rejects it, or an
    ancestor of it. One whose number the chain does not reach (a place keeps only its newest) is
    older.
    """
    return _known(tuple(records))


@lru_cache(maxsize=1024)
def _known(records: tuple[Epoch, ...]) -> Known:
    """Every host's records are judged in every decision, and they hardly differ."""
    by_id: dict[str, Epoch] = {}
    for epoch in records:
        other = by_id.setdefault(epoch.id, epoch)
        if other != epoch and not _same_decision(other, epoch):
            return Known(None, (other, epoch))
        by_id[epoch.id] = _further(other, epoch)
    if not by_id:
        return Known(None)
    highest = max(epoch.number for epoch in by_id.values())
    tops = [epoch for epoch in by_id.values() if epoch.number == highest]
    # What only another history rejects is a rival: that history may be the one not chosen.
    rivals = [one for top in tops for one in _beside(_line(top, by_id), by_id)]
    rivals = [*tops, *rivals] if len(tops) > 1 else rivals
    if not rivals:
        return Known(tops[0])
    parents = {one.parent for epoch in rivals for one in _line(epoch, by_id)}
    ends = {epoch.id: epoch for epoch in (*tops, *rivals) if epoch.id not in parents}
    return Known(None, tuple(sorted(ends.values(), key=lambda e: (e.number, e.id))))


def merged(records: Iterable[Epoch]) -> list[Epoch]:
    """All records once each, the oldest first: of one epoch's copies the one that knows more.

    Copies that contradict each other are all kept.
    """
    found: list[Epoch] = []
    for epoch in records:
        same = [one for one in found if one.id == epoch.id and _same_decision(one, epoch)]
        for other in same:
            found.remove(other)
            epoch = _further(other, epoch)
        found.append(epoch)
    return sorted(found, key=lambda epoch: epoch.number)


def _beside(chain: Sequence[Epoch], by_id: Mapping[str, Epoch]) -> list[Epoch]:
    """What has a number of the chain, is not in it, and was not rejected, nor an ancestor of it."""
    numbers, ids = {epoch.number for epoch in chain}, {epoch.id for epoch in chain}
    rejected = {one for epoch in chain for one in epoch.rejects}
    return [
        epoch
        for epoch in by_id.values()
        if epoch.number in numbers
        and epoch.id not in ids
        and not rejected & {one.id for one in _line(epoch, by_id)}
    ]


def _same_decision(one: Epoch, other: Epoch) -> bool:
    progress: dict[str, Any] = dict.fromkeys(PROGRESS)
    return replace(one, **progress) == replace(other, **progress)


def _further(one: Epoch, other: Epoch) -> Epoch:
    """The copy of one epoch that knows more of what became of it."""
    return max(
        one,
        other,
        key=lambda e: (
            e.completed_at is not None,
            e.result is not None,
            len(e.rejoined),
            len(e.attestations) + len(e.power_offs),
            len(e.timeline),
        ),
    )


def ancestry(records: Iterable[Epoch], epoch: Epoch | None) -> list[Epoch]:
    """An epoch and its ancestors, the newest first, as far as the records have them."""
    return _line(epoch, {one.id: one for one in records}) if epoch else []


def _line(epoch: Epoch, by_id: Mapping[str, Epoch]) -> list[Epoch]:
    """An epoch and its ancestors, as far as they are known; a damaged record cannot make a loop."""
    found: list[Epoch] = []
    one: Epoch | None = epoch
    while one is not None and one not in found:
        found.append(one)
        one = by_id.get(one.parent) if one.parent else None
    return found


@dataclass(frozen=True)
class Minting:
    """A request for the next epoch. parent: the ID of the newest that its declarer knew of."""

    parent: str | None
    stack: str
    kind: str
    active_site: str
    profile: str
    lost_sites: tuple[str, ...]
    declared_by: str
    reason: str
    declared_at: str
    disrupted_at: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fork_point: str | None = None
    config_digest: str | None = None
    witnesses: tuple[str, ...] = ()
    attestations: tuple[Mapping[str, str], ...] = field(default=(), hash=False)


def minted(records: Sequence[Epoch], request: Minting, epoch_id: str) -> Epoch | Refusal:
    """The next epoch, if the request's parent still is the newest one (compare and set).

    records: all that are known, of every place that was heard.
    """
    found = known(records)
    if found.problem:
        return Refusal((found.problem,))
    newest = found.current
    if (newest.id if newest else None) != request.parent:
        ends = (
            f"epoch {newest.number}, {newest.kind} to {newest.active_site} by {newest.declared_by}"
            if newest
            else "no epoch at all"
        )
        return Refusal(
            (
                f"the recovery record of {request.stack!r} has changed meanwhile: it now ends with "
                f"{ends}. Look at it before you declare another recovery.",
            )
        )
    return Epoch(number=_next_number(records), id=epoch_id, **request.__dict__)


def decided(
    records: Sequence[Epoch],
    chosen: str,
    *,
    declared_by: str,
    reason: str,
    declared_at: str,
    epoch_id: str,
) -> Epoch | Refusal:
    """The epoch by which a person ends a conflict: it continues one history, and rejects the rest.

    chosen: the ID of the epoch that is to be the real one. What the chosen one had begun goes on in
    the name of the new epoch.
    """
    conflict = known(records).conflict
    if not conflict:
        return Refusal(("the recovery records agree; there is nothing to decide",))
    real = next((epoch for epoch in conflict if epoch.id == chosen), None)
    if real is None:
        ids = ", ".join(epoch.id for epoch in conflict)
        return Refusal((f"found {chosen!r}; choose one of the epochs in conflict: {ids}",))
    if len({epoch.id for epoch in conflict}) == 1:
        return Refusal(
            (
                f"two records of the epoch {chosen} say different things, so one is damaged; "
                "restore it from the copy of another place, instead of deciding",
            )
        )
    if not declared_by.strip() or not reason.strip():
        return Refusal(("declared_by, reason: a decision needs both; say who decides, and why",))
    return replace(
        real,
        number=_next_number(records),
        id=epoch_id,
        parent=real.id,
        kind=DECISION,
        declared_by=declared_by,
        reason=reason,
        declared_at=declared_at,
        result=None,
        completed_at=None,
        timeline=(),
        rejects=_rejected(records, real, conflict),
    )


def _rejected(
    records: Iterable[Epoch], chosen: Epoch, conflict: Iterable[Epoch]
) -> tuple[str, ...]:
    """All that belongs to the other histories alone, and what those had rejected themselves."""
    by_id = {epoch.id: epoch for epoch in records}
    kept = {epoch.id for epoch in _line(chosen, by_id)}
    lines = [one for epoch in conflict for one in _line(epoch, by_id)]
    found = {one.id for one in lines} | {rejected for one in lines for rejected in one.rejects}
    return tuple(sorted(found - kept))


def parsed(entries: Iterable[Mapping[str, Any]]) -> list[Epoch]:
    """Epochs from the mappings that they travel as.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` for what is none.
    """
    try:
        return [Epoch.read(entry) for entry in entries]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise OpenHIMError(f"the recovery record holds what is no epoch: {error!r}") from error


def plain(records: Iterable[Epoch]) -> list[dict[str, Any]]:
    """Epochs as the mappings that they travel and are kept as: nothing but what JSON has."""
    found: list[dict[str, Any]] = json.loads(json.dumps([asdict(epoch) for epoch in records]))
    return found


def disobedience(records: Iterable[Epoch], epoch_id: str) -> str | None:
    """Why a host must not obey a command that is given in an epoch's name; None when it may.

    A command may be late, or sent twice, or by a master that has not heard the news.
    """
    found = known(records)
    if found.problem:
        return found.problem
    if found.current is None or found.current.id != epoch_id:
        newest = found.current.words if found.current else "no epoch"
        return (
            f"the command is of the epoch {epoch_id}, and this host knows {newest} as the newest; "
            "tell it of the epoch first, or drop the command"
        )
    return None


def _next_number(records: Iterable[Epoch]) -> int:
    return max((epoch.number for epoch in records), default=0) + 1


def declared(
    history: Sequence[Epoch],
    *,
    parent: str | None,
    lost_sites: Sequence[str],
    evidence: Mapping[str, Any] | None = None,
    **values: Any,
) -> Epoch:
    """The next epoch, if ``parent`` still is the newest one; ``values`` as in :class:`Minting`.

    Raises :class:`~saltext.openhim.errors.Refused` when another epoch was declared meanwhile, or
    when the records contradict each other.
    """
    request = Minting(
        parent=parent, lost_sites=tuple(lost_sites), evidence=dict(evidence or {}), **values
    )
    epoch = minted(history, request, str(uuid.uuid4()))
    if isinstance(epoch, Refusal):
        raise Refused(str(epoch))
    return epoch


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


def attested(
    history: Sequence[Epoch], epoch_id: str, words: Sequence[Mapping[str, str]]
) -> list[Epoch]:
    """The history with what people attest, added to one epoch; the same word only once."""
    return [
        replace(epoch, attestations=(*epoch.attestations, *_new(epoch, words)))
        if epoch.id == epoch_id
        else epoch
        for epoch in history
    ]


def powered_off(
    history: Sequence[Epoch], epoch_id: str, hosts: Sequence[Mapping[str, str]]
) -> list[Epoch]:
    """The history with the hosts that are switched off, added to one epoch; each host once, as it
    was read back last."""
    again = {one["host"] for one in hosts}
    return [
        replace(
            epoch,
            power_offs=(
                *(one for one in epoch.power_offs if one["host"] not in again),
                *map(dict, hosts),
            ),
        )
        if epoch.id == epoch_id
        else epoch
        for epoch in history
    ]


def _new(epoch: Epoch, words: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    said = {(one["site"], one["words"], one["by"]) for one in epoch.attestations}
    return [dict(one) for one in words if (one["site"], one["words"], one["by"]) not in said]


def rejoined(history: Sequence[Epoch], epoch_id: str, rejoin: Mapping[str, str]) -> list[Epoch]:
    """The history with a lost site noted as brought back in one epoch, which notes it once."""
    return [
        replace(epoch, rejoins=(*epoch.rejoins, dict(rejoin)))
        if epoch.id == epoch_id and rejoin["site"] in epoch.still_lost
        else epoch
        for epoch in history
    ]


def completed(history: Sequence[Epoch], epoch_id: str, at: str) -> list[Epoch]:
    """The history with one epoch marked as done to its last step."""
    return [
        replace(epoch, completed_at=epoch.completed_at or at) if epoch.id == epoch_id else epoch
        for epoch in history
    ]


def reached(
    history: Sequence[Epoch], epoch_id: str, step: str, at: str, waited: float | None = None
) -> list[Epoch]:
    """The history with a step noted as done in one epoch; what a second run repeats is not.

    waited: how many seconds of it were spent on what only time brings.
    """
    noted = {"step": step, "at": at} | ({"waited_seconds": waited} if waited is not None else {})
    return [
        replace(epoch, timeline=(*epoch.timeline, noted))
        if epoch.id == epoch_id and step not in (one["step"] for one in epoch.timeline)
        else epoch
        for epoch in history
    ]
