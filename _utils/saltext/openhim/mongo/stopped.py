"""Reads the data of a mongod that does not run, as that of a fenced member.

It is never started for that: what it wrote is evidence, and it would join the new history at once.
A copy of its data folder is, as a scratch mongod without a replica set, with its oplog applied to
the end; so the copy has each document as the member had it last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup import scratch
from saltext.openhim.errors import OpenHIMError, Refused

#: Seconds after which a mongod that was started is believed to stay.
STEADY = 20.0

#: What a copy need not have: a lock of the original, and what is no data.
_LEFT_OUT = ("mongod.lock", "diagnostic.data", "rollback", "_tmp")


@contextlib.contextmanager
def opened(
    binary: str, data: Path, storage: Mapping[str, Any], folder: Path | None = None
) -> Iterator[MongoClient]:
    """A connection to a mongod over a copy of a data folder; both are gone when the block is left.

    binary: mongod's path. data: the data folder. storage: the section ``storage`` of its
    configuration. folder: where the copy is made; beside the data when left out, for there is room
    for it, or can be, and patients' data stays on its disk.

    Raises Refused while a mongod uses the data, OpenHIMError when there is none, or no room.
    """
    if not (data / "WiredTiger").exists():
        raise OpenHIMError(f"{data} holds no data of a mongod: it was wiped, or never was there")
    if is_used(data):
        raise _in_use(data)

    def fill(target: Path) -> Sequence[str]:
        with _reserved(data):
            names = [path for path in sorted(data.iterdir()) if path.name not in _LEFT_OUT]
            command = ["cp", "-a", "--reflink=auto", "--", *map(str, names), str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OpenHIMError(f"{data} could not be copied: {done.stderr.strip()[-500:]}")
        config = target.parent / "config"
        kept = {key: value for key, value in storage.items() if key not in ("dbPath", "journal")}
        config.write_text(json.dumps({"storage": kept}), encoding="utf-8")
        return [
            *("--config", str(config)),
            *("--setParameter", "recoverFromOplogAsStandalone=true"),
        ]

    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    with scratch.mongod(binary, size, folder or data.parent, fill=fill) as running:
        yield running.client


def is_used(data: Path) -> bool:
    """Whether a mongod uses a data folder: it holds a lock as long as it lives."""
    try:
        with (data / "mongod.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def is_used_on(data: Path) -> bool:
    """Whether a mongod uses a data folder, and goes on to.

    MongoDB does not undo what a majority had acknowledged: a member that must, after its site was
    given up, ends seconds after each start. So one that began less than :data:`STEADY` seconds ago
    (it writes its lock then) is waited for, until it has ended or is older; and as long at most,
    for the clock may have been wrong when it began.
    """
    until = time.monotonic() + STEADY
    while is_used(data):
        age = time.time() - (data / "mongod.lock").stat().st_mtime
        if age > STEADY or time.monotonic() > until:
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def _reserved(data: Path) -> Iterator[None]:
    """Keeps every mongod from a data folder, as one keeps others from its own."""
    lock = data / "mongod.lock"
    if not lock.exists():  # no mongod was ever there, for none takes it away
        yield
        return
    with lock.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(data) from None
        yield


def _in_use(data: Path) -> Refused:
    return Refused(
        f"a mongod uses {data}, so a copy of it would be worth nothing; stop it first, or let it "
        "answer"
    )
