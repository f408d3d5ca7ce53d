"""The record of drills: one line of JSON for each thing that happened, only ever appended to.

A drill is written down when it begins and when it ends, so that one that was killed is seen: it
began, did not end, and nobody is at it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import settings
from saltext.openhim.drill.declaration import KINDS
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.status import until

FILE = f"{settings.STATE_DIRECTORY}/drills.jsonl"
#: Held by the process that drills; the kernel lets it go with that process.
LOCK = "/run/saltext-openhim/drill.lock"

PASSED = "passed"
FAILED = "failed"
#: It was not begun in earnest: what must be so before OpenHIM may start was not.
REFUSED = "refused"
INTERRUPTED = "interrupted"
UNDER_WAY = "under way"
VERDICTS = (PASSED, FAILED, REFUSED, INTERRUPTED, UNDER_WAY)


@dataclass(frozen=True)
class Drill:
    """One drill. Times are ISO 8601 in UTC.

    rpo_seconds: the age of the restored data when the drill began. rto_seconds: from then until a
    transaction was found in it. steps: seconds that each step took. denied: packets that were for
    somebody outside, and were dropped. wanted: for whom. set_aside: what was kept from being
    carried out. reasons: why it is not passed. notes: a person's words.
    """

    id: str
    kind: str
    stack: str
    host: str
    by: str
    began_at: str
    ended_at: str = ""
    verdict: str = UNDER_WAY
    reasons: tuple[str, ...] = ()
    point: str = ""
    repository: str = ""
    rpo_seconds: float | None = None
    rto_seconds: float | None = None
    steps: Mapping[str, float] = field(default_factory=dict)
    documents: int | None = None
    transaction: str = ""
    denied: int | None = None
    wanted: tuple[str, ...] = ()
    set_aside: Mapping[str, int] = field(default_factory=dict)
    notes: str = ""

    @property
    def began(self) -> datetime:
        """``began_at`` as a time."""
        return datetime.fromisoformat(self.began_at)


@dataclass(frozen=True)
class Known:
    """What the record says: the drills, the oldest first, and the lines that say nothing."""

    drills: tuple[Drill, ...] = ()
    unreadable: tuple[int, ...] = ()

    def of(self, kind: str) -> list[Drill]:
        """The drills of one kind, the oldest first."""
        return [drill for drill in self.drills if drill.kind == kind]


def now() -> str:
    """The present, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def append(drill: Drill, path: str = "") -> None:
    """Writes down how a drill stands; it is on the disk when this returns.

    path: :data:`FILE` when left out.
    """
    target = Path(path or FILE)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        # What a crash left half-written ends here, and takes no other line with it.
        torn = size and os.pread(handle, 1, size - 1) != b"\n"
        line = ("\n" if torn else "") + json.dumps(asdict(drill), sort_keys=True) + "\n"
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str = "", before: bool = False) -> Known:
    """Everything that is on record. One that is under way and nobody is at was interrupted.

    before: whether this process holds the lock and has begun none yet: then none is under way.

    Raises OpenHIMError when the file cannot be read.
    """
    try:
        text = Path(path or FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Known()
    except OSError as error:
        raise OpenHIMError(f"the record of drills cannot be read: {error}") from error
    return parsed(text.split("\n"), not before and under_way())


def parsed(lines: Sequence[str], somebody_drills: bool) -> Known:
    """What lines of the record say. Pure.

    somebody_drills: whether the newest drill can be under way; any other that did not end was
    interrupted.
    """
    found: dict[str, Drill] = {}
    unreadable = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            drill = _drill(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            unreadable.append(number)
            continue
        found[drill.id] = drill
    drills = sorted(found.values(), key=lambda drill: drill.began)
    for at, drill in enumerate(drills):
        newest = at == len(drills) - 1
        if drill.verdict == UNDER_WAY and not (somebody_drills and newest):
            drills[at] = interrupted(drill)
    return Known(tuple(drills), tuple(unreadable))


def interrupted(drill: Drill) -> Drill:
    """The same drill, as one that did not come to its end."""
    reason = "it did not come to its end: its process was killed, or its host went down"
    return Drill(**{**asdict(drill), "verdict": INTERRUPTED, "reasons": (reason,)})


@contextmanager
def alone() -> Iterator[None]:
    """In this block this process drills; refuses while another one does."""
    # Who only looks has the lock for a moment, too.
    with _lock(fcntl.LOCK_EX, patience=5) as free:
        if not free:
            raise Refused("another drill is under way on this host; wait for its end")
        yield


def under_way() -> bool:
    """Whether a process on this host drills now."""
    with _lock(fcntl.LOCK_SH) as free:
        return not free


@contextmanager
def _lock(kind: int, patience: float = 0) -> Iterator[bool]:
    Path(LOCK).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield bool(until(lambda: _locked(handle, kind), patience, poll=0.1))
    finally:
        os.close(handle)


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drill(values: Mapping[str, Any]) -> Drill:
    names = {each.name for each in fields(Drill)}
    # A newer version may have more to say.
    drill = Drill(**{key: value for key, value in values.items() if key in names})
    if drill.verdict not in VERDICTS or drill.kind not in KINDS or drill.began.tzinfo is None:
        raise ValueError("no record of a drill")
    return Drill(
        **{**asdict(drill), "reasons": tuple(drill.reasons), "wanted": tuple(drill.wanted)}
    )
