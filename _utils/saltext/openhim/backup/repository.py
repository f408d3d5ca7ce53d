"""One restic repository: open it, store streams in it, read them back, copy, forget, check.

Works with restic 0.14 (Debian 12) and newer. 0.14 tells an error by its text alone, waits for no
lock, looks 43 s for one that was just taken away, and tells a snapshot's short ID only; all
of it is made up for here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import socket
import threading
import time as clock
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from saltext.openhim.backup import failures, restic
from saltext.openhim.backup.failures import (
    AccessDenied,
    AppendOnly,
    Damaged,
    Full,
    Locked,
    LockGone,
    NoRepository,
    NotStored,
    ReadOnly,
    RepositoryError,
    RepositoryUnreachable,
    ResticMissing,
    WrongPassword,
)
from saltext.openhim.backup.producers import Sink, command_output
from saltext.openhim.backup.restic import Run

__all__ = [
    "AccessDenied",
    "AppendOnly",
    "Damaged",
    "Full",
    "Lock",
    "Locked",
    "NoRepository",
    "NotStored",
    "ReadOnly",
    "Reader",
    "Repository",
    "RepositoryError",
    "RepositoryUnreachable",
    "ResticMissing",
    "Snapshot",
    "Stored",
    "Streamed",
    "WrongPassword",
]

#: Where restic keeps what it downloaded of a repository's index; disposable.
CACHE = "/var/cache/saltext-openhim/restic"
#: Seconds that a small question to a repository may take.
TIMEOUT = 120.0
#: Seconds that a long transfer may stand still.
STALL = 180.0
#: Seconds to wait for another process's lock.
LOCK_WAIT = 60.0
#: Seconds that checking, pruning or copying may take in all.
LONGEST = 24 * 3600.0

#: Seconds within which restic renews a living process's lock: twice its 5 minutes, and a little.
RENEWED = 630.0
#: restic takes a lock that is older for stale (seconds); a little less, for the time in between.
_STALE = 1800 - 300

#: From this version on restic waits well for another process's lock by itself.
_WAITS = (0, 17)
#: How often in a row a lock may be taken away while it is read.
_STUMBLES = 5

_SNAPSHOT_ID = re.compile(r"[0-9a-f]{64}")
#: What restic says when ssh ended, whyever.
_SSH = "unable to start the sftp session"
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as the repository lists it. ``original`` is what it is a copy of."""

    id: str
    time: datetime
    tree: str
    tags: tuple[str, ...]
    host: str
    paths: tuple[str, ...] = ()
    original: str | None = None

    def tag(self, name: str) -> str | None:
        """The value of the tag ``name=value``."""
        return next((tag[len(name) + 1 :] for tag in self.tags if tag.startswith(f"{name}=")), None)


@dataclass(frozen=True)
class Stored:
    """What was stored: the snapshot's full ID, its tree, bytes and SHA-256 of the stream."""

    snapshot: str
    tree: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Streamed:
    """What was stored and not looked up yet: restic 0.14 does not tell a snapshot's full ID.

    Each question to restic costs the derivation of a key, half a second and more; so several
    streams are looked up in one listing.
    """

    token: str
    size: int
    sha256: str

    def found(self, snapshots: Iterable[Snapshot], where: str) -> Stored:
        """The same with its snapshot's ID, from a listing; raises :class:`Damaged` without it."""
        own = [snapshot for snapshot in snapshots if self.token in snapshot.tags]
        if len(own) != 1:
            raise Damaged(
                f"{where}: {len(own)} snapshots are there right after one was stored; "
                "expected it alone. Check the repository"
            )
        return Stored(own[0].id, own[0].tree, self.size, self.sha256)


@dataclass(frozen=True)
class Lock:
    """Who holds the repository; ``exclusive`` locks are those of prune, check and forget."""

    id: str
    time: datetime
    host: str
    pid: int
    exclusive: bool


