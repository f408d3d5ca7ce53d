"""Restores to a time: the newest restore point before it, and the archived oplog from there on.

All that may be refused is refused before anything is touched: a time that the archive does not
reach, a gap on the way, a slice that is damaged. Every set is brought to the same second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from glob import escape
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from pymongo.write_concern import WriteConcern
from saltext.openhim.backup import points
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.manifest import ReplicaSet
from saltext.openhim.backup.oplog import chain, declared, replay, slices
from saltext.openhim.backup.oplog.chain import Plan, TimeNotReachable
from saltext.openhim.backup.oplog.slices import Header, words
from saltext.openhim.backup.oplog.store import ResticSlices, SliceStore
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.present import NOTE
from saltext.openhim.backup.progress import Progress
from saltext.openhim.errors import OpenHIMError, Refused

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z|[+-]\d\d:?\d\d)")


@dataclass(frozen=True)
class Way:
    """How the data becomes that of a time, or of a restore point alone.

    point: the base, which is in ``repository``. to: the time, None for the point's own. plans: what
    is replayed, by set. damaged: slices that are left out, for others have the same entries.
    archive: the location of the slices.
    """

    point: RestorePoint
    repository: str
    to: Timestamp | None = None
    store: SliceStore | None = None
    plans: Mapping[str, Plan] = field(default_factory=dict)
    damaged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    archive: str | None = None

    @property
    def time(self) -> str | None:
        """The time in ISO 8601; None for a restore point alone."""
        return text(self.to) if self.to else None


def parsed(time: str) -> Timestamp:
    """The cluster time before everything that was written in a second, or later.

    time: ISO 8601 with its zone, in whole seconds, such as ``2026-01-31T11:59:59Z``.
    """
    wanted = str(time).strip()
    if not _TIME.fullmatch(wanted):
        raise Refused(
            f"to_time: found {wanted!r}; expected a time with its zone, in whole seconds, such as "
            "2026-01-31T11:59:59Z. What was written before that second is restored"
        )
    try:
        return slices.moment(datetime.fromisoformat(wanted.replace("Z", "+00:00")))
    except (ValueError, OverflowError) as error:
        raise Refused(f"to_time: found {wanted!r}, which is no time: {error}") from None


def text(to: Timestamp) -> str:
    """A cluster time's second in ISO 8601."""
    return f"{datetime.fromtimestamp(to.time, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def find(backups: Backups, to_time: str, point: str, repository: str | None = None) -> Way:
    """The way to a time, from the newest restore point before it that the archive leads on from.

    point: ``latest``; ``verified`` begins with a verified one only; or an ID, for that very one.
    repository: where restore points are looked for; all that this host can open when left out.

    The archive is read where it was written; where that is away, damaged or does not reach the
    time, its copy is, if this host can open it.

    Raises :class:`TimeNotReachable`, with the reachable ranges, when there is no such way, or it
    needs a slice that is damaged: those on it are read whole.
    """
    to = parsed(to_time)
    known = _candidates(backups, to, point, repository)
    first, *others = declared.visible(backups) or [declared.ARCHIVE]
    try:
        return _through(backups, declared.store(backups, place=first), known, to)
    except OpenHIMError as error:
        why = error
    for place in others:
        try:
            return _through(backups, declared.store(backups, place=place), known, to)
        except OpenHIMError as error:
            raise Refused(f"{why}; and with the archive's copy: {error}") from error
    raise why


def _through(
    backups: Backups, store: ResticSlices, known: Sequence[tuple[RestorePoint, str]], to: Timestamp
) -> Way:
    """The way to a time with the slices of one place."""
    headers = store.headers()
    slices.check_stack(headers, backups.stack.name)
    refused: TimeNotReachable | None = None
    for chosen, name in known:
        try:
            for one in chosen.manifest.replica_sets:
                chain.plan(headers, one.name, **_wanted(chosen, one, to))
        except TimeNotReachable as error:
            refused = refused or _of(chosen, error)
            continue
        way = _sound(store, headers, chosen, name, to)
        return replace(way, archive=store.repository.location)
    assert refused is not None
    raise refused


