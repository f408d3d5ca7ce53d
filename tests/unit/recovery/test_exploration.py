"""Every schedule of a recovery, in small worlds: never two writable epochs, always a way forward.

A finding prints the shortest schedule that leads to it, for a person to read. That there can be
findings is proven by breaking the model on purpose (:mod:`tests.unit.recovery.mutations`).
"""

from functools import cache

import pytest

from tests.unit.recovery.explorer import explore, explore_named
from tests.unit.recovery.mutations import MUTATIONS, STUCK
from tests.unit.recovery.world import Rules, World
from tests.unit.recovery.worlds import WORLDS

#: Those of which every schedule is run each time; of the others a beginning, and all of it nightly.
QUICK = (
    "cut off", "cut off without a lease", "power", "host by host", "half deaf", "late promotion",
    "late fence", "back", "elected",
)  # fmt: skip

#: How many states of the larger worlds are seen each time.
BEGINNING = 1000

#: Which worlds end two epochs deep, with the service where it was before.
AND_BACK = ("cut off", "power", "back", "elected")


@cache
def explored(name):
    """All of a quick world, explored once for all that is asked of it."""
    return explore_named(name)


@pytest.mark.parametrize("name", QUICK)
def test_no_schedule_makes_two_epochs_writable_or_leaves_a_recovery_without_a_way_forward(name):
    found = explored(name)
    assert found.finding is None, str(found.finding)
    assert found.complete


@pytest.mark.parametrize("name", sorted(set(WORLDS) - set(QUICK)))
def test_no_schedule_of_a_larger_world_does_so_at_its_beginning(name):
    found = explore_named(name, limit=BEGINNING)
    assert found.finding is None, str(found.finding)
    assert found.states == BEGINNING


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(set(WORLDS) - set(QUICK)))
def test_no_schedule_of_a_larger_world_does_so(name):
    found = explore_named(name)
    assert found.finding is None, str(found.finding)
    assert found.complete


@pytest.mark.nightly
@pytest.mark.parametrize("leased", [True, False])
def test_no_schedule_with_two_faults_of_any_kind_does_so(leased):
    found = explore(World(Rules(faults=2, flight=2, leased=leased, cut_links=True)), limit=150_000)
    assert found.finding is None, str(found.finding)


@pytest.mark.parametrize("name", AND_BACK)
def test_the_schedules_go_two_epochs_deep_and_each_of_them_serves(name):
    served = explored(name).served
    assert any("failback to A" in epoch for epoch in served), served
    assert len(served) >= 3 or name == "back"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_model_is_found_out(mutation, monkeypatch):
    mutation.apply(monkeypatch)
    found = explore_named(mutation.world, ways_forward=mutation.found == STUCK)
    assert found.finding is not None
    assert mutation.found in found.finding.what
    # What a person reads: what is wrong, then one event a line.
    text = str(found.finding)
    assert text.count("\n  1. ") == 1
    assert f"\n  {len(found.finding.schedule)}. " in text
