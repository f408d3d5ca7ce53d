"""Verified means restored: a restore point is read from its repository, restored, and looked at.

Every part is read without a cache, each archive is restored into a scratch mongod, and what is in
there afterwards is compared with the manifest: documents, bytes and content hash of every
namespace, its options and indexes. Files are hashed as they are read. Then the pillar's assertions
are asked. The result is kept with the restore point, be it good or bad.

What is wrong with this host or with the way to the repository says nothing of the restore point:
it is raised and not recorded.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time as clock
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient
from saltext.openhim.backup import archive, dump, load, points, scratch, work
from saltext.openhim.backup import manifest as manifests
from saltext.openhim.backup.archive import COLLECTION, ArchiveDamaged
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.manifest import File, Manifest, ManifestError, Namespace, ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.repository import Damaged, NotStored, Repository, RepositoryError
from saltext.openhim.backup.verification import Verification
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo import config
from saltext.openhim.mongo.connection import MongoError, explained

#: So many reasons are told; the others are counted.
MOST_REASONS = 20
#: MongoDB's codes for "no room", "no time" and "shutting down": of the server, not of the data.
_OF_THE_SERVER = {50, 89, 91, 262, 11600, 11602, 14031}
_OF_THE_SERVER_ITSELF = {"admin", "config", "local"}
_CHUNK = 1 << 20
#: A document's date is another host's clock.
_CLOCKS_DIFFER = timedelta(minutes=5)


class NotVerified(OpenHIMError):
    """The restore point is not what its manifest says, or an assertion does not hold.

    ``reasons``: what differs. It is recorded with the restore point.
    """

    def __init__(self, message: str, reasons: Sequence[str]):
        super().__init__(message)
        self.reasons = list(reasons)


@dataclass(frozen=True)
class Due:
    """What a look for restore points to be verified led to.

    verified: with the repository's name. nothing: by repository, why there was nothing to do.
    """

    verified: list[tuple[RestorePoint, str]] = field(default_factory=list)
    nothing: dict[str, str] = field(default_factory=dict)


@dataclass
class _Findings:
    """What is found of one restore point."""

    reasons: list[str] = field(default_factory=list)
    sets: dict[str, Any] = field(default_factory=dict)
    assertions: list[dict[str, Any]] = field(default_factory=list)
    files: int = 0
    server_version: str = ""


class _Bad(Exception):
    """The restore point is bad in a way that leaves nothing further to look at."""


def verify(
    backups: Backups,
    point: str = work.LATEST,
    repository: str | None = None,
    *,
    by: str,
    sample: int | None = None,
    folder: str | Path | None = None,
    binary: str | None = None,
    progress: work.Tell = None,
) -> RestorePoint:
    """Restores a restore point into a scratch mongod, and records what came of it.

    point: an ID, ``latest`` or ``verified``. repository: in which; the newest of all that this host
    can open when left out. by: who asked for it. sample: bytes of documents to restore, the
    smallest namespaces first; every part is still read and hashed as a whole. folder: for the
    scratch mongod, on a tmpfs or an encrypted disk. binary: mongod; this host's when left out.

    Returns the restore point with its new verification.

    Raises :class:`NotVerified` for a bad one, once that is recorded; Refused on another host than
    ``verified_by``; ScratchError and RepositoryError when it could not be looked at, and then
    nothing is recorded.
    """
    backups.require_role("verified_by", "verifying restore points")
    chosen, name = work.find(backups, point, repository)
    return _verify(backups, chosen, name, by, sample, folder, binary, progress)


def verify_due(
    backups: Backups,
    repository: str | None = None,
    *,
    by: str,
    sample: int | None = None,
    folder: str | Path | None = None,
    binary: str | None = None,
    progress: work.Tell = None,
) -> Due:
    """Verifies what is :func:`due` in each repository that this host can open, or in one.

    A repository that fails does not keep the others from their turn; afterwards all that went wrong
    is raised as one error.
    """
    backups.require_role("verified_by", "verifying restore points")
    limit = timedelta(seconds=int(backups.entry.get("max_unverified_seconds", 604800)))
    found = Due()
    errors: list[OpenHIMError] = []
    for name in [repository] if repository else backups.visible:
        try:
            known = points.of_the_past(
                points.listing(backups.repository(name), backups.stack.name).points
            )
            known = tuple(one for one in known if not one.aside)  # verified when it is named
            chosen = due(known, datetime.now(timezone.utc), limit, sample)
            if chosen is None:
                found.nothing[name] = _nothing_due(known, sample)
                continue
            done = _verify(backups, chosen, name, by, sample, folder, binary, progress)
            found.verified.append((done, name))
        except OpenHIMError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise OpenHIMError("; ".join(str(error) for error in errors))
    return found


def due(
    known: Sequence[RestorePoint], now: datetime, limit: timedelta, sample: int | None = None
) -> RestorePoint | None:
    """The restore point to be verified next; None when the newest good one was verified recently.

    known: from the oldest to the newest. limit: a verification that is older counts no more, for
    what is stored can decay. sample: as for :func:`verify_due`; a sample that went well is no
    reason to leave out the whole. One that failed recently is not tried again: an older one is.
    """
    for point in reversed(known):
        counted = _counted(point, sample)
        if not counted or now - _time(counted[-1].at) > limit:
            return point
        if counted[-1].ok:
            return None
    return None


def _counted(point: RestorePoint, sample: int | None) -> list[Verification]:
    """The verifications of a restore point that one of this kind would repeat."""
    return [
        one for one in point.verifications if sample is not None or not (one.ok and one.sampled)
    ]


def sampled(namespaces: Collection[Namespace], limit: int) -> set[str]:
    """``database.collection`` of the smallest namespaces that have ``limit`` bytes together."""
    if limit <= 0:
        raise Refused(f"a sample of {limit} bytes is none; expected a number above 0")
    chosen, size = set(), 0
    for one in sorted(namespaces, key=lambda n: (n.bytes, n.db, n.collection)):
        size += one.bytes
        if size > limit:
            break
        chosen.add(f"{one.db}.{one.collection}")
    return chosen


def differences(wanted: Namespace, found: Namespace) -> list[str]:
    """What a restored namespace has otherwise than the manifest says; empty when nothing."""
    name = f"{wanted.db}.{wanted.collection}"
    told = [
        f"{name}: {words} {getattr(found, key)}, the manifest says {getattr(wanted, key)}"
        for key, words in (("type", "it is a"), ("count", "documents"), ("bytes", "bytes"))
        if getattr(found, key) != getattr(wanted, key)
    ]
    if not told and found.digest != wanted.digest:
        told.append(f"{name}: as many documents and bytes as the manifest says, of other contents")
    options, there = _document(wanted.options), _document(found.options)
    options.pop("autoIndexId", None)
    told += [
        f"{name}: its option {key} is another one than the manifest says"
        for key in sorted(options)
        if key not in there or not _same(options[key], there[key])
    ]
    return told + _index_differences(name, wanted, found)


def asserted(
    assertion: Mapping[str, Any], count: int, newest: datetime | None, at: datetime
) -> list[str]:
    """What of an assertion does not hold; empty when all does.

    count: documents of the collection. newest: the newest date in its field. at: the restore
    point's time.
    """
    name, told = assertion["collection"], []
    if count < int(assertion.get("at_least", 0)):
        told.append(f"{name} has {count} documents, asserted are {assertion['at_least']} or more")
    if "newest" in assertion:
        key, allowed = assertion["newest"]["field"], int(assertion["newest"]["within_seconds"])
        if newest is None:
            told.append(f"no document of {name} has a date in {key}")
        elif (age := (at - newest).total_seconds()) > allowed:
            told.append(
                f"the newest {key} of {name} is {age:.0f} s older than the restore point, asserted "
                f"are {allowed} s at most"
            )
    return told


# One restore point


def _verify(
    backups: Backups,
    point: RestorePoint,
    name: str,
    by: str,
    sample: int | None,
    folder: str | Path | None,
    binary: str | None,
    progress: work.Tell,
) -> RestorePoint:
    with work.alone(f"verifying {point.id}"):
        repository = backups.repository(name).uncached()
        began = clock.monotonic()
        everything = [n for one in point.manifest.replica_sets for n in one.namespaces]
        chosen = None if sample is None else sampled(everything, sample)
        looking = _Looking(backups, repository, point, chosen, folder, binary, progress)
        looking.all()
        record = looking.record(by, int((clock.monotonic() - began) * 1000))
        _still_there(repository, point)
        marked = points.mark_verified(repository, point, record)
    if not record.ok:
        raise NotVerified(
            f"restore point {point.id} in {name} did not verify, and that is recorded: "
            f"{'; '.join(record.reasons)}. Do not rely on it: verify another one, and check the "
            "repository with all its data",
            record.reasons,
        )
    return marked


class _Looking:
    """The way through one restore point."""

    def __init__(
        self,
        backups: Backups,
        repository: Repository,
        point: RestorePoint,
        chosen: set[str] | None,
        folder: str | Path | None,
        binary: str | None,
        progress: work.Tell,
    ):
        self.repository, self.point, self.chosen = repository, point, chosen
        self.backups, self.folder, self.progress = backups, folder, progress
        self.binary = binary or config.binary(backups.stack)
        self.found = _Findings()

    @property
    def manifest(self) -> Manifest:
        return self.point.manifest

    def all(self) -> None:
        """Looks at everything; what is bad is in the findings, what is no verdict is raised."""
        steps: list[Callable[[], None]] = [
            self._room,
            self._manifest_itself,
            self._declared_databases,
            *(partial(self._replica_set, one) for one in self.manifest.replica_sets),
            self._other_parts,
            self._unasked_assertions,
        ]
        for step in steps:
            try:
                with self._judging():
                    step()
            except OpenHIMError as error:
                if not self.found.reasons:
                    raise
                # What was found is enough to be recorded.
                self.found.reasons.append(f"not all was looked at: {error}")
                return

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Tells errors that are the restore point's from those that are not."""
        try:
            yield
        except _Bad as error:
            self.found.reasons.append(str(error))
        except (Damaged, NotStored, ArchiveDamaged, ManifestError, load.DuplicateKey) as error:
            self.found.reasons.append(str(error))
        except tarfile.TarError as error:
            self.found.reasons.append(f"{points.FILES_FILENAME} is no tar archive: {error}")

    def _room(self) -> None:
        """Too little room for one of the sets is told at once, not when hours have passed."""
        largest = max((self._size(one) for one in self.manifest.replica_sets), default=0)
        if largest:
            scratch.parent_with_room(self.folder, largest)

    def _size(self, one: ReplicaSet) -> int:
        return sum(n.bytes for n in one.namespaces if self._looked_at(n))

    def _manifest_itself(self) -> None:
        where = f"the manifest of {self.point.id} in {self.repository.location}"
        with self.repository.read(self.point.manifest_snapshot, manifests.FILENAME) as reader:
            data = reader.read()
        there = manifests.from_json(data, stack=self.point.stack, where=where)
        if there.sha256() != self.point.manifest_sha256:
            raise _Bad(f"{where} is another one than it was when it was first read here")

    def _declared_databases(self) -> None:
        """Nothing compares as equal with nothing: a database that is not there must be told."""
        there = {namespace.db for one in self.manifest.replica_sets for namespace in one.namespaces}
        self.found.reasons += [
            f"the restore point holds no collections of {name}, which openhim:mongodb:databases "
            "declares"
            for name in sorted(self.backups.required() - there)
        ]

    def _replica_set(self, one: ReplicaSet) -> None:
        wanted = [n for n in one.namespaces if self._looked_at(n)]
        if not wanted:
            self._read_through(one.part)
            self.found.sets[one.name] = _told(one, [])
            return
        with scratch.mongod(self.binary, self._size(one), self.folder) as server:
            refuse_older(server.version, one)
            self.found.server_version = server.version
            try:
                self._restore(server, one, wanted)
                with explained(f"the scratch mongod in {server.folder}"):
                    self._compare(server.client, one, wanted)
                    self._assert(server.client, one)
            except RepositoryError:
                raise
            except (Unreachable, MongoError):
                # It says more than that it does not answer.
                server.check()
                raise

    def _looked_at(self, namespace: Namespace) -> bool:
        name = f"{namespace.db}.{namespace.collection}"
        return self.chosen is None or name in self.chosen

    def _restore(
        self, server: scratch.Scratch, one: ReplicaSet, wanted: Sequence[Namespace]
    ) -> None:
        selection = None
        if self.chosen is not None:
            selection = [escape(f"{n.db}.{n.collection}") for n in wanted]
        try:
            with points.open_part(self.repository, self.point, one.part) as stream:
                load.load(
                    stream,  # type: ignore[arg-type]
                    server.client,
                    selection=selection,
                    progress=self.progress,
                )
        except RepositoryError:
            raise
        except (MongoError, Refused) as error:
            server.check()
            if getattr(error, "code", None) in _OF_THE_SERVER:
                raise
            raise _Bad(f"{one.name} cannot be restored: {error}") from error

    def _compare(self, client: MongoClient, one: ReplicaSet, wanted: Sequence[Namespace]) -> None:
        databases = set(client.list_database_names()) - _OF_THE_SERVER_ITSELF
        there = dump.contents(client, sorted(databases))
        found = {(n.db, n.collection): Namespace.of(n) for n in there.namespaces}
        for namespace in wanted:
            restored = found.pop((namespace.db, namespace.collection), None)
            if restored is None:
                self.found.reasons.append(
                    f"{namespace.db}.{namespace.collection} is in the manifest and was not restored"
                )
            else:
                self.found.reasons += differences(namespace, restored)
        self.found.reasons += [
            f"{db}.{collection} was restored and is not in the manifest" for db, collection in found
        ]
        self.found.sets[one.name] = _told(one, wanted)

    def _assert(self, client: MongoClient, one: ReplicaSet) -> None:
        inside = {f"{n.db}.{n.collection}": n for n in one.namespaces if self._looked_at(n)}
        for assertion in self.backups.entry.get("assertions") or ():
            namespace = inside.get(assertion["collection"])
            if namespace is None:
                continue
            collection = client[namespace.db][namespace.collection]
            plain = namespace.type == COLLECTION
            count = collection.estimated_document_count() if plain else None
            if count is None:
                count = collection.count_documents({})
            newest = _newest(collection, assertion.get("newest"), self._until(one))
            self._note(assertion, asserted(assertion, count, newest, self.point.time), count)

    def _until(self, one: ReplicaSet) -> datetime:
        """Until when a document of a set can have been written: its dump may come hours later."""
        dumped = datetime.fromtimestamp(one.at[0], timezone.utc) if one.at else self.point.time
        return max(dumped, self.point.time) + _CLOCKS_DIFFER

    def _note(self, assertion: Mapping[str, Any], told: list[str], count: int | None) -> None:
        self.found.reasons += told
        self.found.assertions.append(
            {"collection": assertion["collection"], "documents": count, "held": not told}
        )

    def _unasked_assertions(self) -> None:
        """Those of collections that are not in the restore point; or not in the sample."""
        names = {
            f"{n.db}.{n.collection}" for one in self.manifest.replica_sets for n in one.namespaces
        }
        for assertion in self.backups.entry.get("assertions") or ():
            name = assertion["collection"]
            if name not in names:
                told = asserted(assertion, 0, None, self.point.time)
                self._note(assertion, told, 0)
            elif self.chosen is not None and name not in self.chosen:
                self.found.assertions.append(
                    {"collection": name, "documents": None, "held": None, "why": "not sampled"}
                )

    def _other_parts(self) -> None:
        archives = {one.part for one in self.manifest.replica_sets}
        for part in self.manifest.parts:
            if part.name == points.FILES:
                with points.open_part(self.repository, self.point, part.name) as reader:
                    self.found.files = _check_files(reader, self.manifest.files)
            elif part.name not in archives:
                self._read_through(part.name)

    def _read_through(self, part: str) -> None:
        """Only read and hashed; leaving the block compares."""
        with points.open_part(self.repository, self.point, part):
            pass

    def record(self, by: str, milliseconds: int) -> Verification:
        """The findings, as they are kept with the restore point."""
        reasons = self.found.reasons
        told = tuple(reasons[:MOST_REASONS])
        if len(reasons) > MOST_REASONS:
            told += (f"and {len(reasons) - MOST_REASONS} more",)
        details: dict[str, Any] = {
            "server_version": self.found.server_version,
            "replica_sets": self.found.sets,
            "files": self.found.files,
            "assertions": self.found.assertions,
        }
        if self.chosen is not None:
            details["not_restored"] = [
                f"{n.db}.{n.collection}"
                for one in self.manifest.replica_sets
                for n in one.namespaces
                if not self._looked_at(n)
            ]
        return Verification(
            point=self.point.id,
            stack=self.point.stack,
            manifest_sha256=self.point.manifest_sha256,
            ok=not reasons,
            at=manifests.utc(datetime.now(timezone.utc)),
            by=by,
            host=self.backups.host,
            milliseconds=milliseconds,
            sampled=bool(details.get("not_restored")),
            reasons=told,
            details=details,
        )


