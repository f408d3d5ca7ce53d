"""A cache outside the repository: each entry is built once, whole or not at all.

An entry is built beside its final place under a temporary name and renamed when it is complete, so
that a build that was interrupted leaves nothing which looks finished. A lock per entry lets two
processes ask for the same entry at once: one builds, the other waits and uses the result.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError

DEFAULT = "/var/cache/saltext-openhim"


def directory() -> Path:
    """Return the cache's directory: ``$SALTEXT_OPENHIM_CACHE`` or the default; create it."""
    path = Path(os.environ.get("SALTEXT_OPENHIM_CACHE") or DEFAULT)
    path.mkdir(parents=True, exist_ok=True)
    return path


def progress(message: str) -> None:
    """Print one line of progress on standard error."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the exclusive lock ``name`` of this cache; it ends with the process that holds it."""
    locks = directory() / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / f"{name}.lock").open("w", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that is building {name}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(name: str, what: str, build: Callable[[Path], None]) -> Path:
    """Return the path of the cache entry ``name``; build it first where it is missing.

    :param name: path below the cache's directory; put into it whatever decides the content
    :param what: the entry in words, for the progress lines
    :param build: called with a path that does not exist yet; makes a file or a folder there
    :raises LabError: when ``build`` made nothing
    """
    path = directory() / name
    if path.exists():
        return path
    with lock(name.replace("/", "_")):
        if path.exists():
            return path
        started = time.monotonic()
        progress(f"{what}: building")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".unfinished-{path.name}")
        remove(unfinished)  # left by a build that was killed; the lock says that nobody uses it
        try:
            build(unfinished)
            if not unfinished.exists():
                raise LabError(f"{what}: the build made nothing at {unfinished}")
            unfinished.rename(path)
        except BaseException:
            remove(unfinished)
            raise
        progress(f"{what}: ready in {time.monotonic() - started:.0f} s")
    return path


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing happens when there is none.

    :raises LabError: when something is mounted below it, for that might be the machine's own /dev
    """
    if path.is_dir() and not path.is_symlink():
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        below = [point for point in mounted if point.startswith(f"{path}/") or point == str(path)]
        if below:
            raise LabError(
                f"{path} is not removed: {', '.join(below)} is mounted; unmount it first"
            )
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def call(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a command and return what it printed on standard output.

    :param env: variables to add to the environment, or to take out of it where empty
    :raises LabError: with the end of the command's output, when it fails or does not exist
    """
    variables = {**os.environ, **(env or {})}
    variables = {
        name: value for name, value in variables.items() if value or name not in (env or {})
    }
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise LabError(
            f"{words[0]} is not installed; run: python -m lab doctor --install"
        ) from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"{' '.join(words)} ended with {done.returncode}, expected 0:\n{tail}")
    return done.stdout
