"""The peak memory of a dump and of a restore, with once and ten times as much data, and with
documents of 16 MB. Each runs in a process of its own, whose peak the kernel tells.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from saltext.openhim.backup import archive, dump, load

from benchmarks import common

LARGE = "large"
LARGE_DOCUMENTS = 20


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["in-a-process"]:
        print(_peak(*sys.argv[2:]))
        return
    options = common.arguments(__doc__ or "", megabytes=100, runs=1)
    peaks: dict[str, float] = {}
    for times in (1, 10):
        with common.scratch() as folder, common.server(folder) as address:
            with MongoClient(address, directConnection=True) as client:
                common.fill(client, options.megabytes * times, indexes=False)
            for what in ("dump", "restore"):
                peaks[f"{what} {times}x"] = _measured(what, address, folder, common.DATABASE)
    for what in ("dump", "restore"):
        ratio = peaks[f"{what} 10x"] / peaks[f"{what} 1x"]
        common.result(
            f"peak memory of a {what}", peaks[f"{what} 10x"], "MB", 1, ratio, "a tenth of the data"
        )
    with common.scratch() as folder, common.server(folder) as address:
        _fill_large(address)
        for what in ("dump", "restore"):
            peak = _measured(what, address, folder, LARGE)
            common.result(f"peak memory of a {what} of 16 MB documents", peak, "MB", 1)


def _fill_large(address: str) -> None:
    room = archive.MAX_DOCUMENT - len(bson.encode({"_id": 1, "x": b""}))
    with MongoClient(address, directConnection=True) as client:
        for number in range(LARGE_DOCUMENTS):
            raw = bson.encode({"_id": number, "x": bytes([number]) * room})
            client[LARGE].command("insert", "c", documents=[RawBSONDocument(raw)])


def _measured(what: str, address: str, folder: Path, database: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "in-a-process"]
    path = folder / "archive"
    done = subprocess.run(
        [*command, what, address, str(path), database],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    return float(done.stdout)


def _peak(what: str, address: str, path: str, database: str) -> float:
    with MongoClient(address, directConnection=True) as client:
        if what == "dump":
            with open(path, "wb", buffering=0) as out:  # noqa: PTH123
                dump.dump(client, [database], out)
        else:
            with open(path, "rb", buffering=0) as stream:  # noqa: PTH123
                load.load(stream, client, rename={database: "again"})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
