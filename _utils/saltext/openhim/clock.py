"""Whether a host's clock is right, as chrony measures it, and chrony's configuration.

Certificates, Salt's and OpenHIM's tokens and every comparison of times in a recovery need clocks
that agree.

In a container that may not set the clock, chronyd runs with ``-x``: it follows its source and
leaves the system's clock alone. ``tracking`` then still tells how far the system's clock is off, so
the same measurement serves.
"""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import Stack

#: What a clock may be off when ``openhim:clock:max_offset_ms`` is left out, in milliseconds.
MAX_OFFSET_MS = 500.0

SYNCHRONISED = "synchronised"
NOT_RUNNING = "not running"
NO_SOURCE = "no source"
OFFSET_TOO_LARGE = "offset too large"

#: The reference that chronyd names when it serves its own clock (127.127.1.1).
_LOCAL_REFERENCE = "7F7F0101"
_CAP_SYS_TIME = 25

_DROP_IN = """\
# This host may not set the clock (a container without CAP_SYS_TIME): its machine does. chronyd runs
# all the same, to tell how far the clock is off.
[Unit]
ConditionCapability=

[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd $DAEMON_OPTS -x
# A container's /proc cannot be mounted anew with fewer entries.
ProcSubset=all
"""


@dataclass(frozen=True)
class Clock:
    """A host's clock, judged.

    status: one of the constants of this module. offset_ms: how far the system's clock is ahead
    (behind: negative), None when nothing was measured. source: the server that is followed.
    """

    status: str
    reason: str
    offset_ms: float | None = None
    stratum: int = 0
    source: str = ""


def measure(
    max_offset_ms: float = MAX_OFFSET_MS, serves_itself: bool = False, socket: str | None = None
) -> Clock:
    """Asks chronyd and judges the answer.

    max_offset_ms: what is allowed, in milliseconds. serves_itself: this host is the stack's clock,
    so its own clock is a source. socket: chronyd's command socket, when it is not the default.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when there is no chronyc.
    """
    tracking, failure = _chronyc(["-c", "tracking"], socket)
    sources, _ = _chronyc(["-c", "-n", "sources"], socket)
    if failure:
        return Clock(
            NOT_RUNNING, f"chronyd does not answer ({failure}); start it (systemctl start chrony)"
        )
    return judge(tracking, sources, max_offset_ms, serves_itself)


def judge(tracking: str, sources: str, max_offset_ms: float, serves_itself: bool = False) -> Clock:
    """Judges what ``chronyc -c tracking`` and ``chronyc -c -n sources`` printed.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` for an answer that is none of chrony's.
    """
    try:
        fields = next(csv.reader(tracking.splitlines()))
        reference, name, stratum, leap = fields[0], fields[1], int(fields[2]), fields[13]
        # chrony's number is what must be added to the clock: positive when the clock is behind.
        offset_ms = -float(fields[4]) * 1000
        rows = [(row[1], row[2], int(row[5], 8)) for row in csv.reader(sources.splitlines())]
    except (StopIteration, IndexError, ValueError):
        raise OpenHIMError(
            f"chronyc answered something unknown: {tracking.strip()!r}, {sources.strip()!r}; "
            "chrony 4 is expected"
        ) from None
    if leap == "Not synchronised" or not _followed(reference, rows, serves_itself):
        return Clock(NO_SOURCE, _why_no_source(rows))
    if abs(offset_ms) > max_offset_ms:
        reason = (
            f"the clock is {abs(offset_ms):.1f} ms {'ahead of' if offset_ms > 0 else 'behind'} "
            f"{name or reference}; at most {max_offset_ms:g} ms are allowed"
        )
        return Clock(OFFSET_TOO_LARGE, reason, offset_ms, stratum, name)
    reason = f"the clock is within {abs(offset_ms):.3f} ms of {name or 'its own'}"
    return Clock(SYNCHRONISED, reason, offset_ms, stratum, name)


