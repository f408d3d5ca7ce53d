"""Whether what a folder holds is encrypted on its disk, as the kernel shows it.

dm-crypt names itself in the device's UUID (``CRYPT-LUKS2-…``); what is below it in the stack of
devices does not matter, and what is above it (LVM, RAID) is followed down. What the kernel cannot
show (a provider's encrypted volume) is unknown, and must be declared.
https://docs.kernel.org/admin-guide/device-mapper/dm-crypt.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltext.openhim.backup.declaration import Backups
from saltext.openhim.mongo.config import DATA_DIRECTORY
from saltext.openhim.settings import Stack

ENCRYPTED = "encrypted"
PLAIN = "plain"
MEMORY = "memory"
UNKNOWN = "unknown"

_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Seen:
    """What is known of one folder: a state, and where that comes from."""

    path: str
    state: str
    why: str


@dataclass(frozen=True)
class _Mount:
    point: str
    device: str
    kind: str
    source: str


def folders(stack: Stack, host: str) -> list[str]:
    """Where a host keeps patients' data: its members' data, and repositories on its own disk."""
    found = [f"{DATA_DIRECTORY}/{one.name}" for one in stack.sets_on(host)]
    backup: Mapping[str, Any] = stack.declared.get("backup") or {}
    oplog = backup.get("oplog") or {}
    own = Backups(stack, host, {})
    if backup:
        pulled = [own.repositories[name]["url"] for name in own.pulled_here]
        taken = [own.repositories[name]["url"] for name in own.first]
        found += pulled + (taken if backup.get("taken_by") == host else [])
    if oplog.get("copy", {}).get("pulled_by") == host:
        found.append(oplog["copy"]["url"])
    if oplog.get("archived_by") == host:
        found.append(oplog["repository"]["url"])
    return sorted({one for one in found if one.startswith("/")})


def look(path: str, root: str = "/") -> Seen:
    """How one folder is stored. root: where ``proc`` and ``sys`` are; for tests."""
    real = os.path.realpath(path)
    mount = _mount(real, Path(root, "proc/self/mountinfo"))
    if mount is None:
        return Seen(path, UNKNOWN, "it is on no mounted filesystem that the kernel shows")
    if mount.kind in _IN_MEMORY:
        return Seen(path, MEMORY, f"it is in memory ({mount.kind}) and on no disk")
    device = Path(root, "sys/dev/block", _block(mount))
    if not device.exists():
        return Seen(
            path,
            UNKNOWN,
            f"it is on {mount.kind} of {mount.source}, whose disk the kernel does not show here",
        )
    leaves = list(_leaves(device))
    plain = sorted(name for name, crypt in leaves if not crypt)
    if plain:
        return Seen(path, PLAIN, f"it is on {', '.join(plain)} without dm-crypt")
    return Seen(path, ENCRYPTED, "dm-crypt: " + ", ".join(sorted(name for name, _ in leaves)))


def _mount(path: str, mountinfo: Path) -> _Mount | None:
    """The mount that holds a path: the longest that begins it, the last of equal ones.

    https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    best = None
    for line in mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields, _, rest = line.partition(" - ")
        device, _, point = fields.split()[2:5]
        point = point.replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            kind, source = rest.split()[:2]
            best = _Mount(point, device, kind, source)
    return best


def _block(mount: _Mount) -> str:
    """The block device's numbers; btrfs has made-up ones, and names its device."""
    if mount.device.startswith("0:") and mount.source.startswith("/dev/"):
        try:
            number = Path(mount.source).stat().st_rdev
        except OSError:
            return mount.device
        return f"{os.major(number)}:{os.minor(number)}"
    return mount.device


def _leaves(device: Path) -> Iterator[tuple[str, bool]]:
    """The devices at the bottom of a stack, each with whether dm-crypt is on the way to it."""
    uuid = device / "dm" / "uuid"
    name = device.resolve().name
    if uuid.exists() and uuid.read_text().startswith("CRYPT-"):
        yield name, True
        return
    folder = device / "slaves"
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    if not below:
        yield name, False
    for one in below:
        yield from _leaves(one)
