"""Which history is the real one, whoever asks, in whatever order the records come."""

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.answers import Refusal
from saltext.openhim.recovery.epochs import Epoch, Minting, decided, disobedience, known, minted

from tests.unit.recovery.reported import LATER, epoch


def minting(parent, **changes):
    values = {
        "parent": parent, "stack": "example", "kind": "failover", "active_site": "south",
        "profile": "reduced", "lost_sites": ("north",), "declared_by": "Ada", "reason": "fire",
        "declared_at": LATER,
    }  # fmt: skip
    return Minting(**{**values, **changes})


@st.composite
def forests(draw):
    """Records as places may have them after mintings that did not always know of each other."""
    records = []
    for n in range(draw(st.integers(0, 6))):
        seen = [one for one in records if draw(st.booleans())]
        now = known(seen)
        if now.conflict:
            choice = draw(st.sampled_from([one.id for one in now.conflict]))
            made = decided(
                seen,
                choice,
                declared_by="Ada",
                reason="it ran",
                declared_at=LATER,
                epoch_id=f"e{n}",
            )
        else:
            made = minted(seen, minting(now.current.id if now.current else None), f"e{n}")
        assert isinstance(made, Epoch), made
        records.append(made)
    return records


@given(forests(), st.randoms())
def test_the_order_of_the_records_makes_no_difference(records, random):
    mixed = [*records, *records]
    random.shuffle(mixed)
    one, other = known(records), known(mixed)
    assert one.current == other.current
    assert {e.id for e in one.conflict} == {e.id for e in other.conflict}


@given(forests())
def test_either_the_highest_is_current_or_there_are_histories_to_choose_from(records):
    found = known(records)
    if found.conflict:
        assert found.current is None
        assert len({e.id for e in found.conflict}) == len(found.conflict) >= 2
        assert not {e.id for e in found.conflict} & {
            e.parent for e in records if e in found.conflict
        }
    elif records:
        assert found.current.number == max(e.number for e in records)


@given(forests())
def test_two_records_of_one_number_are_never_passed_over_unless_one_was_decided_against(records):
    found = known(records)
    numbers = [e.number for e in records]
    if len(set(numbers)) < len(numbers) and not any(e.rejects for e in records):
        assert found.conflict


@given(forests())
def test_one_decision_ends_any_conflict(records):
    conflict = known(records).conflict
    if conflict:
        made = decided(
            records, conflict[0].id, declared_by="Ada", reason="it ran", declared_at=LATER,
            epoch_id="d",
        )  # fmt: skip
        assert isinstance(made, Epoch)
        assert made.active_site == conflict[0].active_site
        records = [*records, made]
    assert known(records).problem is None


def test_what_only_another_history_rejects_is_chosen_or_rejected_like_the_rest():
    """Decided by somebody who had not heard of the first history's later epochs."""
    records = [
        epoch(1, id="a"),
        epoch(2, id="a2", parent="a"),
        epoch(2, id="b2", parent="a"),
        epoch(1, id="other"),
        epoch(2, id="decided", parent="other", rejects=("a",)),
    ]
    assert {one.id for one in known(records).conflict} == {"a2", "b2", "decided"}


def test_the_first_epoch_has_no_parent_and_the_next_names_it():
    first = minted([], minting(None), "a")
    second = minted([first], minting("a"), "b")
    assert (first.number, first.parent) == (1, None)
    assert (second.number, second.parent) == (2, "a")


def test_who_did_not_know_of_the_newest_mints_nothing():
    answer = minted([epoch(1), epoch(2)], minting("1"), "x")
    assert isinstance(answer, Refusal)
    assert "has changed meanwhile: it now ends with epoch 2, failover to south by Ada" in str(
        answer
    )


def test_two_records_with_one_number_refuse_both_until_a_person_decides():
    one, other = epoch(1, id="x"), epoch(1, id="y", active_site="west")
    found = known([one, other])
    assert found.current is None
    assert "epoch 1 (failover to south by Ada), ID x; epoch 1 (failover to west" in found.problem
    assert "decide for it by its ID" in found.problem
    for parent in ("x", "y", None):
        assert "contradict each other" in str(minted([one, other], minting(parent), "z"))
    assert "contradict each other" in disobedience([one, other], "x")
    with pytest.raises(Refused, match="contradict each other"):
        epochs.declared([one, other], **minting("x").__dict__)


def test_what_was_decided_against_stays_rejected_with_all_that_came_of_it():
    one, other = epoch(1, id="x"), epoch(1, id="y", active_site="west")
    made = decided(
        [one, other], "x", declared_by="Ada", reason="it ran", declared_at=LATER, epoch_id="d"
    )
    assert (made.number, made.parent, made.kind, made.rejects) == (2, "x", "decision", ("y",))
    assert known([one, other, made]).current == made
    # Who knew of the rejected one alone went on with it: that is one more conflict, and no secret.
    child = epoch(2, id="y2", parent="y")
    assert {e.id for e in known([one, other, made, child]).conflict} == {"d", "y2"}


