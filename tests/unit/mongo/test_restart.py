"""When a set can do without one of its members for a while."""

from types import SimpleNamespace

import pytest
from saltext.openhim.mongo.restart import needed_members, not_back


def found(**states):
    """A status: name → state, with a vote unless the name begins with ``extra``."""
    members = [
        {
            "name": name,
            "state": state,
            "healthy": not state.startswith("("),
            "votes": 0 if name.startswith("extra") else 1,
        }
        for name, state in states.items()
    ]
    return {"members": members, "primary": "a"}


@pytest.mark.parametrize(
    ("states", "own", "dispensable"),
    [
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "SECONDARY"}, "b", True),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "SECONDARY"}, "a", True),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "RECOVERING"}, "b", False),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "RECOVERING"}, "c", True),
        ({"a": "PRIMARY", "b": "SECONDARY", "c": "(not reachable/healthy)"}, "b", False),
        ({"a": "PRIMARY", "b": "SECONDARY"}, "b", False),  # two of two are needed
        ({"a": "PRIMARY"}, "a", True),  # the only voter: there is no other way
        ({"a": "PRIMARY", "extra": "SECONDARY"}, "extra", True),
        ({"a": "PRIMARY", "extra": "SECONDARY"}, "a", True),
        (dict.fromkeys("abcde", "SECONDARY") | {"e": "STARTUP2", "d": "STARTUP2"}, "a", False),
        (dict.fromkeys("abcde", "SECONDARY") | {"e": "STARTUP2"}, "a", True),
    ],
)
def test_a_majority_must_stay_up_without_it(states, own, dispensable):
    reason = needed_members(found(**states), own)
    assert (reason is None) is dispensable, reason
    if reason:
        for name, state in states.items():
            well = state in ("PRIMARY", "SECONDARY") or name == own
            assert (f"{name} (" in reason) is not well


@pytest.mark.parametrize(
    ("marked", "state", "lost", "waits"),
    [
        ("", "SECONDARY", (), False),  # nobody was restarted
        ("b", "SECONDARY", (), False),
        ("b", "RECOVERING", (), True),
        ("b", "(not reachable/healthy)", (), True),
        ("b", "(not reachable/healthy)", ("north",), False),  # its site is given up
        ("a", "RECOVERING", (), False),  # this one itself, once more
        ("gone", "SECONDARY", (), False),  # it was removed meanwhile
    ],
)
def test_nobody_follows_one_that_is_not_back(marked, state, lost, waits):
    names = {name: SimpleNamespace(name=name, host=SimpleNamespace(site="north")) for name in "abc"}
    here = SimpleNamespace(
        member=names["a"], member_named=names.get, stack=SimpleNamespace(lost_sites=lost)
    )
    reason = not_back(here, found(a="PRIMARY", b=state, c="SECONDARY"), marked)
    assert (reason is not None) is waits, reason
