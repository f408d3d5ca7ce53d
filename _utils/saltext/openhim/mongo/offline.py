"""Looks into the data of a member that does not run, without letting it take part in its set.

A mongod is started on the data as a standalone, on a socket in a folder of its own and on no port:
no other member hears of it, and a fence, which cuts networks, stays as it is. It is asked for the
end of the oplog, and ended.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import AutoReconnect
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.mongo.connection import explained

#: Seconds for mongod to listen: after a power loss it reads its journal first. And to end.
START_SECONDS = 120.0
STOP_SECONDS = 60.0

_SOCKET = "mongod.sock"


def has_data(folder: str | Path) -> bool:
    """Whether the data of a mongod is in a folder."""
    return (Path(folder) / "WiredTiger").exists()


@contextmanager
def opened(binary: str, folder: str | Path) -> Iterator[MongoClient]:
    """A connection to a standalone mongod on the data in ``folder``, which must not be in use.

    binary: mongod's path. It runs as the owner of the data.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` with the last words of one that does
    not start.
    """
    owner = Path(folder).stat()
    own = Path(tempfile.mkdtemp(prefix="openhim-look-", dir="/run"))
    try:
        shutil.chown(own, owner.st_uid, owner.st_gid)
        process = subprocess.Popen(
            _command(binary, folder, own),
            user=owner.st_uid,
            group=owner.st_gid,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"mongodb://{str(own / _SOCKET).replace('/', '%2F')}"
        client: MongoClient
        try:
            with (
                MongoClient(
                    url,
                    directConnection=True,
                    serverSelectionTimeoutMS=1000,
                    serverMonitoringMode="poll",
                ) as client,
                explained(f"mongod on {folder}"),
            ):
                _wait(process, client, own)
                yield client
        finally:
            _stop(process)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def newest_entry(binary: str, folder: str | Path) -> Mapping[str, Any] | None:
    """The last entry of the oplog in ``folder``; None where there is none, or no data."""
    if not has_data(folder):
        return None
    with opened(binary, folder) as client:
        found: Mapping[str, Any] | None = client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
        return found


def _command(binary: str, folder: str | Path, own: Path) -> list[str]:
    return [
        *(binary, "--dbpath", str(folder), "--logpath", str(own / "log")),
        *("--bind_ip", str(own / _SOCKET), "--unixSocketPrefix", str(own)),
        *("--filePermissions", "0700", "--wiredTigerCacheSizeGB", "0.25"),
        # It only looks: nothing expires, and nobody's session is written down.
        *("--setParameter", "ttlMonitorEnabled=false"),
        *("--setParameter", "disableLogicalSessionCacheRefresh=true"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]


def _wait(process: subprocess.Popen[bytes], client: MongoClient, own: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(client):
        if process.poll() is not None or time.monotonic() > deadline:
            log = own / "log"
            said = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
            raise OpenHIMError(
                "the data of the member that does not run cannot be looked at: mongod "
                f"{'ended' if process.poll() is not None else 'did not answer'}: "
                f"{' '.join(said)[-800:] or 'it left no word'}"
            )
        time.sleep(0.05)


def _answers(client: MongoClient) -> bool:
    with suppress(AutoReconnect):
        return bool(client.admin.command("ping")["ok"])
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
