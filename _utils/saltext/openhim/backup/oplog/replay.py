"""Brings databases from a base's cluster time to another one, entry by entry of the archived oplog.

The base must show its cluster time exactly (a snapshot): then every update finds
its document, and one that does not is an error and never a stub of a document.

The server must not run its TTL monitor meanwhile (``ttlMonitorEnabled=false``): the deletions that
it made are in the oplog, at their time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.apply import BATCH, Applier, Names, ReplayFailed
from saltext.openhim.backup.oplog.chain import Plan, Segment, TimeNotReachable
from saltext.openhim.backup.oplog.entry import Entry, timestamp
from saltext.openhim.backup.oplog.slices import DamagedSlice, Header, Position, words
from saltext.openhim.backup.oplog.store import SliceStore
from saltext.openhim.backup.oplog.transactions import Operation, Transactions, outline
from saltext.openhim.backup.progress import Progress, Reporter
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.connection import explained

#: How often its progress is told.
_TELL_BYTES = 1 << 20

__all__ = ["ReplayFailed", "Replayed", "read_segment", "replay", "replay_to", "sound_plan"]


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    to: the time that was wanted, and is reached. last: the cluster time of the last entry up to it.
    applied: inserts, updates, deletes, commands. transactions: committed ones among them. skipped:
    what was left out, by name and reason. damaged: slices that were not used, for others had the
    same.
    """

    to: Timestamp
    last: Timestamp | None
    applied: Mapping[str, int] = field(default_factory=dict)
    transactions: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    damaged: Sequence[str] = ()

    @property
    def operations(self) -> int:
        """All that was applied."""
        return sum(self.applied.values())


def replay_to(
    client: MongoClient[Any],
    store: SliceStore,
    *,
    replica_set: str,
    base: Timestamp,
    to: Timestamp,
    base_epoch: int | None = None,
    epoch: int | None = None,
    check_first: bool = True,
    **options: Any,
) -> Replayed:
    """Finds the slices from ``base`` to ``to`` and replays them.

    As :func:`saltext.openhim.backup.oplog.chain.plan` and :func:`replay`. check_first: the slices
    are read whole before anything is written (those before the base too, in which a transaction
    began), so a damaged one is found in time, and is no obstacle where others have the same
    entries. Without it they are read once only, which saves half a second a slice, and a damaged
    one ends the replay where it is.
    """
    headers = store.headers()
    wanted: dict[str, Any] = {
        "base": base,
        "to": to,
        "base_epoch": base_epoch,
        "epoch": epoch,
    }
    if not check_first:
        return replay(client, store, chain.plan(headers, replica_set, **wanted), **options)
    plan, damaged = sound_plan(store, headers, replica_set, **wanted)
    return replay(client, store, plan, damaged=damaged, **options)


def sound_plan(
    store: SliceStore, headers: Iterable[Header], replica_set: str, **wanted: Any
) -> tuple[Plan, list[str]]:
    """A plan whose slices were all read to their end, and the names of those found damaged.

    Among them those before the base in which a transaction began that is committed after it. Raises
    :class:`~saltext.openhim.backup.oplog.chain.TimeNotReachable` when there is no such plan.
    """
    known = list(headers)
    sound: dict[str, list[Operation]] = {}
    damaged: dict[str, str] = {}
    first = plan = chain.plan(known, replica_set, **wanted)
    while True:
        try:
            found = _first_damaged(store, plan, sound)
        except Refused as error:
            told = "; ".join([str(error), *damaged.values()])
            raise TimeNotReachable(f"{words(plan.to)} can't be reached: {told}", ()) from None
        if found is None:
            return plan, sorted(damaged)
        damaged.update([found])
        left = [header for header in known if header.name not in damaged]
        plan = _plan_without(damaged, first, left, replica_set, wanted)


def _first_damaged(
    store: SliceStore, plan: Plan, sound: dict[str, list[Operation]]
) -> tuple[str, str] | None:
    """Name of a damaged slice that a replay would read, and what is wrong; None without one.

    sound: what was read before, by name, with the outlines of its transactions; it grows.
    """
    for segment in plan.segments:
        header = segment.header
        if header.name not in sound:
            try:
                sound[header.name] = _outlines(store, header)
            except DamagedSlice as error:
                return header.name, str(error)
    reading = [""]

    def earlier() -> Iterator[Iterator[Operation]]:
        for segment, entries in zip(plan.earlier, _earlier(store, plan), strict=True):
            reading[0] = segment.header.name
            yield entries

    transactions = Transactions(earlier)
    try:
        for segment in plan.segments:
            until = min(segment.until.ts, plan.to)
            for each in sound[segment.header.name]:
                if segment.after.ts < each["ts"] <= until:
                    transactions.feed(each, each["ts"] > plan.after)
    except DamagedSlice as error:
        return reading[0], str(error)
    return None