def wait(seconds: float, max_offset_ms: float, serves_itself: bool, socket: str | None) -> Clock:
    """Measures until the clock is right, or for as long as ``seconds``; the last measurement.

    A chronyd that has just started needs some seconds for its first samples. One whose network was
    away for a while asks its servers a minute apart; it is told to ask them now.
    """
    until = time.monotonic() + seconds
    told = seconds <= 0
    while True:
        found = measure(max_offset_ms, serves_itself, socket)
        if found.status == SYNCHRONISED or time.monotonic() >= until:
            return found
        if found.status == NO_SOURCE and not told:
            _chronyc(["burst", "3/6"], socket)
            told = True
        time.sleep(1)


def serves(stack: Stack, minion_id: str) -> bool:
    """Whether a host is one of the stack's clocks: its address is in ``openhim:clock:servers``."""
    host = stack.host(minion_id)
    return bool({host.address, host.name} & set(_servers(stack)))


def configuration(stack: Stack, minion_id: str) -> str:
    """The text of ``chrony.conf`` for one host.

    A host that is itself a declared clock serves the declared hosts, by its own clock if it has
    nothing better: in a network without a way out, agreeing matters more than being right.
    """
    host = stack.host(minion_id)
    lines = ["# Managed by Salt: openhim:clock"]
    lines += [f"server {s} iburst" for s in _servers(stack) if s not in (host.address, host.name)]
    lines += [
        "driftfile /var/lib/chrony/chrony.drift",
        "# A clock that is far off is set at the start, and slewed later.",
        "makestep 1 3",
        "maxupdateskew 100",
        "rtcsync",
    ]
    if serves(stack, minion_id):
        lines.append("local stratum 10")
        others = sorted({h.address for h in stack.hosts.values()} - {host.address})
        lines += [f"allow {address}" for address in others]
    return "\n".join(lines) + "\n"


def wanted_files(stack: Stack, minion_id: str) -> dict[str, str]:
    """The files that configure chrony on a host: path → content.

    Where the clock may not be set, one more: a drop-in for chrony's unit, which Debian skips there.
    """
    # Debian has a folder for it, Red Hat and SUSE have not.
    config = "/etc/chrony/chrony.conf" if Path("/etc/chrony").is_dir() else "/etc/chrony.conf"
    wanted = {config: configuration(stack, minion_id)}
    if not may_set_clock():
        unit = "chrony.service" if config.startswith("/etc/chrony/") else "chronyd.service"
        wanted[f"/etc/systemd/system/{unit}.d/openhim.conf"] = _DROP_IN
    return wanted


def may_set_clock(status: str = "/proc/1/status") -> bool:
    """Whether this host may set the clock: whether its init may have CAP_SYS_TIME.

    status: the status file of process 1.
    """
    for line in Path(status).read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_TIME & 1)
    return True


def _servers(stack: Stack) -> list[str]:
    return [str(server) for server in (stack.declared.get("clock") or {}).get("servers") or ()]


def _followed(reference: str, rows: Sequence[tuple[str, str, int]], serves_itself: bool) -> bool:
    if reference == _LOCAL_REFERENCE:
        return serves_itself
    # Selected, and at least one of the last eight requests was answered.
    return any(state == "*" and reach for state, _, reach in rows)


def _why_no_source(rows: Sequence[tuple[str, str, int]]) -> str:
    if not rows:
        return "chronyd has no server; declare some in openhim:clock:servers"
    silent = [name for _, name, reach in rows if not reach]
    if len(silent) == len(rows):
        return (
            f"no server answers: {', '.join(silent)}; is UDP port 123 reachable there, and does "
            "the server admit this host?"
        )
    told = ", ".join(f"{name} ({_STATES.get(state, state)})" for state, name, _ in rows)
    return f"chronyd follows no server yet: {told}"


_STATES = {
    "?": "not usable",
    "x": "its time disagrees with the others'",
    "~": "too unsteady",
    "-": "not combined",
    "+": "combined",
    "*": "followed",
}


def _chronyc(arguments: Sequence[str], socket: str | None) -> tuple[str, str]:
    """What chronyc printed, and why it failed (empty when it did not)."""
    where = ["-h", socket] if socket else []
    try:
        done = subprocess.run(
            ["chronyc", *where, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except FileNotFoundError:
        raise OpenHIMError("there is no chronyc on this host; install the package chrony") from None
    except subprocess.TimeoutExpired:
        return "", "no answer within 30 s"
    return done.stdout, (done.stderr or done.stdout).strip() if done.returncode else ""
