"""Restore points: parts stored one by one, committed by a manifest that is written last.

A restore point is there when its manifest is, and not before. What a killed backup leaves are parts
without a manifest: listed apart, never restored, cleaned on request.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import io
import json
import os
import pwd
import re
import secrets
import socket
import stat
import tarfile
import time as clock
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from saltext.openhim.backup import manifest as manifests
from saltext.openhim.backup import restic, retention
from saltext.openhim.backup.manifest import File, Manifest, ManifestError, Part, ReplicaSet
from saltext.openhim.backup.repository import (
    AccessDenied,
    AppendOnly,
    Damaged,
    Full,
    Locked,
    NoRepository,
    NotStored,
    Reader,
    ReadOnly,
    Repository,
    RepositoryError,
    RepositoryUnreachable,
    ResticMissing,
    Snapshot,
    Stored,
    Streamed,
    WrongPassword,
)
from saltext.openhim.backup.verification import Verification
from saltext.openhim.errors import OpenHIMError, Refused

#: The parts with a meaning of their own.
MANIFEST = "manifest"
VERIFICATION = "verification"
FILES = "files"
FILES_FILENAME = "files.tar"

#: A point without a manifest may still be in the making for that long.
LEFTOVER_AGE = timedelta(hours=24)

#: Manifests are read at the same time, each by a restic process of its own.
_READERS = 2

#: What fails for one restore point by one of these fails for the next one too.
_OF_ALL = (
    AccessDenied,
    AppendOnly,
    Full,
    Locked,
    NoRepository,
    ReadOnly,
    RepositoryUnreachable,
    ResticMissing,
    WrongPassword,
)

_POINT = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{6}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_Result = TypeVar("_Result")


class NotCommitted(OpenHIMError):
    """There is no committed restore point of that ID."""


class NotCopied(OpenHIMError):
    """Some restore points could not be copied; ``copied`` are those that were."""

    def __init__(self, message: str, copied: Sequence[RestorePoint]):
        super().__init__(message)
        self.copied = list(copied)


@dataclass(frozen=True)
class RestorePoint:
    """A committed restore point of one repository, with every verification that it went through."""

    manifest: Manifest
    manifest_snapshot: str
    manifest_sha256: str
    verifications: tuple[Verification, ...] = ()
    #: All its snapshots in the repository: parts, manifest, verifications.
    snapshots: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Such as ``20261122T073405Z-3f09ab``."""
        return self.manifest.point

    @property
    def stack(self) -> str:
        """The stack that it is of."""
        return self.manifest.stack

    @property
    def time(self) -> datetime:
        """When it was begun, in UTC."""
        return point_time(self.id)

    @property
    def aside(self) -> bool:
        """Whether it is the data that a restore was about to replace, and so no backup."""
        return self.manifest.aside

    @property
    def as_of(self) -> float:
        """The moment that its data is of, in seconds since 1970: the oldest cluster time in it.

        A member that is cut off from its primary can be dumped every hour, and always shows the
        same moment. Never later than :attr:`time`, however wrong a server's clock was.
        """
        times = [seconds for seconds, _ in self.manifest.times().values()]
        return min([self.time.timestamp(), *map(float, times)])

    @property
    def verdict(self) -> Verification | None:
        """The verification that counts: the newest that was bad, or was good for the whole.

        A sampled verification may tell that it is bad, never that it is good.
        """
        counting = (one for one in reversed(self.verifications) if not (one.ok and one.sampled))
        return next(counting, None)

    @property
    def verified(self) -> bool:
        """Whether it was restored whole and compared, and nothing speaks against it since."""
        return self.verdict is not None and self.verdict.ok


def of_the_past(
    points: Iterable[RestorePoint], now: datetime | None = None
) -> tuple[RestorePoint, ...]:
    """Those whose time has come. A point of the future is of a wrong clock, or of somebody who
    wants it to be taken for the newest: it says nothing of how the backups are.
    """
    present = now or datetime.now(timezone.utc)
    return tuple(one for one in points if one.time <= present + retention.CLOCK_TOLERANCE)