def _candidates(
    backups: Backups, to: Timestamp, point: str, repository: str | None
) -> list[tuple[RestorePoint, str]]:
    """Restore points whose every set is of a time before, the newest first; each one once."""
    found: dict[str, tuple[RestorePoint, str]] = {}
    others: list[str] = []
    for name in [repository] if repository else backups.visible:
        try:
            listed = points.listing(backups.repository(name), backups.stack.name).points
        except OpenHIMError as error:
            others.append(f"{name}: {error}")
            continue
        for one in listed:
            wanted = one.id == point or (
                not one.aside and (point == "latest" or (point == "verified" and one.verified))
            )
            if wanted and _is_before(one, to):
                found.setdefault(one.id, (one, name))
            elif wanted:
                others.append(f"{one.id} in {name} shows a later time, or none at all")
    if not found:
        kind = {"latest": "", "verified": "verified "}.get(point)
        what = f"no {kind}restore point" if kind is not None else f"no restore point {point!r}"
        raise Refused(
            f"{words(to)} can't be reached: {what} from before it was found. "
            + ("; ".join(others[:5]) or "There is none at all")
        )
    return sorted(found.values(), key=lambda each: (_times(each[0]), each[0].id), reverse=True)


def _times(point: RestorePoint) -> list[tuple[int, int]]:
    return sorted(point.manifest.times().values())


def _is_before(point: RestorePoint, to: Timestamp) -> bool:
    sets = point.manifest.replica_sets
    return bool(sets) and all(one.at is not None and Timestamp(*one.at) <= to for one in sets)


def _wanted(point: RestorePoint, one: ReplicaSet, to: Timestamp) -> dict[str, Any]:
    assert one.at is not None
    return {"base": Timestamp(*one.at), "to": to, "base_epoch": point.manifest.epoch}


def _sound(
    store: SliceStore, headers: Sequence[Header], point: RestorePoint, name: str, to: Timestamp
) -> Way:
    """The way, its slices read whole."""
    plans, damaged = {}, {}
    try:
        for one in point.manifest.replica_sets:
            plan, bad = replay.sound_plan(store, headers, one.name, **_wanted(point, one, to))
            plans[one.name], damaged[one.name] = plan, bad
    except TimeNotReachable as error:
        raise _of(point, error) from None
    return Way(point, name, to, store, plans, damaged)


def _of(point: RestorePoint, error: TimeNotReachable) -> TimeNotReachable:
    return TimeNotReachable(f"from the restore point {point.id}: {error}", error.ranges)


@contextmanager
def without_ttl(client: MongoClient[Any]) -> Iterator[None]:
    """No document expires meanwhile: those that did are known by their deletions.

    Afterwards the server's TTL monitor runs as it did when the server started.
    """
    options = client.admin.command("getCmdLineOpts")["parsed"]
    before = str(options.get("setParameter", {}).get("ttlMonitorEnabled", "true")).lower() == "true"
    client.admin.command({"setParameter": 1, "ttlMonitorEnabled": False})
    try:
        yield
    finally:
        client.admin.command({"setParameter": 1, "ttlMonitorEnabled": before})


def others(backups: Backups, one: ReplicaSet, client: MongoClient[Any]) -> list[str]:
    """``database.collection`` of all that is there and not in the restore point.

    In the history that follows it they may be created, so a restore to a time drops them.
    """
    ours = {(namespace.db, namespace.collection) for namespace in one.namespaces}
    return [
        f"{db}.{name}"
        for db in _databases(backups, one)
        for name in sorted(client[db].list_collection_names())
        if not name.startswith("system.") and name != NOTE and (db, name) not in ours
    ]


def drop(client: MongoClient[Any], namespaces: Sequence[str]) -> None:
    """Drops collections and views, by ``database.collection``; acknowledged by the majority."""
    for namespace in namespaces:
        db, _, name = namespace.partition(".")
        database = client.get_database(db, write_concern=WriteConcern("majority", wtimeout=60_000))
        database.drop_collection(name)


def go(
    backups: Backups,
    way: Way,
    one: ReplicaSet,
    client: MongoClient[Any],
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Replays a set to the time, over the base that was just restored there.

    Returns ``operations``, ``transactions``, ``last`` (the last entry's cluster time, in words) and
    what was ``skipped``, by name and reason.
    """
    assert way.store is not None
    done = replay.replay(
        client,
        way.store,
        way.plans[one.name],
        databases=_databases(backups, one),
        fuzzy=[escape(f"{n.db}.{n.collection}") for n in one.namespaces if not n.snapshot],
        progress=progress,
        damaged=way.damaged[one.name],
    )
    return {
        "operations": done.operations,
        "transactions": done.transactions,
        "last": words(done.last) if done.last else None,
        "skipped": dict(done.skipped),
        "damaged_slices": list(done.damaged),
    }


def _databases(backups: Backups, one: ReplicaSet) -> list[str]:
    now = backups.databases().get(one.name, [])
    return sorted({*now, *(namespace.db for namespace in one.namespaces)})
