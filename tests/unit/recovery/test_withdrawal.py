"""A recovery that was declared, and must not go on after all."""

from dataclasses import replace

import pytest
from saltext.openhim.recovery import withdrawal
from saltext.openhim.recovery.observations import Look, Saw
from saltext.openhim.recovery.withdrawal import Traces

from tests.unit.recovery.declared import (
    DECLARED,
    OVERLAY,
    SURVIVOR,
    VOTES,
    epoch,
    lost,
    seeing,
    stack,
)


def problem(seen=None, newest=None, **traces):
    known = {"rs": Traces(**{"votes": VOTES, **traces})}
    newest = newest or epoch()
    return withdrawal.problem(stack(), stack(**OVERLAY), [newest], seen or lost((newest,)), known)


def test_it_is_possible_while_the_survivor_is_not_promoted():
    assert problem() is None


def test_it_restores_what_was_before():
    declared = {"active_site": "north", "profile": "production", "lost_sites": ()}
    assert withdrawal.before(DECLARED, [epoch()]) == declared
    earlier = epoch(active_site="west", lost_sites=("east",))
    expected = {"active_site": "west", "profile": "reduced", "lost_sites": ("east",)}
    assert withdrawal.before(DECLARED, [earlier, epoch()]) == expected


def test_a_site_that_was_back_before_is_not_lost_again():
    earlier = epoch(active_site="west", lost_sites=("east", "south"), rejoins=({"site": "east"},))
    expected = {"active_site": "west", "profile": "production", "lost_sites": ("south",)}
    assert withdrawal.before(DECLARED, [earlier, epoch()]) == expected


def test_it_is_refused_once_the_survivor_is_primary():
    promoted = seeing(lost((epoch(),)), "south-db1", south_db1="PRIMARY")
    assert "its history has begun" in problem(promoted)


@pytest.mark.parametrize(
    "answer",
    [
        *("unreachable", "silent", "unauthorized", "member", "wrong keyfile", "not initiated"),
        *("removed", "REMOVED", "STARTUP2", "RECOVERING", "ROLLBACK", "not running"),
    ],
)
def test_it_is_refused_while_nobody_knows(answer):
    blind = seeing(lost((epoch(),)), "south-db1", south_db1=answer)
    assert "nobody knows" in problem(blind)


def test_it_is_refused_where_the_survivors_own_host_is_silent():
    silent = lost((epoch(),))
    reports = tuple(
        replace(r, answered=False) if r.host == "south-db1" else r for r in silent.reports
    )
    assert "nobody knows" in problem(replace(silent, reports=reports))


def test_it_is_refused_when_the_promoted_survivor_is_no_primary_at_the_moment():
    """It was started again, and has not elected itself yet."""
    taken = {**VOTES, "north-db1:27017": 0, "north-db2:27017": 0}
    assert "north-db1:27017, north-db2:27017 have no vote" in problem(votes=taken)


def test_it_is_refused_once_the_survivors_configuration_is_of_its_epoch():
    found = lost((epoch(),))
    tagged = tuple(
        replace(
            r,
            members=(Look(SURVIVOR, Saw.RUNNING, "SECONDARY", epoch="a"),) if r.answered else (),
        )
        for r in found.reports
    )
    assert "has the configuration of epoch 1" in problem(replace(found, reports=tagged))


def test_it_is_possible_though_one_lost_member_never_had_a_vote():
    assert problem(votes={**VOTES, "north-db2:27017": 0}) is None


@pytest.mark.parametrize("noted", [1, None])
def test_it_is_refused_once_the_promotion_began(noted):
    assert "promotion in epoch 1 began" in problem(noted=True, epoch=noted)


def test_it_is_possible_though_an_earlier_epochs_promotion_is_noted():
    assert problem(newest=epoch(number=3), noted=True, epoch=1) is None


def test_it_is_refused_when_the_survivor_was_not_asked():
    found = lost((epoch(),))
    said = withdrawal.problem(stack(), stack(**OVERLAY), [epoch()], found, {})
    assert "did not say what its configuration is" in said


@pytest.mark.parametrize("newest", [epoch(kind="withdrawal"), epoch(result={"x": 1})])
def test_of_nothing_it_is_refused(newest):
    assert "nothing to take back" in problem(newest=newest)
