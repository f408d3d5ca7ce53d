"""The verbs of backups, as one host carries them out: take, copy, prune, restore."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, BinaryIO

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim import secrets
from saltext.openhim.backup import dump, load, points, present, to_time
from saltext.openhim.backup.archive import BUCKETS, TIMESERIES, VIEW
from saltext.openhim.backup.declaration import MAX_AGE, PRUNE, SOCKET_TIMEOUT_MS, USE, Backups
from saltext.openhim.backup.manifest import Namespace, ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.present import MARKER
from saltext.openhim.backup.progress import Progress
from saltext.openhim.backup.repository import Lock
from saltext.openhim.backup.to_time import Way
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo import connection
from saltext.openhim.mongo.status import until

#: One host does one of these at a time; the kernel lets the lock go with the process.
LOCK = "/run/saltext-openhim/backup.lock"

LATEST = "latest"

Tell = Callable[[Progress], None] | None

#: A replica set as the manifest describes it, and a connection to its primary.
Target = tuple[ReplicaSet, MongoClient]


#: How often a task that waits for its turn looks whether it has come (seconds).
_LOOK = 2.0
_patience: ContextVar[float] = ContextVar("patience", default=0.0)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """In this block a task waits so long for its turn on this host, before it refuses.

    A person is told at once that something else is under way; what the schedule begins in the same
    second as another task has nobody to tell.
    """
    before = _patience.set(float(seconds))
    try:
        yield
    finally:
        _patience.reset(before)


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Refuses while another backup, copy, removal or restore is under way on this host.

    In a block of :func:`patience` it first waits for that one.
    """
    Path(LOCK).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with Path(LOCK).open("a+", encoding="utf-8") as lock:
        if not until(lambda: _locked(lock), _patience.get(), poll=_LOOK):
            lock.seek(0)
            raise Refused(
                f"{lock.read().strip() or 'another backup'} is under way on this host; {what} was "
                "not begun. Try again when that one is done"
            )
        lock.truncate(0)
        lock.write(f"{what} (since {datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC)")
        lock.flush()
        yield
        lock.truncate(0)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take(
    backups: Backups,
    by: str,
    why: str,
    repository: str | None = None,
    progress: Tell = None,
    old_data: bool = False,
    aside: bool = False,
) -> RestorePoint:
    """Takes a restore point of both databases and the declared files.

    repository: into which; may be left out where only one is no copy. by, why: for those who read
    the manifest later. old_data: whether the data may be older than ``max_age_seconds``, as in a
    set that lost its majority; otherwise that is refused. aside: whether it is what a restore is
    about to replace. Refused where a restore did not come to its end: what is there then is nothing
    that ever was.

    What fails half-way leaves no restore point, and removes its parts where it may.
    """
    backups.require_role("taken_by", "taking restore points")
    max_age = None if old_data else float(backups.entry.get("max_age_seconds", MAX_AGE))
    with alone("taking a restore point"):
        target = backups.repository(repository)
        with points.Taking(
            target,
            backups.stack.name,
            by=by,
            why=why,
            epoch=backups.epoch,
            epoch_id=backups.epoch_id,
            host=backups.host,
            aside=aside,
        ) as taking:
            for set_name, databases in sorted(backups.databases().items()):
                # Of what somebody has dropped, that is kept aside which is left.
                required = set() if aside else backups.required() & set(databases)
                _store(backups, taking, set_name, databases, required, max_age, progress)
            if backups.entry.get("files"):
                taking.store_files(backups.entry["files"])
            return taking.commit()


def _store(
    backups: Backups,
    taking: points.Taking,
    set_name: str,
    databases: list[str],
    required: set[str],
    max_age: float | None,
    progress: Tell,
) -> None:
    main = backups.stack.databases["main"]

    def refuse_half() -> None:
        if main.replica_set.name == set_name:
            present.refuse_half(client, main.name, "no restore point was taken")

    with backups.source(set_name, max_age) as client:
        refuse_half()

        def produce(out: BinaryIO) -> dump.Dumped:
            return dump.dump(client, databases, out, required=required, progress=progress)

        taking.store_dump(set_name, produce)
        refuse_half()  # one may have begun meanwhile


