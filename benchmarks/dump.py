"""A dump to a file, beside a raw read of the same collections to nothing.

Compared with PyMongo's ``find_raw_batches`` in one process, one collection after the other, and in
two processes at the same time, which is as much as two cores give it.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup import dump

from benchmarks import common

#: What each of two processes reads: about half of the bytes.
HALVES = [["transactions"], ["audits", "events"]]


def read_raw(work: tuple[str, list[str]]) -> int:
    """Reads collections to /dev/null; returns the bytes."""
    address, collections = work
    size = 0
    with (
        MongoClient(address, directConnection=True) as client,
        open("/dev/null", "wb", buffering=0) as nothing,  # noqa: PTH123
    ):
        for collection in collections:
            for batch in client[common.DATABASE][collection].find_raw_batches():
                size += len(batch)
                nothing.write(batch)
    return size


def main() -> None:
    """Measures and prints."""
    options = common.arguments(__doc__ or "", megabytes=1000, runs=5)
    # The processes start before anything else does: what they cost is not measured.
    with (
        multiprocessing.get_context("spawn").Pool(2) as pool,
        common.scratch() as folder,
        common.server(folder, cache_gb=max(1.0, options.megabytes / 500)) as address,
    ):
        _measure(options, pool, folder / "archive", address)


def _measure(options: Any, pool: Any, target: Any, address: str) -> None:
    with MongoClient(address, directConnection=True) as client:
        size = common.fill(client, options.megabytes)

        def ours() -> None:
            with open(target, "wb", buffering=0) as out:  # noqa: PTH123
                assert dump.dump(client, [common.DATABASE], out).bytes == size

        def one() -> None:
            assert read_raw((address, list(common.SHARES))) == size

        def two() -> None:
            assert sum(pool.map(read_raw, [(address, half) for half in HALVES])) == size

        for name, other, words in (
            ("dump", one, "PyMongo's raw read to /dev/null"),
            ("dump, beside two readers", two, "PyMongo's raw read to /dev/null, two processes"),
        ):
            common.compared(name, size, *common.pairs(options.runs, ours, other), words)


if __name__ == "__main__":
    main()
