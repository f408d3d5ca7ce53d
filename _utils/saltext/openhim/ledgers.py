"""Ledgers, kept on the master beside the recovery record: one JSON file per epoch."""

from __future__ import annotations

import grp
import json
import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError

#: The folder below that of the recovery records.
FOLDER = "ledgers"


def stored(directory: str | Path, stack: str, epoch: int) -> dict[str, Any] | None:
    """The ledger of an epoch, or None where none was made yet.

    Raises OpenHIMError when it is there and cannot be read.
    """
    path = _path(directory, stack, epoch)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OpenHIMError(
            f"the ledger {path} cannot be read: {error}. Move it away to make it anew from what "
            "the members still have"
        ) from error
    return found


def store(directory: str | Path, ledger: Mapping[str, Any]) -> Path:
    """Keep a ledger, in the place of an earlier one of the same epoch. Returns its path."""
    path = _path(directory, ledger["stack"], ledger["epoch"])
    path.parent.parent.mkdir(mode=0o700, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    text = json.dumps(ledger, indent=1, sort_keys=True)
    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    files.write(str(path), text.encode(), 0o600, user, group)
    return path


def _path(directory: str | Path, stack: str, epoch: int) -> Path:
    return Path(directory) / FOLDER / stack / f"{epoch}.json"