def copy(backups: Backups, repository: str) -> list[RestorePoint]:
    """Pulls the restore points that a copy does not have yet; returns them."""
    if repository not in backups.pulled_here:
        raise Refused(
            f"pulling into {repository!r} is not the task of {backups.host}: expected is one of "
            f"{', '.join(backups.pulled_here) or 'none'} (openhim:backup:repositories:…:pulled_by)"
        )
    source = backups.repositories[repository]["copy_of"]
    with alone(f"copying into {repository}"):
        return points.copy(
            backups.repository(source), backups.repository(repository), backups.stack.name
        )


def prune(backups: Backups, repository: str, confirm: bool = False) -> points.Pruned:
    """Removes the restore points that retention does not keep; unless confirmed, tells which."""
    if repository not in backups.pruned_here:
        raise Refused(
            f"removing restore points from {repository!r} is not the task of {backups.host}: "
            f"expected is one of {', '.join(backups.pruned_here) or 'none'} "
            "(openhim:backup:repositories:…:pruned_by)"
        )
    policy = backups.policy
    if policy is None:
        raise Refused(
            "openhim:backup:retention: found nothing, so every restore point is kept; declare how "
            "many are"
        )
    opened = backups.repository(repository, PRUNE)

    def removed() -> points.Pruned:
        return points.prune(
            opened,
            backups.stack.name,
            policy,
            minimum_verified=backups.minimum_verified,
            keep_aside=backups.keep_aside,
            confirm=confirm,
        )

    with alone(f"removing restore points from {repository}"):
        return opened.past_dead_locks(removed) if confirm else removed()


def clean(
    backups: Backups, repository: str | None = None, confirm: bool = False
) -> tuple[points.Leftover, ...]:
    """Removes what interrupted backups left; unless confirmed, tells which that is.

    What an interrupted copy left is removed where it is pulled: there, and only there, none can be
    under way while this is.
    """
    purpose = PRUNE if repository in backups.pruned_here else USE
    with alone("removing what interrupted backups left"):
        return points.clean_leftovers(
            backups.repository(repository, purpose),
            backups.stack.name,
            confirm=confirm,
            copies=repository in backups.pulled_here,
        )


def unlock(backups: Backups, repository: str | None = None) -> list[Lock]:
    """Removes the locks of processes that are gone from a repository; returns them.

    With a lock that looks old it takes ten minutes to see that nobody renews it.
    """
    purpose = PRUNE if repository in backups.pruned_here else USE
    return backups.repository(repository, purpose).unlock_stale()


def find(
    backups: Backups, point: str = LATEST, repository: str | None = None
) -> tuple[RestorePoint, str]:
    """A committed restore point, and the repository in which it is.

    point: an ID, ``latest`` (the one that shows the latest data) or ``verified`` (the latest that
    was verified); one of the future is found by its ID only. repository: all that this host can
    open are looked through when left out, and what one of them says against it is told when none
    has it.
    """
    names = [repository] if repository else backups.visible
    found: list[tuple[RestorePoint, str]] = []
    failures: list[str] = []
    for name in names:
        try:
            known = points.listing(backups.repository(name), backups.stack.name)
            if point == LATEST:
                wanted = points.newest(known.points)
            elif point == "verified":
                wanted = points.newest(p for p in known.points if p.verified)
            else:
                wanted = known.point(point)
        except OpenHIMError as error:
            failures.append(f"{name}: {error}")
            continue
        if wanted is None:
            failures.append(f"{name}: holds no such restore point of {backups.stack.name}")
        else:
            found.append((wanted, name))
    if not found:
        raise OpenHIMError(f"no restore point {point!r} was found. {'; '.join(failures)}")
    return max(found, key=lambda each: (each[0].as_of, each[0].id))


