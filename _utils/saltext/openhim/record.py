"""The recovery record: the epochs of a stack, kept on the master.

One JSON file per stack, outside Salt's cache (which is disposable). The newest epoch counts; the
older ones stay as history.
"""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.epochs import Epoch

#: Where the records are on the master: a folder of the user whom the master runs as.
DIRECTORY = "/var/lib/openhim-recovery"

#: What a stack may be called; it is also a file's name here.
STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def history(stack: str, directory: str | Path = DIRECTORY) -> list[Epoch]:
    """All epochs of a stack, the oldest first; empty when nothing was ever recovered.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the record is there and cannot be
    read: an unreadable record must not look like "nothing ever happened".
    """
    path = _path(stack, directory)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OpenHIMError(f"the recovery record {path} cannot be read: {error}") from error
    try:
        return [Epoch.read(entry) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise OpenHIMError(
            f"the recovery record {path} is damaged ({error}); restore it from a copy before you "
            "go on, because it says which site may be written to"
        ) from error


def current(stack: str, directory: str | Path = DIRECTORY) -> Epoch | None:
    """The newest epoch of a stack, or None when nothing was ever recovered."""
    known = history(stack, directory)
    return known[-1] if known else None


def declare(stack: str, directory: str | Path = DIRECTORY, **values: Any) -> Epoch:
    """Add the next epoch; ``values`` as in :func:`saltext.openhim.recovery.epochs.declared`."""
    with _locked(stack, directory):
        known = history(stack, directory)
        epoch = epochs.declared(known, stack=stack, **values)
        _write(stack, directory, [*known, epoch])
    return epoch


def conclude(
    stack: str, epoch_id: str, result: Mapping[str, Any], directory: str | Path = DIRECTORY
) -> Epoch:
    """Write what was measured into an epoch; an epoch that has its result keeps it."""
    with _locked(stack, directory):
        known = epochs.concluded(history(stack, directory), epoch_id, result)
        _write(stack, directory, known)
    return next(epoch for epoch in known if epoch.id == epoch_id)


def complete(stack: str, epoch_id: str, at: str, directory: str | Path = DIRECTORY) -> None:
    """Mark an epoch as done to its last step; ``at`` is ISO 8601."""
    with _locked(stack, directory):
        _write(stack, directory, epochs.completed(history(stack, directory), epoch_id, at))


def attest(
    stack: str, epoch_id: str, words: list[dict[str, str]], directory: str | Path = DIRECTORY
) -> None:
    """Note in an epoch what people attest: each with ``site``, ``words``, ``by`` and ``at``."""
    with _locked(stack, directory):
        _write(stack, directory, epochs.attested(history(stack, directory), epoch_id, words))


def power_off(
    stack: str, epoch_id: str, hosts: list[dict[str, str]], directory: str | Path = DIRECTORY
) -> None:
    """Note in an epoch which hosts the provider has switched off: each with ``site``, ``host``,
    ``words``, ``by`` and ``at``."""
    with _locked(stack, directory):
        _write(stack, directory, epochs.powered_off(history(stack, directory), epoch_id, hosts))


def rejoin(
    stack: str, epoch_id: str, rejoined: Mapping[str, str], directory: str | Path = DIRECTORY
) -> None:
    """Note in an epoch that a site which it gave up is back.

    rejoined: ``site``, ``by``, ``reason``, ``at`` (ISO 8601).
    """
    with _locked(stack, directory):
        _write(stack, directory, epochs.rejoined(history(stack, directory), epoch_id, rejoined))


def reached(
    stack: str,
    epoch_id: str,
    step: str,
    at: str,
    directory: str | Path = DIRECTORY,
    waited: float | None = None,
) -> str:
    """Note in an epoch that a step of it is done; ``at`` is ISO 8601.

    waited: how many seconds of it were spent on what only time brings.

    Returns the time that is on record: an earlier one where the step was noted before.
    """
    with _locked(stack, directory):
        known = epochs.reached(history(stack, directory), epoch_id, step, at, waited)
        _write(stack, directory, known)
    noted = next(epoch for epoch in known if epoch.id == epoch_id).timeline
    return next(one["at"] for one in noted if one["step"] == step)


def last_committed(stack: str, directory: str | Path = DIRECTORY) -> dict[str, float]:
    """Set → the newest majority-committed time that was ever told here, in seconds since 1970."""
    try:
        found = json.loads(_path(stack, directory).with_suffix(".seen").read_text())
        return {str(name): float(seconds) for name, seconds in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise OpenHIMError(
            f"{_path(stack, directory).with_suffix('.seen')}, the times of the last known writes, "
            f"cannot be read ({error}); remove it, they are then as old as the next look"
        ) from error


def remember_committed(
    stack: str, times: Mapping[str, float], directory: str | Path = DIRECTORY
) -> None:
    """Keep the newest of these times, for when nobody is left to tell them."""
    with _locked(stack, directory):
        known = last_committed(stack, directory)
        newest = {name: max(when, known.get(name, 0.0)) for name, when in times.items()}
        _replace(_path(stack, directory).with_suffix(".seen"), {**known, **newest})


def _path(stack: str, directory: str | Path) -> Path:
    if not STACK_NAME.fullmatch(stack or ""):
        raise OpenHIMError(
            f"{stack!r} is no name of a stack; letters, digits, '.', '_' and '-' are allowed"
        )
    return Path(directory) / f"{stack}.json"


@contextmanager
def _locked(stack: str, directory: str | Path) -> Iterator[None]:
    path = _path(stack, directory)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise OpenHIMError(
            f"the recovery record cannot be written: {error}. Make its folder for the user of the "
            f"master: install -d -o {user} -m 700 {path.parent}"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(stack: str, directory: str | Path, known: list[Epoch]) -> None:
    _replace(_path(stack, directory), epochs.plain(known))


def _replace(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=True)
    user = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(os.getegid()).gr_name
    files.write(str(path), text.encode(), 0o600, user.pw_name, group)
