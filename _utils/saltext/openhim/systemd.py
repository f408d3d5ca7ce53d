"""systemd on this host: commands to it, what its units are doing, and units that may not start.

A unit is masked by a link in ``/etc/systemd/system.control``, the only lasting folder that comes
before ``/etc/systemd/system`` (systemd.unit(5)). ``systemctl mask`` refuses units whose file is in
the latter, as those of this package are, and ``systemctl unmask`` does not undo ours.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from saltext.openhim.errors import OpenHIMError

UNITS = "/etc/systemd/system"
MASKS = "/etc/systemd/system.control"

_NOWHERE = "/dev/null"
#: Seconds for a command that waits for nothing, and for one that stops services: systemd itself
#: kills what has not ended 90 s after it was asked to.
_TIMEOUT = 60.0
_STOP_TIMEOUT = 150.0


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit, in its own words: ``masked`` and ``inactive``, for instance."""

    load: str
    active: str

    @property
    def runs(self) -> bool:
        """Whether any process of it may be alive."""
        return self.active not in ("inactive", "failed")


def booted() -> bool:
    """Whether systemd is PID 1 here (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def systemctl(*arguments: str, must: bool = True, timeout: float = _TIMEOUT) -> int:
    """Runs systemctl; its exit code.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it fails and ``must``.
    """
    return run("systemctl", *arguments, must=must, timeout=timeout)


def run(*command: str, must: bool = True, timeout: float = _TIMEOUT) -> int:
    """Runs a program for at most ``timeout`` seconds; its exit code. Errors: :func:`systemctl`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except FileNotFoundError:
        raise OpenHIMError(f"there is no {command[0]} on this host; systemd is needed") from None
    except subprocess.TimeoutExpired:
        raise OpenHIMError(f"{' '.join(command[:3])} did not end within {timeout:g} s") from None
    if must and done.returncode:
        raise OpenHIMError(f"{' '.join(command[:3])} failed: {done.stderr.strip()}")
    return done.returncode


def reload() -> None:
    """Lets systemd read its units anew, where it runs."""
    if booted():
        systemctl("daemon-reload")


def stop(units: Iterable[str]) -> None:
    """Stops units, all at once, and waits until they have ended.

    One that systemd does not know is passed over, and all of them where systemd does not run.
    """
    known = [unit for unit in units if booted() and states([unit])[unit].load != "not-found"]
    if known:
        systemctl("stop", *known, timeout=_STOP_TIMEOUT)


def states(units: Iterable[str]) -> dict[str, UnitState]:
    """What systemd says of units, by their names; of none where it does not run."""
    return {unit: _state(unit) for unit in units} if booted() else {}


def mask(units: Iterable[str]) -> None:
    """Lets nobody start units, now and after a boot; one that runs goes on until it is stopped."""
    Path(MASKS).mkdir(mode=0o755, parents=True, exist_ok=True)
    for unit in units:
        link = _mask(unit)
        if is_masked(unit):
            continue
        # What is there instead, if anything, would win over the unit's own file as well.
        link.unlink(missing_ok=True)
        link.symlink_to(_NOWHERE)
    reload()


def unmask(units: Iterable[str]) -> None:
    """Takes the links of :func:`mask` away; starts nothing."""
    for unit in units:
        if is_masked(unit):
            _mask(unit).unlink()
    reload()


def is_masked(unit: str) -> bool:
    """Whether :func:`mask` has masked a unit."""
    link = _mask(unit)
    return link.is_symlink() and str(link.readlink()) == _NOWHERE


def _mask(unit: str) -> Path:
    return Path(MASKS) / unit


def _state(unit: str) -> UnitState:
    said = _show(unit, "LoadState", "ActiveState")
    return UnitState(said["LoadState"], said["ActiveState"])


def _show(unit: str, *properties: str) -> dict[str, str]:
    command = ["systemctl", "show", f"--property={','.join(properties)}", "--", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or not said.keys() >= set(properties):
        raise OpenHIMError(f"systemctl show {unit} failed: {done.stderr.strip()}")
    return said