def restore(
    backups: Backups,
    point: str = LATEST,
    *,
    by: str,
    why: str,
    repository: str | None = None,
    overwrite: bool = False,
    time: str | None = None,
    exactly: bool = False,
    configuration_first: bool = False,
    on_configured: Callable[[], None] | None = None,
    progress: Tell = None,
) -> dict[str, Any]:
    """Restores a restore point into the declared replica sets, and leaves a marker there.

    Run on a host with the operator's password. OpenHIM must not run meanwhile: it would write into
    data that is incomplete. overwrite: collections of the same name are dropped first; otherwise
    they are a reason to refuse. time: goes on to that time with the archived oplog
    (:mod:`saltext.openhim.backup.to_time`); what a restore point before it does not have is dropped
    then. exactly: so is what the restore point itself does not have. configuration_first:
    ``on_configured`` is called as soon as OpenHIM's configuration is in; OpenHIM may run and write
    from then on, so it can be had with neither of these.

    Returns ``point``, ``repository``, ``namespaces`` (their number), ``documents``, ``bytes``,
    ``dropped``, and ``untouched``: collections of the same databases that are not in the restore
    point, and stay; with a time also ``to_time``, ``archive`` (where the oplog was read: the
    archive, or its copy) and, by set, what was ``replayed``.
    """
    if configuration_first and (exactly or time is not None):
        raise Refused(
            f"configuration_first and {'exactly' if time is None else 'to_time'} were given; "
            "expected one of them: what OpenHIM writes meanwhile would be dropped, or in the way "
            "of the history that is still to be replayed"
        )
    with alone("restoring"):
        way = _way(backups, point, repository, time)
        chosen, name = way.point, way.repository
        opened = backups.repository(name)
        loaded = []
        replayed = _Replayed()
        with _targets(backups, chosen) as targets:

            def configured() -> None:
                present.serves(*_main(backups, targets))
                if on_configured:
                    on_configured()

            _refuse_before(backups, way, targets, overwrite, exactly)
            if configuration_first:
                # OpenHIM runs as soon as the main set has it: the other one must be done by then.
                main = backups.stack.databases["main"].replica_set.name
                targets.sort(key=lambda target: target[0].name == main)
            _note_beginning(backups, targets, way, by, why)
            for one, client in targets:
                with to_time.without_ttl(client):
                    with points.open_part(opened, chosen, one.part) as stream:
                        loaded.append(
                            load.load(
                                stream,  # type: ignore[arg-type]
                                client,
                                overwrite=overwrite,
                                configuration_first=configuration_first,
                                on_configured=configured,
                                progress=progress,
                            )
                        )
                    compare(one.name, one.namespaces, loaded[-1])
                    read_back(one.name, one.namespaces, client, exactly=not configuration_first)
                    if way.to or exactly:
                        replayed.drop(backups, way, one, client)
                    if way.to:
                        replayed.go(backups, way, one, client, progress)
            _mark(backups, targets, way, by, why)
            present.end(*_main(backups, targets))
        return {
            **replayed.told(way),
            "point": chosen.id,
            "repository": name,
            "namespaces": sum(len(each.namespaces) for each in loaded),
            "documents": sum(each.count for each in loaded),
            "bytes": sum(each.bytes for each in loaded),
            "untouched": sorted(
                found
                for each in loaded
                for found in each.untouched
                if not found.endswith((MARKER, present.NOTE)) and found not in replayed.dropped
            ),
        }


@dataclass
class _Replayed:
    """What went on from a restore point to a time, set by set."""

    sets: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def drop(self, backups: Backups, way: Way, one: ReplicaSet, client: MongoClient) -> None:
        """What the restore point does not have; what tells of restores stays, if nothing is
        replayed that would create it."""
        others = to_time.others(backups, one, client)
        others = [found for found in others if way.to or not found.endswith(f".{MARKER}")]
        to_time.drop(client, others)
        self.dropped += others

    def go(
        self, backups: Backups, way: Way, one: ReplicaSet, client: MongoClient, progress: Tell
    ) -> None:
        self.sets[one.name] = to_time.go(backups, way, one, client, progress)

    def told(self, way: Way) -> dict[str, Any]:
        if not way.to:
            return {"dropped": self.dropped}
        return {
            "to_time": way.time,
            "archive": way.archive,
            "dropped": self.dropped,
            "replayed": self.sets,
        }


