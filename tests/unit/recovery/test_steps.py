"""The steps of each verb: in their order, resumable from anywhere, and done twice they are done once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.recovery import steps
from saltext.openhim.recovery.answers import Done, Refusal, Step, Wait
from saltext.openhim.recovery.observations import Attestation
from saltext.openhim.recovery.verdicts import Point

from tests.unit.recovery.reported import POINT, Fleet, epoch, request

SERVES = ["admit", "start core", "cut over", "prove", "complete"]


def lost(fleet):
    """North is lost, and Ada has seen that it is off."""
    fleet.lose("north")
    return {"attestations": tuple(Attestation("north", "Ada", one) for one in (None, "1"))}


def nothing(fleet):
    return {}


def empty(fleet):
    """Every member is lost; south has new, empty hosts."""
    known = lost(fleet)
    fleet.hosts["south-db"].update(holds_data=False)
    return known


def back(fleet):
    """South serves since the first epoch; north is back, fenced, and has diverged."""
    fleet.primary, fleet.configured, fleet.cores = "south-db", "1", {"south-core"}
    fleet.records = (epoch(completed_at="2026-01-31T13:00:00+00:00"),)
    for host, state in fleet.hosts.items():
        state.update(epochs=fleet.records, admits=host.startswith("south"), points_to="south")
    fleet.hosts["north-core"].update(fenced=True, gate_open=False)
    fleet.hosts["north-db"].update(fenced=True, diverged=True, epochs=(), gate_open=False)
    return {}


def elected(fleet):
    """North is lost and known to be off, and MongoDB has elected a primary at south by itself."""
    known = lost(fleet)
    fleet.primary = "south-db"
    return known


def broken_core(fleet):
    fleet.cores = set()
    return {}


#: What is asked, of which fleet, and all steps that it takes.
RUNS = {
    ("failover", "south", lost): ["mint", "tell", "promote", *SERVES],
    ("switchover", "south", nothing): ["mint", "tell", "close", "hand over", *SERVES],
    ("restore", "north", nothing): ["mint", "tell", "stop core", "keep aside", "restore",
                                    "start core", "prove", "complete"],
    ("rebuild", "south", empty): ["mint", "tell", "restore", *SERVES],
    ("core", "north", broken_core): ["start core"],
    ("core", "south", elected): ["mint", "tell", *SERVES],
    ("rejoin", "north", back): ["tell", "keep", "resync", "unfence", "open"],
}  # fmt: skip


def run(asked, fleet, known, chance=lambda: True):
    """The names of the steps, once each in a row; ``chance``: whether the next one does anything."""
    names = []
    for _ in range(200):
        answer = steps.next_step(asked, fleet.evidence(**known))
        if not isinstance(answer, Step):
            return names, answer
        if names[-1:] != [answer.name]:
            names.append(answer.name)
        if chance():
            fleet.do(answer, only=1)
    raise AssertionError(f"no end: {names}")


@pytest.mark.parametrize(("verb", "site", "before"), RUNS, ids=[key[0] for key in RUNS])
def test_each_verb_takes_its_steps_in_their_order_and_ends(verb, site, before):
    fleet = Fleet()
    known = before(fleet)
    if (
        before is broken_core
    ):  # the same host is started again: proof of service belongs to no new epoch
        for state in fleet.hosts.values():
            state["proven"] = None
    names, answer = run(request(verb, site), fleet, known)
    assert names == RUNS[(verb, site, before)]
    assert isinstance(answer, Done), answer


@given(
    which=st.sampled_from(sorted(RUNS, key=str)),
    chances=st.lists(st.booleans(), max_size=40),
)
def test_a_run_that_is_cut_short_anywhere_goes_on_and_ends_the_same(which, chances):
    """Each step may be lost as often as it likes; nobody remembers that it was sent."""
    verb, site, before = which
    fleet, left = Fleet(), list(chances)
    known = before(fleet)
    names, answer = run(request(verb, site), fleet, known, lambda: left.pop() if left else True)
    assert names == RUNS[which]
    assert isinstance(answer, Done), answer


@given(which=st.sampled_from(sorted(RUNS, key=str)), stops=st.integers(0, 12))
def test_a_step_that_is_done_twice_is_done_once(which, stops):
    verb, site, before = which
    once, twice = Fleet(), Fleet()
    known = before(once)
    before(twice)
    for _ in range(stops):
        answer = steps.next_step(request(verb, site), once.evidence(**known))
        if not isinstance(answer, Step) or answer.name == steps.MINT:
            break
        once.do(answer)
        twice.do(answer)
        twice.do(answer)
        assert once.evidence(**known) == twice.evidence(**known)


def test_a_failover_that_was_completed_is_done_and_not_done_again():
    fleet = Fleet()
    known = lost(fleet)
    run(request("failover", "south"), fleet, known)
    assert len(fleet.records) == 1
    answer = steps.next_step(request("failover", "south"), fleet.evidence(**known))
    assert isinstance(answer, Done)
    assert "epoch 1 (failover to south by Ada) was completed" in answer.what


def test_nobody_is_promoted_beside_a_living_primary():
    fleet = Fleet()
    known = lost(fleet)
    fleet.records = (epoch(),)
    for host in ("south-db", "south-core"):
        fleet.hosts[host].update(epochs=fleet.records)
    fleet.down.discard("north-db")
    fleet.hosts["north-db"].update(epochs=fleet.records, fenced=True, admits=False)
    fleet.primary = "north-db"
    answer = steps.next_step(request("failover", "south"), fleet.evidence(**known))
    assert isinstance(answer, Refusal)
    assert "rs/north-db: PRIMARY" in str(answer)
    assert "Fence its host" in str(answer)


def moved(fleet, **report):
    """OpenHIM alone has begun to move to south; of north a host is heard again, in this state."""
    fleet.records = (epoch(kind="core", profile="production"),)
    for state in fleet.hosts.values():
        state.update(epochs=fleet.records)
    fleet.primary, fleet.cores = "south-db", set()
    fleet.down = {"north-core"}
    fleet.hosts["north-db"].update(admits=False, **report)
    words = (Attestation("north", "Ada", "1"),)
    return steps.next_step(request("core", "south"), fleet.evidence(attestations=words))


def test_a_site_that_mongodb_goes_on_without_is_given_up_and_fenced_where_it_is_back():
    fleet = Fleet()
    known = elected(fleet)
    minted = steps.next_step(request("core", "south"), fleet.evidence(**known))
    assert (minted.name, minted.details["lost_sites"]) == ("mint", "north")
    back = moved(Fleet())
    assert (back.name, back.hosts) == ("fence", ("north-db",))
    assert moved(Fleet(), fenced=True).name == "admit"


def test_a_site_whose_member_still_answers_is_not_given_up_for_its_openhim():
    fleet = Fleet()
    fleet.down, fleet.cores = {"north-core"}, set()
    words = (Attestation("north", "Ada", None),)
    minted = steps.next_step(request("core", "south"), fleet.evidence(attestations=words))
    assert (minted.name, minted.details["lost_sites"]) == ("mint", "")


def test_openhim_that_was_moved_and_is_lost_again_is_started_again_in_the_same_epoch():
    fleet = Fleet()
    known = elected(fleet)
    run(request("core", "south"), fleet, known)
    done = steps.next_step(request("core", "south"), fleet.evidence(**known))
    assert isinstance(done, Done)
    fleet.cores = set()
    again = steps.next_step(request("core", "south"), fleet.evidence(**known))
    assert (again.name, len(fleet.records)) == ("start core", 1)


def test_an_election_that_is_under_way_is_waited_for_and_without_a_majority_there_is_none():
    fleet = Fleet()
    moved(fleet)
    fleet.lose("north")
    fleet.primary = None
    words = (Attestation("north", "Ada", "1"),)
    for voters, expected in ((("rs/south-db",), Wait), (("rs/south-db", "rs/north-db"), Refusal)):
        seen = fleet.evidence(attestations=words, voters=voters)
        answer = steps.next_step(request("core", "south"), seen)
        assert isinstance(answer, expected), answer
    assert "rs has no primary; bring a majority back, or use failover" in str(answer)


def test_a_move_waits_until_the_target_has_every_write():
    fleet = Fleet()
    fleet.do(steps.next_step(request("switchover", "south"), fleet.evidence()))
    fleet.hosts["south-db"]["caught_up"] = False
    names, answer = run(request("switchover", "south"), fleet, {})
    assert names == ["tell", "close"]
    assert isinstance(answer, Wait)
    assert "south-db has not all writes yet" in answer.reason


def test_a_second_restore_of_another_point_is_not_taken_for_the_first():
    fleet = Fleet()
    run(request("restore", "north"), fleet, {})
    done = steps.next_step(request("restore", "north"), fleet.evidence())
    assert isinstance(done, Done)
    other = request("restore", "north", point=Point("another", True, True))
    assert getattr(steps.next_step(other, fleet.evidence()), "name", None) == "mint"
    assert POINT.id != "another"


def test_a_verb_without_steps_says_which_have_some():
    answer = steps.next_step(request("dance", "south"), Fleet().evidence())
    assert isinstance(answer, Refusal)
    assert "'dance'" in str(answer)
    assert "failover" in str(answer)
