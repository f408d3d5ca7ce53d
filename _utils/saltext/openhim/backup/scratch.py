"""A mongod of its own for a short time, in memory: nobody else reaches it, and nothing stays.

It holds patients' data in the clear, so its files are in a folder of its own on a tmpfs (or where
the caller says: an encrypted disk), it listens on a socket in that folder and on no port, and
whatever ends the process that wanted it also ends the mongod and removes the folder: a keeper, a
small shell, waits for the end of a pipe that only that process holds open. Should the keeper be
killed too, the kernel ends the mongod with it, and the next scratch mongod removes the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymongo import MongoClient
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.mongo.connection import explained

#: Where there is memory to write files to.
FOLDER = "/dev/shm"  # noqa: S108
PREFIX = "openhim-scratch-"

#: Seconds for mongod to answer, and to be gone.
START_SECONDS = 120.0
STOP_SECONDS = 60.0
#: Seconds for a mongod that has let go of its connections to be gone.
END_SECONDS = 2.0
#: Seconds that one command may take: an aggregation over a whole collection, say.
SOCKET_TIMEOUT_MS = 600_000

#: What a mongod without documents needs: its own collections, its journal, its log.
_EMPTY_BYTES = 256 << 20
#: What it needs of memory beside its files: the cache that it is given, and itself.
_PROCESS_BYTES = 512 << 20
_CACHE_GB = "0.25"
#: A folder without a lock is one in the making, for so many seconds.
_IN_THE_MAKING = 300.0
#: A socket's path may not be longer; the kernel says no more than "invalid argument".
_LONGEST_SOCKET = 107
_SOCKET = "mongod.sock"

#: Runs mongod, then waits: reading ends when nobody has the pipe's other end any more.
_KEEPER = """
folder=$1; shift
ulimit -c 0
umask 077
"$@" &
server=$!
exec >/dev/null 2>&1
trap '' HUP INT TERM
while read -r _; do :; done
kill -KILL "$server"
wait "$server"
rm -rf -- "$folder"
"""


class ScratchError(OpenHIMError):
    """The scratch mongod cannot be had, or ended; that says nothing of the data meant for it."""


class NoRoom(ScratchError):
    """There is not enough memory, or not enough room in the folder."""


@dataclass(frozen=True)
class Scratch:
    """A scratch mongod that runs. ``client`` is connected to it directly."""

    client: MongoClient
    folder: Path
    version: str
    keeper: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raises :class:`ScratchError` when it runs no longer, with what it last said.

        For who has lost the connection: a process that is ended lets go of one thing after another.
        """
        if _ended(self.keeper):
            raise ScratchError(
                f"the scratch mongod in {self.folder} ended while it was in use: "
                f"{_last_words(self.folder, with_details=False)}. Often the room or the memory was "
                "used up; free some, or verify on another host"
            )


@contextlib.contextmanager
def mongod(
    binary: str,
    data_bytes: int = 0,
    folder: str | Path | None = None,
    isolated: tuple[Path, int] | None = None,
    fill: Callable[[Path], Sequence[str]] | None = None,
) -> Iterator[Scratch]:
    """A scratch mongod; it is gone, and its folder too, when the block is left.

    binary: mongod's path. data_bytes: how much BSON it will be given; too little room is said
    before anything starts. folder: on a tmpfs or on an encrypted disk; :data:`FOLDER` when left
    out. isolated: a network namespace (its file), and the port on whose loopback interface it
    listens too, beside its socket. fill: puts files into its data folder before it starts, and
    returns further options.

    Raises :class:`NoRoom` and :class:`ScratchError`.
    """
    command = _command(binary)
    parent = parent_with_room(folder, data_bytes)
    own, lock = own_folder(parent)
    keeper: subprocess.Popen[bytes] | None = None
    try:
        keeper = _started(command, own, lock, isolated, fill)
        socket = own / _SOCKET
        _wait_until_it_listens(keeper, own, socket)
        client = MongoClient(
            f"mongodb://{str(socket).replace('/', '%2F')}",
            directConnection=True,
            serverSelectionTimeoutMS=10_000,
            socketTimeoutMS=SOCKET_TIMEOUT_MS,
            serverMonitoringMode="poll",
            tz_aware=True,
        )
        try:
            with explained(f"the scratch mongod in {own}"):
                version = str(client.server_info()["version"])
            yield Scratch(client, own, version, keeper)
        finally:
            client.close()
    finally:
        _stop(keeper)
        shutil.rmtree(own, ignore_errors=True)
        os.close(lock)


def parent_with_room(folder: str | Path | None, data_bytes: int) -> Path:
    """Where a scratch mongod's own folder can be made; ``folder`` and errors as for mongod."""
    parent = Path(folder or FOLDER)
    if not parent.is_dir():
        raise ScratchError(f"{parent} is no folder; expected a tmpfs such as {FOLDER}")
    remove_abandoned(parent)
    refuse_without_room(parent, data_bytes)
    return parent


def room_needed(data_bytes: int) -> int:
    """Bytes of files for so much BSON: compressed documents, indexes and journal, and some more."""
    return _EMPTY_BYTES + data_bytes + data_bytes // 2


