"""What ``orch.failover`` does in which order. (That it does it, shows in the lab.)"""

import json
from pathlib import Path

import jinja2
import pytest
import yaml

SLS = Path(__file__).resolve().parents[3] / "salt" / "orch" / "failover.sls"
REQUEST = {"to_site": "south", "confirm": "example", "declared_by": "Ada", "reason": "fire"}
PLAN = {
    "refusals": [],
    "promote": {"openhim": "south-db1"},
    "hosts": ["south-core", "south-db1"],
    "cores": ["south-core"],
    "overlay": {"epoch": 1},
}


@pytest.fixture
def steps():
    """The steps' names, and what each calls with what."""
    environment = jinja2.Environment()  # noqa: S701
    environment.filters["json"] = json.dumps
    rendered = environment.from_string(SLS.read_text()).render(
        pillar={"failover": REQUEST}, salt={"saltutil.runner": lambda *_, **__: PLAN}
    )
    found = {}
    for name, step in yaml.safe_load(rendered).items():
        ((kind, arguments),) = step.items()
        found[name] = (kind, {key: value for each in arguments for key, value in each.items()})
    return found


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


def test_a_function_that_only_some_hosts_answer_is_a_failure(steps):
    """``salt.function`` counts those that do not answer only when it is told to."""
    for kind, arguments in steps.values():
        assert kind != "salt.function" or arguments["expect_minions"]
