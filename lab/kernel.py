"""What the lab asks of the kernel: who a process is, when it ends, and control groups."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError

CGROUP = Path("/sys/fs/cgroup")


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when there is none.

    A process ID and its start time together name one process for ever; the ID alone is reused.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def identity(pid: int) -> str:
    """Return a process as text that :func:`alive` understands: ``PID START``."""
    return f"{pid} {start_time(pid)}"


def alive(who: str) -> bool:
    """Tell whether the process that :func:`identity` described still runs."""
    pid, _, started = who.partition(" ")
    return started not in ("", "None") and start_time(int(pid)) == int(started)


def wait_for_end(pid: int, timeout: float | None) -> bool:
    """Wait until a process has ended; return False when it still runs after ``timeout`` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))
    finally:
        os.close(handle)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def cgroup_roots() -> list[Path]:
    """Return the hierarchies in which each host needs a group of its own.

    systemd keeps track of its services in them. Machines have either one unified hierarchy, or
    the older one by name with the unified one beside it.
    """
    if (CGROUP / "cgroup.controllers").exists():
        return [CGROUP]
    return [CGROUP / "systemd", CGROUP / "unified"]


def make_cgroup(name: str) -> None:
    """Make the control group ``name`` in every hierarchy."""
    for root in cgroup_roots():
        (root / name).mkdir(parents=True, exist_ok=True)


def in_cgroup(name: str, argv: list[str]) -> list[str]:
    """Return a command line that runs ``argv`` inside the control group ``name``.

    A shell moves itself there before it becomes the command, so no child escapes.
    """
    moves = "".join(f"echo $$ > {root / name}/cgroup.procs && " for root in cgroup_roots())
    return ["/bin/sh", "-c", f'{moves}exec "$@"', "sh", *argv]


def freeze(name: str, frozen: bool) -> None:
    """Stop or continue every process of a control group, without their noticing."""
    folder = cgroup_roots()[-1] / name
    (folder / "cgroup.freeze").write_text("1" if frozen else "0", encoding="ascii")
    events = folder / "cgroup.events"
    wanted = f"frozen {int(frozen)}"
    deadline = time.monotonic() + 10
    with events.open(encoding="ascii") as handle:
        poll = select.poll()
        poll.register(handle, select.POLLPRI)
        while wanted not in handle.read():
            if time.monotonic() > deadline:
                raise LabError(f"{name} did not become '{wanted}' within 10 s")
            poll.poll(200)
            handle.seek(0)


def _groups_below(name: str) -> list[Path]:
    """Return the folders of a control group in every hierarchy, the innermost first.

    Groups come and go while we look; ``os.walk`` passes over those that have gone.
    """
    return [
        Path(folder)
        for root in cgroup_roots()
        for folder, _, _ in os.walk(root / name, topdown=False)
    ]


def cgroup_processes(name: str) -> Iterator[int]:
    """Yield the processes of a control group and of all the groups below it."""
    for folder in _groups_below(name):
        try:
            yield from map(int, (folder / "cgroup.procs").read_text(encoding="ascii").split())
        except OSError:
            continue  # the group went away while we looked


def clear_cgroup(name: str, timeout: float = 20) -> None:
    """Kill every process of a control group and remove the group.

    :raises LabError: when processes are left after ``timeout`` seconds
    """
    deadline = time.monotonic() + timeout
    while pids := set(cgroup_processes(name)) - {0, os.getpid()}:
        for pid in pids:
            kill(pid)
        for pid in pids:
            wait_for_end(pid, 0.5)
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(pids)} of {name} do not end; look at dmesg")
    for folder in _groups_below(name):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()


def cgroups(prefix: str) -> set[str]:
    """Return the names of the control groups that start with ``prefix``."""
    return {path.name for root in cgroup_roots() for path in root.glob(f"{prefix}*")}
