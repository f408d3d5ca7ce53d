"""Writes a file whole or not at all, with its mode and owner, and tells what differs.

Contents are never part of what is told: many of these files hold keys.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any

from saltext.openhim.errors import OpenHIMError


def differences(
    path: str, content: bytes, mode: int, user: str = "root", group: str = "root"
) -> dict[str, Any]:
    """What differs between a file and how it should be; empty when nothing does.

    ``content`` is told as ``absent`` or ``differs``; ``mode``, ``user`` and ``group`` as old and
    new.
    """
    try:
        found = Path(path).lstat()
        same = Path(path).is_file() and not Path(path).is_symlink()
        same = same and Path(path).read_bytes() == content
    except FileNotFoundError:
        return {"content": "absent"}
    changes: dict[str, Any] = {} if same else {"content": "differs"}
    for name, old, new in (
        ("mode", f"{found.st_mode & 0o7777:04o}", f"{mode:04o}"),
        ("user", _user_name(found.st_uid), user),
        ("group", _group_name(found.st_gid), group),
    ):
        if old != new:
            changes[name] = {"old": old, "new": new}
    return changes


def write(path: str, content: bytes, mode: int, user: str = "root", group: str = "root") -> None:
    """Writes a file in one step: a reader sees the old one or the new one, and never more rights.

    Its directory is made when it is missing (0755).

    Raises :class:`~saltext.openhim.errors.OpenHIMError` for an unknown user or group.
    """
    target = Path(path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    uid, gid = _ids(user, group)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(partial).unlink()
        raise


def make_directory(path: str, mode: int = 0o700) -> None:
    """Makes a directory of root's when it is missing."""
    Path(path).mkdir(mode=mode, parents=True, exist_ok=True)


def _ids(user: str, group: str) -> tuple[int, int]:
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        raise OpenHIMError(
            f"the user {user!r} or the group {group!r} does not exist on this host; "
            "the state that makes them must come first"
        ) from None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
