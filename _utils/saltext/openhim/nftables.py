"""Loads our nftables table atomically, remembers what the kernel showed then, and takes it back.

Only ``table inet openhim`` is ever touched: other tables are not ours, and ``flush ruleset`` is not
said. ``nft`` runs in whatever network namespace the caller is in.

How drift is noticed: right after loading, the kernel's own listing of the table is kept beside the
digest of the text. A later listing that differs means that somebody changed our table. (Comparing
with the text itself would mean to imitate how each version of nft prints rules.)

How a host is not cut off: the table that was there is kept in a file and, where systemd runs, a
timer is armed *before* loading that puts it back. It is disarmed only when the check afterwards
passed, so a minion that is killed in between leaves a host that repairs itself.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.firewall import FAMILY, FILE, REPLACE, TABLE, UNIT, boot_unit
from saltext.openhim.settings import STATE_DIRECTORY
from saltext.openhim.systemd import UNITS, booted, reload, run, systemctl

UNIT_FILE = f"{UNITS}/{UNIT}"
RECORD_FILE = f"{STATE_DIRECTORY}/firewall.json"
ROLLBACK_FILE = f"{STATE_DIRECTORY}/firewall-rollback.nft"
LOCK_FILE = f"{STATE_DIRECTORY}/firewall.lock"
ROLLBACK_UNIT = "openhim-firewall-rollback"

#: Seconds after which the armed timer puts the previous table back. The check takes less.
ROLLBACK_AFTER = 60

#: One attempt to reach the master, in seconds, and how many attempts there are.
CONNECT_TIMEOUT = 3.0
CONNECT_ATTEMPTS = 3

Endpoint = tuple[str, int]


class NftError(OpenHIMError):
    """nft is not there, or refused what it was given."""


class NftMissing(NftError):
    """nft is not there, so no table can be."""


def listing(table: str = TABLE) -> str | None:
    """A table of ours as the kernel has it (without counters), or None when there is none."""
    tables = nft("list", "tables", FAMILY)
    if f"table {FAMILY} {table}" not in tables.splitlines():
        return None
    return nft("--stateless", "list", "table", FAMILY, table)


def check(text: str) -> None:
    """Asks nft and the kernel whether a text would be accepted; nothing is changed.

    Raises :class:`NftError` with what nft said.
    """
    nft("--check", "--file", "-", stdin=text)


def differences(text: str) -> dict[str, Any]:
    """What differs from the wanted rules on this host; empty when nothing does.

    ``kernel``: a unified diff when the table was changed by somebody, or words. ``file``: the file
    that is loaded at boot. ``unit``: the unit that loads it.
    """
    found: dict[str, Any] = {}
    live = listing()
    record = _record()
    if live is None:
        found["kernel"] = "the table is not loaded"
    elif record.get("sha256") != _digest(text):
        found["kernel"] = "other rules are loaded than those wanted"
    elif record.get("listing") != live:
        found["kernel"] = _diff(record.get("listing", ""), live)
    if file_changes := files.differences(FILE, text.encode(), mode=0o600):
        found["file"] = file_changes
    unit_changes = files.differences(UNIT_FILE, boot_unit().encode(), mode=0o644)
    if not unit_changes:
        unit_changes = _unit_problems()
    if unit_changes:
        found["unit"] = unit_changes
    return found


def apply(
    text: str, endpoints: Iterable[Endpoint] = (), facts: dict[str, Any] | None = None
) -> None:
    """Loads a text in place of our table, keeps it for the boot, or puts everything back.

    endpoints: host and port of each that must be reached afterwards if it is reached now (the
    master). facts: kept in the record (the TCP ports that were opened).

    Raises :class:`NftError` when the text is refused (nothing was changed then), and
    :class:`~saltext.openhim.errors.OpenHIMError` when an endpoint was lost (the previous table is
    back then).
    """
    check(text)
    with _locked():
        reached = _reached(list(endpoints), attempts=1)
        previous = _keep_previous()
        armed = _arm()
        try:
            nft("--file", "-", stdin=text)
            loaded = listing()
            kept = _reached(reached)
        except BaseException:
            _put_back(previous, armed)
            raise
        if lost := [endpoint for endpoint in reached if endpoint not in kept]:
            _put_back(previous, armed)
            raise OpenHIMError(
                f"with the new rules this host no longer reached {_names(lost)}, which it reached "
                "before; the previous rules are back. Compare the rules with other tables "
                "(nft list ruleset) and with openhim:firewall."
            )
        _disarm(armed)
        Path(ROLLBACK_FILE).unlink()
        _persist(text, loaded, facts or {})


def persist_unit() -> None:
    """Writes the unit that loads the file at boot, and enables it.

    Where systemd runs it is started as well (it loads the same rules once more): only an active
    unit follows when the distribution's own rules are loaded again.
    """
    files.write(UNIT_FILE, boot_unit().encode(), mode=0o644)
    systemctl("enable", "--quiet", UNIT)
    if booted():
        reload()
        systemctl("start", UNIT)


def remove() -> list[str]:
    """Removes our table, its file, its unit and what is remembered; says what there was."""
    removed = []
    with _locked():
        if listing() is not None:
            nft("--file", "-", stdin=REPLACE)
            removed.append("kernel")
        if Path(UNIT_FILE).exists():
            if booted():
                systemctl("stop", UNIT)
            systemctl("disable", "--quiet", UNIT)
            Path(UNIT_FILE).unlink()
            reload()
            removed.append("unit")
        if Path(FILE).exists():
            Path(FILE).unlink()
            removed.append("file")
        for path in (RECORD_FILE, ROLLBACK_FILE):
            Path(path).unlink(missing_ok=True)
    return removed


def present() -> list[str]:
    """Which of ``kernel``, ``unit`` and ``file`` are on this host."""
    there = {
        "kernel": listing() is not None,
        "unit": Path(UNIT_FILE).exists(),
        "file": Path(FILE).exists(),
    }
    return [name for name, is_there in there.items() if is_there]


def remembered_facts() -> dict[str, Any]:
    """The facts that were given to the last successful :func:`apply`; empty when there was none."""
    return _record().get("facts") or {}


def reachable(endpoint: Endpoint, attempts: int = CONNECT_ATTEMPTS) -> bool:
    """Whether a new TCP connection can be made."""
    for attempt in range(attempts):
        started = time.monotonic()
        try:
            with socket.create_connection(endpoint, timeout=CONNECT_TIMEOUT):
                return True
        except OSError:
            # One that is refused at once may be restarting: the attempts share the same time.
            left = CONNECT_TIMEOUT - (time.monotonic() - started)
            if attempt + 1 < attempts and left > 0:
                time.sleep(min(left, 1.0))
    return False


def _reached(endpoints: list[Endpoint], attempts: int = CONNECT_ATTEMPTS) -> list[Endpoint]:
    """Those that can be reached; all are asked at once, so that many masters take no longer."""
    if not endpoints:
        return []
    with ThreadPoolExecutor(len(endpoints)) as pool:
        answers = pool.map(lambda endpoint: reachable(endpoint, attempts), endpoints)
        return [endpoint for endpoint, answer in zip(endpoints, answers, strict=True) if answer]


def _names(endpoints: Iterable[Endpoint]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in endpoints)


def nft(*arguments: str, stdin: str | None = None) -> str:
    """What nft says to arguments, and to a text on its standard input; raises :class:`NftError`."""
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
    if program is None:
        raise NftMissing("there is no nft on this host; install the package nftables")
    done = subprocess.run(
        [program, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise NftError(f"nft {' '.join(arguments)} refused: {done.stderr.strip()}")
    return done.stdout


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _diff(recorded: str, live: str) -> str:
    lines = difflib.unified_diff(
        live.splitlines(), recorded.splitlines(), "in the kernel", "as applied", lineterm="", n=0
    )
    return "\n".join(lines)


def _record() -> dict[str, Any]:
    try:
        record = json.loads(Path(RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # nothing, or half a file: then the rules are applied again
    return record if isinstance(record, dict) else {}


def _persist(text: str, loaded: str | None, facts: dict[str, Any]) -> None:
    """Keeps the rules for the boot, after a last look that they are still there."""
    if loaded is None or listing() != loaded:
        raise OpenHIMError(
            "the rules were loaded, and then another program changed or removed them (or the check "
            f"took longer than {ROLLBACK_AFTER} s and the timer put the previous ones back). Stop "
            "what else manages nftables on this host, such as a 'flush ruleset', then run again."
        )
    files.write(FILE, text.encode(), mode=0o600)
    record = {"sha256": _digest(text), "listing": loaded, "facts": facts}
    files.write(RECORD_FILE, json.dumps(record, indent=1).encode(), mode=0o600)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """One at a time; so a timer that is armed when we have the lock is of a run that died."""
    files.make_directory(STATE_DIRECTORY)
    with Path(LOCK_FILE).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OpenHIMError(
                "another run is changing the firewall of this host now; wait for it to end"
            ) from None
        yield


def _keep_previous() -> str:
    """The text that puts the present table back, also in a file for the timer.

    When a run died with its timer armed, the table that is loaded was never checked: the one before
    it, which is in the file, stays the one to go back to.
    """
    kept = Path(ROLLBACK_FILE)
    if booted() and _timer_active() and kept.exists():
        return kept.read_text(encoding="utf-8")
    previous = REPLACE + (listing() or "")
    files.write(ROLLBACK_FILE, previous.encode(), mode=0o600)
    return previous


def _timer_active() -> bool:
    return systemctl("is-active", "--quiet", f"{ROLLBACK_UNIT}.timer", must=False) == 0


def _arm() -> bool:
    if not booted():
        return False
    _disarm(True)
    run(
        "systemd-run",
        "--quiet",
        f"--unit={ROLLBACK_UNIT}",
        "--description=Puts the previous firewall of the OpenHIM stack back",
        f"--on-active={ROLLBACK_AFTER}",
        "--timer-property=AccuracySec=1s",
        shutil.which("nft") or "/usr/sbin/nft",
        "-f",
        ROLLBACK_FILE,
    )
    return True


def _disarm(armed: bool) -> None:
    if not armed:
        return
    systemctl("stop", f"{ROLLBACK_UNIT}.timer", must=False)
    # A unit that ran and failed keeps its name and would refuse the next one.
    systemctl("reset-failed", f"{ROLLBACK_UNIT}.service", must=False)


def _put_back(previous: str, armed: bool) -> None:
    nft("--file", "-", stdin=previous)
    # Only now: if putting back failed, the timer is the second chance.
    _disarm(armed)
    Path(ROLLBACK_FILE).unlink()


def _unit_problems() -> dict[str, Any]:
    if systemctl("is-enabled", "--quiet", UNIT, must=False):
        return {"enabled": False}
    if booted() and systemctl("is-active", "--quiet", UNIT, must=False):
        return {"active": False}
    return {}
