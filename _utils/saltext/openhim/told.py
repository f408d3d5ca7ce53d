"""The recovery record as this host was told it: all epochs, on its own disk.

What the master says in an epoch's name a host compares with these, and a new master can see from
them that its own record is an old one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from saltext.openhim import gate
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.settings import STATE_DIRECTORY

FILE = f"{STATE_DIRECTORY}/record.json"


def read() -> list[Epoch]:
    """What this host was told, the oldest first; empty where it never was told anything.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it is there and cannot be read:
    unknown is not "nothing ever happened".
    """
    try:
        return epochs.parsed(json.loads(Path(FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise OpenHIMError(
            f"{FILE}, the recovery record of this host, cannot be read ({error}); remove it, and "
            "let the master tell this host anew (salt-run openhim_dr.tell)"
        ) from error


def tell(records: Iterable[Epoch]) -> list[Epoch]:
    """Writes down what is told beside what is known; returns both together.

    Nothing that is known is ever forgotten, and a contradiction is kept: whoever asks this host
    then hears of it.
    """
    together = epochs.merged([*read(), *records])
    gate.write(Path(FILE), json.dumps(epochs.plain(together), indent=1) + "\n")
    newest = epochs.known(together).current
    if newest:
        gate.learn(newest.number)
    return read()
