"""When a set can do without one of its members for a while."""

import pytest
from saltext.openhim.mongo.restart import needed_members


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
