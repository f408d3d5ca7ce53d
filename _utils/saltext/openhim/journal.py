"""A record to which is only ever appended: a line of JSON for each thing that happened.

Root alone reads it (0600). A line is on the disk when it was appended; what a crash left half
written ends with the next line and takes no other with it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim.errors import OpenHIMError

Entry = Mapping[str, Any]


def now() -> str:
    """The present, as records have it: ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def append(path: str | Path, entry: Entry) -> None:
    """Adds an entry. Its folder is made when it is missing (0700).

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size and os.pread(handle, 1, size - 1) != b"\n"
            line = ("\n" if torn else "") + json.dumps(entry, sort_keys=True) + "\n"
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise OpenHIMError(f"the record {target} cannot be written: {error}") from error


def read(path: str | Path) -> list[dict[str, Any]]:
    """All entries, the oldest first; a line that is none is passed over, for it was torn.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it is there and cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OpenHIMError(f"the record {path} cannot be read: {error}") from error
    found = []
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
