"""Where the members of a host stand in their set's history, and how data that left it is kept.

Whether it did is not for this host to say: the primary is asked whether its oplog has the last
entry of the member's (:func:`saltext.openhim.mongo.handover.has`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import systemd
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo import config as mongod
from saltext.openhim.mongo import handover, offline, stopped
from saltext.openhim.mongo.connection import NotPrimary, vantage
from saltext.openhim.settings import from_pillar

#: How the folder is called in which diverged data is kept, behind the name of the data folder.
KEPT = ".diverged-"


def positions(
    pillar: Mapping[str, Any], minion_id: str, look: bool = False
) -> dict[str, dict[str, Any] | None]:
    """Set → the newest entry of this host's member (``ts``, ``term``, ``at``); None for a member
    without data. A member that does not run is left out.

    look: whether to look into the data of those that do not run, or end after each start, which
    starts a mongod on it for some seconds; nobody else reaches that one.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for instance in mongod.instances(from_pillar(pillar), minion_id):
        name = instance["set"]
        try:
            found[name] = handover.position(vantage(pillar, minion_id, name))
        except (Unreachable, NotPrimary):  # it does not run, or undoes what it has alone
            if not offline.has_data(instance["data"]):
                found[name] = None
            elif look and not stopped.is_used_on(Path(instance["data"])):
                entry = _end_of_oplog(instance["binary"], Path(instance["data"]))
                found[name] = handover.plain_position(entry) if entry else None
    return found


def _end_of_oplog(binary: str, data: Path) -> Mapping[str, Any] | None:
    """Once more where the member's own mongod, which ends after each start, was quicker."""
    try:
        return offline.newest_entry(binary, data)
    except OpenHIMError:
        if stopped.is_used_on(data):
            raise
    return offline.newest_entry(binary, data)


def keep_aside(
    pillar: Mapping[str, Any], minion_id: str, sets: Iterable[str], epoch: int
) -> dict[str, str]:
    """Stops the members of these sets on this host, and moves their data aside; returns where it is
    kept, by set. The members begin empty then, and copy everything from the others.

    epoch: in which it is given up; part of the folder's name.

    Raises :class:`~saltext.openhim.errors.Refused` where there is no room for both.
    """
    known = {each["set"]: each for each in mongod.instances(from_pillar(pillar), minion_id)}
    kept = {}
    for name in sets:
        if name not in known:
            raise OpenHIMError(f"this host has no member of {name}; it has {', '.join(known)}")
        _refuse_without_room(Path(known[name]["data"]))
        systemd.stop([known[name]["unit"]])
        kept[name] = str(_aside(Path(known[name]["data"]), epoch))
    return kept


def kept(pillar: Mapping[str, Any], minion_id: str) -> list[str]:
    """The folders on this host in which diverged data is kept."""
    return sorted(
        str(folder)
        for instance in mongod.instances(from_pillar(pillar), minion_id)
        for folder in Path(instance["data"]).parent.glob(f"{Path(instance['data']).name}{KEPT}*")
    )


def used(folder: Path) -> int:
    """Bytes that a folder takes on the disk; what goes away meanwhile counts for nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def _aside(data: Path, epoch: int) -> Path:
    """A rename: whole, or not at all; then an empty folder of the same owner in its place."""
    status = data.stat()
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    target = data.with_name(f"{data.name}{KEPT}{epoch}-{now}")
    data.rename(target)
    data.mkdir(mode=0o700)
    os.chown(data, status.st_uid, status.st_gid)
    data.chmod(status.st_mode & 0o7777)
    return target


def _refuse_without_room(data: Path) -> None:
    needed, free = used(data), shutil.disk_usage(data).free
    if free < needed:
        raise Refused(
            f"{data} holds {needed / 1e9:.1f} GB that left the history, and there is no room "
            f"beside it for what the member copies anew ({free / 1e9:.1f} GB free). Make room, or "
            "move the data to another disk"
        )
