"""Runs the restic binary: secrets out of sight, bounded in time, its failures in words.

restic retries for minutes what cannot succeed (a full disk, a deletion that the server forbids),
and waits for ever on a connection that went silent. So its error output is read while it runs, and
it is ended, with whatever it started (ssh, rclone), as soon as the cause is final or nothing moves
any more.

Passwords and repository locations (which may hold a password) reach restic through pipes that only
it inherits: they are in no argument, no file and no environment. Credentials of a storage service
(``AWS_SECRET_ACCESS_KEY``…) have no such way; they are in the environment of restic's process,
which the kernel shows to its own user and root alone (``/proc/PID/environ`` has mode 0400).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from saltext.openhim.backup import failures
from saltext.openhim.backup.failures import RepositoryError, RepositoryUnreachable, ResticMissing

#: Seconds that an interrupted restic has to remove its lock before it is killed.
GRACE = 10
#: Bytes that must move within the time allowed, or restic counts as stalled: more than its chatter.
_ALIVE = 4096
_LINES = 200


@functools.lru_cache(maxsize=4)
def binary(name: str = "restic") -> str:
    """The path of the restic program."""
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin"):
        return found
    raise ResticMissing(
        "restic is not installed on this host; install the package restic (0.14 or newer)"
    )


@functools.lru_cache(maxsize=4)
def version(name: str = "restic") -> tuple[int, ...]:
    """The version of restic, such as ``(0, 14, 0)``."""
    answer = subprocess.run(
        [binary(name), "version"], capture_output=True, text=True, timeout=60, check=False
    )
    found = re.search(r"restic (\d+)\.(\d+)\.(\d+)", answer.stdout)
    if not found:
        raise ResticMissing(
            f"{binary(name)} does not tell its version; expected restic 0.14 or newer"
        )
    return tuple(int(number) for number in found.groups())


class Run:
    """One restic process in a session of its own, and what it said.

    where: the repository, as messages call it.
    secrets: environment variable → what a pipe holds; the variable gets the path of that pipe.
    hidden: strings that must not be in a message.
    feed: the caller writes to ``process.stdin``. raw_output: the caller reads ``process.stdout``.
    extra_pipes, extra_hidden: pipes that restic inherits beside, and what is in them.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        where: str,
        environment: Mapping[str, str],
        secrets: Mapping[str, str],
        hidden: Sequence[str] = (),
        feed: bool = False,
        raw_output: bool = False,
        extra_pipes: Sequence[int] = (),
        extra_hidden: Sequence[str] = (),
        program: str = "restic",
    ):
        self.where = where
        self.hidden = [*hidden, *extra_hidden]
        self.verb = next((word for word in arguments if not word.startswith("-")), "restic")
        self.chatter = 0
        self._closed = False
        self.first_line = threading.Event()
        self._final: RepositoryError | None = None
        self._errors: deque[str] = deque(maxlen=_LINES)
        self._output: list[bytes] = []
        pipes, variables = _pipes(secrets)
        try:
            self.process = subprocess.Popen(
                [binary(program), *arguments],
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**_inherited(), **environment, **variables},
                pass_fds=[*pipes, *extra_pipes],
                start_new_session=True,
                bufsize=0,
            )
        finally:
            for pipe in pipes:
                os.close(pipe)
        self._ended = os.pidfd_open(self.process.pid)
        self._readers = [threading.Thread(target=self._read_errors, daemon=True)]
        if not raw_output:
            self._readers.append(threading.Thread(target=self._read_output, daemon=True))
        for reader in self._readers:
            reader.start()

    def finish(self, limit: float) -> str:
        """Its standard output, once it ended well.

        Raises what it failed with, and :class:`RepositoryUnreachable` after ``limit`` seconds.
        """
        if not self.wait(limit):
            self.abort(self.silent(limit))
        self.close()
        if error := self.error():
            raise error
        return self.output()

    def output(self) -> str:
        """What it wrote to its standard output so far."""
        return b"".join(self._output).decode("utf-8", "replace")

    def errors(self) -> str:
        """What it wrote to its standard error, the last lines of it."""
        return "\n".join(self._errors)

    def error(self) -> RepositoryError | None:
        """Why it failed; None when it did not. To be asked after :meth:`close`."""
        if self._final:
            return self._final
        code = self.process.returncode
        return failures.failure(self.where, self.errors(), code, self.hidden) if code else None

    def wait(self, limit: float | None) -> bool:
        """True as soon as it ended; False after ``limit`` seconds."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(None if limit is None else max(0, int(limit * 1000))))

    def wait_moving(self, stall: float, counts: Callable[[], bool] = lambda: True) -> None:
        """Until it ended; it is ended when nothing moved for ``stall`` seconds.

        counts: False while it is right that nothing moves.
        """
        moved, mark = time.monotonic(), self._traffic()
        while not self.wait(min(1.0, stall / 4)):
            traffic = self._traffic()
            if not counts() or abs(traffic - mark) > _ALIVE:
                moved, mark = time.monotonic(), traffic
            elif time.monotonic() - moved > stall:
                self.abort(self.silent(stall))

    def abort(self, error: RepositoryError | None = None) -> None:
        """Kill it with all that it started; ``error`` is then why it failed."""
        self._final = self._final or error
        _kill_session(self.process.pid)

    def interrupt(self) -> None:
        """Ask it to stop, so that it removes its lock; kill it when it does not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT)
        if not self.wait(GRACE):
            self.abort()
        self.close()

    def close(self) -> None:
        """Wait for its end, and end what it left behind."""
        if self._closed:
            return
        self._closed = True
        self.wait(None)
        _kill_session(self.process.pid)
        self.process.wait()
        for reader in self._readers:
            reader.join(GRACE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def __del__(self) -> None:
        """Only now: another thread may wait for the process until then."""
        if hasattr(self, "_ended"):
            os.close(self._ended)

    def silent(self, limit: float) -> RepositoryUnreachable:
        """The error for a storage that gave no answer for that many seconds."""
        said = failures.scrubbed(failures.said(self.errors()), self.hidden)
        return RepositoryUnreachable(
            f"{self.where}: the storage gave no answer for {limit:g} s, and {self.verb!r} was "
            "ended; "
            "check the network and the storage's server" + (f" (restic: {said})" if said else "")
        )

    def _traffic(self) -> int:
        """Bytes that it and its children moved, but for what it told us."""
        return sum(map(_moved, _session(self.process.pid))) - self.chatter

    def _read_output(self) -> None:
        for line in _pipe(self.process.stdout):
            self.chatter += len(line)
            # Of a backup's progress only the newest line is of use.
            if self._output and b'"message_type":"status"' in self._output[-1]:
                self._output.pop()
            self._output.append(line)
            self.first_line.set()
        self.first_line.set()

    def _read_errors(self) -> None:
        for line in _pipe(self.process.stderr):
            self.chatter += len(line)
            text = line.decode("utf-8", "replace").rstrip()
            self._errors.append(text)
            if self._final is None:
                self._final = failures.final(self.where, text, self.hidden)
                if self._final is not None:
                    # Asked to stop, restic removes its lock, but may be in the middle of a pause.
                    with contextlib.suppress(ProcessLookupError):
                        self.process.send_signal(signal.SIGINT)
                    threading.Timer(2.0, self._kill_if_running).start()

    def _kill_if_running(self) -> None:
        if self.process.poll() is None:
            _kill_session(self.process.pid)


def readable(descriptor: int, limit: float) -> bool:
    """True as soon as there is something to read; False after ``limit`` seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(int(limit * 1000)))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """A buffered reader of one of its pipes: ``bufsize=0`` gave a raw one."""
    if stream is None:
        raise RepositoryError("restic was started without that pipe")
    return os.fdopen(os.dup(stream.fileno()), "rb")


def _pipes(secrets: Mapping[str, str]) -> tuple[list[int], dict[str, str]]:
    """A pipe per secret, filled and closed for writing, and the variables that name them."""
    ends, variables = [], {}
    for name, secret in secrets.items():
        data = secret.encode()
        if len(data) > 4096 or "\n" in secret:
            raise RepositoryError(
                f"what {name} stands for is longer than 4096 bytes or has a line break; expected "
                "one line"
            )
        ours, theirs = os.pipe()
        os.write(theirs, data)
        os.close(theirs)
        ends.append(ours)
        variables[name] = f"/proc/self/fd/{ours}"
    return ends, variables


def _inherited() -> dict[str, str]:
    """Our environment but for restic's own variables: only what is declared counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESTIC_")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def _session(leader: int) -> list[int]:
    """The processes of a session that we began."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # pid (comm) state ppid pgrp session …; comm may hold anything.
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after[3]) == leader:
                    found.append(int(entry.name))
    return found


def _kill_session(leader: int) -> None:
    """Kill them all: ssh is in a process group of its own, so a group's kill would spare it."""
    for pid in _session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _moved(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines[:2])
    return 0
