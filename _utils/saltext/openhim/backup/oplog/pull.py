"""Pulls a copy of the oplog archive to another repository: the archive outlives its store."""

from __future__ import annotations

from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.oplog import chain, declared
from saltext.openhim.backup.oplog.slices import check_stack
from saltext.openhim.backup.repository import Repository
from saltext.openhim.errors import OpenHIMError, Refused


def initialise(backups: Backups) -> bool:
    """Makes the copy's repository, which cuts data as the archive's does; False if it is there."""
    _refuse_elsewhere(backups)
    source, target = _repositories(backups)
    return target.initialise(copy_chunker_from=source)


def pull(backups: Backups) -> int:
    """Copies the slices that the copy does not have yet; returns how many those were.

    Interrupted, it goes on where it stopped. Raises Refused on a host that does not pull, and
    OpenHIMError when a slice is not there afterwards.
    """
    _refuse_elsewhere(backups)
    source, target = _repositories(backups)
    if source.repository_id() == target.repository_id():
        raise Refused(
            f"{source.location} and {target.location} are one and the same repository; expected a "
            "second one of its own (openhim:backup:oplog:copy)"
        )
    archive = declared.store(backups)
    copied = declared.store(backups, place=declared.COPY)
    headers = archive.headers()
    check_stack(headers, backups.stack.name)
    missing = chain.not_copied(headers, copied.headers())
    archive.copy_to(copied, [each.name for each in missing])
    if left := chain.not_copied(headers, copied.headers()):
        raise OpenHIMError(
            f"{len(left)} slices of {len(missing)} are not in {target.location} after copying them "
            f"(the first is {left[0].name}); expected all. Copy them again"
        )
    return len(missing)


def _repositories(backups: Backups) -> tuple[Repository, Repository]:
    return declared.repository(backups), declared.repository(backups, place=declared.COPY)


def _refuse_elsewhere(backups: Backups) -> None:
    if not declared.copied_here(backups):
        raise Refused(
            f"pulling the copy of the oplog archive is not the task of {backups.host}; expected is "
            f"{declared.entry(backups).get(declared.COPY, {}).get('pulled_by', 'nobody')} "
            "(openhim:backup:oplog:copy:pulled_by)"
        )
