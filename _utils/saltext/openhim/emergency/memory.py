"""Where emergency mode is remembered: in OpenHIM's main database, which outlives any one host.

One document per emergency, its number as ``_id``: of two hosts that enter at the same moment one
makes it and the other finds it. Each change is a compare-and-set of the document's revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pymongo
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim.core import config
from saltext.openhim.core.host import CoreHost
from saltext.openhim.emergency.mode import OVER, Mode
from saltext.openhim.errors import Refused, Unreachable

COLLECTION = "saltext_openhim_emergency"

#: Milliseconds until a server must have been found, and until a majority must have a write.
_SELECTION_MS, _WRITE_MS = 10_000, 30_000


class Memory:
    """The emergencies of a stack, as its main database has them."""

    def __init__(self, collection: Any):
        self._collection = collection

    def all(self) -> list[Mode]:
        """Every emergency there ever was, the oldest first."""
        return [Mode.of(_numbered(one)) for one in self._collection.find(sort=[("_id", 1)])]

    def current(self) -> Mode | None:
        """The present emergency; None when there is none."""
        newest = self._collection.find_one(sort=[("_id", -1)])
        if newest is None or newest["phase"] == OVER:
            return None
        return Mode.of(_numbered(newest))

    def next_number(self) -> int:
        """The number of the next emergency."""
        newest = self._collection.find_one(sort=[("_id", -1)])
        return 1 if newest is None else int(newest["_id"]) + 1

    def keep(self, mode: Mode) -> Mode:
        """Writes an emergency as it now is, acknowledged by a majority; returns what was written.

        Raises :class:`~saltext.openhim.errors.Refused` when somebody else has written it meanwhile.
        """
        written = replace(mode, revision=mode.revision + 1)
        stored = {"_id": mode.number, **written.plain()}
        try:
            if not mode.revision:
                self._collection.insert_one(stored)
                return written
            query = {"_id": mode.number, "revision": mode.revision}
            if self._collection.replace_one(query, stored).matched_count:
                return written
        except DuplicateKeyError:
            pass
        raise Refused(
            "another run has changed emergency mode meanwhile, and this one stopped; run it again"
        )


@contextmanager
def opened(core: CoreHost) -> Iterator[Memory]:
    """The memory in the main database, as OpenHIM's own user.

    Raises :class:`~saltext.openhim.errors.Unreachable` when the database does not answer: whether
    emergency mode is on is not known then.
    """
    url = config.database_url(core.stack, core.pillar, "main")
    name = core.stack.databases["main"].name
    try:
        with pymongo.MongoClient(
            url, serverSelectionTimeoutMS=_SELECTION_MS, appname="saltext-openhim"
        ) as client:
            yield Memory(
                client[name].get_collection(
                    COLLECTION,
                    read_concern=ReadConcern("majority"),
                    write_concern=WriteConcern("majority", wtimeout=_WRITE_MS),
                )
            )
    except (PyMongoError, FileNotFoundError) as error:
        raise Unreachable(
            f"the main database {name}, in which emergency mode is remembered, does not answer: "
            f"{config.masked(str(error).split(', Timeout:')[0])}"
        ) from None


def current(core: CoreHost) -> Mode | None:
    """The present emergency of a stack; None when there is none."""
    with opened(core) as memory:
        return memory.current()


def _numbered(stored: dict[str, Any]) -> dict[str, Any]:
    return {**stored, "number": stored["_id"]}
