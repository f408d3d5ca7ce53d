"""What ``orch.drill`` does. (That it does it, shows in the lab.)"""

from tests.unit.recovery.test_orchestration import rendered

REQUEST = {"stack": "example", "declared_by": "Ada"}


def test_a_drill_is_one_state_that_test_mode_previews():
    steps = rendered("drill", {"refusals": [], "host": "west-backup"}, **REQUEST)
    ((kind, arguments),) = steps.values()
    assert kind == "salt.state"
    assert (arguments["tgt"], arguments["failhard"]) == ("west-backup", True)
    assert arguments["pillar"] == {"drill": REQUEST}


def test_what_is_refused_does_nothing_else_and_is_no_success():
    steps = rendered("drill", {"refusals": ["a reason"], "host": None})
    assert list(steps) == ["Refused: a reason"]
    assert steps["Refused: a reason"][0] == "test.fail_without_changes"
