"""What is seen, and what may be concluded from it: unknown is never absent."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.recovery import closed, gates, leases
from saltext.openhim.recovery.gates import HostAttestation, Voucher
from saltext.openhim.recovery.observations import (
    Attestation,
    Evidence,
    Grant,
    Look,
    Report,
    Saw,
    Status,
    probed,
    seen,
)

from tests.unit.recovery.reported import LAYOUT, Fleet, epoch

LOOKS = st.lists(
    st.tuples(st.sampled_from(["own", "a", "b"]), st.sampled_from(list(Saw))), max_size=6
)


def finding(*looks):
    return seen([(host, Look("it", saw, state)) for host, saw, state in looks], "it", "own")


@pytest.mark.parametrize(
    ("looks", "status"),
    [
        ([], Status.UNKNOWN),
        ([("a", Saw.UNREACHABLE, ""), ("b", Saw.UNREACHABLE, "")], Status.UNKNOWN),
        ([("a", Saw.NOT_RUNNING, "")], Status.UNKNOWN),
        ([("own", Saw.NOT_RUNNING, ""), ("a", Saw.UNREACHABLE, "")], Status.DEAD),
        ([("a", Saw.RUNNING, "SECONDARY"), ("b", Saw.UNREACHABLE, "")], Status.PARTITIONED),
        ([("a", Saw.RUNNING, "SECONDARY")], Status.ALIVE),
        ([("a", Saw.UNAUTHORIZED, ""), ("b", Saw.UNREACHABLE, "")], Status.UNAUTHORIZED),
        ([("a", Saw.SLOW, ""), ("own", Saw.NOT_RUNNING, "")], Status.SLOW),
        ([("a", Saw.UNKNOWN, "")], Status.UNKNOWN),
    ],
)
def test_each_way_of_not_answering_is_told_from_the_others(looks, status):
    assert finding(*looks).status == status


@given(LOOKS)
def test_only_its_own_host_can_say_that_it_is_dead_and_any_sign_of_life_outweighs_it(looks):
    found = finding(*((host, saw, "") for host, saw in looks))
    alive = {Saw.RUNNING, Saw.UNAUTHORIZED, Saw.SLOW} & {saw for _, saw in looks}
    assert found.alive == bool(alive)
    assert (found.status == Status.DEAD) == (("own", Saw.NOT_RUNNING) in looks and not alive)


@given(LOOKS)
def test_whoever_sees_a_primary_is_believed(looks):
    at = [(host, saw, "SECONDARY") for host, saw in looks]
    assert finding(*at, ("b", Saw.RUNNING, "PRIMARY")).state == "PRIMARY"


def test_what_a_silent_host_is_said_to_have_seen_counts_for_nothing():
    fleet = Fleet()
    report = Report("south-db", False, members=(fleet.look("north-db"),))
    assert Evidence(LAYOUT, (report,), "south").members["rs/north-db"].status == Status.UNKNOWN


@pytest.mark.parametrize(
    ("text", "saw", "state"),
    [
        ("PRIMARY", Saw.RUNNING, "PRIMARY"), ("unreachable", Saw.UNREACHABLE, ""),
        ("silent", Saw.SLOW, ""), ("wrong keyfile", Saw.UNAUTHORIZED, ""),
        ("not initiated", Saw.RUNNING, "not initiated"),
    ],
)  # fmt: skip
def test_the_words_of_a_probe_are_understood(text, saw, state):
    assert probed("rs/x", text) == Look("rs/x", saw, state)


class TestASiteIsClosed:
    """When each of its hosts is, or its lease has run out, or a person says that it is off."""

    newest = epoch()

    def of(self, fleet, **changes):
        return closed.closure(fleet.evidence(**changes), "north", self.newest)

    def fleet(self, **north):
        fleet = Fleet()
        for host, state in fleet.hosts.items():
            state["epochs"] = (self.newest,)
            if host.startswith("north"):
                state.update(north)
        return fleet

    def test_by_fences_on_each_host_and_not_on_some(self):
        fleet = self.fleet(fenced=True, epochs=())
        assert "each of its hosts" in self.of(fleet).proof
        fleet.hosts["north-core"]["fenced"] = False
        found = self.of(fleet)
        assert found.proof is None
        assert "no closed host of the newest epoch on north-core (no answer" in found.reasons[0]

    def test_by_hosts_that_know_the_epoch_and_admit_nobody(self):
        assert self.of(self.fleet(admits=False)).proof
        assert not self.of(self.fleet(admits=None)).proof
        assert not self.of(self.fleet(admits=False, epochs=())).proof

    def test_never_by_silence(self):
        fleet = self.fleet(fenced=True)
        fleet.lose("north")
        found = self.of(fleet)
        assert found.proof is None
        assert "switch the site off, see that it stays off, and attest that" in found.reasons[0]

    @pytest.mark.parametrize(("upon", "counts"), [(None, True), ("1", True), ("0", False)])
    def test_by_a_persons_word_for_this_recovery_and_no_other(self, upon, counts):
        fleet = self.fleet()
        fleet.lose("north")
        word = Attestation("north", "Ada", upon)
        assert bool(self.of(fleet, attestations=(word,)).proof) is counts


class TestALease:
    """It ends by itself; that it has ended is known only to those who could have renewed it."""

    layout = replace(LAYOUT, witnesses=("south-core",), lease_seconds=30, max_skew=0.5)

    def left(self, left, newest="1", clocks=(0.0, 0.0)):
        records = (epoch(),)
        reports = (
            Report("north-db", False), Report("north-core", False),
            Report("west", True, "west", epochs=records, clock=clocks[0]),
            Report("south-core", True, "south", epochs=records, clock=clocks[1],
                   grants=(Grant("north", left),)),
        )  # fmt: skip
        return leases.expiry(Evidence(self.layout, reports, "south"), "north", newest)

    def test_has_run_out_only_when_the_clocks_skew_is_over_too(self):
        assert self.left(3.0) == (3.5, ())
        assert self.left(0.0) == (0.5, ())
        assert self.left(-0.5) == (0.0, ())

    def test_proves_nothing_while_a_witness_is_silent_or_was_not_told(self):
        assert "does not know of the epoch" in self.left(-9, newest="2")[1][0]
        evidence = Evidence(self.layout, (Report("south-core", False),), "south")
        assert "may still renew it" in leases.expiry(evidence, "north", "1")[1][0]

    @pytest.mark.parametrize("grants", [(), (Grant("north", float("inf")),)])
    def test_of_which_a_witness_does_not_know_is_none_that_has_run_out(self, grants):
        witness = Report("south-core", True, "south", clock=0.0, grants=grants)
        other = Report("west", True, "west", clock=0.0)
        found = leases.expiry(Evidence(self.layout, (witness, other), "south"), "north", None)
        assert "does not know whether all of north needs a lease" in found[1][0]

    def test_proves_nothing_where_clocks_differ_or_nobody_can_tell(self):
        assert "more than 0.5 s apart" in self.left(-9, clocks=(0.0, 0.6))[1][0]
        assert "is not known" in self.left(-9, clocks=(0.0, None))[1][0]
        assert "nobody would notice a wrong clock" in self.left(-9, clocks=(None, 0.0))[1][0]

    def test_is_witnessed_at_another_site_only(self):
        inside = replace(self.layout, witnesses=("north-core",))
        evidence = Evidence(inside, (Report("north-core", True, "north", clock=0.0),), "north")
        assert (
            "no lease which a host at another site" in leases.expiry(evidence, "north", None)[1][0]
        )

    @given(st.floats(-100, 100), st.floats(0, 10))
    def test_is_never_believed_to_be_over_before_it_is(self, left, skew):
        """The holder's kernel counts the same seconds; the witness's clock is off by up to skew."""
        layout = replace(self.layout, max_skew=skew)
        grant = Report("south-core", True, "south", clock=0.0, grants=(Grant("north", left),))
        other = Report("west", True, "west", clock=0.0)
        wait, problems = leases.expiry(Evidence(layout, (grant, other), "south"), "north", None)
        assert not problems
        assert wait >= left + skew or wait == left + skew


class TestAGate:
    """A host that boots does not know what it has missed."""

    other = Voucher("south-db", "south", (epoch(),), vouches=True)

    def test_opens_on_the_word_of_another_site_and_learns_by_it(self):
        found = gates.gate("west", (), [self.other])
        assert (found.opens, found.epoch, found.learned) == (True, "1", (epoch(),))

    @pytest.mark.parametrize(
        ("own", "changes", "expected"),
        [
            ((), {"site": "west"}, "is at west too, and may have missed the same"),
            ((), {"vouches": False}, "does not know itself that its epoch is the newest"),
            ((epoch(1), epoch(2)), {}, "has not the newest epoch, 2"),
            ((epoch(1, id="x"),), {}, "contradict each other"),
        ],
    )
    def test_stays_closed_on_any_other_word(self, own, changes, expected):
        found = gates.gate("west", own, [replace(self.other, **changes)])
        assert not found.opens
        assert expected in "; ".join(found.reasons)

    def test_stays_closed_alone_and_says_how_to_go_on(self):
        found = gates.gate("north", (), [])
        assert not found.opens
        assert "a person who knows attests the epoch on this host" in found.reasons[-1]

    def test_opens_where_a_person_attests_the_newest_epoch_and_no_lower_one(self):
        own = (epoch(1), epoch(2))
        assert gates.gate("south", own, [], HostAttestation("Ada", "2")).opens
        found = gates.gate("south", own, [], HostAttestation("Ada", "1"))
        assert not found.opens
        assert "Ada attests the epoch 1, and the newest that is known here is 2" in found.reasons[0]

    def test_of_a_site_that_was_given_up_opens_after_its_rejoin_only(self):
        assert "rejoin it" in gates.gate("north", (), [self.other]).reasons[0]
        assert gates.gate("north", (), [self.other], rejoined="1").opens
        assert not gates.gate("north", (), [self.other], rejoined="0").opens
