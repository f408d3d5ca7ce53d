"""The runbook on a host: the present one, and every older one, for the time when nobody answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.plan import pages, runbook

#: Names people and their phones: root reads it, and whoever root shows it.
MODE = 0o600

#: What the present files are made from, and when.
ABOUT = "about.json"

OLDER = "older"

_NAMES = ("runbook.md", "runbook.html")


def held(folder: str = pages.FOLDER) -> dict[str, Any]:
    """What the present runbook is made from, and how many older ones are kept; empty without one.

    Raises OpenHIMError when it is there and cannot be read.
    """
    try:
        about: dict[str, Any] = json.loads(Path(folder, ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OpenHIMError(
            f"{folder}/{ABOUT} cannot be read ({error}); remove it, and run a highstate"
        ) from error
    older = Path(folder, OLDER)
    kept = len(list(older.glob("*.md"))) if older.is_dir() else 0
    return {**about, "older": kept}


def differences(openhim: Mapping[str, Any], folder: str = pages.FOLDER) -> dict[str, Any]:
    """What is to change on this host, as old and new; empty when the runbook is the present one."""
    wanted = runbook.build(openhim, datetime.now(timezone.utc))
    known = held(folder)
    if known.get("content") != wanted["content"]:
        return {"runbook": {"old": _named(known), "new": _named(wanted)}}
    damaged = [
        name
        for name, content in _contents({**wanted, "written": known["written"]}).items()
        if files.differences(str(Path(folder, name)), content, MODE)
    ]
    return {name: {"old": "differs", "new": "as it was written"} for name in damaged}


def deliver(openhim: Mapping[str, Any], folder: str = pages.FOLDER) -> None:
    """Writes the present runbook, after the one before was put with the older ones.

    ``about.json`` is written last: what a crash leaves is written again by the next run.
    """
    wanted = runbook.build(openhim, datetime.now(timezone.utc))
    known = held(folder)
    if known.get("content") == wanted["content"]:
        wanted = {**wanted, "written": known["written"]}
    elif known:
        _keep(known, folder)
    files.make_directory(folder)
    for name, content in _contents(wanted).items():
        files.write(str(Path(folder, name)), content, MODE)
    about = {key: wanted[key] for key in ("content", "digest", "epoch", "written", "stack")}
    files.write(str(Path(folder, ABOUT)), (json.dumps(about, indent=1) + "\n").encode(), MODE)


def _contents(model: Mapping[str, Any]) -> dict[str, bytes]:
    text, page = pages.runbook_text(model), pages.runbook(model)
    return dict(zip(_NAMES, (text.encode(), page.encode()), strict=True))


def _named(about: Mapping[str, Any]) -> str | None:
    if not about:
        return None
    return f"epoch {about['epoch']}, declaration {about['digest'][:12]}"


def _keep(about: Mapping[str, Any], folder: str) -> None:
    """Copies the present files to the older ones, by when they were written."""
    stamp = re.sub(r"[^0-9TZ]", "", str(about["written"]))
    for name in _NAMES:
        present = Path(folder, name)
        target = Path(folder, OLDER, f"{stamp}-{about['content'][:12]}{present.suffix}")
        # After a crash the present file may be the new one already, and the old one is kept.
        if present.exists() and not target.exists():
            files.make_directory(str(target.parent))
            files.write(str(target), present.read_bytes(), MODE)
