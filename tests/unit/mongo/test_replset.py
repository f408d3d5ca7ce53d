"""The way from one replica-set configuration to another, for any two declarations."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.mongo import replset
from saltext.openhim.settings import EVERY_SITE, Host, Member, ReplicaSet, _tagged

NAMES = [f"db{n}" for n in range(7)]


def _set(members, durability="majority"):
    return ReplicaSet(
        name="openhim",
        port=27017,
        members=tuple(members),
        durability=durability,
        election_timeout_ms=10000,
        write_timeout_ms=10000,
    )


def _member(name, site="north", priority=1, votes=1):
    host = Host(name, site, "127.0.0.1", name, ("mongodb",))
    return _tagged(Member(host, 27017, priority if votes else 0, votes))


@st.composite
def declarations(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=7, unique=True))
    members = [
        _member(
            name,
            draw(st.sampled_from(["north", "south", "east"])),
            draw(st.integers(0, 10)),
            draw(st.integers(0, 1)),
        )
        for name in names
    ]
    # Somebody must be able to be primary.
    members[0] = _member(names[0], members[0].host.site, 5, 1)
    return _set(members, draw(st.sampled_from(["majority", "every-site"])))


def _voters(config):
    return {m["host"] for m in config["members"] if m["votes"]}


@given(declarations(), declarations(), st.sets(st.sampled_from(NAMES)))
def test_every_step_changes_one_vote_at_most_and_the_way_ends_as_declared(old, new, down):
    actual = replset.initial_config(old)
    ids = {m["_id"]: m["host"] for m in actual["members"]}
    names = {f"{name}:27017" for name in down}
    for _ in range(60):
        step = replset.next_step(actual, new, names)
        if step is None:
            break
        assert step.changes
        assert len(_voters(actual) ^ _voters(step.config)) <= 1
        assert step.config["version"] == actual["version"] + 1
        electable = [m for m in step.config["members"] if m["votes"] and m["priority"]]
        assert electable, "nobody left who may be primary"
        for member in step.config["members"]:
            assert ids.setdefault(member["_id"], member["host"]) == member["host"]
        mode = step.config["settings"]["getLastErrorModes"].get(EVERY_SITE)
        if mode:
            tags = [m["tags"] for m in step.config["members"] if m["votes"]]
            for tag, count in mode.items():
                assert count <= len({t[tag] for t in tags if tag in t}), "no write could succeed"
        actual = step.config
    assert replset.differences(actual, new) == []
    assert _voters(actual) == {m.name for m in new.voters}
    assert actual["settings"]["getLastErrorModes"] == new.write_modes


@given(declarations())
def test_an_id_is_never_given_to_another_host(declared):
    """However often members are removed and others added, the last one first."""
    actual = replset.initial_config(declared)
    ids = {m["_id"]: m["host"] for m in actual["members"]}
    base = declared.members[:1]
    for number in range(5):
        newcomer = _member(f"new{number}")
        for members in (base, (*base, newcomer)):
            wanted = dataclasses.replace(declared, members=members)
            for step in replset.path(actual, wanted):
                actual = step.config
                for member in actual["members"]:
                    assert ids.setdefault(member["_id"], member["host"]) == member["host"]


def test_the_vote_of_a_member_that_is_down_is_taken_before_another_is_added():
    actual = replset.initial_config(_set([_member("db0"), _member("db1"), _member("db2")]))
    wanted = _set([_member("db0"), _member("db1"), _member("db3")])
    step = replset.next_step(actual, wanted, down=["db2:27017"])
    assert step.changes == ("remove the member db2:27017",)
    step = replset.next_step(actual, wanted)
    assert step.joins == "db3:27017"
    assert step.config["members"][-1]["votes"] == 0


def test_a_new_member_gets_its_vote_only_when_it_is_ready():
    actual = replset.initial_config(_set([_member("db0")]))
    first, second = replset.path(actual, _set([_member("db0"), _member("db1", priority=7)]))
    assert (first.joins, first.ready) == ("db1:27017", None)
    assert (second.joins, second.ready) == (None, "db1:27017")
    assert second.config["members"][1]["priority"] == 7


def test_what_others_configured_stays():
    actual = replset.initial_config(_set([_member("db0")]))
    actual["settings"] |= {"chainingAllowed": False, "getLastErrorModes": {"theirs": {"site": 1}}}
    (step,) = replset.path(actual, _set([_member("db0", priority=2)]))
    assert step.config["settings"]["chainingAllowed"] is False
    assert step.config["settings"]["getLastErrorModes"] == {"theirs": {"site": 1}}


def test_heartbeats_are_faster_than_elections():
    quick = dataclasses.replace(_set([_member("db0")]), election_timeout_ms=1000)
    assert replset.initial_config(quick)["settings"]["heartbeatIntervalMillis"] == 200
    usual = replset.initial_config(_set([_member("db0")]))
    assert usual["settings"]["heartbeatIntervalMillis"] == 2000
