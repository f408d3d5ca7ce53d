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


def pruned_here(backups: Backups) -> bool:
    """Whether this host removes what no restore needs any more."""
    return is_archived(backups) and entry(backups)["repository"].get("pruned_by") == backups.host


def visible(backups: Backups) -> bool:
    """Whether this host has the credentials with which the archive is read."""
    return is_archived(backups) and backups.opens(entry(backups)["repository"])


def repository(backups: Backups, purpose: str = USE) -> Repository:
    """The archive's repository."""
    return backups.opened(entry(backups)["repository"], purpose)


def store(backups: Backups, purpose: str = USE) -> ResticSlices:
    """The slices in it."""
    return ResticSlices(repository(backups, purpose), backups.stack.name)


def interval(backups: Backups) -> float:
    """Seconds after which a slice is committed."""
    return float(entry(backups).get("interval_seconds", INTERVAL))


def max_behind(backups: Backups) -> float:
    """Seconds that the archive may be behind before that is a failure."""
    return float(entry(backups).get("max_behind_seconds", 2 * interval(backups) + 60))


def source(backups: Backups, set_name: str) -> Callable[[], AbstractContextManager[MongoClient]]:
    """What connects to a set, as who takes restore points; secondaries are read where there are."""
    here = Vantage(backups.stack, backups.stack.replica_sets[set_name], None, backups.access())
    return lambda: here.primary("secondaryPreferred", socketTimeoutMS=SOCKET_TIMEOUT_MS)
