"""A restore from an archive, beside PyMongo inserting the same documents from memory.

The other side does what a careful person would write: raw documents already in memory, two threads,
batches of a thousand, the same indexes afterwards, and majority writes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern
from saltext.openhim.backup import archive, dump, load

from benchmarks import common

THREADS = 2
BATCH = 1000


def main() -> None:
    """Measures and prints."""
    options = common.arguments(__doc__ or "", megabytes=300, runs=5)
    with (
        common.scratch() as folder,
        common.server(folder) as address,
        MongoClient(address, directConnection=True) as client,
    ):
        size = common.fill(client, options.megabytes)
        _measure(options, client, folder / "archive", size)


def _measure(options: Any, client: MongoClient, path: Path, size: int) -> None:
    with path.open("wb") as out:
        dump.dump(client, [common.DATABASE], out)
    client.drop_database(common.DATABASE)
    documents = _in_memory(path)

    def ours() -> None:
        with path.open("rb", buffering=0) as stream:
            assert load.load(stream, client, rename={common.DATABASE: "ours"}).bytes == size

    def other() -> None:
        database = client.get_database("other", write_concern=WriteConcern("majority"))
        for name, held in documents.items():
            _insert(database[name], held)
            for field in common.INDEXES[name]:
                database[name].create_index(field)

    def clean(which: Any, name: str) -> Any:
        def run() -> None:
            which()
            assert sum(client[name][each].estimated_document_count() for each in documents)

        return run

    ours_seconds: list[float] = []
    other_seconds: list[float] = []
    for run in range(options.runs):
        turns = [(clean(ours, "ours"), ours_seconds), (clean(other, "other"), other_seconds)]
        for function, taken in turns if run % 2 else turns[::-1]:
            taken.append(common.seconds(function))
            # What was inserted goes again, and its pages are written, before the next one starts.
            for name in ("ours", "other"):
                client.drop_database(name)
            client.admin.command("fsync")
    words = f"PyMongo inserting from memory, {THREADS} threads, same indexes"
    common.compared("restore", size, ours_seconds, other_seconds, words)


def _in_memory(path: Path) -> dict[str, list[bytes]]:
    held: dict[str, list[bytes]] = {name: [] for name in common.SHARES}
    with path.open("rb") as stream:
        for event in archive.Reader(stream):
            if isinstance(event, archive.Documents):
                held[event.entry.collection] += map(bytes, event.documents)
    return held


def _insert(collection: Any, documents: list[bytes]) -> None:
    def insert(start: int) -> None:
        batch = [RawBSONDocument(each) for each in documents[start : start + BATCH]]
        collection.insert_many(batch, ordered=False, bypass_document_validation=True)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(insert, range(0, len(documents), BATCH)))


if __name__ == "__main__":
    main()