def _still_there(repository: Repository, point: RestorePoint) -> None:
    """A restore point that somebody removed meanwhile is not bad, and gets no record."""
    there = repository.snapshots([f"point={point.id}"], damaged=[])
    if point.manifest_snapshot not in {snapshot.id for snapshot in there}:
        raise points.NotCommitted(
            f"restore point {point.id} was removed from {repository.location} while it was being "
            "verified; nothing was recorded. Verify another one"
        )


def refuse_older(version: str, one: ReplicaSet) -> None:
    """Raises ScratchError when this mongod is older than the one that a set was dumped from."""
    if _release(version) < _release(one.server_version):
        raise scratch.ScratchError(
            f"{one.name} was dumped from MongoDB {one.server_version}, and this host's mongod is "
            f"{version}: an older one may not understand it. Use {one.server_version} or "
            "newer"
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _newest(collection: Any, wanted: Mapping[str, Any] | None, until: datetime) -> datetime | None:
    """The newest date in a field up to ``until``: what claims to be of later tells of no write.

    Other types of value sort above dates and do not count.
    """
    if not wanted:
        return None
    key = wanted["field"]
    pipeline = [
        {"$project": {"_id": 0, "value": f"${key}"}},
        # A field inside a list is a list of values.
        {"$unwind": "$value"},
        {"$match": {"value": {"$type": "date", "$lte": until}}},
        {"$group": {"_id": None, "newest": {"$max": "$value"}}},
    ]
    # A date before the first year that Python knows is an old one, and no error.
    exact = CodecOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_CLAMP)
    found = collection.with_options(codec_options=exact).aggregate(pipeline)
    return next((each["newest"] for each in found), None)


