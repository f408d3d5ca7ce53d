"""Tails a replica set's oplog and commits it, slice by slice, to a store.

What is archived is known from the store alone. The archiver holds no more than one slice, and after
whatever went wrong (an election, a repository that is away, its own kill) it throws that away, asks
the store for its last slice, and goes on in the oplog from there: the oplog itself is the spool.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from bson import Timestamp
from bson.codec_options import CodecOptions
from pymongo import CursorType, MongoClient
from pymongo.collection import Collection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Nearest
from pymongo.server_selectors import Selection
from saltext.openhim.backup.oplog import chain, slices
from saltext.openhim.backup.oplog.entry import Entry
from saltext.openhim.backup.oplog.slices import (
    GAP,
    SLICE,
    Collector,
    DamagedSlice,
    Header,
    Position,
    Timeline,
)
from saltext.openhim.backup.oplog.store import SliceStore
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.connection import explained

log = logging.getLogger(__name__)

#: Seconds after which a slice is committed, and bytes of entries after which it is so sooner.
INTERVAL = 60.0
MAX_BYTES = 16 << 20
#: How long the server waits for new entries before it says that there are none.
_AWAIT_MS = 500
#: New entries are asked for at most this often; more often is load without a use.
_PAUSE = 0.2
_SMALL = 100
#: Seconds for which a member that does not answer may have what is missing elsewhere. One that is
#: lost for good must not end the archive.
_PATIENCE = 600.0
#: How often a running archiver looks what others have put into the store, seconds.
_LOOK = 300.0
_BACKOFF = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_FORWARD = [("$natural", 1)]
_BACKWARD = [("$natural", -1)]
_NOTHING = {"ts": Timestamp(0, 0)}


class StaleEpoch(Refused):
    """The archive already has a newer epoch than the one that this host believes in."""


@dataclass(frozen=True)
class Status:
    """What an archiver has done and where it stands.

    last: the last archived entry. rpo_seconds: the set's clock now, less that of the last archived
    majority-committed entry; None before anything was archived. caught_up: it has read everything
    that there is. error: why it does not go on, since ``error_since``
    (seconds of the monotonic clock).
    """

    timeline: Timeline | None = None
    last: Position | None = None
    rpo_seconds: float | None = None
    slices: int = 0
    entries: int = 0
    gaps: int = 0
    caught_up: bool = False
    error: str | None = None
    error_since: float | None = None


@dataclass(frozen=True)
class _Resume:
    """Where to go on: on which timeline, after which entry."""

    timeline: Timeline
    position: Position
    archived: bool = True
    #: Where the archive ended, when the oplog has nothing in common with it.
    lost_since: Position | None = None


class _Diverged(Exception):
    """The oplog reaches further back than the entry from which to go on, and does not have it."""


class _Member(Nearest):
    """A read preference: one member, ``host:port``, and no other."""

    def __init__(self, member: str):
        super().__init__()
        host, _, port = member.rpartition(":")
        self.member = member
        self._address = (host.strip("[]").lower(), int(port))

    def __call__(self, selection: Selection) -> Selection:
        """What the driver may choose from."""
        found = [each for each in selection.server_descriptions if each.address == self._address]
        return selection.with_server_descriptions(found)


class _Elsewhere(Exception):
    """Another member still has the entry from which to go on."""

    def __init__(self, preference: _Member):
        super().__init__(preference.member)
        self.preference = preference


class _Clock:
    """The server's clock, whatever this host's says."""

    def __init__(self, client: MongoClient[Any]):
        local = client.admin.command("hello")["localTime"]
        self._server = local if local.tzinfo else local.replace(tzinfo=timezone.utc)
        self._own = time.monotonic()

    def now(self) -> datetime:
        return self._server + timedelta(seconds=time.monotonic() - self._own)


class Archiver:
    """Keeps one replica set's oplog archived.

    connect: gives a connection to the set, as a context manager; it is asked anew after errors.
    epoch: the number of the current epoch, 0 where nothing was ever recovered. begin_at: for the
    first slice of all, go back to this cluster time where the oplog still has it, best that of the
    newest restore point; the newest entry when left out. on_gap: told of each gap record that was
    written, so that a restore point can be taken at once. on_commit: told of each slice.
    interval: seconds. max_bytes: of a slice's entries, which are held in memory.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[MongoClient[Any]]],
        store: SliceStore,
        *,
        stack: str,
        replica_set: str,
        epoch: int = 0,
        interval: float = INTERVAL,
        max_bytes: int = MAX_BYTES,
        begin_at: Timestamp | None = None,
        on_gap: Callable[[Header], None] | None = None,
        on_commit: Callable[[Header], None] | None = None,
    ):
        self._connect = connect
        self._store = store
        self._stack = stack
        self._set = replica_set
        self._epoch = epoch
        self._interval = interval
        self._max_bytes = max_bytes
        self._begin_at = begin_at
        self._on_gap = on_gap
        self._on_commit = on_commit
        self._status = Status()
        self._timeline = Timeline(epoch, 0)
        self._known: Sequence[Header] = ()
        self._looked = 0.0
        self._collected = Collector(Position(0, 0))
        self._unasked_since: float | None = None
        self._clock: _Clock | None = None
        self._last_wall: datetime | None = None

    def status(self) -> Status:
        """Where it stands now; may be called from another thread."""
        clock, wall = self._clock, self._last_wall
        if clock is None or wall is None:
            return self._status
        return replace(self._status, rpo_seconds=max(0.0, (clock.now() - wall).total_seconds()))

    def run(self, stop: threading.Event) -> None:
        """Archives until ``stop`` is set, and commits what it has then.

        Nothing that may pass ends it: it says what is wrong in its status, and tries again.

        Raises :class:`StaleEpoch` when another epoch has taken over the archive.
        """
        failures = 0
        while not stop.is_set():
            before = self._status.slices
            try:
                self._follow(stop)
            except StaleEpoch:
                raise
            except (OpenHIMError, PyMongoError, OSError) as error:
                failures = 1 if self._status.slices > before else failures + 1
                self._failed(error)
                stop.wait(_BACKOFF[min(failures, len(_BACKOFF)) - 1])

    def catch_up(self) -> Position:
        """Archives all that is majority-committed now, and returns the last position.

        For a survivor's tail before a failover goes on. Raises what goes wrong.
        """
        self._follow(None)
        return self._collected.last

    # --- one pass ---

    def _follow(self, stop: threading.Event | None) -> None:
        with self._connect() as client, explained(f"the replica set {self._set}"):
            self._clock = _Clock(client)
            known = self._known = self._sound()
            self._begin(self._resume(client, known))
            oplog, diverged = _oplog(client), False
            while True:
                try:
                    return self._archive(client, oplog, stop)
                except _Diverged:
                    if diverged:
                        raise OpenHIMError(
                            f"the oplog of {self._set} left the archived history twice while it "
                            "was looked for; an election or a rollback may be under way"
                        ) from None
                    diverged = True
                    # Not from where it began just now: nothing of that is archived.
                    lines = chain.timelines(known, self._set)
                    again = self._branch(client, known, lines[-1]) if lines else None
                    self._begin(again or self._first(client))
                except _Elsewhere as found:
                    oplog = _oplog(client, found.preference)

    def _archive(
        self, client: MongoClient[Any], oplog: Collection[Any], stop: threading.Event | None
    ) -> None:
        """Until it is told to stop, or, without a ``stop``, to what is the newest entry now."""
        target = None if stop else _newest(_oplog(client))
        for entries in self._tail(client, oplog):
            self._take(entries)
            done = stop.is_set() if stop else self._collected.last.ts >= target["ts"]  # type: ignore
            if stop and time.monotonic() - self._looked >= _LOOK:
                self._look()
            if done or self._due():
                self._commit()
            if done:
                return
            if stop and 0 < len(entries) < _SMALL:
                stop.wait(_PAUSE)

    def _look(self) -> None:
        """Sees to it that no recovery went on without this host, and knows what was taken back.

        It may have lost its master, and go on beside those who moved to another site.
        """
        self._known = self._store.headers()
        self._looked = time.monotonic()
        self._refuse_stale(self._known)

    def _take(self, entries: Sequence[bytes]) -> None:
        for entry in entries:
            self._collected.add(entry)
            if self._collected.size >= self._max_bytes:
                self._commit()
        self._update(caught_up=not entries)

    def _due(self) -> bool:
        wall, clock = self._collected.first_wall, self._clock
        if wall is None or clock is None:
            return False
        return (clock.now() - wall).total_seconds() >= self._interval

    def _commit(self) -> None:
        collected = self._collected
        if not collected.count:
            return
        header = collected.header(self._stack, self._set, self._timeline)
        header = slices.under_a_free_name(header, self._known)
        self._store.put(header, collected.chunks(header))
        self._collected = Collector(header.last)
        self._committed(header)

    def _committed(self, header: Header) -> None:
        if header.kind == SLICE:
            self._last_wall = header.last_wall
        self._update(
            last=header.last,
            timeline=header.timeline,
            slices=self._status.slices + (header.kind == SLICE),
            entries=self._status.entries + header.count,
            gaps=self._status.gaps + (header.kind == GAP),
            error=None,
            error_since=None,
        )
        told = self._on_gap if header.kind == GAP else self._on_commit
        if told:
            try:
                told(header)
            except Exception:
                log.exception("who was told of %s failed; the archive goes on", header.name)

    def _failed(self, error: Exception) -> None:
        log.warning("the oplog archive of %s does not go on: %s", self._set, error)
        since = self._status.error_since or time.monotonic()
        self._update(error=str(error), error_since=since, caught_up=False)

    def _update(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)

    # --- where to go on ---

    def _begin(self, resume: _Resume) -> None:
        self._timeline = resume.timeline
        self._collected = Collector(resume.position)
        archived = resume.position if resume.archived else None
        self._update(timeline=resume.timeline, last=archived)
        if resume.lost_since is not None and resume.lost_since < resume.position:
            self._record_gap(
                resume.lost_since,
                resume.position,
                resume.position.ts.as_datetime(),
                "the oplog has nothing in common with what was archived; another history began",
            )

    def _resume(self, client: MongoClient[Any], known: Sequence[Header]) -> _Resume:
        lines = chain.timelines(known, self._set)
        if not lines:
            return self._first(client)
        self._refuse_stale(known)
        line = lines[-1]
        last = chain.newest(known, self._set, line)
        if last is None:
            raise OpenHIMError(f"the oplog archive has nothing of its own timeline {line.key}")
        archived = chain.newest(known, self._set, line, SLICE)
        self._last_wall = archived.last_wall if archived else None
        if line.epoch < self._epoch:
            return self._branch(client, known, line)
        return _Resume(line, last.last)

    def _refuse_stale(self, known: Sequence[Header]) -> None:
        newest = max((line.epoch for line in chain.timelines(known, self._set)), default=0)
        if newest > self._epoch:
            raise StaleEpoch(
                f"the oplog archive of {self._set} has epoch {newest}, and this host is in "
                f"epoch {self._epoch}: a recovery happened that it does not know of. It must not "
                "archive before its recovery record is up to date"
            )

    def _sound(self) -> list[Header]:
        """What the store holds; its last slice is read, for it may be what a kill left."""
        while True:
            known = self._store.headers()
            self._looked = time.monotonic()
            slices.check_stack(known, self._stack)
            lines = chain.timelines(known, self._set)
            last = chain.newest(known, self._set, lines[-1]) if lines else None
            if last is None or last.kind != SLICE or last.size > 4 * self._max_bytes:
                return known
            try:
                with contextlib.closing(self._store.get(last.name)) as stream:
                    slices.verify(stream, last)
                return known
            except DamagedSlice as error:
                log.warning("the last slice is taken back: %s", error)
                record = slices.void(last, str(error))
                self._store.put(record, [record.encode()])

    def _first(self, client: MongoClient[Any], lost_since: Position | None = None) -> _Resume:
        """A history's first slice begins after an entry that is there."""
        oplog = _oplog(client)
        found = None
        oldest = oplog.find_one({}, sort=_FORWARD)
        if oldest and self._begin_at and oldest["ts"] <= self._begin_at:
            found = oplog.find_one({"ts": {"$lte": self._begin_at}}, sort=_BACKWARD)
        position = Position.of(found or _newest(oplog))
        return _Resume(Timeline(self._epoch, max(position.term, 0)), position, False, lost_since)

    def _branch(
        self, client: MongoClient[Any], known: Sequence[Header], parent: Timeline
    ) -> _Resume:
        """A new timeline, from the last position that the archive and this oplog share."""
        oplog = _oplog(client)
        segments = chain.history(known, self._set, parent)
        ends = sorted({each.until for each in segments} | {each.after for each in segments})
        oldest = oplog.find_one({}, sort=_FORWARD)
        ends = [end for end in ends if oldest and end.ts >= oldest["ts"]]
        # Two oplogs share their beginning and nothing after it.
        shared = bisect.bisect_left(ends, True, key=lambda end: not _has(oplog, end))
        if not shared:
            last = chain.newest(known, self._set, parent)
            resume = self._first(client, last.last if last else None)
            return replace(resume, timeline=self._after(parent, resume.timeline))
        position = self._last_shared(oplog, segments, ends[shared - 1])
        term = Position.of(_newest(oplog)).term
        line = Timeline(self._epoch, max(term, 0), parent.key, position)
        return _Resume(self._after(parent, line), position)

    @staticmethod
    def _after(parent: Timeline, line: Timeline) -> Timeline:
        """Newer than its parent: a set that was initiated anew counts its terms from 1 again."""
        same = parent.epoch == line.epoch
        return replace(line, term=max(line.term, parent.term + 1)) if same else line

    def _last_shared(
        self, oplog: Collection[Any], segments: Sequence[chain.Segment], end: Position
    ) -> Position:
        """Within the slice that goes on from ``end``, the last entry that the oplog has too.

        Of a damaged slice nothing is to be trusted: then it is ``end``, and what the oplog shares
        with that slice is archived once more.
        """
        following = [each for each in segments if each.after <= end < each.until]
        if not following:
            return end
        chosen = max(following, key=lambda each: each.until)
        own = oplog.find({"ts": {"$gt": end.ts}}, {"ts": 1, "t": 1})
        shared, parted = end, False
        try:
            with contextlib.closing(self._store.get(chosen.header.name)) as stream, own:
                for entry in slices.read(stream, chosen.header):  # to its end, for that checks it
                    position = slices.position_of(entry)
                    if parted or position <= end:
                        continue
                    parted = position > chosen.until or Position.of(next(own, _NOTHING)) != position
                    shared = shared if parted else position
        except DamagedSlice as error:
            log.warning("the slice at the fork is damaged; it is branched before it: %s", error)
            return end
        return shared

    # --- tailing ---

    def _tail(self, client: MongoClient[Any], oplog: Collection[Any]) -> Iterator[list[bytes]]:
        """Lists of entries after the last collected one; an empty one when there are none yet.

        Raises when the first entry is not the one from which to go on. Where the oplog has rolled
        over, that is put on record, and it goes on with what there is.
        """
        position = self._collected.last
        cursor = oplog.find_raw_batches(
            {"ts": {"$gte": position.ts}}, cursor_type=CursorType.TAILABLE_AWAIT
        ).max_await_time_ms(_AWAIT_MS)
        with contextlib.closing(cursor):
            checked = False
            while cursor.alive:
                entries = list(slices.split(next(cursor, b"")))
                if entries and not checked:
                    self._check_first(client, oplog, entries[0], position)
                    checked, entries = True, entries[1:]
                yield entries
        raise OpenHIMError(f"the oplog of {self._set} gives no more: its cursor ended")

    def _check_first(
        self, client: MongoClient[Any], oplog: Collection[Any], entry: bytes, position: Position
    ) -> None:
        first = slices.position_of(entry)
        if first == position:
            return
        # Asked after the first entry was read: what was there before may be gone by now.
        oldest = oplog.find_one({}, sort=_FORWARD)
        if oldest is not None and Position.of(oldest).ts <= position.ts:
            raise _Diverged
        unasked = self._ask_members(client, position)
        self._record_gap(
            position,
            first,
            Entry(entry).wall,
            "the oplog rolled over before it was archived; make it larger, or find out why the "
            "archive stood still"
            + (f" (not asked, for they do not answer: {', '.join(unasked)})" if unasked else ""),
        )
        self._collected = Collector(first)

    def _ask_members(self, client: MongoClient[Any], position: Position) -> list[str]:
        """Raises when a member has the entry, or may have it and cannot be asked just now.

        Returns those that could not be asked for so long that they count as lost.
        """
        hello = client.admin.command("hello")
        silent: dict[str, str] = {}
        for name in [*hello.get("hosts", ()), *hello.get("passives", ())]:
            member = _Member(name)
            try:
                with explained(name):
                    if _answers_itself(client, member) and _has(_oplog(client, member), position):
                        raise _Elsewhere(member)
            except OpenHIMError as error:
                silent[name] = str(error)
        since = self._unasked_since or time.monotonic()
        self._unasked_since = since if silent else None
        if silent and time.monotonic() - since < _PATIENCE:
            raise OpenHIMError(
                f"the oplog has rolled over, and not every member could be asked if it still has "
                f"{position.words}: {'; '.join(silent.values())}"
            )
        self._unasked_since = None
        return sorted(silent)

    def _record_gap(self, since: Position, until: Position, wall: datetime, why: str) -> None:
        record = slices.gap(self._stack, self._set, self._timeline, since, until, wall, why)
        log.error("the oplog archive of %s has a gap: %s", self._set, record.reason)
        self._store.put(record, [record.encode()])
        self._committed(record)


def _oplog(client: MongoClient[Any], preference: Any = None) -> Collection[Any]:
    """The oplog, as far as the majority has it."""
    return client.local.get_collection(
        "oplog.rs",
        codec_options=CodecOptions(tz_aware=True),
        read_concern=ReadConcern("majority"),
        read_preference=preference,
    )


def _has(oplog: Collection[Any], position: Position) -> bool:
    found = oplog.find_one({"ts": position.ts}, {"ts": 1, "t": 1})
    return found is not None and Position.of(found) == position


def _answers_itself(client: MongoClient[Any], member: _Member) -> bool:
    """True; raises where another member answers, as it does on a connection to that one alone."""
    me = client.admin.command("hello", read_preference=member).get("me")
    if me != member.member:
        raise OpenHIMError(f"{member.member} can't be asked: this connection is to {me} alone")
    return True


def _newest(oplog: Collection[Any]) -> Any:
    found = oplog.find_one({}, sort=_BACKWARD)
    if not found:
        raise OpenHIMError("the oplog is empty; is the replica set initiated?")
    return found
