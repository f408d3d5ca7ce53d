"""OpenHIM on this host serves nobody: it is stopped, and does not start with the host."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from saltext.openhim import gate, systemd
from saltext.openhim.core.host import UNIT
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import STATE_DIRECTORY

#: When OpenHIM was last told to stop for a recovery. systemd forgets it: a unit that is stopped and
#: wanted by nobody is unloaded, with its times.
STOPPED = f"{STATE_DIRECTORY}/openhim-stopped"


def close() -> None:
    """Stops OpenHIM and disables it; on a host that has none, nothing is to be done.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it still runs afterwards.
    """
    if not systemd.booted():
        raise OpenHIMError("systemd does not run here, so nobody can tell if OpenHIM does")
    if systemd.states([UNIT])[UNIT].load == "not-found":
        return
    # First this: whatever comes next, it does not start again by itself.
    if not systemd.systemctl("is-enabled", "--quiet", UNIT, must=False):
        systemd.systemctl("disable", "--quiet", UNIT)
    if systemd.states([UNIT])[UNIT].runs:
        # Before it is stopped: a run that is broken off afterwards must not lose the time.
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        gate.write(Path(STOPPED), now + "\n")
    systemd.stop([UNIT])
    state = systemd.states([UNIT])[UNIT]
    if state.runs:
        raise OpenHIMError(f"{UNIT} was stopped and is {state.active}; look at its journal")


def stopped_at() -> str | None:
    """When OpenHIM was last told to stop for a recovery, ISO 8601; None when it runs, or never was.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the note of it cannot be read.
    """
    if not systemd.booted() or systemd.states([UNIT])[UNIT].runs:
        return None
    try:
        text = Path(STOPPED).read_text(encoding="utf-8").strip()
        return datetime.fromisoformat(text).isoformat(timespec="milliseconds")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OpenHIMError(f"{STOPPED} cannot be read ({error}); remove it") from error
