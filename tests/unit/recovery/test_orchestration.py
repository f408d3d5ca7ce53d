"""What the orchestrations do in which order. (That they do it, shows in the lab.)"""

import json
from pathlib import Path

import jinja2
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / "salt" / "orch"
REQUEST = {"to_site": "south", "confirm": "example", "declared_by": "Ada", "reason": "fire"}
PLAN = {
    "refusals": [],
    "promote": {"openhim": "south-db1"},
    "hosts": ["south-core", "south-db1"],
    "cores": ["south-core"],
    "bundled_by": ["master"],
    "overlay": {"epoch": 1},
}
BACKUP = {"refusals": [], "taken_by": "south-db1", "first": ["near"], "copies": {"far": "west"}}
RESTORE = {
    "refusals": [],
    "cores": ["north-core"],
    "host": "south-db1",
    "since": "2026-01-31T12:00:00+00:00",
    "point": "latest",
    "what": "the newest restore point",
}


def rendered(name, plan, **request):
    """The steps of an orchestration by name, and what each calls with what."""
    environment = jinja2.Environment()  # noqa: S701
    environment.filters["json"] = json.dumps
    text = environment.from_string((FOLDER / f"{name}.sls").read_text()).render(
        pillar={name: request}, salt={"saltutil.runner": lambda *_, **__: plan}
    )
    found = {}
    for step_name, step in yaml.safe_load(text).items():
        ((kind, arguments),) = step.items()
        entry = {key: value for each in arguments for key, value in each.items()}
        found[step_name] = (kind, entry)
    return found


@pytest.fixture
def steps():
    """Those of a failover."""
    return rendered("failover", PLAN, **REQUEST)


def test_nothing_is_promoted_before_every_host_was_seen_to_know_the_epoch(steps):
    order = list(steps)
    kind, known = steps["Every host that is left knows it"]
    assert (kind, known["name"]) == ("salt.runner", "openhim_dr.failover_known")
    assert known["kwarg"] == {"stack": "example", "hosts": PLAN["hosts"]}
    before = order.index("The decision is on record")
    promoted = order.index("The distant member of openhim is the primary")
    assert before < order.index("Every host that is left knows it") < promoted


def test_what_fails_ends_it(steps):
    *but_the_last, _ = steps.values()
    assert all(arguments["failhard"] for _, arguments in but_the_last)


def test_the_start_bundle_is_stored_once_the_record_is_complete(steps):
    order = list(steps)
    assert order[-1] == "The start bundle knows of it"
    assert steps[order[-1]][1]["tgt"] == ["master"]
    assert order[-2] == "The failover is done"


def test_a_restore_is_previewed_before_openhim_stops():
    steps = rendered("restore", RESTORE, confirm="example")
    (preview,) = (name for name, (_, entry) in steps.items() if entry.get("test"))
    assert steps[preview][1]["failhard"] is True
    order = list(steps)
    assert order.index(preview) < order.index("OpenHIM on north-core is stopped")


@pytest.mark.parametrize(
    "steps",
    [
        rendered("failover", PLAN, **REQUEST),
        rendered("backup", BACKUP, stack="example"),
        rendered("restore", RESTORE, confirm="example"),
    ],
    ids=["failover", "backup", "restore"],
)
def test_a_function_that_only_some_hosts_answer_is_a_failure(steps):
    """``salt.function`` counts those that do not answer only when it is told to."""
    for kind, arguments in steps.values():
        assert kind != "salt.function" or arguments["expect_minions"]


@pytest.mark.parametrize("name", ["failover", "backup", "restore"])
def test_what_is_refused_does_nothing_else_and_is_no_success(name):
    steps = rendered(name, {"refusals": ["a reason"]})
    assert list(steps) == ["Refused: a reason"]
    assert steps["Refused: a reason"][0] == "test.fail_without_changes"
