"""The world of the disasters behaves as hosts and MongoDB do."""

from __future__ import annotations

from pathlib import Path

import pytest
from saltext.openhim.disasters import case
from saltext.openhim.disasters.vocabulary import Happening, table
from saltext.openhim.disasters.world import World
from saltext.openhim.recovery.observations import Status

STACK = case.read(
    Path(__file__).resolve().parents[3] / "disasters" / "primary-site-loses-power"
).stack


def after(*happenings):
    """The evidence after these, each a word with what it asks for."""
    world = World(STACK)
    for word, values in happenings:
        world.happen(Happening(word, values))
    return world.evidence()


def members(evidence):
    return {
        name.split("/")[1].split(":")[0]: found.state or found.status
        for name, found in evidence.members.items()
    }


NORTH, SOUTH = {"site": "north"}, {"site": "south"}
DB1 = {"host": "north-db1"}


def test_every_word_can_happen():
    assert [word for word in table(STACK) if not hasattr(World, f"on_{word}")] == []


def test_at_first_all_is_well():
    evidence = after()
    assert evidence.unheard == ()
    assert members(evidence) == {
        "north-db1": "PRIMARY", "north-db2": "SECONDARY", "south-db1": "SECONDARY"
    }  # fmt: skip
    assert evidence.cores["north-core"].status == Status.ALIVE
    assert evidence.cores["south-core"].status == Status.DEAD


@pytest.mark.parametrize(
    ("happenings", "primary"),
    [
        ([("mongod_stopped", DB1)], "north-db2"),
        ([("mongod_hangs", DB1)], "north-db2"),
        ([("mongod_stopped", DB1), ("mongod_started", DB1)], "north-db1"),
        ([("mongod_stopped", DB1), ("power_lost", {"host": "north-db2"})], None),
        ([("isolated", DB1)], "north-db2"),
        ([("isolated", DB1), ("network_back", DB1)], "north-db1"),
        ([("isolated", SOUTH)], "north-db1"),
        ([("lagging", {"host": "north-db2", "seconds": 9}), ("isolated", DB1)], "south-db1"),
        ([("isolated", {"site": "west"})], None),
    ],
)
def test_who_leads_is_who_reaches_a_majority_and_is_the_newest_then_the_first(happenings, primary):
    found = members(after(*happenings))
    assert [host for host, state in found.items() if state == "PRIMARY"] == (
        [primary] if primary else []
    )


def test_a_frozen_member_takes_connections_and_a_dead_one_does_not():
    assert members(after(("frozen", DB1)))["north-db1"] == Status.SLOW
    assert members(after(("mongod_hangs", DB1)))["north-db1"] == Status.SLOW
    assert members(after(("power_lost", DB1)))["north-db1"] == Status.UNKNOWN
    assert members(after(("mongod_stopped", DB1)))["north-db1"] == Status.DEAD


def test_a_second_core_is_seen():
    assert after(("core_started", {"host": "south-core"})).cores["south-core"].alive


def test_a_site_that_was_given_up_follows_the_new_history_once_it_has_rejoined():
    lost = (
        ("power_lost", NORTH),
        ("recovered", {"to": "south", "by": "Ada", "gave_up": ["north"]}),
    )
    evidence = after(*lost, ("power_back", NORTH))
    assert members(evidence)["south-db1"] == "PRIMARY"
    assert not evidence.knows("north-db1", "1-Ada")
    evidence = after(*lost, ("power_back", NORTH), ("rejoined", NORTH))
    assert evidence.knows("north-db1", "1-Ada")
    assert evidence.heard["north-db1"].rejoined == "1-Ada"
    assert evidence.heard["north-db1"].caught_up is True


def test_both_sides_of_a_cut_can_lead_when_one_was_forced():
    evidence = after(
        ("partitioned", {"one": "north", "other": "south"}),
        ("recovered", {"to": "south", "by": "Ada", "gave_up": ["north"]}),
    )
    assert {one.subject.split("/")[1] for one in evidence.primaries} == {
        "north-db1:27017", "south-db1:27017"
    }  # fmt: skip


def test_denied_egress_is_reported():
    assert after(("egress_denied", SOUTH)).heard["south-core"].egress_denied is True
    assert after().heard["south-core"].egress_denied is None
