"""May OpenHIM move to another site? The verdict, from observations alone."""

from dataclasses import replace

import pytest
from saltext.openhim import settings
from saltext.openhim.recovery import failover
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.failover import Request, Sighting, Traces

DECLARED = {
    "stack": "example",
    "active_site": "north",
    "sites": {"north": {}, "south": {}},
    "hosts": {
        "north-db1": {"site": "north", "address": "10.0.1.1", "roles": ["mongodb"]},
        "north-db2": {"site": "north", "address": "10.0.1.2", "roles": ["mongodb"]},
        "north-core": {"site": "north", "address": "10.0.1.3", "roles": ["core"]},
        "south-db1": {"site": "south", "address": "10.0.2.1", "roles": ["mongodb"]},
        "south-core": {"site": "south", "address": "10.0.2.3", "roles": ["core"]},
    },
    "mongodb": {
        "replica_sets": {
            "rs": {
                "members": {
                    "north-db1": {"priority": 10},
                    "north-db2": {"priority": 9},
                    "south-db1": {"priority": 1},
                }
            }
        },
        "databases": {
            "main": {"name": "openhim", "replica_set": "rs"},
            "audit": {"name": "audit", "replica_set": "rs"},
        },
    },
}
OVERLAY = {"epoch": 1, "active_site": "south", "profile": "reduced", "lost_sites": ["north"]}
REQUEST = Request(to_site="south", confirm="example", reason="fire", declared_by="Ada")
GONE = {"rs/north-db1:27017": "unreachable", "rs/north-db2:27017": "unreachable"}
VOTES = {"north-db1:27017": 1, "north-db2:27017": 1, "south-db1:27017": 1}
SEEN = [
    Sighting("north-db1", answered=False),
    Sighting("north-db2", answered=False),
    Sighting("north-core", answered=False),
    Sighting("south-db1", True, {**GONE, "rs/south-db1:27017": "SECONDARY"}),
    Sighting("south-core", True, {**GONE, "rs/south-db1:27017": "SECONDARY"}, core_running=False),
]


def epoch(**changes):
    values = {
        "number": 1, "id": "a", "parent": None, "kind": "failover", "stack": "example",
        "active_site": "south", "profile": "reduced", "lost_sites": ("north",),
        "declared_by": "Ada", "reason": "fire", "declared_at": "2026-01-31T12:00:00+00:00",
    }  # fmt: skip
    return Epoch(**{**values, **changes})


def decide(request=REQUEST, sightings=SEEN, newest=None, overlay=None):
    pillar = {"openhim": {**DECLARED, **({"recovery": overlay} if overlay else {})}}
    target = settings.from_pillar({"openhim": {**DECLARED, "recovery": OVERLAY}})
    return failover.verdict(settings.from_pillar(pillar), target, request, sightings, newest)


def seeing(host, **changes):
    return [replace(s, **changes) if s.host == host else s for s in SEEN]


def test_a_lost_site_is_failed_over_and_what_was_not_seen_is_listed():
    verdict = decide()
    assert verdict.refusals == ()
    assert verdict.allowed
    assert verdict.unseen == ("north-core", "north-db1", "north-db2")
    assert verdict.promote == {"rs": "south-db1"}
    assert verdict.cores == ("south-core",)
    assert verdict.hosts == ("south-core", "south-db1")
    assert verdict.lost_sites == ("north",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"confirm": "exmaple"}, "confirm: found 'exmaple'; type the stack's name, 'example'"),
        ({"reason": " "}, "reason: found nothing; say why"),
        ({"declared_by": ""}, "declared_by: found nothing; say who declares"),
        ({"to_site": "west"}, "to_site: found 'west'; declared sites are north, south"),
        ({"to_site": "north"}, "OpenHIM's active site already is 'north'"),
    ],
)
def test_a_failover_without_consent_is_refused(changes, expected):
    verdict = decide(replace(REQUEST, **changes))
    assert any(refusal.startswith(expected) for refusal in verdict.refusals)
    assert not verdict.allowed


