"""The timer that ends an account: systemd's, so neither the minion nor the master must live then.

A file per account, and one service for all. The timer is there after a boot too, and one that came
due while the host was off fires then. The service tries until the account is gone.
"""

from __future__ import annotations

import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path

from saltext.openhim import files, systemd
from saltext.openhim.errors import OpenHIMError

SERVICE = "openhim-break-glass@.service"

#: Seconds between two attempts to remove an account, such as while there is no primary.
RETRY = 30


def _timer(slug: str) -> str:
    return f"openhim-break-glass@{slug}.timer"


def arm(slug: str, until: datetime, config_dir: str) -> None:
    """Sees to it that an account is removed at a time. config_dir: of the minion.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when nothing on this host would do it.
    """
    require()
    files.write(f"{systemd.UNITS}/{SERVICE}", service(config_dir).encode(), 0o644)
    files.write(f"{systemd.UNITS}/{_timer(slug)}", timer(until).encode(), 0o644)
    systemd.reload()
    systemd.systemctl("enable", "--quiet", _timer(slug))
    systemd.systemctl("restart", _timer(slug))
    if not armed(slug):
        raise OpenHIMError(f"systemd does not run {_timer(slug)} though it was told to")


def armed(slug: str) -> bool:
    """Whether systemd will remove an account, or is at it."""
    states = systemd.states([_timer(slug)])
    return any(state.runs for state in states.values())


def disarm(slug: str) -> None:
    """There is no timer any more."""
    if systemd.booted() and Path(f"{systemd.UNITS}/{_timer(slug)}").exists():
        systemd.systemctl("disable", "--quiet", "--now", _timer(slug))
    Path(f"{systemd.UNITS}/{_timer(slug)}").unlink(missing_ok=True)
    systemd.reload()


def require() -> None:
    """Raises :class:`~saltext.openhim.errors.OpenHIMError` where systemd does not run."""
    if not systemd.booted():
        raise OpenHIMError(
            "systemd does not run on this host, so nothing would remove the account when its time "
            "is over; open it on another host"
        )


def timer(until: datetime) -> str:
    """The text of an account's timer."""
    return f"""\
# Written by Salt (openhim_break_glass.present).
[Unit]
Description=The end of an account for the emergency

[Timer]
OnCalendar={until.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""


def service(config_dir: str) -> str:
    """The text of the service: the removal asks no master, the word to the master may fail.

    Not a oneshot: a boot would not be over before the account is gone and the master was told.
    """
    call = f"{_salt_call()} --config-dir={config_dir} --log-level=warning --out=quiet"
    tell = "openhim_break_glass.tell"
    return f"""\
# Written by Salt (openhim_break_glass.present).
[Unit]
Description=Removes an account for the emergency
StartLimitIntervalSec=0

[Service]
Type=exec
UMask=0077
ExecStart={call} --local --retcode-passthrough openhim_break_glass.expire %i
ExecStopPost=-/bin/sh -c '[ "$SERVICE_RESULT" != success ] || exec timeout 120 {call} {tell}'
TimeoutStopSec=150
Restart=on-failure
RestartSec={RETRY}
"""


def _salt_call() -> str:
    own = Path(sys.executable).with_name("salt-call")
    command = str(own) if own.exists() else shutil.which("salt-call")
    if not command:
        raise OpenHIMError("salt-call is not on this host; the account is removed by it")
    return command
