"""What a host does for the backups by itself, as entries of Salt's schedule. Pure.

Salt's schedule tells success of a job that failed, so no entry here is trusted: the status entry
looks at what is in the repositories, and that is what is reported.
"""

from __future__ import annotations

from typing import Any

from saltext.openhim.backup import bundle
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.oplog import declared as oplog
from saltext.openhim.settings import Stack

PREFIX = "openhim-backup-"
#: Seconds between two looks at the repositories.
LOOK = 300
#: Seconds that a task waits for its turn: those of one host begin in the same second.
WAIT = 6 * 3600


def wanted(backups: Backups) -> dict[str, dict[str, Any]]:
    """The entries of this host, by name; empty on a host that has no task."""
    declared = backups.entry.get("schedule") or {}
    found: dict[str, dict[str, Any]] = {}

    def every(name: str, seconds: int, function: str, **kwargs: Any) -> None:
        given = kwargs if function == "status" else {**kwargs, "wait": WAIT}
        found[f"{PREFIX}{name}"] = _entry(f"openhim_backup.{function}", seconds, **given)

    if "take" in declared and backups.entry.get("taken_by") == backups.host:
        for name in backups.first:
            every(f"take-{name}", declared["take"], "take", repository=name, why="scheduled")
    if "copy" in declared:
        for name in backups.pulled_here:
            every(f"copy-{name}", declared["copy"], "copy", repository=name)
        if oplog.copied_here(backups):
            every("copy-oplog", declared["copy"], "copy_oplog")
    if "verify" in declared and backups.entry.get("verified_by") == backups.host:
        every("verify", declared["verify"], "verify")
    if "prune" in declared:
        for name in backups.pruned_here:
            every(f"prune-{name}", declared["prune"], "prune", repository=name, confirm=True)
        if oplog.pruned_here(backups):
            every("prune-oplog", declared["prune"], "prune_oplog", confirm=True)
    if "bundle" in declared and bundle.stored_here(backups):
        found[f"{PREFIX}bundle"] = _entry("openhim_bundle.store", declared["bundle"])
    if found or oplog.archived_here(backups):
        every("status", LOOK, "status")
    return found


def _entry(function: str, seconds: int, **kwargs: Any) -> dict[str, Any]:
    return {
        "function": function,
        "seconds": int(seconds),
        "kwargs": kwargs,
        "maxrunning": 1,
        # Salt would run it at once, and again whenever the entry or the minion is changed.
        "run_on_start": False,
    }


def hosts_with_a_task(stack: Stack) -> list[str]:
    """The hosts that take, pull, verify or remove restore points, or store the start bundle."""
    backup = stack.declared.get("backup") or {}
    found = {backup.get("taken_by"), backup.get("verified_by")}
    archive = backup.get("oplog") or {}
    found |= {archive.get("archived_by"), archive.get("repository", {}).get("pruned_by")}
    found |= {archive.get("copy", {}).get(key) for key in ("pulled_by", "pruned_by")}
    if "bundle" in backup:
        found |= {host.id for host in stack.hosts_with("master")}
    for entry in (backup.get("repositories") or {}).values():
        found |= {entry.get("pulled_by"), entry.get("pruned_by")}
    return sorted(host for host in found if host)


def differences(
    present: dict[str, Any], declared: dict[str, dict[str, Any]], prefix: str = PREFIX
) -> dict[str, Any]:
    """What is to change in a schedule: name → ``old`` and ``new``; entries of others are left.

    prefix: with what the names of ours begin.
    """
    ours = {name: entry for name, entry in present.items() if name.startswith(prefix)}
    found = {}
    for name in sorted(ours.keys() | declared):
        old, new = ours.get(name), declared.get(name)
        if old is not None and new is not None:
            # Salt keeps more in an entry than was asked for, and leaves out what is empty.
            old = {key: old.get(key, type(value)()) for key, value in new.items()}
        if old != new:
            found[name] = {"old": old, "new": new}
    return found
