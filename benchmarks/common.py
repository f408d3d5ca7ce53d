"""What benchmarks share: a mongod of their own, data like OpenHIM's, pairs, medians, results.

A number by itself says more about the machine than about the code, so every benchmark measures the
alternative in the same run, taking turns, and prints the ratio of the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from lab import artifacts
from tests import ports

RESULTS = Path(__file__).with_name("results.json")
DATABASE = "openhim"
#: Shares of the bytes, as a busy OpenHIM has them, and the indexes that it makes.
SHARES = {"transactions": 0.6, "audits": 0.3, "events": 0.1}
INDEXES = {
    "transactions": ["request.timestamp", "clientID", "status"],
    "audits": ["eventIdentification.eventDateTime"],
    "events": ["normalizedTimestamp"],
}
_START_SECONDS = 60


def arguments(description: str, megabytes: int, runs: int) -> argparse.Namespace:
    """The options that every benchmark has: how much data, and how many pairs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--megabytes", type=int, default=megabytes, help="BSON in the database")
    parser.add_argument("--runs", type=int, default=runs, help="pairs to measure")
    return parser.parse_args()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is some, so that a slow disk does not decide."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix="openhim-bench-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def server(folder: Path, cache_gb: float = 1.0) -> Iterator[str]:
    """A set of one member, running; yields its address."""
    data = folder / "db"
    data.mkdir()
    port = ports.free()
    process = subprocess.Popen(
        [
            *(str(artifacts.mongod()), "--dbpath", str(data), "--port", str(port)),
            *("--bind_ip", "127.0.0.1", "--nounixsocket", "--replSet", "bench"),
            *("--wiredTigerCacheSizeGB", str(cache_gb), "--oplogSize", "512"),
            *("--logpath", str(folder / "log")),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"127.0.0.1:{port}"
    try:
        _initiate(address)
        yield address
    finally:
        process.kill()
        process.wait()


def _initiate(address: str) -> None:
    config = {"_id": "bench", "members": [{"_id": 0, "host": address}]}
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with (
            contextlib.suppress(PyMongoError),
            MongoClient(address, directConnection=True) as client,
        ):
            if client.admin.command("hello")["isWritablePrimary"]:
                return
            client.admin.command("replSetInitiate", config)
        if time.monotonic() > deadline:
            raise TimeoutError("mongod did not become primary")
        time.sleep(0.1)


def fill(client: MongoClient, megabytes: float, indexes: bool = True) -> int:
    """Documents like OpenHIM's, 3.4 KB each with bodies that differ; returns the bytes of BSON."""
    chance = random.Random(1)  # noqa: S311
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(3000)]
    bodies = [" ".join(chance.choices(words, k=330)) for _ in range(300)]
    database = client[DATABASE]
    for collection, share in SHARES.items():
        count = max(int(megabytes * share * 1e6 / 3400), 1)
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            database[collection].insert_many([_document(n, bodies, chance) for n in numbers])
        for field in INDEXES[collection] if indexes else ():
            database[collection].create_index(field)
    return sum(database.command("collStats", name)["size"] for name in SHARES)


def _document(number: int, bodies: list[str], chance: random.Random) -> dict[str, Any]:
    now = datetime.datetime(2026, 1, 1) + datetime.timedelta(seconds=number)
    body = bodies[number % len(bodies)]
    return {
        "_id": ObjectId(),
        "clientID": ObjectId(),
        "status": chance.choice(["Successful", "Failed", "Completed"]),
        "request": {
            "host": "localhost",
            "path": "/fhir/Patient",
            "method": "POST",
            "headers": {"content-type": "application/fhir+json"},
            "body": body[number % 500 :] + str(chance.getrandbits(256)),
            "timestamp": now,
        },
        "response": {"status": 200, "body": body[:400], "timestamp": now},
        "eventIdentification": {"eventDateTime": now},
        "normalizedTimestamp": now,
        "orchestrations": [],
        "routes": [],
    }


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def pairs(
    runs: int, ours: Callable[[], object], other: Callable[[], object]
) -> tuple[list[float], list[float]]:
    """Seconds of both, taking turns, each first in every other pair; the first pair warms up."""
    measured: tuple[list[float], list[float]] = ([], [])
    for run in range(-1, runs):
        for which in (0, 1) if run % 2 else (1, 0):
            took = seconds((ours, other)[which])
            if run >= 0:
                measured[which].append(took)
    return measured


def result(
    name: str, value: float, unit: str, runs: int, ratio: float | None = None, to: str = ""
) -> None:
    """Prints one result and keeps it in results.json."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = {"value": round(value, 3), "unit": unit, "runs": runs}
    text = f"{name}: {value:.1f} {unit}"
    if ratio is not None:
        known[name].update(ratio=round(ratio, 3), ratio_to=to)
        text += f", {ratio:.2f} of {to}"
    print(f"{text} (median of {runs})" if runs > 1 else text, flush=True)
    RESULTS.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def compared(name: str, size: int, ours: list[float], other: list[float], to: str) -> None:
    """The result of pairs that each moved ``size`` bytes."""
    mine, theirs = statistics.median(ours), statistics.median(other)
    result(name, size / mine / 1e6, "MB/s", len(ours), theirs / mine, to)