@pytest.mark.parametrize(
    ("chosen", "changes", "expected"),
    [
        ("z", {}, "choose one of the epochs in conflict: x, y"),
        ("x", {"declared_by": " "}, "a decision needs both"),
        ("x", {"reason": ""}, "a decision needs both"),
    ],
)
def test_a_decision_that_decides_nothing_is_refused(chosen, changes, expected):
    values = {"declared_by": "Ada", "reason": "it ran", "declared_at": LATER, "epoch_id": "d"}
    records = [epoch(1, id="x"), epoch(1, id="y")]
    assert expected in str(decided(records, chosen, **{**values, **changes}))
    assert "nothing to decide" in str(decided(records[:1], "x", **values))


def test_two_copies_of_one_epoch_may_differ_in_what_became_of_it_and_in_nothing_else():
    young, old = epoch(1), epoch(1, result={"rto_seconds": 7}, completed_at=LATER)
    assert known([young, old]).current == old
    assert known([old, young]).current == old
    damaged = replace(young, active_site="west")
    assert known([young, damaged]).conflict == (young, damaged)
    values = {"declared_by": "Ada", "reason": "it ran", "declared_at": LATER, "epoch_id": "d"}
    assert "one is damaged" in str(decided([young, damaged], "1", **values))


def test_a_place_that_keeps_only_its_newest_contradicts_nobody():
    assert known([epoch(1), epoch(3, parent="2")]).current == epoch(3, parent="2")


@pytest.mark.parametrize(
    ("records", "expected"),
    [([], "knows no epoch"), ([epoch(1), epoch(2)], "knows epoch 2"), ([epoch(1)], None)],
)
def test_a_host_obeys_only_in_the_name_of_the_epoch_that_it_knows_as_the_newest(records, expected):
    found = disobedience(records, "1")
    assert found is None if expected is None else expected in found


def test_a_stored_epoch_of_before_these_fields_is_still_read():
    stored = {
        "number": 1, "id": "a", "parent": None, "kind": "failover", "stack": "example",
        "active_site": "south", "profile": "reduced", "lost_sites": ["north"],
        "declared_by": "Ada", "reason": "fire", "declared_at": LATER, "disrupted_at": None,
        "evidence": {}, "result": None, "completed_at": None,
    }  # fmt: skip
    read = Epoch.read(stored)
    assert (read.lost_sites, read.witnesses, read.rejects) == (("north",), (), ())
    with pytest.raises(KeyError):
        Epoch.read({"number": 1})


class TestWhatBecameOfAnEpoch:
    """Written into it later, so copies may differ in it, and the one that knows more wins."""

    word: ClassVar = {"site": "north", "words": "off", "by": "Ada", "at": LATER}
    back: ClassVar = {"site": "north", "by": "Ada", "reason": "power", "at": LATER}

    def test_a_site_that_rejoined_is_lost_no_longer_and_the_declared_profile_holds(self):
        (found,) = epochs.rejoined([epoch()], "1", self.back)
        assert (found.lost_sites, found.rejoined, found.still_lost) == (("north",), ("north",), ())
        overlay = found.overlay()
        assert overlay["lost_sites"] == []
        assert "profile" not in overlay
        assert epoch().overlay()["profile"] == "reduced"

    def test_a_rejoin_is_noted_once_and_only_of_a_site_that_is_lost(self):
        twice = epochs.rejoined(epochs.rejoined([epoch()], "1", self.back), "1", self.back)
        assert len(twice[0].rejoins) == 1
        assert epochs.rejoined([epoch()], "1", {**self.back, "site": "south"}) == [epoch()]

    def test_a_step_has_the_time_of_the_first_run_and_is_progress_of_the_same_decision(self):
        begun = epochs.reached([epoch()], "1", "told", LATER)
        again = epochs.reached(begun, "1", "told", "2099-01-01T00:00:00Z")
        (known,) = epochs.reached(again, "1", "fenced", LATER)
        assert known.timeline == ({"step": "told", "at": LATER}, {"step": "fenced", "at": LATER})
        assert epochs.reached([epoch()], "another", "told", LATER) == [epoch()]
        assert epochs.known([epoch(), known]).current == known
        assert epochs.merged([known, epoch()]) == [known]
        assert epochs.parsed(epochs.plain([known])) == [known]

    def test_the_same_word_is_noted_once(self):
        once = epochs.attested([epoch()], "1", [self.word])
        assert epochs.attested(once, "1", [{**self.word, "at": "later"}]) == once

    def test_copies_that_differ_in_it_are_one_epoch_and_the_further_one_counts(self):
        (further,) = epochs.rejoined([epoch()], "1", self.back)
        assert known([epoch(), further]).current.rejoined == ("north",)
        assert epochs.merged([further, epoch(), further]) == [further]

    def test_it_is_the_same_after_a_journey_as_plain_values(self):
        (found,) = epochs.attested(epochs.rejoined([epoch()], "1", self.back), "1", [self.word])
        assert epochs.parsed(epochs.plain([found])) == [found]

    @pytest.mark.parametrize("entries", [[{"number": 1}], ["x"], [None], 5])
    def test_what_is_no_epoch_is_an_error_in_words(self, entries):
        with pytest.raises(OpenHIMError, match="holds what is no epoch"):
            epochs.parsed(entries)
