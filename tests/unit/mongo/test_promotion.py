"""What speaks against a promotion; made up: what the members say."""

from types import SimpleNamespace

import pytest
from bson import ObjectId, Timestamp
from saltext.openhim.mongo import promotion
from saltext.openhim.mongo.connection import MEMBER, UNREACHABLE, Observation

OWN, OTHER, NEIGHBOUR = "south-db1:27017", "north-db1:27017", "south-db2:27017"
SET_ID = ObjectId("0" * 24)


def member(name, state, health=1, written=5, **more):
    words = {1: "PRIMARY", 2: "SECONDARY", 8: "(not reachable/healthy)"}
    optime = {"ts": Timestamp(written, 1), "t": 1}
    return {
        "name": name, "state": state, "stateStr": words[state], "health": health, "optime": optime,
        "optimeDate": SimpleNamespace(isoformat=lambda: f"second {written}"), **more,
    }  # fmt: skip


def evidence(*others, seen):
    own = member(OWN, 2, self=True)
    names = [OWN, *(one["name"] for one in others)]
    return promotion.Evidence(
        {"set": "rs", "members": [own, *others]},
        {
            "members": [{"host": name, "votes": 1} for name in names],
            "settings": {"replicaSetId": SET_ID},
        },
        {OWN: Observation(OWN, MEMBER, state="SECONDARY", set_id=str(SET_ID)), **seen},
    )


@pytest.fixture
def vantage():
    own = SimpleNamespace(name=OWN)
    return SimpleNamespace(replica_set=SimpleNamespace(name="rs"), member=own)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (member(OTHER, 1), "is primary in the survivor's eyes"),
        (member(NEIGHBOUR, 2, written=9), "answers and has newer data"),
    ],
)
def test_what_heals_by_waiting_is_an_objection_that_does_not_last(vantage, other, words):
    third = member("north-db2:27017", 8, health=0)
    gone = {one["name"]: Observation(one["name"], UNREACHABLE) for one in (other, third)}
    seen = evidence(other, third, seen=gone)
    (objection,) = promotion.objections(vantage, seen)
    assert words in objection
    assert promotion.lasting_objections(vantage, seen) == []


def test_a_primary_that_answers_and_is_declared_nowhere_is_one_that_lasts(vantage):
    primary = Observation(OTHER, MEMBER, state="PRIMARY", set_id="another")
    seen = evidence(member(OTHER, 8, health=0), seen={OTHER: primary})
    (objection,) = promotion.lasting_objections(vantage, seen)
    assert "a primary answers" in objection