@dataclass
class Repository:
    """A repository and the password that opens it.

    url: as restic writes it: a path, ``sftp:…``, ``rest:…``, ``s3:…``.
    environment: credentials of the storage service, as restic's documentation names them.
    options: restic's extended options, such as ``sftp.command=…``. They are arguments: no secrets.
    cache_dir: None for no cache, so that all is read from the repository itself (as verification
    must). timeout, stall, lock_wait: seconds; see :data:`TIMEOUT`, :data:`STALL`,
    :data:`LOCK_WAIT`.
    """

    url: str
    password: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    cache_dir: str | Path | None = CACHE
    options: Sequence[str] = ()
    timeout: float = TIMEOUT
    stall: float = STALL
    lock_wait: float = LOCK_WAIT
    program: str = "restic"
    #: Signs the verifications that are kept here; with it no others count.
    verification_secret: str = field(default="", repr=False)
    _without_lock: bool = field(default=False, init=False, repr=False)

    def __repr__(self) -> str:
        """Its place, without a password."""
        return f"Repository({self.location})"

    @property
    def location(self) -> str:
        """The URL without a password, for messages."""
        return failures.scrubbed(self.url, [self.password])

    # --- the repository as such ---

    def exists(self) -> bool:
        """Whether there is a repository, be it that the password opens it or not."""
        try:
            self.repository_id()
        except NoRepository:
            return False
        except WrongPassword:
            return True
        return True

    def repository_id(self) -> str:
        """The ID that it got when it was made; a copy of its files has the same."""
        return str(json.loads(self._ask(["cat", "config", "--no-lock"]))["id"])

    def initialise(self, copy_chunker_from: Repository | None = None) -> bool:
        """Make the repository; False when it is there already and the password opens it.

        copy_chunker_from: the first repository, so that copies from it are deduplicated here.
        """
        with contextlib.suppress(NoRepository):
            self.repository_id()
            return False
        arguments = ["init"]
        if copy_chunker_from is not None:
            arguments.append("--copy-chunker-params")
        try:
            self._ask(arguments, source=copy_chunker_from)
        except RepositoryError:
            # Two hosts may begin at the same moment.
            with contextlib.suppress(RepositoryError):
                self.repository_id()
                return False
            raise
        self.repository_id()
        return True

    def opens_with(self, password: str) -> bool:
        """Whether a password opens it: the proof that a recovery key is worth something."""
        try:
            self._with_password(password).repository_id()
        except WrongPassword:
            return False
        return True

    def key_list(self) -> list[dict[str, Any]]:
        """The keys: ``id`` (short), ``current``, ``userName``, ``hostName``, ``created``."""
        return self._read(
            lambda lock: list(json.loads(self._ask(["key", "list", "--json", *lock])))
        )

    def key_add(self, password: str, *, user: str = "", host: str = "") -> str:
        """Add a key for a password, and prove that it opens; returns the key's short ID.

        user, host: what the key is listed as, such as ``recovery``.
        """
        before = {key["id"] for key in self.key_list()}
        arguments = ["key", "add"]
        arguments += ["--user", user] if user else []
        arguments += ["--host", host] if host else []
        self._ask([*arguments, "--new-password-file"], new_password=password)
        added = [key["id"] for key in self.key_list() if key["id"] not in before]
        if len(added) != 1 or not self.opens_with(password):
            raise RepositoryError(
                f"{self.location}: the new key does not open the repository; expected one that "
                "does. "
                "Add it again"
            )
        return str(added[0])

    def key_remove(self, key: str) -> None:
        """Remove a key by its ID; the key in use cannot be removed."""
        if any(known["current"] and known["id"] == key for known in self.key_list()):
            raise RepositoryError(
                f"{self.location}: key {key} is the one in use; open the repository with another "
                "one "
                "to remove it"
            )
        self._ask(["key", "remove", key])
        if any(known["id"] == key for known in self.key_list()):
            raise RepositoryError(f"{self.location}: key {key} is still there after its removal")

    # --- store and read ---

    def store_stream(
        self,
        producer: Sequence[str] | Callable[[BinaryIO], object],
        filename: str,
        tags: Iterable[str] = (),
        host: str | None = None,
        time: datetime | None = None,
    ) -> Stored:
        """Store what a producer writes as one file of one snapshot, or leave none.

        Parameters and errors as in :meth:`stream`.
        """
        streamed = self.stream(producer, filename, tags, host, time)
        return streamed.found(self.snapshots([streamed.token], damaged=[]), self.location)

    def stream(
        self,
        producer: Sequence[str] | Callable[[BinaryIO], object],
        filename: str,
        tags: Iterable[str] = (),
        host: str | None = None,
        time: datetime | None = None,
    ) -> Streamed:
        """Store what a producer writes as one file of one snapshot, which is not looked up yet.

        producer: a function that writes to the stream that it gets, or a command's arguments. When
            it raises or fails, restic is stopped before it sees the end of the stream, so that no
            truncated snapshot comes to be; that is looked up, and the producer's error raised.
        filename: without folders.
        tags: ``name=value``, no commas.
        host: the host that the snapshot is said to be of (default: this one).
        time: the time that the snapshot gets (default: now).
        """
        write = producer if callable(producer) else command_output(producer)
        token = f"store={secrets.token_hex(8)}"
        arguments = ["backup", "--stdin", "--stdin-filename", filename, "--json"]
        arguments += ["--host", host or socket.gethostname()]
        arguments += self._tagged([*tags, token])
        if time is not None:
            arguments += ["--time", _local(time)]
        run = self._begun(arguments)
        sink = Sink(run)
        guard = threading.Thread(
            target=run.wait_moving, args=(self.stall, lambda: sink.pending), daemon=True
        )
        guard.start()
        try:
            write(sink)
            sink.finish()
        except BaseException as error:
            if sink.broken:
                # It is about to end by itself, and to say why; interrupted, it would not.
                run.wait(restic.GRACE)
            self._undo(run, token)
            broken = run.error() if sink.broken else None
            if broken is not None and isinstance(error, Exception):
                raise broken from error
            raise
        finally:
            guard.join()
            run.close()
        if failed := run.error():
            self._forget_quietly(token)
            raise failed
        return self._streamed(run, token, sink)

    def store_paths(
        self, paths: Iterable[str | Path], tags: Iterable[str] = (), host: str | None = None
    ) -> Stored:
        """Store files and folders as they are, as one snapshot; all of them, or it fails.

        Its ``size`` is the bytes of all files; it has no SHA-256, for it is no stream.
        """
        names = [str(path) for path in paths]
        if missing := [name for name in names if not os.path.lexists(name)]:
            raise RepositoryError(f"to be stored and not there: {', '.join(missing)}")
        token = f"store={secrets.token_hex(8)}"
        arguments = ["backup", "--json", "--host", host or socket.gethostname()]
        arguments += [*self._tagged([*tags, token]), "--", *names]
        run = self._begun(arguments, feed=False)
        run.wait_moving(self.stall)
        run.close()
        if run.process.returncode == 3:
            said = failures.scrubbed(run.errors(), run.hidden).replace("\n", "; ")
            self._forget_quietly(token)
            raise RepositoryError(f"{self.location}: some files could not be read: {said[:1000]}")
        if error := run.error():
            raise error
        size = _summary(run)["total_bytes_processed"]
        return Streamed(token, size, "").found(self.snapshots([token], damaged=[]), self.location)

    def read(self, snapshot: str, filename: str) -> Reader:
        """The contents of one file of a snapshot, as a stream to be used in ``with``.

        The end of the stream is only reached when restic ended well: else reading raises.
        """
        return self._dump([snapshot], filename)

    def read_streamed(self, streamed: Streamed, filename: str) -> Reader:
        """The same of what was stored and not looked up yet."""
        return self._dump(["--tag", streamed.token, "latest"], filename)

    def _dump(self, which: Sequence[str], filename: str) -> Reader:
        path = filename if filename.startswith("/") else f"/{filename}"

        def begin(lock: list[str]) -> Reader:
            run = self._run(["dump", *lock, *which, path], raw_output=True)
            return Reader(run, self.stall).begun()

        return self._read(begin)

    def snapshots(
        self, tags: Iterable[str] = (), damaged: list[str] | None = None
    ) -> list[Snapshot]:
        """The snapshots that have all these tags, the oldest first.

        damaged: gets what restic says of snapshots that it cannot read; without it they raise
            :class:`Damaged`, because they would be missing from the list.
        """

        def ask(lock: list[str]) -> list[Snapshot]:
            wanted = ",".join(tags)
            filters = ["--tag", wanted] if wanted else []
            run = self._run(["snapshots", "--json", *filters, *lock])
            listed = json.loads(run.finish(self.timeout) or "[]") or []
            unread = [line for line in run.errors().splitlines() if "could not load" in line]
            if unread and damaged is None:
                raise failures.failure(self.location, "\n".join(unread))
            if damaged is not None:
                damaged.extend(unread)
            found = []
            for entry in listed:
                try:
                    found.append(_snapshot(entry))
                except (Damaged, KeyError, TypeError, ValueError) as error:
                    if damaged is None:
                        raise Damaged(
                            f"{self.location}: a snapshot is malformed: {error!r}"
                        ) from None
                    damaged.append(f"a snapshot is malformed: {error!r}")
            return sorted(found, key=lambda snapshot: (snapshot.time, snapshot.id))

        return self._read(ask)

    # --- remove and copy ---

    def forget(self, ids: Iterable[str], prune: bool = False, dry_run: bool = False) -> list[str]:
        """Forget snapshots by their full IDs; returns those that were there (and now are not).

        prune: also free the space. dry_run: only tell which of them are there.
        """
        wanted = list(dict.fromkeys(ids))
        if wrong := [one for one in wanted if not _SNAPSHOT_ID.fullmatch(one)]:
            raise RepositoryError(
                f"{wrong[0]!r} is no full ID of a snapshot (64 hexadecimal digits); nothing was "
                "removed"
            )
        there = {snapshot.id for snapshot in self.snapshots(damaged=[])}
        found = [one for one in wanted if one in there]
        if not found or dry_run:
            return found
        for first in range(0, len(found), 500):
            self._ask(["forget", *found[first : first + 500]], limit=LONGEST)
        left = {snapshot.id for snapshot in self.snapshots(damaged=[])} & set(found)
        if left:
            raise RepositoryError(
                f"{self.location}: {len(left)} of {len(found)} snapshots are still there after "
                "their "
                "removal; expected none. Look at the storage's permissions"
            )
        if prune:
            self.prune()
        return found

    def prune(self, max_unused: str = "5%") -> str:
        """Free the space of what no snapshot needs; returns what restic says of it."""
        return self._ask(["prune", "--max-unused", max_unused], limit=LONGEST)

    def copy_to(self, other: Repository, ids: Iterable[str]) -> dict[str, str]:
        """Copy snapshots to another repository; returns the ID there by the ID here.

        What is there already is not copied again. Run it where the other repository's password is,
        so that copies are pulled.
        """
        wanted = list(dict.fromkeys(ids))
        here = {one.id: one for one in self.snapshots(damaged=[]) if one.id in wanted}
        if missing := [one for one in wanted if one not in here]:
            raise NotStored(
                f"{self.location}: snapshot {missing[0]} is not there; nothing was copied"
            )
        if wanted:
            other._ask(["copy", *wanted], source=self, limit=LONGEST)
        there = other.snapshots(damaged=[])
        copies = {}
        for one in here.values():
            match = [found for found in there if _is_copy(found, one)]
            if not match:
                raise RepositoryError(
                    f"{other.location}: snapshot {one.id} of {self.location} is not there after "
                    "copying it; expected its copy. Copy it again"
                )
            copies[one.id] = match[-1].id
        return copies

    # --- health ---

    def check(self, read_data: bool | str = False) -> str:
        """Check the repository; raises :class:`Damaged` with what was found.

        read_data: True reads all contents; a text such as ``5%`` or ``1/7`` that share of them.
        """
        arguments = ["check"]
        if isinstance(read_data, str):
            arguments += ["--read-data-subset", read_data]
        elif read_data:
            arguments.append("--read-data")
        try:
            return self._ask(arguments, limit=LONGEST)
        except NotStored as error:  # "pack …: not found" is damage here
            raise Damaged(str(error)) from error

    def stats(self) -> dict[str, Any]:
        """``total_size`` in bytes as stored, ``total_blob_count``, and what newer versions add."""
        return self._read(
            lambda lock: dict(
                json.loads(
                    self._ask(["stats", "--mode", "raw-data", "--json", *lock], limit=LONGEST)
                )
            )
        )

    def locks(self) -> list[Lock]:
        """Who holds the repository now, or died and left a lock."""
        found = []
        for identity in self._ask(["list", "locks", "--no-lock"]).split():
            with contextlib.suppress(NotStored, Damaged, LockGone):  # gone meanwhile
                told = self._run(["cat", "lock", identity, "--no-lock"]).finish(self.timeout)
                entry = json.loads(told)
                found.append(
                    Lock(
                        id=identity,
                        time=_time(entry["time"]),
                        host=entry.get("hostname", ""),
                        pid=int(entry.get("pid", 0)),
                        exclusive=bool(entry.get("exclusive")),
                    )
                )
        return found

    def unlock_stale(self, renewed: float = RENEWED) -> list[Lock]:
        """Remove the locks of processes that are gone; returns those removed.

        Stale is a lock of this host whose process is gone, and one that nobody renewed for 30
        minutes. A clock that is wrong makes living locks look so. With a lock of the future nothing
        is removed; and what looks old is looked at twice, ``renewed`` seconds apart: restic renews
        the lock of a living process under a new name every 5 minutes.
        """
        before = self.locks()
        self._refuse_future(before)
        if any(map(_looks_old, before)):
            clock.sleep(renewed)
            known = {lock.id for lock in before}
            now = self.locks()
            if new := [lock for lock in now if _looks_old(lock) and lock.id not in known]:
                raise Locked(
                    f"{self.location}: the lock of {new[0].host} was made while we looked, and "
                    f"says {new[0].time:%Y-%m-%d %H:%M} UTC: a clock is wrong, so no lock was "
                    "removed. Set the clocks"
                )
            self._refuse_future(now)
        if before:
            self._ask(["unlock"])
        left = {lock.id for lock in self.locks()} if before else set()
        return [lock for lock in before if lock.id not in left]

    def past_dead_locks(self, action: Callable[[], _Answer]) -> _Answer:
        """What an action answers that needs the repository for itself.

        Who died and left its lock would keep everything from being removed, for ever: where it is
        locked, the locks of processes that are gone are removed, and it is tried once more.
        """
        try:
            return action()
        except Locked:
            self.unlock_stale()
            return action()

    def _refuse_future(self, locks: Iterable[Lock]) -> None:
        ahead = datetime.now(timezone.utc) + timedelta(minutes=5)
        if future := [lock for lock in locks if lock.time > ahead]:
            raise Locked(
                f"{self.location}: the lock of {future[0].host} is of "
                f"{future[0].time:%Y-%m-%d %H:%M} "
                "UTC, which is in the future: a clock is wrong, so no lock was removed. Set the "
                "clocks"
            )

    # --- how restic is run ---

    def _run(self, arguments: Sequence[str], source: Repository | None = None, **more: Any) -> Run:
        verb, *rest = arguments
        command = [verb]
        command += ["--cache-dir", str(self.cache_dir)] if self.cache_dir else ["--no-cache"]
        for option in [*self.options, *(source.options if source else ())]:
            command += ["--option", option]
        if restic.version(self.program) >= _WAITS and verb in _LOCKING:
            command += ["--retry-lock", f"{int(self.lock_wait)}s"]
        piped = {
            "RESTIC_PASSWORD_FILE": self.password,
            "RESTIC_REPOSITORY_FILE": self.url,
        }
        environment = dict(self.environment)
        hidden = [self.password, *_credentials(self.environment)]
        if source is not None:
            piped["RESTIC_FROM_PASSWORD_FILE"] = source.password
            piped["RESTIC_FROM_REPOSITORY_FILE"] = source.url
            environment = _merged(source, self)
            hidden += [source.password, *_credentials(source.environment)]
        return Run(
            [*command, *rest],
            where=self.location,
            environment=environment,
            secrets=piped,
            hidden=hidden,
            program=self.program,
            **more,
        )

    def _ask(
        self,
        arguments: Sequence[str],
        *,
        source: Repository | None = None,
        new_password: str | None = None,
        limit: float | None = None,
    ) -> str:
        """The answer to a question; waits for a lock, and no longer than ``limit`` seconds."""

        def once() -> str:
            if new_password is None:
                run = self._run(arguments, source)
            else:
                run = self._run_with_new_password(arguments, new_password)
            if limit is None or limit <= self.timeout:
                return run.finish(limit or self.timeout)
            end = threading.Timer(limit, run.abort, [run.silent(limit)])
            end.daemon = True
            end.start()
            try:
                run.wait_moving(self.stall)
            finally:
                end.cancel()
            return run.finish(restic.GRACE)

        return self._patiently(once, *([source] if source else []))

    def _remove_own_lock(self, *sources: Repository) -> None:
        """Remove the lock that a restic of this host may have left, which we interrupted; also in
        what it copied from.

        Not while a clock may be wrong: a living process's lock would look old, too. What is left
        then keeps nobody from storing, and :meth:`unlock_stale` removes it.
        """
        for one in (self, *sources):
            with contextlib.suppress(RepositoryError):
                hurried = one._hurried()
                there = hurried.locks()
                hurried._refuse_future(there)
                if there and not any(map(_looks_old, there)):
                    hurried._run(["unlock"]).finish(hurried.timeout)

    def _run_with_new_password(self, arguments: Sequence[str], password: str) -> Run:
        """restic has no variable for a new key's password: a pipe as a file, named as argument."""
        ours, theirs = os.pipe()
        try:
            os.write(theirs, password.encode())
            os.close(theirs)
            return self._run(
                [*arguments, f"/proc/self/fd/{ours}"], extra_pipes=[ours], extra_hidden=[password]
            )
        finally:
            os.close(ours)

    def _patiently(self, action: Callable[[], _Answer], *sources: Repository) -> _Answer:
        """Try again while another process holds the repository; 0.14 does not wait by itself.

        sources: other repositories in which the action takes a lock.
        """
        deadline = clock.monotonic() + self.lock_wait
        pause, wordless, stumbles = 0.5, 3, _STUMBLES
        while True:
            try:
                return action()
            except LockGone:
                stumbles -= 1
                if not stumbles:
                    raise
                self._remove_own_lock(*sources)
                continue
            except Locked:
                if clock.monotonic() + pause > deadline:
                    raise
            except RepositoryUnreachable as error:
                # restic may end before it passed on why ssh did: ask again for the reason.
                wordless -= 1
                if not wordless or "(restic: Fatal: " not in str(error) or _SSH not in str(error):
                    raise
            clock.sleep(pause)
            pause = min(pause * 2, 10.0)

    def _read(self, action: Callable[[list[str]], _Answer]) -> _Answer:
        """Do what only reads; where the storage takes no lock (read-only, full), without one."""
        if self._without_lock:
            return action(["--no-lock"])
        try:
            return self._patiently(lambda: action([]))
        except (ReadOnly, Full):
            answer = action(["--no-lock"])
            self._without_lock = True
            return answer

    def _begun(self, arguments: Sequence[str], feed: bool = True) -> Run:
        """A backup that has its lock: its first line of progress comes after that."""

        def once() -> Run:
            run = self._run(arguments, feed=feed)
            if restic.version(self.program) >= _WAITS:
                return run  # it waits for the lock by itself
            if not run.first_line.wait(self.timeout):
                run.abort(run.silent(self.timeout))
            if not run.output():
                run.close()
                raise run.error() or RepositoryError(
                    f"{self.location}: restic ended before it was given anything"
                )
            return run

        return self._patiently(once)

    def _streamed(self, run: Run, token: str, sink: Sink) -> Streamed:
        size = _summary(run).get("total_bytes_processed")
        if size != sink.size:
            self._forget_quietly(token)
            raise Damaged(
                f"{self.location}: restic stored {size} bytes of {sink.size}; expected all. "
                "The snapshot was removed; store it again"
            )
        return Streamed(token, sink.size, sink.sha256())

    def _undo(self, run: Run, token: str) -> None:
        """Stop restic before it sees the stream's end; then no snapshot may be there."""
        run.interrupt()
        self._forget_quietly(token)

    def _forget_quietly(self, token: str) -> None:
        """Remove what a failed backup left; what cannot be removed stays listed as leftover."""
        with contextlib.suppress(RepositoryError):
            hurried = self._hurried()
            hurried.forget([snapshot.id for snapshot in hurried.snapshots([token], damaged=[])])

    def _hurried(self) -> Repository:
        """The same, with little patience: something else failed already."""
        return self._copy(timeout=min(self.timeout, 20.0), lock_wait=min(self.lock_wait, 5.0))

    def _with_password(self, password: str) -> Repository:
        return self._copy(password=password)

    def uncached(self) -> Repository:
        """The same, reading everything from the storage: a cache would hide damage there."""
        return self._copy(cache_dir=None)

    def _copy(self, **changes: Any) -> Repository:
        values = {
            name: getattr(self, name)
            for name, entry in self.__dataclass_fields__.items()
            if entry.init
        }
        return Repository(**{**values, **changes})

    @staticmethod
    def _tagged(tags: Iterable[str]) -> list[str]:
        arguments = []
        for tag in tags:
            if "," in tag or not tag.strip():
                raise RepositoryError(f"{tag!r} is no tag; expected name=value without a comma")
            arguments += ["--tag", tag]
        return arguments


