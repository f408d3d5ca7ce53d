"""How far a dump or a restore is, told every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two tellings. For each event a minion loads its private key anew: with a key of
#: 4096 bits that is 0.65 s of CPU, which the dump would be short of.
INTERVAL = 5.0


@dataclass(frozen=True)
class Progress:
    """One look at a dump or a restore.

    namespace: what is being read or written. done_bytes: BSON so far, of total_bytes in all; the
    total is the server's estimate, None where nobody knows. rate: bytes per second since the start.
    seconds_left: at that rate, or None.
    """

    namespace: str
    done_bytes: int
    total_bytes: int | None
    rate: float
    seconds_left: float | None


class Reporter:
    """Counts bytes and tells ``listener`` about them, when there is one."""

    def __init__(
        self,
        listener: Callable[[Progress], None] | None,
        total_bytes: int | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._listener = listener
        self._total = total_bytes or None
        self._clock = clock
        self._start = clock()
        self._told = float("-inf")
        self.done_bytes = 0

    def add(self, namespace: str, count: int) -> None:
        """``count`` bytes more of ``namespace`` are done."""
        self.done_bytes += count
        if self._listener and self._clock() - self._told >= INTERVAL:
            self._tell(namespace)

    def finish(self, namespace: str) -> None:
        """The last word, whenever the one before it was."""
        if self._listener:
            self._total = self.done_bytes
            self._tell(namespace)

    def _tell(self, namespace: str) -> None:
        now = self._clock()
        self._told = now
        rate = self.done_bytes / (now - self._start) if now > self._start else 0.0
        left = None
        if self._total is not None and rate:
            left = max(self._total - self.done_bytes, 0) / rate
        assert self._listener is not None
        self._listener(Progress(namespace, self.done_bytes, self._total, rate, left))
