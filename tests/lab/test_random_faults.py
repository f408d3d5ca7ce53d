"""Random faults at the active site, with writers at both: no write is taken in two epochs, and none
is lost outside the ledger.

In every run one round, which is always the same; each night as many others as fit into a quarter of
an hour.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator

import pytest

from lab import demo, demo_full, jepsen

#: Seconds that rounds are begun for.
QUARTER = 900


@pytest.fixture(scope="module")
def run() -> Iterator[jepsen.Run]:
    """A stack with a lease and a public name, under load from both sites and elsewhere."""
    with demo_full.started() as running:
        told = demo_full.Told(demo.Story(), running)
        demo_full.production(told)
        demo_full.start_public_clinics(told)
        found = jepsen.Run(told, random.Random(5))  # noqa: S311  it decides what breaks
        found.begin()
        yield found


def test_in_one_round_no_write_is_taken_twice_and_none_is_lost_unseen(run):
    run.round()
    print(json.dumps({"faults": run.faults, **run.check()}))


@pytest.mark.nightly
def test_whatever_breaks_no_write_is_taken_twice_and_none_is_lost_unseen(run):
    begun = time.monotonic()
    seed = int(time.time())
    print(f"seed {seed}")
    run.chance.seed(seed)
    run.ahead.clear()
    while time.monotonic() - begun < QUARTER:
        run.round()
    print(json.dumps({"faults": run.faults, **run.check()}))
