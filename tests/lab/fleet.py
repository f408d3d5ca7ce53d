"""What the stories of whole stacks ask of their hosts, and how they wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lab.host import Host
from lab.stack import Stack


def highstate(running: Stack, target: str | Sequence[str] = "*", **options) -> dict[str, dict]:
    """The state returns of a highstate by host; fails where a host did not run it."""
    results = running.master.salt(target, "state.highstate", timeout=600, **options)
    for host, states in results.items():
        assert isinstance(states, dict), f"{host}: {states}"
    return results


def failures(results: dict[str, dict]) -> list[str]:
    """Every state that failed, with its comment."""
    return [
        f"{host}: {state['__id__']}: {state['comment']}"
        for host, states in results.items()
        for state in states.values()
        if state["result"] is False
    ]


def changed(results: dict[str, dict]) -> list[str]:
    """Every state that changed something, or would have."""
    return [
        f"{host}: {state['__id__']}: {state['changes'] or state['comment']}"
        for host, states in results.items()
        for state in states.values()
        if state["changes"] or state["result"] is None
    ]


def members(running: Stack, host: str) -> dict[str, str]:
    """What every member of every set answers to one host: ``set/host:port`` → state."""
    seen = running.master.salt([host], "openhim_dr.sighting")[host]["members"]
    return {name: one["saw"] for name, one in seen.items()}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so; fails with ``what`` when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)


def reaches(host: Host, address: str, port: int) -> bool:
    """Whether a host can open a TCP connection, by trying."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)\n"
        "except OSError: sys.exit(1)"
    )
    done = host.run(["python3", "-c", script, address, str(port)], check=False)
    return done.returncode == 0
