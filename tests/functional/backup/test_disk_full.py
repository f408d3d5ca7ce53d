"""The server's disk fills during a restore: that is an error in words, and the backup is untouched.

The disk is a small one in memory, mounted where only that server sees it, and gone with it.
"""

import io
import os
import time

import pytest
from pymongo import MongoClient
from saltext.openhim.backup import dump, load
from saltext.openhim.errors import OpenHIMError

from tests.functional.conftest import Mongod

ON_A_SMALL_DISK = """#!/bin/sh
exec unshare --mount sh -c 'mount -t tmpfs -o size=48M none "$0" && exec "$@"' {folder}/data {binary} "$@"
"""


@pytest.fixture
def small(mongod_binary, tmp_path):
    """A server of its own, with 48 MB of disk."""
    script = tmp_path / "mongod"
    script.write_text(ON_A_SMALL_DISK.format(folder=tmp_path, binary=mongod_binary))
    script.chmod(0o700)
    server = Mongod(script, tmp_path, None, None)
    server.start().wait()
    yield server
    server.kill()


def test_a_disk_that_fills_during_a_restore_is_told_and_the_backup_restores_elsewhere(
    client, small, tmp_path
):
    documents = [{"_id": n, "text": os.urandom(20_000)} for n in range(5000)]
    client.openhim.transactions.insert_many(documents)
    archive = tmp_path / "archive"
    with archive.open("wb") as out:
        dumped = dump.dump(client, ["openhim"], out)
    began = time.monotonic()
    with (
        archive.open("rb") as stream,
        MongoClient("127.0.0.1", small.port, serverSelectionTimeoutMS=3000) as target,
        pytest.raises(OpenHIMError) as raised,
    ):
        load.load(stream, target)
    assert time.monotonic() - began < 60
    assert "a disk that fills ends it" in str(raised.value)
    assert "No space left on device" in (small.folder / "log").read_text()
    client.drop_database("openhim")
    loaded = load.load(io.BytesIO(archive.read_bytes()), client)
    assert loaded.count == dumped.count == 5000
