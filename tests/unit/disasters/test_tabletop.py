"""A disaster that is talked through: its right answers are the model's and the plan's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from saltext.openhim.disasters import case, tabletop
from saltext.openhim.disasters.case import CaseError
from saltext.openhim.errors import OpenHIMError, Refused

REPOSITORY = Path(__file__).resolve().parents[3]
DISASTERS = REPOSITORY / "disasters"
NEEDS_THREE_SITES = ("two-masters-declared",)


def pillar():
    return yaml.safe_load((REPOSITORY / "pillar" / "openhim" / "production.sls").read_text())


def questions(name, declared=None, names=None):
    return tabletop.questions(case.read_for(DISASTERS / name, declared or pillar(), names or {}))


def by_id(name, **given):
    return {one.id: one for one in questions(name, **given)}


def right(asked):
    return {one.id: list(one.right) for one in asked}


@pytest.mark.parametrize("name", [n for n in case.cases(DISASTERS) if n not in NEEDS_THREE_SITES])
def test_every_disaster_can_be_talked_through_by_a_two_site_stack(name):
    asked = questions(name)
    assert len(asked) >= 10
    assert len({one.id for one in asked}) == len(asked)
    for one in asked:
        assert set(one.right) <= set(one.choices), one
        assert one.right and one.source and len(one.choices) > 1
    assert tabletop.scored(asked, right(asked)).passed


def test_one_that_cannot_happen_to_this_stack_says_so():
    with pytest.raises(CaseError, match="no member of every set is declared at west"):
        questions("two-masters-declared")


def test_answers_come_from_the_model_and_the_plan():
    asked = by_id("primary-site-is-cut-off")
    assert asked["may:failover:south"].right == ("no",)
    assert "north is not proven closed" in asked["may:failover:south"].because
    assert asked["member:north-db1"].right[0].startswith("not known")
    assert asked["way"].right == ("failover",)
    assert asked["decides:0"].right == ("Ada Mwale",)
    assert asked["succeeds:0"].right == ("Ben Phiri",)
    assert asked["access:north"].right == ("Night desk of the primary data centre",)
    assert asked["told:0"].right == ("technical-lead", "communications")
    assert asked["rto_seconds"].right == ("15 minutes",)
    assert by_id("corrupted-data")["may:restore:north"].right == ("yes",)
    assert by_id("openhim-does-not-start")["way"].right == ("core",)


def test_another_plan_has_other_answers():
    declared = pillar()
    plan = declared["openhim"]["plan"]
    plan["roles"]["coordinator"]["holders"] = ["chi", "ada"]
    plan["tiers"]["critical"]["rto_seconds"] = 7200
    plan["facilities"]["north"]["access"] = ["ben"]
    asked = by_id("primary-site-is-cut-off", declared=declared)
    assert asked["decides:0"].right == ("Chikondi Banda",)
    assert asked["rto_seconds"].right == ("2 hours",)
    assert asked["access:north"].right == ("Ben Phiri",)


def test_another_stack_is_asked_by_its_own_names():
    text = (REPOSITORY / "pillar" / "openhim" / "production.sls").read_text()
    for old, new in (("north", "dublin"), ("south", "cork")):
        text = text.replace(old, new)
    declared = yaml.safe_load(text)
    with pytest.raises(CaseError) as caught:
        questions("primary-host-freezes", declared)
    assert "happens.yaml:0:frozen:host: found 'north-db1'" in str(caught.value)
    assert "say with names which site or host" in str(caught.value)
    names = {"north-db1": "dublin-db1", "south": "cork", "north": "dublin"}
    one = case.read_for(DISASTERS / "primary-host-freezes", declared, names)
    assert "dublin-db1 hangs" in one.about
    assert "north-db2" in one.about, "a name that is part of another one stays"
    asked = {q.id: q for q in tabletop.questions(one)}
    assert asked["member:dublin-db1"].right == ("takes connections and says nothing",)
    assert asked["may:failover:cork"].right == ("no",)


def test_without_a_plan_nobody_can_tell_who_decides():
    declared = pillar()
    del declared["openhim"]["plan"]
    with pytest.raises(Refused, match="openhim:plan: found nothing"):
        questions("dead-minion", declared)


def test_a_way_forward_that_is_none_on_this_stack_is_not_asked_for():
    """With its members at two sites, a majority does not survive; so core is not the way."""
    assert "way" not in by_id("a-majority-survives")


def test_one_harmful_answer_fails_all_and_one_harmless_does_not():
    asked = questions("primary-site-is-cut-off")
    answers = right(asked)
    assert tabletop.scored(asked, {**answers, "first": "records"}).passed
    harmful = tabletop.scored(asked, {**answers, "may:failover:south": "yes"})
    assert not harmful.passed
    assert (
        harmful.words
        == f"{len(asked) - 1} of {len(asked)} right; wrong: may:failover:south (vital)"
    )


@pytest.mark.parametrize(("wrong", "passed"), [(2, True), (3, False)])
def test_enough_must_be_right(wrong, passed):
    asked = [replace(one, vital=False) for one in questions("primary-site-is-cut-off")][:10]
    answers = right(asked)
    for one in asked[:wrong]:
        del answers[one.id]
    assert tabletop.scored(asked, answers).passed is passed


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"may:failover:suoth": "no"}, "did you mean 'may:failover:south'?"),
        ({"first": "critcal"}, "answers:first: found 'critcal'; allowed critical, records"),
        ({"first": "critcal"}, "did you mean 'critical'?"),
        ({"first": "9"}, "found '9'"),
        ({"first": ["critical", "records"]}, "answers:first: found 2 answers; allowed one"),
        ({"first": None}, "answers:first: found 'None'"),
    ],
)
def test_an_answer_that_is_none_is_named(answers, expected):
    with pytest.raises(OpenHIMError) as caught:
        tabletop.scored(questions("primary-site-is-cut-off"), answers)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("id_", "answer"),
    [
        ("may:failover:south", False),
        ("may:failover:south", "No"),
        ("may:failover:south", 2),
        ("told:0", "communications, technical-lead"),
        ("told:0", ["technical-lead", "communications"]),
    ],
)
def test_an_answer_may_be_words_a_number_or_a_list(id_, answer):
    (one,) = tabletop.scored([by_id("primary-site-is-cut-off")[id_]], {id_: answer}).answers
    assert one.ok, one


def test_half_of_several_is_not_right():
    question = by_id("primary-site-is-cut-off")["told:0"]
    assert not tabletop.scored([question], {"told:0": "communications"}).passed


def test_the_sheet_has_no_answers():
    name = "primary-site-is-cut-off"
    one = case.read_for(DISASTERS / name, pillar(), {})
    sheet = tabletop.sheet(one, tabletop.questions(one))
    assert set(sheet) == {"disaster", "title", "happens", "questions"}
    assert set(sheet["questions"]["first"]) == {"text", "choices", "several"}
    assert sheet["happens"] == ["isolated: site north"]