def refuse_without_room(folder: Path, data_bytes: int) -> None:
    """Raises :class:`NoRoom` when the folder, or this host's memory, is too small."""
    needed = room_needed(data_bytes)
    free = shutil.disk_usage(folder).free
    words = f"{_size(data_bytes)} of documents need {_size(needed)}"
    what_to_do = "Free some, name another folder, verify a sample, or verify on a larger host"
    if free < needed:
        raise NoRoom(f"{folder} has {_size(free)} free, and {words}. {what_to_do}")
    if _in_memory(folder):
        available = _memory_available()
        if available < needed + _PROCESS_BYTES:
            raise NoRoom(
                f"this host has {_size(available)} of memory available, {folder} is in memory, and "
                f"{words} beside {_size(_PROCESS_BYTES)} for mongod itself. {what_to_do}"
            )


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes what scratch mongods left whose keepers were killed as well; returns the folders."""
    found = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _free(folder):
                shutil.rmtree(folder)
                found.append(folder)
    return found


def _free(folder: Path) -> bool:
    """Whether nobody holds a scratch folder: the lock goes with the last process that has it."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > _IN_THE_MAKING
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _command(binary: str) -> list[str]:
    """mongod behind what keeps it small and mortal."""
    if not os.access(binary, os.X_OK) or Path(binary).is_dir():
        raise ScratchError(
            f"{binary} is no program, so nothing can be restored here to be looked at; expected "
            "this host's mongod. Install it as openhim:mongodb:install says"
        )
    setpriv = shutil.which("setpriv")
    if not setpriv:
        raise ScratchError(
            "setpriv is not installed; it ends the scratch mongod when its keeper is killed. "
            "Install util-linux"
        )
    # Whoever serves OpenHIM on the same host comes first.
    polite = ["nice", "-n", "10"]
    polite += ["ionice", "-c", "3"] if shutil.which("ionice") else []
    return [*polite, setpriv, "--pdeathsig", "KILL", binary]


def own_folder(parent: Path) -> tuple[Path, int]:
    """A new folder that is ours alone, and the lock that says that it is in use (close it last).

    Should nobody remove it, :func:`remove_abandoned` does, once the lock is gone.
    """
    own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
    if len(str(own / _SOCKET)) > _LONGEST_SOCKET:
        own.rmdir()
        raise ScratchError(
            f"the path of {parent} is too long for a socket in it; expected at most "
            f"{_LONGEST_SOCKET - len(str(own / _SOCKET)) + len(str(parent))} characters"
        )
    lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return own, lock


def _started(
    command: list[str],
    own: Path,
    lock: int,
    isolated: tuple[Path, int] | None,
    fill: Callable[[Path], Sequence[str]] | None,
) -> subprocess.Popen[bytes]:
    (own / "db").mkdir(mode=0o700)
    further = fill(own / "db") if fill else ()
    addresses, port = str(own / _SOCKET), []
    if isolated:
        command = ["nsenter", f"--net={isolated[0]}", "--", *command]
        addresses, port = f"{addresses},127.0.0.1", ["--port", str(isolated[1])]
    options = [
        *("--dbpath", str(own / "db"), "--logpath", str(own / "log")),
        # Sockets in our folder, and no port of this host.
        *("--bind_ip", addresses, "--unixSocketPrefix", str(own), *port),
        *("--filePermissions", "0700", "--wiredTigerCacheSizeGB", _CACHE_GB),
        # Checkpoints often, so that the journal stays small; and no document in the log.
        *("--wiredTigerEngineConfigString", "log=(file_max=16MB,prealloc=false)"),
        *("--syncdelay", "15", "--slowms", "100000000"),
        *("--setParameter", "ttlMonitorEnabled=false"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *further,
    ]
    return subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "keeper", str(own), *command, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        # A signal to our group, such as ^C at a terminal, is not for the keeper.
        start_new_session=True,
    )


def _ended(keeper: subprocess.Popen[bytes]) -> bool:
    """Whether mongod is gone, or soon is: it is the last one that has the output open."""
    assert keeper.stdout is not None
    until = time.monotonic() + END_SECONDS
    while select.select([keeper.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        if not os.read(keeper.stdout.fileno(), 65536):
            return True
    return False


def _wait_until_it_listens(keeper: subprocess.Popen[bytes], own: Path, socket: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    assert keeper.stdout is not None
    said = b""
    while not socket.exists():
        if select.select([keeper.stdout], [], [], 0.05)[0]:
            more = os.read(keeper.stdout.fileno(), 65536)
            said += more
            if not more:
                words = _last_words(own, with_details=True) or _plain(said)
                raise ScratchError(f"the scratch mongod did not start: {words}")
        if time.monotonic() > deadline:
            raise ScratchError(
                f"the scratch mongod did not listen within {START_SECONDS:.0f} s: "
                f"{_last_words(own, with_details=True)}. Is this host overloaded?"
            )


def _stop(keeper: subprocess.Popen[bytes] | None) -> None:
    if keeper is None:
        return
    assert keeper.stdin is not None and keeper.stdout is not None
    keeper.stdin.close()
    try:
        keeper.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # mongod goes with its keeper.
        keeper.kill()
        keeper.wait()
    keeper.stdout.close()


def _last_words(folder: Path, with_details: bool) -> str:
    """The last error in mongod's log.

    with_details: also what the error says beyond its name; not once there are documents, for it
    could quote one.
    """
    found = ""
    with contextlib.suppress(OSError):
        for line in (folder / "log").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                entry = json.loads(line)
                if entry.get("s") in ("E", "F"):
                    found = str(entry.get("msg", ""))
                    if with_details and entry.get("attr"):
                        found += f" {json.dumps(entry['attr'])[:500]}"
    return found or ("" if with_details else "it left no word")


def _plain(said: bytes) -> str:
    """What was printed before there was a log, in one line."""
    return re.sub(r"\s+", " ", said.decode(errors="replace")).strip()[-500:] or "it left no word"


def _in_memory(folder: Path) -> bool:
    """Whether a folder's files are in memory."""
    best, kind = "", ""
    path = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts at the same place the later one is seen.
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind in ("tmpfs", "ramfs")


def _memory_available() -> int:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
