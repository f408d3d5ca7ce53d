"""Runs a host's archivers, and keeps what they say where others can read it.

One process, an archiver in a thread for each replica set. It ends when one of its archivers does,
or when one has gone on failing for long: whoever starts it anew gives it the pillar of that time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bson import Timestamp
from saltext.openhim import files, settings
from saltext.openhim.backup import work
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.oplog import declared
from saltext.openhim.backup.oplog.archiver import Archiver, Status
from saltext.openhim.backup.oplog.slices import Header
from saltext.openhim.errors import OpenHIMError, Refused

log = logging.getLogger(__name__)

#: The unit in which the archivers of a host run, and what they say of themselves.
SERVICE = "openhim-oplog"
UNIT = f"/etc/systemd/system/{SERVICE}.service"
FILE = f"{settings.STATE_DIRECTORY}/oplog-archive.json"

ARCHIVING = "archiving"
BEHIND = "behind"
GAP = "gap"
STOPPED = "stopped"

#: Seconds between two looks at the archivers, and between two writings of what they say.
_LOOK = 0.5
_WRITE = 10.0
#: Seconds of failing after which it ends: a password may be another one by now.
RENEW = 900.0
#: Seconds to wait for another task of backups, before no restore point is taken after a gap.
_TURN = 3600.0

#: Told of each change: the set's name, and what its archiver says.
Tell = Callable[[str, Mapping[str, Any]], object]


class Ended(OpenHIMError):
    """An archiver does not go on; whoever runs this starts it anew."""


def unit(salt_call: str, config_dir: str) -> str:
    """The systemd unit that keeps the archivers going."""
    options = f"--config-dir={config_dir} --log-level=warning --out=quiet"
    return f"""\
# Written by Salt (openhim_backup.archive_running).
[Unit]
Description=The oplog archive of OpenHIM's replica sets
After=network-online.target

