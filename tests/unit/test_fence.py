"""What a fence covers, and who may order it, lift it, or let a host start its services."""

import copy
from pathlib import Path

import jinja2
import pytest
import yaml
from saltext.openhim import fence, settings
from saltext.openhim.errors import OpenHIMError

EXAMPLE = yaml.safe_load(
    Path(__file__).parents[2].joinpath("pillar/openhim/production.sls").read_text()
)


def stack(**recovery):
    pillar = copy.deepcopy(EXAMPLE)
    pillar["openhim"]["recovery"] = recovery
    return settings.from_pillar(pillar)


def order(verb="fence", epoch=2, by="Ada", reason="fire"):
    return fence.Order(verb, epoch, by, reason, "2026-01-31T12:00:00+00:00")


def test_a_member_that_a_recovery_gave_up_is_covered():
    """The profile ``reduced`` has no such member any more, and its mongod is the one to stop."""
    reduced = stack(epoch=1, active_site="south", profile="reduced")
    assert reduced.sets_on("north-db1") == []
    assert fence.scope(reduced, "north-db1").units == ("mongod-openhim.service",)


def test_every_port_of_the_stack_is_cut_and_none_that_lets_people_in():
    ports = fence.scope(stack(), "north-core", [6000, 22, 4505, 4506]).ports
    assert {27017, 8080, 5001, 5000, 6000} <= set(ports)
    assert not {22, 4505, 4506} & set(ports)


def test_a_core_host_has_openhims_unit_and_no_mongod():
    assert fence.scope(stack(), "north-core").units == ("openhim-core.service",)


def test_the_table_drops_in_every_direction_and_accepts_no_other_traffic_for_good():
    text = fence.ruleset([27017, 5001], [998, 997])
    for name in ("input", "forward", "output"):
        chain = text.split(f"chain {name} {{")[1].split("\t}")[0]
        assert "priority filter - 10; policy accept;" in chain
        assert "tcp dport { 5001, 27017 } counter drop" in chain
        assert "tcp sport { 5001, 27017 } counter drop" in chain
        assert ("skuid { 997, 998 } counter drop" in chain) == (name == "output")


def test_a_host_without_the_services_users_gets_no_empty_rule():
    assert "skuid" not in fence.ruleset([27017], [])


def test_the_boot_unit_comes_before_the_network_and_the_services():
    unit = fence.boot_unit(["mongod-openhim.service"])
    (before,) = [line for line in unit.splitlines() if line.startswith("Before=")]
    assert {"network-pre.target", "openhim-gate.service", "mongod-openhim.service"} <= set(
        before.removeprefix("Before=").split()
    )


def test_the_known_epoch_is_the_highest_of_pillar_past_and_fence():
    record = {"orders": [{"epoch": 2}]}
    assert fence.known_epoch(stack(epoch=1), 0, record) == 2
    assert fence.known_epoch(stack(epoch=3), 0, record) == 3
    assert fence.known_epoch(stack(epoch=3), 4, record) == 4
    assert fence.known_epoch(stack(), 0, {}) == 0


def test_a_fence_may_be_ordered_ahead_of_its_epoch_and_lifted_only_in_the_current_one():
    fence.require(order(epoch=3), 2)
    fence.require(order("unfence", epoch=2), 2)
    for refused in (order(epoch=1), order("unfence", epoch=1), order("unfence", epoch=3)):
        with pytest.raises(OpenHIMError, match="epoch: found"):
            fence.require(refused, 2)


@pytest.mark.parametrize("change", [{"by": " "}, {"reason": ""}, {"epoch": "2"}, {"epoch": True}])
@pytest.mark.parametrize("verb", ["fence", "unfence"])
def test_an_order_that_nobody_answers_for_is_refused(verb, change):
    with pytest.raises(OpenHIMError, match=f"{next(iter(change))}: found"):
        fence.require(order(verb, **change), 0)


SOUTH = {"epoch": 2, "active_site": "south", "profile": "reduced", "lost_sites": ["north"]}


def problem(recovery, host="north-db1", epoch=None, highest=0, fenced=None):
    return fence.admission_problem(stack(**recovery), host, epoch, highest, fenced)


def test_a_host_is_admitted_under_the_epoch_of_its_master():
    assert problem({}) is None
    assert problem(SOUTH, "south-db1", highest=2) is None
    assert problem(SOUTH, "south-db1", epoch=2, highest=1) is None


@pytest.mark.parametrize(
    ("recovery", "case", "words"),
    [
        ({}, {"highest": 1}, "says epoch 0, and this host has heard of epoch 1"),
        ({}, {"epoch": 1}, "epoch: found 1; the master's recovery record says 0"),
        (SOUTH, {"highest": 1}, "the site north was given up in epoch 2"),
        ({"error": "it is damaged"}, {}, "cannot read the recovery record: it is damaged"),
        ({}, {"fenced": {"epoch": 2, "by": "Ada", "reason": "fire"}}, "in epoch 2 by Ada (fire)"),
    ],
)
def test_a_host_is_not_admitted(recovery, case, words):
    assert words in problem(recovery, **case)


@pytest.mark.parametrize(
    ("gate", "roles", "states"),
    [
        ({}, ["mongodb"], 0),
        ({"gate": {"enabled": False}}, ["mongodb"], 0),
        ({"gate": {"enabled": True}}, ["mongodb"], 2),
        ({"gate": {"enabled": True}}, ["core", "backup"], 2),
        ({"gate": {"enabled": True}}, ["backup", "master"], 0),
    ],
)
def test_the_state_tree_has_a_gate_where_it_is_wanted_and_something_is_behind_it(
    gate, roles, states
):
    text = Path(__file__).parents[2].joinpath("salt/fence/init.sls").read_text()
    template = jinja2.Environment().from_string(text)  # noqa: S701
    rendered = template.render(pillar={"openhim": gate}, salt={"openhim.roles": lambda: roles})
    found = yaml.safe_load(rendered) or {}
    assert [next(iter(state)) for state in found.values()] == [
        "openhim_fence.gated",
        "openhim_fence.admitted",
    ][:states]