@pytest.mark.parametrize("member", ["rs/north-db1:27017", "rs/south-db1:27017"])
def test_no_promotion_while_any_primary_is_visible_from_anywhere(member):
    for host in ("south-db1", "south-core"):
        verdict = decide(sightings=seeing(host, members={**GONE, member: "PRIMARY"}))
        assert [r for r in verdict.refusals if f"{member} is PRIMARY, seen from {host}" in r]


@pytest.mark.parametrize(
    "state",
    ["SECONDARY", "RECOVERING", "STARTUP2", "ROLLBACK", "member", "unauthorized", "silent"],
)
def test_a_site_where_any_mongod_answers_is_not_lost(state):
    verdict = decide(sightings=seeing("south-db1", members={**GONE, "rs/north-db2:27017": state}))
    assert "the site is not lost" in verdict.refusals[0]


def test_no_promotion_while_a_majority_may_elect_by_itself():
    """An election takes seconds, and in them nobody is primary."""
    members = {**GONE, "rs/north-db2:27017": "SECONDARY", "rs/south-db1:27017": "SECONDARY"}
    reasons = "\n".join(decide(sightings=seeing("south-core", members=members)).refusals)
    assert "2 of the 3 voters of rs answer (rs/north-db2:27017, rs/south-db1:27017)" in reasons
    assert "they elect a primary by themselves" in reasons


def test_a_site_where_openhim_still_runs_is_not_given_up():
    verdict = decide(sightings=seeing("north-core", answered=True, core_running=True))
    assert verdict.refusals == (
        "OpenHIM still runs on north-core, at the site to be given up. Stop it first.",
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [("south-db1", "its member of the set 'rs' is to be promoted"), ("south-core", "run there")],
)
def test_a_survivor_that_does_not_answer_cannot_take_over(host, expected):
    verdict = decide(sightings=seeing(host, answered=False))
    assert len(verdict.refusals) == 1
    assert host in verdict.refusals[0]
    assert expected in verdict.refusals[0]


def test_what_a_silent_host_is_said_to_have_seen_counts_for_nothing():
    silent = seeing("north-db1", answered=False, members={"rs/north-db1:27017": "PRIMARY"})
    assert decide(sightings=silent).allowed


class TestACrashedFailover:
    """It was declared, and something died before it was concluded."""

    promoted = seeing("south-db1", members={**GONE, "rs/south-db1:27017": "PRIMARY"})

    def test_goes_on_where_its_own_member_is_primary_already(self):
        verdict = decide(sightings=self.promoted, newest=epoch(), overlay=OVERLAY)
        assert verdict.refusals == ()
        assert verdict.resume == "a"
        assert verdict.lost_sites == ("north",)

    def test_still_refuses_beside_another_primary(self):
        both = seeing(
            "south-db1",
            members={"rs/south-db1:27017": "PRIMARY", "rs/north-db1:27017": "PRIMARY"},
        )
        verdict = decide(sightings=both, newest=epoch(), overlay=OVERLAY)
        assert len(verdict.refusals) == 1
        assert verdict.refusals[0].startswith("rs/north-db1:27017 is PRIMARY")

    def test_goes_on_after_it_served_until_every_host_has_confirmed_it(self):
        served = epoch(result={"rto_seconds": 1})
        assert decide(sightings=self.promoted, newest=served, overlay=OVERLAY).resume == "a"

    def test_is_not_run_again_once_it_is_done(self):
        done = epoch(result={"rto_seconds": 1}, completed_at="2026-01-31T12:01:00+00:00")
        verdict = decide(sightings=self.promoted, newest=done, overlay=OVERLAY)
        assert any("already is 'south'" in refusal for refusal in verdict.refusals)
        assert verdict.resume is None