[Service]
ExecStart={salt_call} {options} openhim_backup.archive
Restart=always
RestartSec=10
KillMode=mixed
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def wanted(backups: Backups) -> str:
    """A digest of what an archiver is told at its start: another one is to be started anew."""
    told = [
        backups.stack.name,
        dict(declared.entry(backups)),
        backups.epoch,
        sorted(backups.databases()),
        backups.entry["user"],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def serve(backups: Backups, tell: Tell, path: str = FILE) -> None:
    """Archives until SIGTERM or SIGINT; then commits what it has, and returns.

    To be called in the main thread. Raises as :func:`run`.
    """
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        run(backups, stop, tell, path)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(backups: Backups, stop: threading.Event, tell: Tell, path: str = FILE) -> None:
    """Archives every declared set until ``stop`` is set.

    tell: what is told of changes, in a thread of its own, for a master that is away takes time.

    Raises :class:`Ended` when an archiver ended by itself or failed for :data:`RENEW` seconds.
    """
    if not declared.archived_here(backups):
        raise Refused(
            f"archiving the oplog is the task of {declared.entry(backups)['archived_by']} "
            f"(openhim:backup:oplog:archived_by), not of {backups.host}"
        )
    keeper = _Keeper(backups, tell, path)
    try:
        while not stop.is_set() and keeper.look():
            stop.wait(_LOOK)
    finally:
        keeper.end()
    if not stop.is_set():
        keeper.complain()


class _Keeper:
    """The archivers of a host, what they said last, and who is told."""

    def __init__(self, backups: Backups, tell: Tell, path: str):
        self._backups = backups
        self._path = path
        self._tell = tell
        self._teller = ThreadPoolExecutor(1, "oplog-tell")
        self._stop = threading.Event()
        self._failed: dict[str, str] = {}
        self._said: dict[str, dict[str, Any]] = {}
        self._gaps: dict[str, int] = {}
        self._written = 0.0
        begin = _newest_point(backups)
        self._archivers = {
            name: Archiver(
                declared.source(backups, name),
                declared.store(backups),
                stack=backups.stack.name,
                replica_set=name,
                epoch=backups.epoch,
                interval=declared.interval(backups),
                begin_at=begin.get(name),
                on_gap=self._on_gap,
            )
            for name in sorted(backups.databases())
        }
        self._threads = {
            name: threading.Thread(target=self._archive, args=(name,), name=f"oplog-{name}")
            for name in self._archivers
        }
        for thread in self._threads.values():
            thread.daemon = True
            thread.start()

    def _archive(self, name: str) -> None:
        try:
            self._archivers[name].run(self._stop)
        except Exception as error:
            if not isinstance(error, OpenHIMError):
                log.exception("the archiver of %s ended", name)
            self._failed[name] = str(error) or type(error).__name__

    def look(self) -> bool:
        """Tells and writes what changed; False when one of them does not go on."""
        now = time.monotonic()
        found = {name: self._of(name) for name in self._archivers}
        changed = [name for name in found if self._is_news(name, found[name])]
        self._said = found
        if changed or now - self._written >= _WRITE:
            self._written = now
            write(self._backups, found, self._path)
        for name in changed:
            self._teller.submit(self._told, name, found[name])
        return not self._failed and not any(
            status.error_since and now - status.error_since > RENEW
            for status in (archiver.status() for archiver in self._archivers.values())
        )

    def _of(self, name: str) -> dict[str, Any]:
        status = self._archivers[name].status()
        alive = self._threads[name].is_alive() and name not in self._failed
        return said_by(status, alive, declared.max_behind(self._backups), self._failed.get(name))

    def _is_news(self, name: str, found: Mapping[str, Any]) -> bool:
        old = self._said.get(name, {})
        return any(old.get(key) != found[key] for key in ("state", "error", "begun", "gaps"))

    def _told(self, name: str, found: Mapping[str, Any]) -> None:
        gaps, self._gaps[name] = self._gaps.get(name, 0), found["gaps"]
        news = {**found, "state": GAP} if found["gaps"] > gaps else found
        try:
            self._tell(name, {"set": name, "stack": self._backups.stack.name, **news})
        except Exception:
            log.exception("nobody could be told of the oplog archive of %s", name)

    def _on_gap(self, gap: Header) -> None:
        threading.Thread(target=take_after, args=(self._backups, gap), daemon=True).start()

    def end(self) -> None:
        """Lets each commit what it has; what they said stays, as that of stopped ones."""
        self._stop.set()
        for thread in self._threads.values():
            thread.join(60)
        self.look()
        self._teller.shutdown(wait=False)

    def complain(self) -> None:
        """Raises :class:`Ended`, with what each archiver complains of."""
        told = "; ".join(
            f"{name}: {said['error']}" for name, said in self._said.items() if said["error"]
        )
        raise Ended(f"the oplog archive does not go on: {told}")


def take_after(backups: Backups, gap: Header) -> None:
    """Takes a restore point, where that is this host's task: from it, what follows a gap can be
    restored. That it failed is logged, and the status tells that there is none.
    """
    if backups.entry["taken_by"] != backups.host:
        return
    why = f"a gap in the oplog archive of {gap.replica_set} that ends with {gap.last.words}"
    for repository in backups.first:
        try:
            with work.patience(_TURN):
                work.take(backups, "the oplog archive", why, repository)
        except Exception:
            log.exception("no restore point was taken because of %s", why)


def said_by(
    status: Status, alive: bool, max_behind: float, failed: str | None = None
) -> dict[str, Any]:
    """What an archiver says, as it is kept and told."""
    late = status.rpo_seconds is not None and status.rpo_seconds > max_behind
    error = failed or status.error
    return {
        "state": STOPPED if not alive else BEHIND if error or late else ARCHIVING,
        "begun": status.timeline is not None,
        "archived_until": status.last.words if status.last else None,
        "behind_seconds": None if status.rpo_seconds is None else round(status.rpo_seconds, 1),
        "slices": status.slices,
        "entries": status.entries,
        "gaps": status.gaps,
        "error": error,
    }


def _newest_point(backups: Backups) -> dict[str, Timestamp]:
    """Where an archive that is still empty begins: then that restore point is a base for it."""
    with contextlib.suppress(OpenHIMError):
        point, _ = work.find(backups)
        return {name: Timestamp(*at) for name, at in point.manifest.times().items()}
    return {}


def write(backups: Backups, sets: Mapping[str, Any], path: str = FILE) -> None:
    """Keeps what the archivers say."""
    kept = {
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "settings": wanted(backups),
        "pid": os.getpid(),
        "sets": dict(sets),
    }
    files.make_directory(str(Path(path).parent))
    files.write(path, json.dumps(kept, sort_keys=True).encode(), 0o600)


def kept(path: str = FILE) -> dict[str, Any] | None:
    """What the archivers of this host said last, with its ``age`` in seconds; None for nothing."""
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        said = datetime.fromisoformat(found["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {**found, "age": (datetime.now(timezone.utc) - said).total_seconds()}


#: Seconds after which an archiver that says nothing is none.
SILENT = 6 * _WRITE


def why_not_running(backups: Backups, path: str = FILE) -> str | None:
    """Why this host's archivers do not run as declared; None when they do."""
    found = kept(path)
    if found is None:
        return "no archiver has ever said anything"
    if not -SILENT < found["age"] < SILENT:
        return f"the archiver has said nothing for {found['age']:.0f} s"
    if found["settings"] != wanted(backups):
        return "the archiver runs as it was declared before"
    missing = sorted(set(backups.databases()) - set(found["sets"]))
    stopped = [name for name, said in found["sets"].items() if said["state"] == STOPPED]
    if missing or stopped:
        return f"nobody archives {', '.join(missing + stopped)}"
    return None


def is_archiving(backups: Backups, path: str = FILE) -> bool:
    """Whether all archivers run as declared, have begun, and nothing keeps them from going on."""
    return why_not_running(backups, path) is None and not any(errors(path))


def forget(path: str = FILE) -> None:
    """What archivers said counts no more: they are to be started anew."""
    Path(path).unlink(missing_ok=True)


def errors(path: str = FILE) -> Iterator[str]:
    """What keeps the archivers that run from archiving; not begun is told too."""
    for name, said in ((kept(path) or {}).get("sets") or {}).items():
        if said["error"]:
            yield f"{name}: {said['error']}"
        elif not said["begun"]:
            yield f"{name}: it has not begun yet"
