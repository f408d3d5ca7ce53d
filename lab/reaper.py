"""Takes a lab away: its processes, networks, mounts, control groups and folders.

A lab's owner may be killed with -9 at any moment. So every name that a lab uses starts with the
lab's prefix, which is all that is needed to find what to remove, and the lab's folder says who the
owner is. A small watchdog process per lab waits for the owner's end and cleans up; where the
watchdog was killed as well, the next lab that starts, or ``python -m lab clean``, does it.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from lab import cache, kernel, network
from lab.errors import LabError

RUN = Path("/run/saltext-openhim-lab")


def prefix_of(lab_id: str) -> str:
    """Return what the names of a lab's namespaces and control groups start with."""
    return f"oh-{lab_id}"


def folder_of(lab_id: str) -> Path:
    """Return the folder that holds a lab's state."""
    return RUN / lab_id


def disks_of(lab_id: str) -> Path:
    """Return the folder that holds the disks of a lab's hosts.

    On disk and not in memory: a host's disk may grow, and the memory is for the servers.
    """
    return cache.directory() / "hosts" / lab_id


def labs() -> dict[str, dict]:
    """Return the description of every lab on this machine by its ID."""
    found = {}
    for folder in sorted(RUN.iterdir()) if RUN.exists() else []:
        try:
            found[folder.name] = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, NotADirectoryError):
            continue
    return found


def abandoned() -> list[str]:
    """Return the IDs of labs whose owner is gone."""
    return [lab_id for lab_id, lab in labs().items() if not kernel.alive(lab["owner"])]


def reap(lab_id: str) -> None:
    """Remove everything of a lab; what is gone already is no error.

    :raises LabError: when something resists, naming it
    """
    RUN.mkdir(parents=True, exist_ok=True)
    with (RUN / f".{lab_id}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # owner, watchdog and others may all try
        prefix = f"{prefix_of(lab_id)}-"
        for name in kernel.cgroups(prefix):
            for pid in kernel.cgroup_processes(name):
                kernel.kill(pid)  # all at once first: waiting comes in the next loop
        for name in sorted(kernel.cgroups(prefix)):
            kernel.clear_cgroup(name)
        for name in network.namespaces(prefix):
            network.remove_namespace(name)
        for point in _mounts_below(folder_of(lab_id)):
            cache.call(["umount", "--lazy", point])
        for belonging in labs().get(lab_id, {}).get("belongings", ()):
            cache.remove(Path(belonging))
        cache.remove(disks_of(lab_id))
        cache.remove(folder_of(lab_id))
        Path(lock.name).unlink(missing_ok=True)


def reap_abandoned() -> list[str]:
    """Remove every lab whose owner is gone; return their IDs."""
    gone = abandoned()
    for lab_id in gone:
        cache.progress(f"removing lab {lab_id}, whose owner is gone")
        reap(lab_id)
    return gone


def _mounts_below(folder: Path) -> list[str]:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    points = [line.split()[1] for line in mounts]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def start_watchdog(lab_id: str) -> subprocess.Popen:
    """Start the process that removes the lab when this process ends without doing so."""
    return subprocess.Popen(
        [sys.executable, "-m", "lab.reaper", lab_id, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(network.REPOSITORY)},
    )


def main() -> None:
    """Wait until the owner has ended, then remove the lab."""
    lab_id, owner = sys.argv[1], int(sys.argv[2])
    kernel.wait_for_end(owner, None)
    try:
        reap(lab_id)
    except LabError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