def _way(backups: Backups, point: str, repository: str | None, time: str | None) -> Way:
    if time is None:
        return Way(*find(backups, point, repository))
    return to_time.find(backups, time, point, repository)


def foreseen(
    backups: Backups,
    point: str = LATEST,
    repository: str | None = None,
    overwrite: bool = False,
    time: str | None = None,
) -> Way:
    """Which restore point :func:`restore` would restore, from which repository, to which time.

    Parameters and errors are those of ``restore``: what it refuses, this refuses too, and changes
    nothing.
    """
    way = _way(backups, point, repository, time)
    with _targets(backups, way.point) as targets:
        _refuse_before(backups, way, targets, overwrite)
    return way


@contextmanager
def _targets(backups: Backups, chosen: RestorePoint) -> Iterator[list[Target]]:
    """The replica sets of a restore point, each with a connection to its primary."""
    with ExitStack() as stack:
        yield [
            (one, stack.enter_context(primary(backups, one.name)))
            for one in chosen.manifest.replica_sets
        ]


@contextmanager
def primary(backups: Backups, set_name: str) -> Iterator[MongoClient]:
    """A connection to the primary of a set that a restore point is of, with time for a restore."""
    if set_name not in backups.stack.replica_sets:
        raise Refused(
            f"the restore point is of the replica set {set_name!r}, and the pillar declares "
            f"{', '.join(sorted(backups.stack.replica_sets))}; nothing was restored"
        )
    here = connection.vantage(backups.pillar, backups.host, set_name)
    # A batch of documents or an index may take a while on a server that restores.
    with here.primary(socketTimeoutMS=SOCKET_TIMEOUT_MS) as client:
        yield client


def _refuse_before(
    backups: Backups, way: Way, targets: Sequence[Target], overwrite: bool, exactly: bool = False
) -> None:
    """Whatever one of the sets has against it is said before the other one is touched."""
    if overwrite:
        return
    for one, client in targets:
        ours = {f"{n.db}.{n.collection}" for n in one.namespaces}
        there = [
            found
            for name in sorted({namespace.db for namespace in one.namespaces})
            for found in (f"{name}.{c}" for c in client[name].list_collection_names())
            if found in ours
        ]
        there += to_time.others(backups, one, client) if way.to or exactly else []
        if there:
            raise Refused(
                f"{one.name} holds data already ({', '.join(there[:3])}"
                f"{f' and {len(there) - 3} more' if len(there) > 3 else ''}); nothing was "
                f"restored of {way.point.id}. Say overwrite=True if it may be replaced"
            )


def compare(set_name: str, namespaces: Sequence[Namespace], loaded: load.Loaded) -> None:
    """What was sent to the server is what the manifest describes: counts, bytes, content hashes.

    Raises OpenHIMError when it is not.
    """
    wanted = {(n.db, n.collection): (n.count, n.bytes, n.digest) for n in namespaces}
    found = {(n.db, n.collection): (n.count, n.bytes, n.digest) for n in loaded.namespaces}
    wrong = [
        ".".join(key) for key in sorted(wanted.keys() | found) if wanted.get(key) != found.get(key)
    ]
    if wrong:
        raise OpenHIMError(
            f"{set_name} was restored, and differs from the manifest in {', '.join(wrong[:5])}; "
            "do not use it, restore another point"
        )


