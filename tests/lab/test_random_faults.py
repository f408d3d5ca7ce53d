"""Random faults at the active site, with writers at both: no write is taken in two epochs, and none
is lost outside the ledger.

Each night: one round, and as many as fit into a quarter of an hour.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

import pytest

from lab import demo, demo_full, jepsen

# A stack of its own, for minutes.
pytestmark = pytest.mark.nightly

#: Seconds that rounds are begun for.
ONE, QUARTER = 0, 900


@pytest.fixture(scope="module")
def run() -> Iterator[jepsen.Run]:
    """A stack with a lease and a public name, under load from both sites and elsewhere."""
    seed = int(time.time())
    print(f"seed {seed}")
    with demo_full.started() as running:
        told = demo_full.Told(demo.Story(), running)
        demo_full.production(told)
        demo_full.start_public_clinics(told)
        found = jepsen.Run(told, random.Random(seed))  # noqa: S311  it decides what breaks
        found.begin()
        yield found


@pytest.mark.parametrize("seconds", [ONE, QUARTER])
def test_whatever_breaks_no_write_is_taken_twice_and_none_is_lost_unseen(run, seconds):
    begun = time.monotonic()
    run.round()
    while time.monotonic() - begun < seconds:
        run.round()
    print(json.dumps({"faults": run.faults, **run.check()}))
