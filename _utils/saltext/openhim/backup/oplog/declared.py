"""What the pillar says of the oplog archive, as one host may use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pymongo import MongoClient
from saltext.openhim.backup.declaration import USE, Backups
from saltext.openhim.backup.oplog.archiver import INTERVAL
from saltext.openhim.backup.oplog.store import ResticSlices
from saltext.openhim.backup.repository import Repository
from saltext.openhim.errors import Refused
from saltext.openhim.mongo.connection import Vantage

#: The places where the slices are: the archiver's, and a copy that another host pulls.
ARCHIVE = "repository"
COPY = "copy"
#: Seconds between two pulls of the copy where the schedule says nothing.
COPY_INTERVAL = 3600

#: Milliseconds after which a server that says nothing is gone; it is asked every half second.
SOCKET_TIMEOUT_MS = 30_000


def entry(backups: Backups) -> Mapping[str, Any]:
    """``openhim:backup:oplog``; raises Refused where no oplog is archived."""
    declared: Mapping[str, Any] = backups.entry.get("oplog") or {}
    if not declared:
        raise Refused(
            "openhim:backup:oplog: found nothing, so no oplog is archived, and only restore points "
            "can be restored; declare archived_by and repository"
        )
    return declared


def is_archived(backups: Backups) -> bool:
    """Whether the pillar declares an oplog archive at all."""
    return bool((backups.stack.declared.get("backup") or {}).get("oplog"))


def archived_here(backups: Backups) -> bool:
    """Whether this host is the one that archives."""
    return is_archived(backups) and entry(backups)["archived_by"] == backups.host


def copied_here(backups: Backups) -> bool:
    """Whether this host pulls the archive's copy."""
    return is_archived(backups) and entry(backups).get(COPY, {}).get("pulled_by") == backups.host


def pruned_here(backups: Backups) -> list[str]:
    """The places from which this host removes what no restore needs any more."""
    return [p for p in _places(backups) if entry(backups)[p].get("pruned_by") == backups.host]


def visible(backups: Backups) -> list[str]:
    """The places that this host has the credentials to read, the archiver's first."""
    return [place for place in _places(backups) if backups.opens(entry(backups)[place])]


def _places(backups: Backups) -> list[str]:
    return [p for p in (ARCHIVE, COPY) if is_archived(backups) and p in entry(backups)]


def repository(backups: Backups, purpose: str = USE, place: str = ARCHIVE) -> Repository:
    """The repository of the archive, or that of its copy."""
    return backups.opened(entry(backups)[place], purpose)


def store(backups: Backups, purpose: str = USE, place: str = ARCHIVE) -> ResticSlices:
    """The slices in it."""
    return ResticSlices(repository(backups, purpose, place), backups.stack.name)


def interval(backups: Backups) -> float:
    """Seconds after which a slice is committed."""
    return float(entry(backups).get("interval_seconds", INTERVAL))


def max_behind(backups: Backups) -> float:
    """Seconds that the archive may be behind before that is a failure."""
    return float(entry(backups).get("max_behind_seconds", 2 * interval(backups) + 60))


def max_copy_behind(backups: Backups) -> float:
    """Seconds that the copy may be behind: two pulls, and what the archive may be."""
    every = (backups.entry.get("schedule") or {}).get("copy", COPY_INTERVAL)
    return 2 * float(every) + max_behind(backups)


def source(backups: Backups, set_name: str) -> Callable[[], AbstractContextManager[MongoClient]]:
    """What connects to a set, as who takes restore points; secondaries are read where there are."""
    here = Vantage(backups.stack, backups.stack.replica_sets[set_name], None, backups.access())
    return lambda: here.primary("secondaryPreferred", socketTimeoutMS=SOCKET_TIMEOUT_MS)
