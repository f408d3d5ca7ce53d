"""How the oplog archive is: what it reaches, how far it is behind, and who says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bson import Timestamp
from saltext.openhim.backup import work
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.oplog import archiving, chain, declared
from saltext.openhim.backup.oplog.slices import Header, words
from saltext.openhim.errors import OpenHIMError


@dataclass(frozen=True)
class Reach:
    """What is archived of one set.

    behind_seconds: since the last entry was archived. reachable: the stretches without a hole.
    gaps: what is missing between them. since: the beginning of the last stretch.
    """

    behind_seconds: float | None = None
    reachable: Sequence[str] = ()
    gaps: Sequence[str] = ()
    since: Timestamp | None = None

    def figures(self) -> dict[str, Any]:
        """As it is told."""
        found = asdict(self)
        del found["since"]
        return found


def reach(headers: Sequence[Header], replica_set: str, now: datetime) -> Reach:
    """What the headers say of a set. Pure."""
    lines = chain.timelines(headers, replica_set)
    ranges = chain.reachable(headers, replica_set, lines[-1]) if lines else []
    if not ranges:
        return Reach()
    return Reach(
        chain.rpo_seconds(headers, replica_set, now),
        [each.words for each in ranges],
        [each.words for each in chain.gaps(headers, replica_set, lines[-1])],
        ranges[-1].start.ts,
    )


def copy_reasons(behind: float | None, allowed: float) -> list[str]:
    """What is wrong with the copy of one set's archive, which is so many seconds behind. Pure."""
    if behind is None:
        return ["nothing is copied"]
    if behind > allowed:
        return [f"what was copied last is {behind:.0f} s old, allowed are {allowed:.0f}"]
    return []


def reasons(found: Reach, max_behind: float, base: Timestamp | None) -> list[str]:
    """What is wrong with the archive of one set; base: its newest restore point's time. Pure."""
    if found.since is None or found.behind_seconds is None:
        return ["nothing is archived"]
    told = []
    if found.behind_seconds > max_behind:
        told.append(
            f"what was archived last is {found.behind_seconds:.0f} s old, allowed are "
            f"{max_behind:.0f}"
        )
    if base is None or base < found.since:
        gap = f" ({found.gaps[-1]})" if found.gaps else ""
        told.append(
            f"no restore point was taken since {words(found.since)}, where the archive begins"
            f"{gap}: nothing after it can be restored yet"
        )
    return told


@dataclass(frozen=True)
class Seen:
    """Each set's figures, and what is wrong: nothing when all is well.

    silent: the archiver of this host, or the repository, says nothing.
    """

    sets: Mapping[str, Any]
    reasons: Sequence[str] = ()
    silent: bool = False


def look(backups: Backups, now: datetime) -> Seen:
    """How the archive is, as this host sees it; never raises for what it finds."""
    told: list[str] = []
    figures: dict[str, Any] = {}
    silent = False
    if declared.archived_here(backups):
        why = archiving.why_not_running(backups)
        silent = why is not None
        told += [why] if why else archiving.errors()
    places = declared.visible(backups)
    if not places:
        return Seen(figures, told, silent)
    try:
        headers = declared.store(backups, place=places[0]).headers()
        bases = _bases(backups)
        for name in sorted(backups.databases()):
            found = reach(headers, name, now)
            figures[name] = found.figures()
            why_not = reasons(found, declared.max_behind(backups), bases.get(name))
            told += [f"{name}: {reason}" for reason in why_not]
        if declared.COPY in places:
            told += _look_at_copy(backups, figures, now)
    except OpenHIMError as error:
        told.append(f"it could not be looked at: {error}")
        silent = True
    return Seen(figures, told, silent)


def _look_at_copy(backups: Backups, figures: dict[str, Any], now: datetime) -> list[str]:
    """Adds how far the copy is behind to each set's figures; returns what is wrong with it."""
    copied = declared.store(backups, place=declared.COPY).headers()
    told = []
    for name, known in figures.items():
        behind = known["copy_behind_seconds"] = chain.rpo_seconds(copied, name, now)
        if known["behind_seconds"] is not None:  # else there is nothing to be copied
            why = copy_reasons(behind, declared.max_copy_behind(backups))
            told += [f"{name}: {reason}" for reason in why]
    return told


def _bases(backups: Backups) -> Mapping[str, Timestamp]:
    try:
        point, _ = work.find(backups)
    except OpenHIMError:
        return {}  # said of the repositories themselves
    return {name: Timestamp(*at) for name, at in point.manifest.times().items()}