def _outlines(store: SliceStore, header: Header) -> list[Operation]:
    """Of a slice, read to its end: the commands that tell where a transaction began."""
    with contextlib.closing(store.get(header.name)) as stream:
        entries = slices.read_entries(stream, header)
        commands = (each.decoded() for each in entries if each.string(b"op") == b"c")
        return [found for each in commands if (found := outline(each)) is not None]


def _plan_without(
    damaged: Mapping[str, str],
    first: Plan,
    left: Sequence[Header],
    replica_set: str,
    wanted: Mapping[str, Any],
) -> Plan:
    """Another plan for the same history; never another history for want of its slices."""
    told = "; ".join(damaged.values())
    ranges: Sequence[chain.Range] = ()
    why = "no other slice has the same entries"
    try:
        plan = chain.plan(left, replica_set, **wanted)
        if plan.timeline == first.timeline:
            return plan
    except TimeNotReachable as error:
        why, ranges = str(error), error.ranges
    except OpenHIMError as error:
        why = str(error)
    raise TimeNotReachable(f"{words(first.to)} can't be reached: {told} ({why})", ranges)


def replay(
    client: MongoClient[Any],
    store: SliceStore,
    plan: Plan,
    *,
    databases: Sequence[str] | None = None,
    selection: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    fuzzy: Sequence[str] = (),
    batch: int = BATCH,
    progress: Callable[[Progress], None] | None = None,
    damaged: Sequence[str] = (),
) -> Replayed:
    """Applies what the plan names: all after the base's time, up to and with the wanted one.

    client: to the primary, or a standalone, that holds the base; its user needs the roles
    ``restore`` and ``readWriteAnyDatabase``, and its socket timeout must allow for building an
    index. databases: all but MongoDB's own when left out. selection: patterns of namespaces, as in
    a dump. rename: as in a load. fuzzy: patterns of namespaces that do not show the base's time
    exactly (``Namespace.snapshot`` is False, or this is a second replay over the same base): there,
    a change of a document that is not there is passed over, if the document is deleted later on.

    Raises Refused before the first change where it can, :class:`ReplayFailed` or the connection's
    errors afterwards; then the databases are of no use, and the base is to be loaded again.
    """
    names = Names(databases, selection, rename or {})
    reporter = Reporter(progress, sum(each.header.size for each in plan.segments))
    applier = Applier(client, names, fuzzy, batch)
    transactions = Transactions(lambda: _earlier(store, plan))
    last = None
    count = 0
    with explained("the server that is restored to"), contextlib.closing(applier):
        for segment in plan.segments:
            done = 0
            for entry in read_segment(store, segment):
                at = timestamp(entry)
                if at > plan.to:
                    break
                last = at
                count += _take(entry, at, at > plan.after, transactions, applier)
                done += len(entry.raw)
                if done > _TELL_BYTES:
                    reporter.add(f"oplog to {words(last)}", done)
                    done = 0
            reporter.add("oplog", done)
        applier.finish()
    reporter.finish("oplog")
    return Replayed(
        plan.to, last, dict(applier.applied), count, dict(applier.skipped), list(damaged)
    )


def _take(
    entry: Entry, at: Timestamp, wanted: bool, transactions: Transactions, applier: Applier
) -> int:
    """Applies one entry of the oplog; returns 1 when it committed a transaction."""
    kind = entry.string(b"op")
    if kind == b"c":
        command = entry.decoded()
        made = transactions.feed(command, wanted)
        if made is None:
            if wanted:
                applier.apply(command, at)
            return 0
        for operation in made:
            applier.apply(operation, at)
        return int(bool(made) and "txnNumber" in command)
    if wanted:
        applier.entry(kind, entry, at)
    return 0


def read_segment(store: SliceStore, segment: Segment) -> Iterator[Entry]:
    """The entries that a segment takes of its slice; checked where two slices overlap."""
    header = segment.header
    after, until = ((each.time, each.inc) for each in (segment.after, segment.until))
    met = segment.after == header.previous
    with contextlib.closing(store.get(header.name)) as stream:
        for entry in slices.read_entries(stream, header):
            at = (entry.time, entry.inc)
            met = met or Position.at(entry) == segment.after
            if at <= after or at > until:
                continue
            if not met:
                break
            yield entry
    if not met:
        raise Refused(
            f"{header.name} does not have the entry {segment.after} that the slice before it ends "
            "with: they are not of one history"
        )


def _earlier(store: SliceStore, plan: Plan) -> Iterator[Iterator[Operation]]:
    for segment in plan.earlier:
        entries = read_segment(store, segment)
        yield (each.decoded() for each in entries if each.string(b"op") == b"c")