def newest(points: Iterable[RestorePoint], now: datetime | None = None) -> RestorePoint | None:
    """The one that shows the latest data, of those whose time has come; None when there is none.

    What was kept aside is never it: somebody had a reason to replace that data.
    """
    backups = (one for one in of_the_past(points, now) if not one.aside)
    return max(backups, key=lambda one: (one.as_of, one.id), default=None)


@dataclass(frozen=True)
class Leftover:
    """Parts that no manifest commits: a backup that was killed, or that is under way."""

    id: str
    stack: str
    parts: tuple[str, ...]
    snapshots: tuple[str, ...]
    newest: datetime
    #: Of a copy, whose snapshots have the time of what they are copies of: its age is not known.
    copied: bool = False


@dataclass(frozen=True)
class Broken:
    """A manifest is there and cannot be used; never restored from, never removed by itself."""

    id: str
    stack: str
    reason: str
    snapshots: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """What a repository holds of a stack; each list from the oldest to the newest."""

    points: tuple[RestorePoint, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    broken: tuple[Broken, ...] = ()
    #: What restic says of snapshots that it cannot read; we cannot know what they belong to.
    unreadable: tuple[str, ...] = ()

    def point(self, point_id: str) -> RestorePoint:
        """The committed restore point of that ID.

        Raises :class:`NotCommitted` that says what is there instead.
        """
        for point in self.points:
            if point.id == point_id:
                return point
        for broken in self.broken:
            if broken.id == point_id:
                raise NotCommitted(f"restore point {point_id} cannot be used: {broken.reason}")
        if any(leftover.id == point_id for leftover in self.leftovers):
            raise NotCommitted(
                f"restore point {point_id} was never committed: its backup did not come to its "
                "end. "
                "Use a committed one"
            )
        known = ", ".join(point.id for point in self.points[-3:]) or "none"
        raise NotCommitted(f"there is no restore point {point_id}; the newest here: {known}")


def new_id(now: datetime | None = None) -> str:
    """An ID for a new restore point: UTC, then six hexadecimal digits, so that IDs sort by time.

    Three are the fraction of the second, three are against points of the same moment.
    """
    time = (now or datetime.now(timezone.utc)).astimezone(timezone.utc)
    fraction = time.microsecond * 16**3 // 10**6
    return f"{time:%Y%m%dT%H%M%SZ}-{fraction:03x}{secrets.randbelow(16**3):03x}"


def _is_id(text: str) -> bool:
    try:
        point_time(text)
    except (OpenHIMError, ValueError):
        return False
    return True


def point_time(point_id: str) -> datetime:
    """The time in an ID."""
    found = _POINT.fullmatch(point_id)
    if not found:
        raise OpenHIMError(
            f"{point_id!r} is no ID of a restore point; expected one like 20261122T073405Z-3f09ab"
        )
    time = datetime.strptime(found[1], "%Y%m%dT%H%M%SZ")
    return time.replace(tzinfo=timezone.utc)


class Taking:
    """A restore point in the making; to be used in ``with``, and to be committed inside it.

    by, why: who asked for it and for what reason, for those who read the manifest later.
    epoch, epoch_id: of the recovery record. aside: whether it is what a restore is about to
    replace.

    Leaving the block by an error, or without :meth:`commit`, removes the parts that were stored (as
    far as the repository lets these credentials remove anything).
    """

    def __init__(
        self,
        repository: Repository,
        stack: str,
        *,
        by: str,
        why: str,
        epoch: int = 0,
        epoch_id: str | None = None,
        host: str | None = None,
        software: Mapping[str, str] | None = None,
        aside: bool = False,
    ):
        self.repository = repository
        self.stack = _name(stack, "name of a stack")
        self.by, self.why, self.epoch, self.epoch_id = by, why, epoch, epoch_id
        self.host = host or socket.gethostname()
        self.software = dict(software or {})
        self.aside = aside
        self.started = datetime.now(timezone.utc)
        self._clock = clock.monotonic()
        self.id = new_id(self.started)
        #: Part, its file's name, and what was stored of it.
        self._streamed: list[tuple[str, str, Streamed]] = []
        self._replica_sets: list[ReplicaSet] = []
        self._files: list[File] = []
        self.committed: RestorePoint | None = None

    def __enter__(self) -> Taking:
        """Itself."""
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Leave nothing behind of what was not committed."""
        if self.committed is not None:
            return
        with contextlib.suppress(RepositoryError):
            self._withdraw()
        if kind is None:
            raise Refused(f"restore point {self.id} was not committed, so there is none")

    def _withdraw(self) -> None:
        """Remove what was stored, a manifest first: without its parts it would be there for ever.

        Where the manifest cannot be removed, its parts stay too: that is a whole restore point.
        """
        tags = [f"stack={self.stack}", f"point={self.id}"]
        there = self.repository.snapshots(tags, damaged=[])
        self.repository.forget([one.id for one in there if one.tag("part") == MANIFEST])
        self.repository.forget([one.id for one in there if one.tag("part") != MANIFEST])

    def store(self, part: str, producer: Callable[[BinaryIO], _Result]) -> _Result:
        """Store what a producer writes as a part, such as ``openhim.archive``; returns its answer.

        The producer's error is raised, and then the part is not there.
        """
        answers: list[_Result] = []
        self._store(part, part, lambda out: answers.append(producer(out)))
        return answers[0]

    def store_dump(self, replica_set: str, producer: Callable[[BinaryIO], Any]) -> Any:
        """Store the archive of one replica set; the producer answers as ``dump.dump`` does."""
        part = f"{replica_set}.archive"
        dumped = self.store(part, producer)
        self._replica_sets.append(ReplicaSet.of(replica_set, part, dumped))
        return dumped

    def store_files(self, paths: Iterable[str | Path]) -> tuple[File, ...]:
        """Store files and folders as one tar archive, each hashed as it is stored."""
        wanted = _walked(paths)
        found: list[File] = []
        self._store(FILES, FILES_FILENAME, lambda out: found.extend(_tar(wanted, out)))
        self._files.extend(found)
        return tuple(found)

    def commit(self) -> RestorePoint:
        """Write the manifest; from now on the restore point is there.

        It is read back: what is listed as committed is what was written.
        """
        if not self._streamed:
            raise Refused(f"restore point {self.id} holds no part; nothing was committed")
        with ThreadPoolExecutor(1) as pool:
            # Looked up while restic gets ready for the manifest.
            there = pool.submit(self.repository.snapshots, [f"point={self.id}"], [])
            self.committed = _commit(
                self.repository,
                self.id,
                self.stack,
                self.host,
                lambda: self._manifest(there.result()),
            )
        return self.committed

    def _manifest(self, there: Sequence[Snapshot]) -> Manifest:
        software = {"restic": ".".join(map(str, restic.version(self.repository.program)))}
        return Manifest(
            stack=self.stack,
            point=self.id,
            epoch=self.epoch,
            epoch_id=self.epoch_id,
            replica_sets=tuple(self._replica_sets),
            files=tuple(self._files),
            parts=tuple(
                _part(name, filename, streamed.found(there, self.repository.location))
                for name, filename, streamed in self._streamed
            ),
            by=self.by,
            host=self.host,
            why=self.why,
            started=manifests.utc(self.started),
            finished=manifests.utc(datetime.now(timezone.utc)),
            milliseconds=int((clock.monotonic() - self._clock) * 1000),
            software={**software, **self.software},
            aside=self.aside,
        )

    def _store(self, part: str, filename: str, producer: Callable[[BinaryIO], object]) -> None:
        _name(part, "name of a part")
        if part in (MANIFEST, VERIFICATION, *(known for known, _, _ in self._streamed)):
            raise OpenHIMError(
                f"the part {part!r} is there already, or its name has another meaning"
            )
        tags = _tags(self.stack, self.id, part)
        streamed = self.repository.stream(producer, filename, tags, self.host)
        self._streamed.append((part, filename, streamed))


def listing(repository: Repository, stack: str | None = None) -> Listing:
    """Everything that a repository holds of a stack, or of all stacks.

    A manifest counts only when it is whole, ours, of that stack, and all its parts are there.
    """
    unreadable: list[str] = []
    tags = [f"stack={_name(stack, 'name of a stack')}"] if stack is not None else []
    groups: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in repository.snapshots(tags, damaged=unreadable):
        of_stack, point_id = snapshot.tag("stack"), snapshot.tag("point")
        if of_stack and point_id and _is_id(point_id) and snapshot.tag("part"):
            groups.setdefault((point_id, of_stack), []).append(snapshot)
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(
            pool.map(lambda key: _judged(repository, key[0], key[1], groups[key]), sorted(groups))
        )
    return Listing(
        points=tuple(one for one in found if isinstance(one, RestorePoint)),
        leftovers=tuple(one for one in found if isinstance(one, Leftover)),
        broken=tuple(one for one in found if isinstance(one, Broken)),
        unreadable=tuple(unreadable),
    )


def clean_leftovers(
    repository: Repository,
    stack: str,
    *,
    older_than: timedelta = LEFTOVER_AGE,
    confirm: bool = False,
    prune: bool = False,
    copies: bool = False,
) -> tuple[Leftover, ...]:
    """Remove parts that no manifest commits; only tell which they are unless ``confirm`` is True.

    older_than: younger ones are left alone, because their backup may still be under way. copies:
    whether those of an interrupted copy go too, however young: only where no copy can be under way.
    """

    def old() -> list[Leftover]:
        known = listing(repository, stack)
        _refuse_unreadable(repository, known)
        limit = datetime.now(timezone.utc) - older_than
        return [one for one in known.leftovers if (copies if one.copied else one.newest < limit)]

    found = old()
    if confirm and found:
        # Once more: a manifest may have come meanwhile, and then they are none.
        still = old()
        found = [one for one in found if one in still]
        repository.forget([one for leftover in found for one in leftover.snapshots], prune=prune)
    return tuple(found)


def open_part(repository: Repository, point: RestorePoint, name: str) -> PartReader:
    """A part's contents, to be used in ``with``; what differs from the manifest raises at the end.

    Leaving the block without an error reads what is left, so that the comparison is always made.
    """
    part = point.manifest.part(name)
    return PartReader(repository.read(part.snapshot, part.filename), part, repository.location)


def read_part(repository: Repository, point: RestorePoint, name: str, out: BinaryIO) -> int:
    """Write a part's contents to a stream; returns its bytes. What differs raises at the end."""
    with open_part(repository, point, name) as reader:
        while chunk := reader.read(1 << 20):
            out.write(chunk)
        return reader.size


def restore_files(
    repository: Repository, point: RestorePoint, target: str | Path
) -> tuple[File, ...]:
    """Write the point's files below a new or empty folder, each compared with the manifest.

    Modes are restored, owners are not: that is the caller's business, who knows whether they exist.
    """
    root = Path(target)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise Refused(f"{root} is not empty; expected a new folder, so that nothing is overwritten")
    expected = {file.path: file for file in point.manifest.files}
    with (
        open_part(repository, point, FILES) as reader,
        tarfile.open(fileobj=io.BufferedReader(reader), mode="r|") as archive,
    ):
        for member in archive:
            file = expected.pop(f"/{member.name}", None)
            content = archive.extractfile(member) if member.isreg() else None
            if file is None or content is None or ".." in Path(member.name).parts:
                raise Damaged(f"{member.name} is in {FILES_FILENAME} and not in the manifest")
            _write_file(root / member.name, content.read(), file)
    if expected:
        raise Damaged(f"{sorted(expected)[0]} is in the manifest and not in {FILES_FILENAME}")
    return point.manifest.files


def mark_verified(
    repository: Repository, point: RestorePoint, verification: Verification
) -> RestorePoint:
    """Keep the result of a verification with the restore point, be it good or bad."""
    if verification.manifest_sha256 != point.manifest_sha256 or verification.point != point.id:
        raise Refused(
            f"the verification is of another restore point than {point.id}; nothing was recorded"
        )
    data = verification.to_json(repository.verification_secret)
    stored = repository.store_stream(
        lambda out: out.write(data),
        f"{VERIFICATION}.json",
        _tags(point.stack, point.id, VERIFICATION),
    )
    _read_back(repository, stored, f"{VERIFICATION}.json", data)
    return replace(
        point,
        verifications=(*point.verifications, verification),
        snapshots=(*point.snapshots, stored.snapshot),
    )


def copy(
    source: Repository, target: Repository, stack: str, points: Collection[str] | None = None
) -> list[RestorePoint]:
    """Copy committed restore points to another repository; returns those that are new there.

    Run where the target's password is: copies are pulled. Each is committed in the target by a
    manifest of its own, written last, with the snapshots' IDs there. What was interrupted goes on
    where it stopped. Verifications are not copied: a copy is good when *it* was restored. The
    newest comes first, and one that cannot be copied does not keep the others from it.

    points: IDs; None copies all.

    Raises :class:`NotCopied` at the end when some could not be copied.
    """
    if source.repository_id() == target.repository_id():
        raise Refused(
            f"{source.location} and {target.location} are one and the same repository (or one is a "
            "copy of the other's files); expected a second one of its own"
        )
    there = {point.id for point in listing(target, stack).points}
    known = listing(source, stack)
    wanted = known.points if points is None else [known.point(one) for one in points]
    copied: list[RestorePoint] = []
    failed: dict[str, OpenHIMError] = {}
    for point in sorted(wanted, key=lambda one: (one.time, one.id), reverse=True):
        if point.id not in there:
            try:
                copied.append(_copied(source, target, point))
            except _OF_ALL:
                raise
            except OpenHIMError as error:
                failed[point.id] = error
    if failed:
        raise NotCopied(
            f"{len(copied)} restore points were copied from {source.location} to "
            f"{target.location}, and {len(failed)} could not be. "
            + "; ".join(f"{point}: {error}" for point, error in failed.items()),
            copied,
        )
    return copied


@dataclass(frozen=True)
class Pruned:
    """What was decided; ``removed`` is empty when it was a dry run."""

    decision: retention.Decision
    removed: tuple[str, ...] = ()
    freed: bool = False
    protected: tuple[str, ...] = field(default=())


def prune(
    repository: Repository,
    stack: str,
    policy: retention.Policy,
    *,
    minimum_verified: int = 1,
    protected: Collection[str] | Callable[[Sequence[RestorePoint]], Collection[str]] = (),
    keep_aside: timedelta = retention.KEEP_ASIDE,
    confirm: bool = False,
    free: bool = True,
    now: datetime | None = None,
) -> Pruned:
    """Remove the restore points that the policy does not keep; only tell which, unless confirmed.

    protected: IDs of points or snapshots (oplog slices kept beside them) that stay; or a function
        that gets all points and answers with them.
    keep_aside: for how long the data stays that a restore replaced.
    free: also free the space (``restic prune``).
    """
    known = listing(repository, stack)
    _refuse_unreadable(repository, known)
    spared = set(protected(known.points) if callable(protected) else protected)
    candidates = [
        retention.Candidate(point.id, point.time, point.verified, point.aside)
        for point in known.points
    ]
    holding = {point.id for point in known.points if spared & {point.id, *point.snapshots}}
    decision = retention.decide(
        candidates,
        policy,
        minimum_verified=minimum_verified,
        now=now,
        protected=holding,
        keep_aside=keep_aside,
    )
    if not confirm or not decision.remove:
        return Pruned(decision, protected=tuple(sorted(holding)))
    by_id = {point.id: point for point in known.points}
    # Manifests first: a point that is removed half-way is no restore point any more.
    doomed = [by_id[one] for one in decision.remove]
    repository.forget([point.manifest_snapshot for point in doomed])
    repository.forget(
        [one for point in doomed for one in point.snapshots if one != point.manifest_snapshot]
    )
    if free:
        repository.prune()
    return Pruned(decision, decision.remove, free, tuple(sorted(holding)))


class PartReader(io.RawIOBase):
    """A part's contents; compared with the manifest's size and SHA-256 when they end."""

    def __init__(self, reader: Reader, part: Part, where: str):
        super().__init__()
        self._reader, self._part, self._where = reader, part, where
        self._digest = hashlib.sha256()
        self._compared = False
        self.size = 0

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Compare to the end, unless something else went wrong; then close."""
        try:
            if kind is None:
                while self.read(1 << 20):
                    pass
        finally:
            self.close()

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes read; 0 at the end, once the comparison was made."""
        count = self._reader.readinto(buffer)
        if count:
            self._digest.update(memoryview(buffer).cast("B")[:count])
            self.size += count
        elif not self._compared and len(memoryview(buffer).cast("B")):
            self._compare()
        return count

    def close(self) -> None:
        """End what reads it."""
        self._reader.close()
        super().close()

    def _compare(self) -> None:
        self._compared = True
        if (self.size, self._digest.hexdigest()) != (self._part.size, self._part.sha256):
            raise Damaged(
                f"{self._where}: the part {self._part.name} is not what the manifest describes "
                f"({self.size} bytes, expected {self._part.size}; or other contents). Nothing of "
                "it can "
                "be trusted: use another repository or another restore point"
            )


def _commit(
    repository: Repository, point_id: str, stack: str, host: str, make: Callable[[], Manifest]
) -> RestorePoint:
    """Writes the manifest that ``make`` gives, and reads back what is there then."""
    made: list[Manifest] = []

    def write(out: BinaryIO) -> None:
        made.append(make())
        out.write(made[0].to_json())

    tags = _tags(stack, point_id, MANIFEST)
    streamed = repository.stream(write, manifests.FILENAME, tags, host)
    manifest = made[0]
    with ThreadPoolExecutor(1) as pool:
        # Somebody may have taken the parts for leftovers meanwhile.
        listed = pool.submit(repository.snapshots, [f"point={point_id}"], [])
        with repository.read_streamed(streamed, manifests.FILENAME) as reader:
            found = reader.read()
        there = listed.result()
    stored = streamed.found(there, repository.location)
    _refuse_another(repository, stored, manifests.FILENAME, found, manifest.to_json())
    try:
        _check_parts(repository, manifest, there)
    except Damaged:
        repository.forget([stored.snapshot])
        raise
    snapshots = (*(part.snapshot for part in manifest.parts), stored.snapshot)
    return RestorePoint(manifest, stored.snapshot, manifest.sha256(), (), snapshots)


def _read_back(repository: Repository, stored: Stored, filename: str, data: bytes) -> None:
    with repository.read(stored.snapshot, filename) as reader:
        found = reader.read()
    _refuse_another(repository, stored, filename, found, data)


def _refuse_another(
    repository: Repository, stored: Stored, filename: str, found: bytes, written: bytes
) -> None:
    if found != written:
        with contextlib.suppress(RepositoryError):
            repository.forget([stored.snapshot])
        raise Damaged(
            f"{repository.location}: {filename} reads back as something else than was written; "
            "nothing was committed. Check the repository"
        )


def _judged(
    repository: Repository, point_id: str, stack: str, snapshots: list[Snapshot]
) -> RestorePoint | Leftover | Broken:
    """What the snapshots of one point are together."""
    everything = tuple(snapshot.id for snapshot in snapshots)
    found = [snapshot for snapshot in snapshots if snapshot.tag("part") == MANIFEST]
    if not found:
        return Leftover(
            point_id,
            stack,
            tuple(sorted({str(snapshot.tag("part")) for snapshot in snapshots})),
            everything,
            max(snapshot.time for snapshot in snapshots),
            any(snapshot.original for snapshot in snapshots),
        )
    try:
        usable = _usable(repository, stack, point_id, found, snapshots)
        snapshot, manifest = usable[-1]
        return RestorePoint(
            manifest=manifest,
            manifest_snapshot=snapshot.id,
            manifest_sha256=manifest.sha256(),
            verifications=_verifications(
                repository, {one.sha256() for _, one in usable}, snapshots
            ),
            snapshots=everything,
        )
    except (ManifestError, Damaged, NotStored) as error:
        return Broken(point_id, stack, str(error), everything)


def _usable(
    repository: Repository,
    stack: str,
    point_id: str,
    found: list[Snapshot],
    snapshots: list[Snapshot],
) -> list[tuple[Snapshot, Manifest]]:
    """The manifests of a point that are whole, the oldest first; all say the same.

    There are several where a copy was made again, for its first one had lost a part. Of two that
    say different things somebody added one, and nobody here knows which: that raises.
    """
    usable, errors = [], []
    for snapshot in found:
        try:
            manifest = _manifest(repository, stack, point_id, snapshot)
            _check_parts(repository, manifest, snapshots)
            usable.append((snapshot, manifest))
        except (ManifestError, Damaged, NotStored) as error:
            errors.append(error)
    if not usable:
        raise errors[-1]
    if len({manifests.digest(_said(manifest)) for _, manifest in usable}) > 1:
        raise Damaged(
            f"{repository.location} holds {len(usable)} manifests of restore point {point_id} that "
            "say different things ("
            + ", ".join(f"snapshot {snapshot.id[:8]}" for snapshot, _ in usable)
            + "): somebody added one. Use the point from another repository, or see who had the "
            "credentials and forget the wrong one"
        )
    return usable


def _said(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says of its contents, wherever they are stored."""
    content: dict[str, Any] = json.loads(manifest.to_json())["manifest"]
    del content["copied_from"]
    for part in content["parts"]:
        del part["snapshot"]
    return content


def _manifest(repository: Repository, stack: str, point_id: str, snapshot: Snapshot) -> Manifest:
    where = f"the manifest of restore point {point_id} in {repository.location}"
    data = _small(repository, snapshot, manifests.FILENAME)
    manifest = manifests.from_json(data, stack=stack, where=where)
    if manifest.point != point_id:
        raise manifests.DamagedManifest(
            f"{where} is that of {manifest.point}; somebody changed its tags. Use another restore "
            "point"
        )
    return manifest


def _check_parts(repository: Repository, manifest: Manifest, snapshots: list[Snapshot]) -> None:
    there = {snapshot.id: snapshot for snapshot in snapshots}
    for part in manifest.parts:
        found = there.get(part.snapshot)
        if found is None or found.tree != part.tree:
            state = "is gone from" if found is None else "is another one in"
            raise Damaged(
                f"the part {part.name} of restore point {manifest.point} {state} "
                f"{repository.location}; "
                "use the point from another repository, or another one"
            )


def _verifications(
    repository: Repository, of: Collection[str], snapshots: list[Snapshot]
) -> tuple[Verification, ...]:
    """The records that are of these very manifests, the oldest first; others say nothing of them.

    Their order is that of their own times, which are signed: a snapshot's time is anybody's choice,
    and an old record that is stored once more is not a new one.
    """
    found: list[Verification] = []
    for snapshot in snapshots:
        if snapshot.tag("part") == VERIFICATION:
            with contextlib.suppress(ManifestError, Damaged, NotStored):
                record = Verification.from_json(
                    _small(repository, snapshot, f"{VERIFICATION}.json"),
                    repository.verification_secret,
                )
                if record.manifest_sha256 in of and record not in found:
                    found.append(record)
    return tuple(sorted(found, key=lambda one: one.time))


def _small(repository: Repository, snapshot: Snapshot, filename: str) -> bytes:
    """A small file of a snapshot; kept in the cache, for what an ID stands for never changes."""
    kept = (
        Path(repository.cache_dir) / "manifests" / f"{snapshot.id}.json"
        if repository.cache_dir
        else None
    )
    if kept is not None:
        with contextlib.suppress(OSError):
            return kept.read_bytes()
    with repository.read(snapshot.id, filename) as reader:
        data = bytearray()
        while chunk := reader.read(1 << 20):
            data += chunk
            if len(data) > manifests.LARGEST:
                raise manifests.DamagedManifest(
                    f"{filename} in {repository.location} is larger than any that was written by us"
                )
    if kept is not None:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            partial.replace(kept)
    return bytes(data)


def _copied(source: Repository, target: Repository, point: RestorePoint) -> RestorePoint:
    ids = source.copy_to(target, [part.snapshot for part in point.manifest.parts])
    manifest = replace(
        point.manifest,
        parts=tuple(replace(part, snapshot=ids[part.snapshot]) for part in point.manifest.parts),
        copied_from={
            "repository": source.repository_id(),
            "manifest_sha256": point.manifest_sha256,
            "at": manifests.utc(datetime.now(timezone.utc)),
            "by": socket.gethostname(),
        },
    )
    return _commit(target, point.id, point.stack, manifest.host, lambda: manifest)


def _refuse_unreadable(repository: Repository, known: Listing) -> None:
    """Nothing is removed while it is unknown what the unreadable snapshots belong to."""
    if known.unreadable:
        raise Damaged(
            f"{repository.location}: {len(known.unreadable)} snapshots cannot be read, so it is "
            "unknown "
            "what is still needed, and nothing was removed. Check and repair the repository first "
            f"({known.unreadable[0]})"
        )


def _tags(stack: str, point_id: str, part: str) -> list[str]:
    return [f"stack={stack}", f"point={point_id}", f"part={part}"]


def _part(name: str, filename: str, stored: Stored) -> Part:
    return Part(name, filename, stored.snapshot, stored.tree, stored.size, stored.sha256)


def _name(text: str, what: str) -> str:
    if not _PART.fullmatch(text or ""):
        raise OpenHIMError(f"{text!r} is no {what}; expected letters, digits, '.', '_' and '-'")
    return text


def _walked(paths: Iterable[str | Path]) -> list[Path]:
    """The regular files at and below some paths, links followed, in a stable order."""
    found: set[Path] = set()
    for entry in paths:
        path = Path(entry).absolute()
        if not path.is_dir() and not path.is_file():
            raise OpenHIMError(
                f"{path} is to be stored and is no file or folder on this host; remove it from the "
                "list, or bring it back"
            )
        found.update(_files_below(path, ()))
    return sorted(found)


def _files_below(path: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The regular files; above: the real folders that lead here, where a link would lead round."""
    if path.is_symlink() and not path.exists():
        raise OpenHIMError(
            f"{path} is to be stored and is a link to {path.readlink()}, which is not there (or "
            "leads round); remove the link, or bring back what it leads to"
        )
    if path.is_file():
        yield path
    elif path.is_dir():
        real = path.resolve()
        if real in above:
            return
        for inner in path.iterdir():
            yield from _files_below(inner, (*above, real))


def _tar(paths: Sequence[Path], out: BinaryIO) -> list[File]:
    """Write the files as a tar archive; returns what was written of each.

    A file is read whole first: it may be replaced meanwhile, and the hash is of what is stored.
    """
    files = []
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                content = stream.read()
            entry = tarfile.TarInfo(str(path).lstrip("/"))
            entry.size, entry.mtime = len(content), int(status.st_mtime)
            entry.mode = stat.S_IMODE(status.st_mode)
            entry.uid, entry.gid = status.st_uid, status.st_gid
            entry.uname, entry.gname = _user(status.st_uid), _group(status.st_gid)
            archive.addfile(entry, io.BytesIO(content))
            files.append(
                File(
                    path=str(path),
                    size=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                    mode=f"{entry.mode:04o}",
                    user=entry.uname,
                    group=entry.gname,
                )
            )
    return files


def _write_file(path: Path, content: bytes, file: File) -> None:
    if (len(content), hashlib.sha256(content).hexdigest()) != (file.size, file.sha256):
        raise Damaged(f"{file.path} is not what the manifest describes; nothing of it was written")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as out:
        os.fchmod(handle, int(file.mode, 8))
        out.write(content)


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _group(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)