class TestTheOverlay:
    """What a failover would lay over the declaration."""

    def test_of_the_first_failover_gives_up_the_active_site(self):
        stack = settings.from_pillar({"openhim": DECLARED})
        assert failover.overlay(stack, REQUEST, None) == {**OVERLAY, "kind": "failover"}

    def test_of_a_crashed_one_is_its_own(self):
        stack = settings.from_pillar({"openhim": {**DECLARED, "recovery": OVERLAY}})
        assert failover.overlay(stack, REQUEST, epoch()) == epoch().overlay()

    def test_of_the_next_one_keeps_in_mind_what_was_lost_before(self):
        three = {**DECLARED, "sites": {"north": {}, "south": {}, "west": {}}}
        stack = settings.from_pillar({"openhim": {**three, "recovery": OVERLAY}})
        done = epoch(result={}, completed_at="2026-01-31T12:01:00+00:00")
        found = failover.overlay(stack, replace(REQUEST, to_site="west"), done)
        assert found["lost_sites"] == ["north", "south"]
        assert found["epoch"] == 2


class TestAWithdrawal:
    """A failover that was declared, and must not go on after all."""

    earlier = settings.from_pillar({"openhim": DECLARED})
    target = settings.from_pillar({"openhim": {**DECLARED, "recovery": OVERLAY}})

    def problem(self, sightings=SEEN, newest=None, **traces):
        known = {"rs": Traces(**{"votes": VOTES, **traces})}
        return failover.withdrawal_problem(
            self.earlier, self.target, [newest or epoch()], sightings, known
        )

    def test_is_possible_while_the_survivor_is_not_promoted(self):
        assert self.problem() is None

    def test_restores_what_was_before(self):
        declared = {"active_site": "north", "profile": "production", "lost_sites": ()}
        assert failover.before(DECLARED, [epoch()]) == declared
        earlier = epoch(active_site="west", lost_sites=("east",))
        expected = {"active_site": "west", "profile": "reduced", "lost_sites": ("east",)}
        assert failover.before(DECLARED, [earlier, epoch()]) == expected

    def test_is_refused_once_the_survivor_is_primary(self):
        promoted = seeing("south-db1", members={**GONE, "rs/south-db1:27017": "PRIMARY"})
        assert "its history has begun" in self.problem(promoted)

    @pytest.mark.parametrize(
        "answer",
        [
            *("unreachable", "silent", "unauthorized", "member", "wrong keyfile", "not initiated"),
            *("removed", "REMOVED", "STARTUP2", "RECOVERING", "ROLLBACK"),
        ],
    )
    def test_is_refused_while_nobody_knows(self, answer):
        blind = seeing("south-db1", members={**GONE, "rs/south-db1:27017": answer})
        assert "nobody knows" in self.problem(blind)
        assert answer in self.problem(blind)

    def test_is_refused_where_a_host_does_not_name_the_survivor(self):
        assert "nobody knows" in self.problem(seeing("south-db1", members=GONE))
        assert "nobody knows" in self.problem([])

    def test_is_refused_when_the_promoted_survivor_is_no_primary_at_the_moment(self):
        """It was started again, and has not elected itself yet."""
        taken = {**VOTES, "north-db1:27017": 0, "north-db2:27017": 0}
        assert "north-db1:27017, north-db2:27017 have no vote" in self.problem(votes=taken)

    def test_is_possible_though_one_lost_member_never_had_a_vote(self):
        assert self.problem(votes={**VOTES, "north-db2:27017": 0}) is None

    @pytest.mark.parametrize("noted", [1, None])
    def test_is_refused_once_the_promotion_began(self, noted):
        assert "promotion in epoch 1 began" in self.problem(noted=True, epoch=noted)

    def test_is_possible_though_an_earlier_epochs_promotion_is_noted(self):
        assert self.problem(newest=epoch(number=3), noted=True, epoch=1) is None

    def test_is_refused_when_the_survivor_was_not_asked(self):
        sightings, history = SEEN, [epoch()]
        problem = failover.withdrawal_problem(self.earlier, self.target, history, sightings, {})
        assert "did not say what its configuration is" in problem

    @pytest.mark.parametrize("newest", [epoch(kind="withdrawal"), epoch(result={"x": 1})])
    def test_of_nothing_is_refused(self, newest):
        assert "nothing to take back" in self.problem(newest=newest)
