"""Keeps the archive small: hours become one slice, days become one, and what no restore needs goes.

Only what a newer restore point covers is joined, and only what is older than the oldest one goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bson import Timestamp
from saltext.openhim.backup import points
from saltext.openhim.backup.declaration import PRUNE, Backups
from saltext.openhim.backup.oplog import chain, declared
from saltext.openhim.backup.oplog.slices import Header, check_stack
from saltext.openhim.backup.oplog.store import ResticSlices, compact
from saltext.openhim.errors import Refused

HOUR, DAY = 3600, 86400


@dataclass(frozen=True)
class Tidied:
    """What is, or would be, joined and removed: slices, by number."""

    slices: int
    joined: int
    removed: int
    done: bool


def tidy(backups: Backups, confirm: bool = False) -> Tidied:
    """Joins and removes slices, and frees their space; only tells how many, unless confirmed.

    In every place that is this host's to prune. Raises when a repository of restore points cannot
    be read: then it is unknown what they need.
    """
    places = declared.pruned_here(backups)
    if not places:
        raise Refused(
            f"removing oplog slices is not the task of {backups.host} "
            "(openhim:backup:oplog:repository:pruned_by)"
        )
    bases = _bases(backups)
    found = [_tidied(declared.store(backups, PRUNE, place), bases, confirm) for place in places]
    return Tidied(
        sum(one.slices for one in found),
        sum(one.joined for one in found),
        sum(one.removed for one in found),
        confirm,
    )


def _tidied(store: ResticSlices, bases: Mapping[str, list[Timestamp]], confirm: bool) -> Tidied:
    if confirm:
        return store.repository.past_dead_locks(lambda: _freed(store, bases, confirm))
    return _freed(store, bases, confirm)


def _freed(store: ResticSlices, bases: Mapping[str, list[Timestamp]], confirm: bool) -> Tidied:
    headers = store.headers()
    check_stack(headers, store.stack)
    gone: list[Header] = []
    groups: list[list[Header]] = []
    for name, times in bases.items():
        gone += chain.unneeded(headers, name, times)
        left = [each for each in headers if each not in gone]
        groups += _groups(left, name, max(times))
    if confirm:
        for group in groups:
            compact(store, group)
        store.remove(each.name for each in gone)
        if gone or groups:
            store.repository.prune()
    return Tidied(len(headers), sum(map(len, groups)), len(gone), confirm)


def _groups(headers: Sequence[Header], name: str, newest: Timestamp) -> Iterator[list[Header]]:
    """Days that are over by two days become one slice, and younger hours that are over."""
    days = Timestamp(max(newest.time - 2 * DAY, 0), 0)
    old = chain.compactable(headers, name, until=days, seconds=DAY)
    yield from old
    grouped = {each.name for group in old for each in group}
    rest = [each for each in headers if each.name not in grouped]
    for group in chain.compactable(rest, name, until=newest, seconds=HOUR):
        if group[-1].last.time // HOUR < newest.time // HOUR:
            yield group


def _bases(backups: Backups) -> dict[str, list[Timestamp]]:
    """The cluster times of every restore point that this host can see, by set."""
    found: dict[str, list[Timestamp]] = {}
    for name in backups.visible:
        for point in points.listing(backups.repository(name), backups.stack.name).points:
            for replica_set, at in point.manifest.times().items():
                found.setdefault(replica_set, []).append(Timestamp(*at))
    return found
