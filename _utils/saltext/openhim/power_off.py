"""The provider's power switch: it switches a host off that answers nobody, and says whether it is.

Only what the provider reads back as off proves anything. That it was told to switch a host off does
not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from saltext.openhim import programs
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery.observations import Power

TIMEOUT = 60

#: Seconds between two looks at a host that is being switched off.
PAUSE = 1.0

#: In an argument it stands for the host's ID.
HOST = "{host}"


@dataclass(frozen=True)
class Switch:
    """The provider's two programs, each a list of arguments.

    off: what ``state`` prints of a host that is off. timeout: seconds for each program, and for a
    host to be off once it was told to.
    """

    stack: str
    run: Sequence[str]
    state: Sequence[str]
    off: str
    timeout: float = TIMEOUT

    @property
    def name(self) -> str:
        """What it is called on record."""
        return self.run[0]

    def looked(self, hosts: Iterable[str]) -> tuple[Power, ...]:
        """What the provider says of hosts now. Switches nothing."""
        return _of_each(hosts, self._look)

    def switched_off(self, hosts: Iterable[str], epoch_id: str) -> tuple[Power, ...]:
        """Switches off those that are not off already; what the provider reads back of each.

        epoch_id: in whose name.
        """
        return _of_each(hosts, lambda host: self._switched_off(host, epoch_id))

    def _look(self, host: str, epoch_id: str | None = None) -> Power:
        try:
            said = " ".join(self._program(self.state, host).split())
        except OpenHIMError as error:
            return Power(host, False, str(error), epoch_id, answers=False)
        return Power(host, said == self.off, f"it says {said[-programs.TAIL :]!r}", epoch_id)

    def _switched_off(self, host: str, epoch_id: str) -> Power:
        seen = self._look(host, epoch_id)
        if seen.off:
            return seen
        try:
            self._program(self.run, host)
        except OpenHIMError as error:
            seen = self._look(host, epoch_id)
            both = f"{error}; asked then, {seen.said}"
            return seen if seen.off else Power(host, False, both, epoch_id, seen.answers)
        deadline = time.monotonic() + self.timeout
        while not (seen := self._look(host, epoch_id)).off and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return seen

    def _program(self, command: Sequence[str], host: str) -> str:
        about = {"OPENHIM_STACK": self.stack, "OPENHIM_HOST": host}
        return programs.run([one.replace(HOST, host) for one in command], about, self.timeout)


def of(pillar: Mapping[str, Any]) -> Switch | None:
    """The power switch that a pillar declares; None where it declares none."""
    entry = (pillar["openhim"].get("fencing") or {}).get("power_off")
    if not entry:
        return None
    return Switch(
        pillar["openhim"]["stack"],
        entry["run"],
        entry["state"],
        entry["when_off"],
        entry.get("timeout_seconds", TIMEOUT),
    )


def _of_each(hosts: Iterable[str], asked: Callable[[str], Power]) -> tuple[Power, ...]:
    """All at once: each takes as long as the provider does."""
    names = list(hosts)
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return tuple(pool.map(asked, names))
