"""A restore point into restic, beside what restic does with bytes that cost less to get.

Three take turns, each into a new repository of its own, then again when nothing has changed:

- ours: read from a running mongod, hashed on the way, committed by a manifest that is read back.
  Told are the dump alone, and the whole; between them are further derivations of restic's key,
  which take the same seconds however large the data is;
- ``cat archive | restic backup --stdin``: the archive is ready in memory;
- PyMongo's raw read of the same collections into ``restic backup --stdin``, unhashed.

restic alone keeps two cores busy, so on such a machine whatever reads beside it slows it down.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup import dump, points
from saltext.openhim.backup.repository import Repository

from benchmarks import common

PASSWORD = "benchmark"  # noqa: S105
CAT, RAW = "cat archive | restic backup --stdin", "PyMongo's raw read | restic backup --stdin"

#: Seconds of the dump alone, and of the whole.
Took = tuple[float, float]


def main() -> None:
    """Measures and prints."""
    options = common.arguments(__doc__ or "", megabytes=500, runs=5)
    with (
        common.scratch() as folder,
        common.server(folder, cache_gb=max(1.0, options.megabytes / 500)) as address,
        MongoClient(address, directConnection=True) as client,
    ):
        size = common.fill(client, options.megabytes)
        _measure(options, client, folder, size)


def _measure(options: Any, client: MongoClient, folder: Path, size: int) -> None:
    archive = folder / "archive"
    with archive.open("wb", buffering=0) as out:
        assert dump.dump(client, [common.DATABASE], out).bytes == size
    sides: list[Callable[[Repository], Took]] = [
        lambda repository: _take(repository, client, size),
        lambda repository: _cat(repository, archive),
        lambda repository: _raw(repository, client),
    ]
    first, again = ([[] for _ in sides] for _ in range(2))  # type: tuple[list[list[Took]], ...]
    for run in range(-1, options.runs):
        for turn in range(len(sides)):
            which = (turn + run) % len(sides)
            repository = _new(folder)
            for kept in (first, again):
                took = sides[which](repository)
                if run >= 0:
                    kept[which].append(took)
    _tell(size, first, again)


def _tell(size: int, first: list[list[Took]], again: list[list[Took]]) -> None:
    dumps, wholes = ([took[part] for took in first[0]] for part in (0, 1))
    cat, raw = ([took[1] for took in side] for side in first[1:])
    common.compared("dump into restic", size, dumps, cat, CAT)
    common.compared("dump into restic, beside a reader", size, dumps, raw, RAW)
    rest = [whole - dumped for dumped, whole in first[0]]
    common.result("restore point, beside its dump", statistics.median(rest), "s", len(rest))
    common.compared("restore point", size, wholes, cat, CAT)
    common.compared(
        "restore point, nothing changed",
        size,
        *([took[1] for took in side] for side in again[:2]),
        CAT,
    )


def _new(folder: Path) -> Repository:
    """An empty repository and an empty cache; making them is not measured."""
    for name in ("repository", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    repository = Repository(str(folder / "repository"), PASSWORD, cache_dir=str(folder / "cache"))
    repository.initialise()
    return repository


def _take(repository: Repository, client: MongoClient, size: int) -> Took:
    began = time.perf_counter()
    with points.Taking(repository, "bench", by="a benchmark", why="to be measured") as taking:
        dumping = time.perf_counter()
        dumped = taking.store_dump("bench", lambda out: dump.dump(client, [common.DATABASE], out))
        stored = time.perf_counter()
        taking.commit()
    assert dumped.bytes == size
    return stored - dumping, time.perf_counter() - began


def _cat(repository: Repository, archive: Path) -> Took:
    return _fed(repository, lambda restic: subprocess.run(["cat", archive], stdout=restic))


def _raw(repository: Repository, client: MongoClient) -> Took:
    def write(restic: Any) -> None:
        for collection in common.SHARES:
            for batch in client[common.DATABASE][collection].find_raw_batches():
                restic.write(batch)

    return _fed(repository, write)


def _fed(repository: Repository, write: Callable[[Any], object]) -> Took:
    """A restic that is fed by hand."""
    began = time.perf_counter()
    with subprocess.Popen(
        ["restic", "backup", "--stdin", "--stdin-filename", "archive", "--quiet"],
        stdin=subprocess.PIPE,
        env={
            **os.environ,
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_REPOSITORY": repository.url,
            "RESTIC_CACHE_DIR": str(repository.cache_dir),
        },
    ) as restic:
        assert restic.stdin
        write(restic.stdin)
        restic.stdin.close()
    assert restic.returncode == 0
    took = time.perf_counter() - began
    return took, took


if __name__ == "__main__":
    main()