def read_back(
    set_name: str, namespaces: Sequence[Namespace], client: MongoClient, exactly: bool = True
) -> None:
    """The majority has as many documents as the manifest says, counted one by one.

    exactly: otherwise there may be more, for OpenHIM runs again. Raises OpenHIMError.
    """
    wrong = []
    for namespace in namespaces:
        if namespace.type == VIEW:
            continue
        name = namespace.collection
        stored = f"{BUCKETS}{name}" if namespace.type == TIMESERIES else name
        collection = client[namespace.db].get_collection(
            stored, read_concern=ReadConcern("majority")
        )
        count = collection.count_documents({})
        if count < namespace.count or (exactly and count > namespace.count):
            wrong.append(f"{namespace.db}.{name} ({count} documents of {namespace.count})")
    if wrong:
        raise OpenHIMError(
            f"{set_name} was restored, and what is there now differs from the manifest: "
            f"{', '.join(wrong[:5])}. Does anybody write to it? Stop OpenHIM, and restore again"
        )


def _mark(
    backups: Backups,
    targets: Sequence[Target],
    way: Way,
    by: str,
    why: str,
) -> None:
    client, database = _main(backups, targets)
    collection = client[database].get_collection(
        MARKER, write_concern=WriteConcern("majority", wtimeout=60_000)
    )
    marker = {
        "_id": f"{way.point.id} {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        "point": way.point.id,
        "stack": way.point.stack,
        "repository": way.repository,
        "restored_at": datetime.now(timezone.utc),
        "by": by,
        "why": why,
        **_epoch(backups),
        **({"to_time": way.time} if way.to else {}),
    }
    collection.insert_one(marker)


def _note_beginning(
    backups: Backups, targets: Sequence[Target], way: Way, by: str, why: str
) -> None:
    facts = {"point": way.point.id, "to_time": way.time, "by": by, "why": why, **_epoch(backups)}
    present.begin(*_main(backups, targets), facts)


def _epoch(backups: Backups) -> dict[str, Any]:
    """In the name of which recovery this is done; nothing before the first."""
    return {"epoch": backups.epoch, "epoch_id": backups.epoch_id} if backups.epoch_id else {}


def _main(backups: Backups, targets: Sequence[Target]) -> tuple[MongoClient, str]:
    """A connection to the primary that has OpenHIM's main database, and that one's name."""
    main = backups.stack.databases["main"]
    client = next(client for one, client in targets if one.name == main.replica_set.name)
    return client, main.name


def restored(backups: Backups) -> Sequence[Mapping[str, Any]]:
    """The markers that restores left in the main database, the oldest first."""
    main = backups.stack.databases["main"]
    with primary(backups, main.replica_set.name) as client:
        found = client[main.name][MARKER].find(sort=[("restored_at", 1)])
        return [{k: v for k, v in each.items() if k != "_id"} for each in found]


def is_of(marker: Mapping[str, Any], point: str, time: str | None = None) -> bool:
    """Whether a marker is of a restore to this restore point, or to this time.

    point: an ID, ``latest`` or ``verified``: these are satisfied by any restore.
    """
    wanted = to_time.text(to_time.parsed(time)) if time else None
    any_point = point in (LATEST, "verified")
    same_point = any_point or marker["point"] == point
    return same_point and (marker.get("to_time") == wanted or (any_point and wanted is None))


def words(marker: Mapping[str, Any]) -> str:
    """What a marker is of, for a person."""
    time = marker.get("to_time")
    return f"{time} (from {marker['point']})" if time else str(marker["point"])


def recovery_key(backups: Backups) -> str:
    """The declared recovery key; raises OpenHIMError where there is none for this host."""
    secret = backups.entry.get("recovery_secret")
    if not secret:
        raise OpenHIMError(
            "openhim:backup:recovery_secret: found nothing; name the secret that is the recovery "
            "key"
        )
    return secrets.lookup(backups.pillar, secret)


def add_recovery_key(backups: Backups, repository: str | None = None) -> bool:
    """Adds the declared recovery key to a repository and proves that it opens it.

    Returns False when it opens it already.
    """
    password = recovery_key(backups)
    opened = backups.repository(repository)
    if opened.opens_with(password):
        return False
    opened.key_add(password, user="recovery", host=backups.stack.name)
    return True