def _check_files(stream: Any, files: Sequence[File]) -> int:
    """Compares the files of the tar archive with the manifest; returns how many there are."""
    expected = {file.path: file for file in files}
    with tarfile.open(fileobj=io.BufferedReader(stream), mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            file = expected.pop(f"/{member.name}", None)
            if file is None or content is None:
                raise _Bad(f"/{member.name} is in {points.FILES_FILENAME} and not in the manifest")
            digest, size = hashlib.sha256(), 0
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
            mode = f"{member.mode:04o}"
            if (size, digest.hexdigest(), mode) != (file.size, file.sha256, file.mode):
                raise _Bad(f"{file.path} is not what the manifest describes")
    if expected:
        raise _Bad(f"{min(expected)} is in the manifest and not in {points.FILES_FILENAME}")
    return len(files)


def _index_differences(name: str, wanted: Namespace, found: Namespace) -> list[str]:
    old = {str(index["name"]): index for index in _document(wanted.indexes)}
    new = {str(index["name"]): index for index in _document(found.indexes)}
    told = [f"{name}: the index {one} is missing" for one in sorted(old.keys() - new)]
    told += [f"{name}: the index {one} is not in the manifest" for one in sorted(new.keys() - old)]
    for one in sorted(old.keys() & new):
        keys = old[one].keys() - {"ns"}
        if any(key not in new[one] or not _same(old[one][key], new[one][key]) for key in keys):
            told.append(f"{name}: the index {one} is another one than the manifest says")
    return told


def _document(text: str) -> Any:
    return archive.parse_extended_json(text)


def _same(one: Any, other: Any) -> bool:
    """Equal, and in the same order: an index on (a, b) is none on (b, a)."""
    return manifests.extended_json([one]) == manifests.extended_json([other])


def _told(one: ReplicaSet, wanted: Sequence[Namespace]) -> dict[str, Any]:
    return {
        "namespaces": len(wanted),
        "of": len(one.namespaces),
        "documents": sum(n.count for n in wanted),
        "bytes": sum(n.bytes for n in wanted),
    }


def _nothing_due(known: Sequence[RestorePoint], sample: int | None) -> str:
    """Why :func:`due` chose none of these, in words."""
    if not known:
        return "it holds no restore point"
    for failed, point in enumerate(reversed(known)):
        last = _counted(point, sample)[-1]
        if last.ok:
            what = "a sample of it" if last.sampled else "it"
            newer = f"the {failed} newer failed recently" if failed else "it is the newest"
            return f"{point.id}: {what} was verified at {last.at}, and {newer}"
    return "every restore point was verified recently, and none is good; take a new one"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
