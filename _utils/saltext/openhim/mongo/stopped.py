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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup import scratch
from saltext.openhim.errors import OpenHIMError, Refused

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
    _refuse_while_used(data)
    lock = data / "mongod.lock"
    begun = lock.stat().st_mtime_ns if lock.exists() else 0

    def fill(target: Path) -> Sequence[str]:
        names = [path for path in sorted(data.iterdir()) if path.name not in _LEFT_OUT]
        command = ["cp", "-a", "--reflink=auto", "--", *map(str, names), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OpenHIMError(f"{data} could not be copied: {done.stderr.strip()[-500:]}")
        _refuse_while_used(data)
        if begun != (lock.stat().st_mtime_ns if lock.exists() else 0):
            raise Refused(
                f"a mongod used {data} while it was copied; keep it stopped, and try again"
            )
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


def _refuse_while_used(data: Path) -> None:
    if is_used(data):
        raise Refused(
            f"a mongod uses {data}, so a copy of it would be worth nothing; stop it first, or let "
            "it answer"
        )
