"""Every disaster of the repository, judged by the recovery model as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from saltext.openhim.disasters import case, judged, vocabulary, world
from saltext.openhim.recovery import observations, verdicts
from saltext.openhim.recovery.closed import Closure

DISASTERS = Path(__file__).resolve().parents[3] / "disasters"
NAMES = case.cases(DISASTERS)

#: What the model answers wrongly, and should not: such a case is red as soon as it is answered right.
WRONG: dict[str, str] = {}

CASES = [
    pytest.param(name, marks=pytest.mark.xfail(reason=WRONG[name], strict=True))
    if name in WRONG
    else name
    for name in NAMES
]


@cache
def read(name):
    return case.read(DISASTERS / name)


@pytest.mark.parametrize("name", CASES)
def test_the_model_answers_what_is_expected(name):
    assert judged.differences(read(name)) == []


def test_there_are_disasters_enough_and_each_word_is_in_one():
    assert len(NAMES) >= 25
    read_all = [read(name) for name in NAMES]
    told = {
        happening.word
        for one in read_all
        for happening in (*one.happens, *one.expected.way_forward.happens)
    }
    known = set(vocabulary.table(read(NAMES[0]).stack))
    assert told <= known
    # Those are in no disaster yet; each has a test in test_world.py.
    assert known - told == {
        "core_started", "egress_denied", "mongod_hangs", "mongod_stopped", "rejoined"
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WRONG])
def test_a_wrong_expectation_is_noticed(name):
    """Each line of expected.yaml is turned around once, and must show."""
    right = read(name)
    for wrong, path in spoilt(right):
        assert any(path in text for text in judged.differences(replace(right, expected=wrong))), (
            path
        )


def spoilt(one):
    """Expectations that are each wrong in one place, with the path that must be named."""
    good = one.expected
    yield replace(good, silent=("nobody-knows", *good.silent)), "silent"
    for kind in ("members", "cores"):
        for host, wanted in getattr(good, kind).items():
            changed = {host: ("dead",) if "dead" not in wanted else ("slow",)}
            yield replace(good, **{kind: changed}), kind
    for name in good.allowed:
        others = tuple(other for other in good.allowed if other != name)
        yield replace(good, allowed=others), f"{name}: expected refused"
    for name in good.refused:
        yield replace(good, allowed=(*good.allowed, name)), f"{name}: expected allowed"
        yield replace(good, refused={name: ("no such words",)}), f"{name}: expected the words"


@pytest.mark.parametrize("verb", [verb for verb in verdicts.VERBS if verb != "drill"])
def test_a_verb_that_refuses_nothing_any_more_is_found_by_a_disaster(verb, monkeypatch):
    monkeypatch.setitem(verdicts.RULES, verb, lambda evidence, request: iter(()))
    found = {name: judged.differences(read(name)) for name in NAMES if name not in WRONG}
    assert any(text.startswith(verb) for texts in found.values() for text in texts)


def _everybody_is_believed(patch):
    patch.setattr(verdicts, "prospect", lambda evidence, site: Closure(site, "believed"))


def _unknown_is_dead(patch):
    patch.setattr(observations.Finding, "alive", property(lambda self: bool(self.state)))


def _nobody_is_believed(patch):
    patch.setattr(verdicts, "prospect", lambda evidence, site: Closure(site, None, None, ("no",)))


def _records_are_not_compared(patch):
    patch.setattr(verdicts, "_records", lambda evidence, request: iter(()))


def _one_vantage_point_is_enough(patch):
    seen = observations.seen
    patch.setattr(
        observations,
        "seen",
        lambda looks, subject, own: seen(list(looks)[:1], subject, own),
    )


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        (_everybody_is_believed, "primary-site-is-cut-off"),
        (_unknown_is_dead, "primary-site-freezes"),
        (_nobody_is_believed, "primary-site-loses-power"),
        (_records_are_not_compared, "two-masters-declared"),
        (_one_vantage_point_is_enough, "master-is-cut-off-from-the-primary-site"),
    ],
)
def test_a_mistake_in_the_model_is_found_by_the_disaster_that_is_about_it(
    mistake, name, monkeypatch
):
    assert judged.differences(read(name)) == []
    mistake(monkeypatch)
    assert judged.differences(read(name)) != []


def test_a_way_forward_that_leads_nowhere_is_noticed():
    right = read("primary-site-loses-power")
    way = replace(right.expected.way_forward, happens=())
    wrong = replace(right, expected=replace(right.expected, way_forward=way))
    assert any("way_forward: expected that failover south" in t for t in judged.differences(wrong))


def test_the_answer_is_that_of_a_preflight():
    found = judged.answer(read("primary-site-loses-power"))
    assert found["at"] == world.NOW.isoformat()
    assert {one["verb"] for one in found["verdicts"]} == set(verdicts.VERBS)