#: What takes a lock in restic, and so can wait for one.
_LOCKING = (
    "backup", "check", "copy", "dump", "forget", "key", "prune", "snapshots", "stats",
)  # fmt: skip


class Reader(io.RawIOBase):
    """The contents of a stored file. Reading raises where restic fails, also at the very end."""

    def __init__(self, run: Run, stall: float):
        super().__init__()
        self._process = run
        self._stall = stall
        self._ahead = b""
        self._ended = False
        stdout = run.process.stdout
        if stdout is None:
            raise RepositoryError("restic was started without an output")
        self._fd = stdout.fileno()

    def begun(self) -> Reader:
        """Itself once the first bytes are there: a wrong snapshot fails here, not while reading."""
        self._ahead = self._more(65536)
        return self

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes read into the buffer; 0 at the end, which is known to be the true one."""
        view = memoryview(buffer).cast("B")
        data = self._ahead or self._more(len(view))
        count = min(len(data), len(view))
        view[:count] = data[:count]
        self._ahead = data[count:]
        return count

    def close(self) -> None:
        """End restic, if it is not over; asked to stop, it takes its lock with it."""
        if not self.closed:
            if not self._ended:
                self._process.interrupt()
                self._ended = True
            super().close()

    def _more(self, size: int) -> bytes:
        if self._ended or not size:
            return b""
        if not restic.readable(self._fd, self._stall):
            self._process.abort(self._process.silent(self._stall))
        data = os.read(self._fd, size)
        if not data:
            self._ended = True
            if not self._process.wait(self._stall):
                self._process.abort(self._process.silent(self._stall))
            self._process.close()
            if error := self._process.error():
                raise error
        return data


def _looks_old(lock: Lock) -> bool:
    return (datetime.now(timezone.utc) - lock.time).total_seconds() > _STALE


def _snapshot(entry: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        id=entry["id"],
        time=_time(entry["time"]),
        tree=entry["tree"],
        tags=tuple(entry.get("tags") or ()),
        host=entry.get("hostname", ""),
        paths=tuple(entry.get("paths") or ()),
        original=entry.get("original"),
    )


def _is_copy(found: Snapshot, of: Snapshot) -> bool:
    same = (found.tree, found.time, found.tags, found.paths) == (
        of.tree,
        of.time,
        of.tags,
        of.paths,
    )
    return same and found.original in (of.id, of.original or of.id)


def _time(text: str) -> datetime:
    """Go's time has nanoseconds, and Python 3.10 reads exactly six digits."""
    found = re.fullmatch(r"([^.]+?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if not found:
        raise Damaged(f"{text!r} is no time; expected one as in RFC 3339")
    whole, fraction, zone = found.groups()
    zone = "+00:00" if zone == "Z" else zone
    return datetime.fromisoformat(f"{whole}.{(fraction or '0')[:6]:0<6}{zone}")


def _local(time: datetime) -> str:
    """restic reads --time in the zone of the host."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _summary(run: Run) -> dict[str, Any]:
    for line in reversed(run.output().splitlines()):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("message_type") == "summary":
                return dict(entry)
    raise Damaged(f"{run.where}: restic ended well and told nothing of what it stored; check it")


def _credentials(environment: Mapping[str, str]) -> list[str]:
    return [value for value in environment.values() if len(value) > 3]


def _merged(source: Repository, target: Repository) -> dict[str, str]:
    """restic has one environment for both sides of a copy."""
    both = {**source.environment, **target.environment}
    if clash := sorted(n for n, value in source.environment.items() if both[n] != value):
        raise RepositoryError(
            f"{source.location} and {target.location} need different values of {', '.join(clash)}, "
            "and "
            "restic takes one environment for both; use credentials that are valid for both, or "
            "reach one of them through SFTP or REST"
        )
    return both
