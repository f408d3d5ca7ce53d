"""A restore point into restic, beside ``cat archive | restic backup --stdin``.

Ours is the whole: read from a running mongod, stored, hashed on the way, committed by a manifest
that is read back. The other side has the archive ready in memory, and one restic to feed. Each gets
a new repository of its own; then the same once more, when nothing has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup import dump, points
from saltext.openhim.backup.repository import Repository

from benchmarks import common

PASSWORD = "benchmark"  # noqa: S105
FIRST, AGAIN = "restore point", "restore point, nothing changed"


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
    measured: dict[str, tuple[list[float], list[float]]] = {FIRST: ([], []), AGAIN: ([], [])}
    for run in range(-1, options.runs):
        for which in (0, 1) if run % 2 else (1, 0):
            repository = _new(folder)
            for name in measured:
                took = common.seconds(
                    lambda r=repository, w=which: (  # type: ignore[misc]
                        _cat(r, archive) if w else _take(r, client, size)
                    )
                )
                if run >= 0:
                    measured[name][which].append(took)
    for name, (ours, other) in measured.items():
        common.compared(name, size, ours, other, "cat archive | restic backup --stdin")


def _new(folder: Path) -> Repository:
    """An empty repository and an empty cache; making them is not measured."""
    for name in ("repository", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    repository = Repository(str(folder / "repository"), PASSWORD, cache_dir=str(folder / "cache"))
    repository.initialise()
    return repository


def _take(repository: Repository, client: MongoClient, size: int) -> None:
    with points.Taking(repository, "bench", by="a benchmark", why="to be measured") as taking:
        dumped = taking.store_dump("bench", lambda out: dump.dump(client, [common.DATABASE], out))
        taking.commit()
    assert dumped.bytes == size


def _cat(repository: Repository, archive: Path) -> None:
    subprocess.run(  # noqa: S602
        f"cat {archive} | restic backup --stdin --stdin-filename archive --quiet",
        shell=True,
        check=True,
        env={
            **os.environ,
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_REPOSITORY": repository.url,
            "RESTIC_CACHE_DIR": str(repository.cache_dir),
        },
    )


if __name__ == "__main__":
    main()
