"""Programs of somebody's own that the master runs: a load balancer's, a provider's.

Each runs as the master's user, without a shell, in a bounded time, and all that it started ends
with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from saltext.openhim.errors import OpenHIMError, Unreachable

#: How much of what a program says when it fails is told, in characters of its end.
TAIL = 500


def run(command: Sequence[str], environment: Mapping[str, str], timeout: float) -> str:
    """What a program prints.

    command: the program and its arguments. environment: variables beside the master's own. timeout:
    seconds.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it cannot be run or fails, and
    :class:`~saltext.openhim.errors.Unreachable` when it had to be killed.
    """
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**os.environ, **environment},
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise OpenHIMError(f"{command[0]} cannot be run: {error.strerror}") from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Unreachable(
                f"{command[0]} had not ended after {timeout:g} s and was killed; it may have done "
                "a part of its work"
            ) from None
    if process.returncode:
        said = err.strip()[-TAIL:]
        raise OpenHIMError(
            f"{command[0]} failed (exit code {process.returncode})"
            + (f" and said: {said}" if said else " and said nothing")
        )
    return out
