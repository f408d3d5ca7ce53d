"""Ends what a killed pytest leaves behind: servers of the tests, whoever started them.

Every process that tests start inherits one variable from pytest. A small process waits for pytest's
end, however that comes, and kills whatever still carries it. A clean run leaves it nothing to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from lab import kernel

VARIABLE = "SALTEXT_OPENHIM_TESTS"
#: Seconds in which workers and fixtures may still end by themselves what they started.
GRACE = 5.0


def watch() -> None:
    """Mark this process and all that it will start, and start the process that waits."""
    os.environ[VARIABLE] = f"{os.getpid()}-{time.monotonic_ns()}"
    subprocess.Popen(
        [sys.executable, "-m", "tests.leftovers", str(os.getpid()), os.environ[VARIABLE]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).resolve().parents[1],
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
    )


def carrying(mark: str) -> list[int]:
    """The processes that carry a mark, but for a lab's watchdog: it cleans up what we cannot."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = wanted in (folder / "environ").read_bytes().split(b"\0")
            if marked and b"lab.reaper" not in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def main() -> None:
    """Wait for pytest's end, then kill what it left."""
    owner, mark = int(sys.argv[1]), sys.argv[2]
    kernel.wait_for_end(owner, None)
    deadline = time.monotonic() + GRACE
    while carrying(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    while left := carrying(mark):  # again: one may have started another meanwhile
        for pid in left:
            kernel.kill(pid)


if __name__ == "__main__":
    main()
