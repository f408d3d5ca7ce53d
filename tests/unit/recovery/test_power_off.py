"""A host that answers nobody is switched off by its provider; what the provider reads back counts."""

from dataclasses import replace

import pytest
from saltext.openhim.recovery import closed, epochs, steps
from saltext.openhim.recovery.answers import Refusal
from saltext.openhim.recovery.observations import Attestation, Look, Power, Saw
from saltext.openhim.recovery.verdicts import verdict

from tests.unit.recovery.reported import Fleet, epoch, request

NORTH = ("north-db", "north-core")


def under_way(kind="failover", **changes):
    """A failover to south is on record, and known at south; north does not answer."""
    fleet = Fleet()
    fleet.lose("north")
    fleet.records = (epoch(kind=kind, **changes),)
    for host in ("south-db", "south-core"):
        fleet.hosts[host].update(epochs=fleet.records)
    return fleet


def off(host, said="it says 'off'", is_off=True, upon="1"):
    return Power(host, is_off, said, upon)


def answer(fleet, *powers, verb="failover", **more):
    seen = fleet.evidence(powers=powers, switchable=True, **more)
    return steps.next_step(request(verb, "south"), seen)


def test_what_is_given_up_and_silent_is_switched_off_before_anybody_is_promoted():
    found = answer(under_way())
    assert (found.name, found.hosts, found.epoch) == ("power off", NORTH, "1")
    assert answer(under_way(), *map(off, NORTH)).name == "promote"


def test_without_a_provider_nobody_is_switched_off():
    found = steps.next_step(request("failover", "south"), under_way().evidence())
    assert isinstance(found, Refusal)


def test_the_proof_is_by_host_some_are_fenced_and_others_switched_off():
    fleet = under_way()
    fleet.down = {"north-core"}
    fleet.hosts["north-db"].update(epochs=fleet.records, fenced=True, admits=False)
    found = answer(fleet)
    assert (found.name, found.hosts) == ("power off", ("north-core",))
    assert answer(fleet, off("north-core")).name == "promote"
    fleet.hosts["north-db"].update(fenced=False, admits=True)
    assert answer(fleet, off("north-core")).name == "close"


@pytest.mark.parametrize(
    "power",
    [
        off("north-core", "it says 'on'", False),
        off("north-core", "/bin/provider failed (exit code 3)", False),
        off("north-core", upon="0"),
    ],
)
def test_what_the_provider_does_not_read_back_as_off_is_no_proof_and_it_is_told(power):
    found = answer(under_way(), off("north-db"), power)
    if power.epoch == "1":
        assert isinstance(found, Refusal)
        assert f"does not say that they are off (of north-core: {power.said})" in str(found)
    else:
        assert (found.name, found.hosts) == ("power off", ("north-core",))


def test_it_is_asked_once_in_a_run_and_not_where_there_is_another_proof():
    failed = [off(host, "no answer", False) for host in NORTH]
    word = (Attestation("north", "Ada", "1"),)
    assert isinstance(answer(under_way(), *failed), Refusal)
    assert answer(under_way(), attestations=word).name == "promote"


def test_a_host_that_shows_life_is_not_off_whatever_its_provider_says():
    seen = under_way().evidence(powers=tuple(map(off, NORTH)), switchable=True)
    assert closed.closure(seen, "north", epoch()).proof
    reached = Look("rs/north-db", Saw.RUNNING, "SECONDARY")
    (south,) = [r for r in seen.reports if r.host == "south-db"]
    reports = [
        replace(r, members=(*r.members, reached)) if r.host == south.host else r
        for r in seen.reports
    ]
    assert closed.closure(replace(seen, reports=tuple(reports)), "north", epoch()).proof is None
    core = (("the master", Look("north-core", Saw.RUNNING)),)
    assert closed.closure(replace(seen, looks=core), "north", epoch()).proof is None


@pytest.mark.parametrize(("answers", "switchable"), [(True, True), (False, True), (True, False)])
def test_a_failover_is_allowed_where_the_provider_can_be_asked(answers, switchable):
    fleet = Fleet()
    fleet.lose("north")
    said = tuple(Power(host, False, "it says 'on'", answers=answers) for host in NORTH)
    seen = fleet.evidence(powers=said, switchable=switchable)
    judged = verdict(seen, request("failover", "south"))
    assert judged.allowed is (answers and switchable)
    if not judged.allowed:
        assert "of north-db: it says 'on'" in judged.reasons[0]


def test_where_openhim_alone_moves_a_member_that_lives_is_not_switched_off():
    fleet = under_way("core", lost_sites=(), profile="production")
    fleet.primary, fleet.down = "south-db", {"north-core"}
    fleet.hosts["north-db"].update(epochs=fleet.records, admits=False)
    assert answer(fleet, verb="core").hosts == ("north-core",)
    fleet.down = set(NORTH)
    alive = (("the master", Look("rs/north-db", Saw.RUNNING, "SECONDARY")),)
    assert answer(fleet, verb="core", looks=alive).hosts == ("north-core",)


def test_a_host_that_is_switched_off_is_on_record_once_with_who_asked_for_it():
    first = {"site": "north", "host": "north-db", "words": "p: off", "by": "Ada", "at": "12:00"}
    known = [epoch()]
    for at in ("12:00", "12:10"):
        known = epochs.powered_off(known, "1", [{**first, "at": at}])
    assert known[0].power_offs == ({**first, "at": "12:10"},)
    (copy,) = epochs.parsed(epochs.plain(known))
    assert copy == known[0]
    assert epochs.known([epoch(), known[0]]).current.power_offs, "the copy that knows more counts"
    assert epochs.known([known[0], epoch()]).conflict == ()
