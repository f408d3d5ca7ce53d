"""Declared and actual objects: only what is declared counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.core import compare, ports

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("declared", "actual", "differs"),
    [
        ({"a": 1}, {"a": 1, "_id": "x", "__v": 0}, False),
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1}, None, True),
        ({"routes": [{"name": "r", "port": 1}]}, {"routes": [{"_id": 1, "name": "r", "port": 1}]}, False),
        ({"routes": [{"name": "r", "port": 2}]}, {"routes": [{"name": "r", "port": 1}]}, True),
        ({"routes": [{"name": "r"}]}, {"routes": [{"name": "r"}, {"name": "more"}]}, True),
        ({"routes": [{"name": "b"}, {"name": "a"}]}, {"routes": [{"name": "a"}, {"name": "b"}]}, False),
        ({"allow": ["a"]}, {"allow": ["b"]}, True),
        ({"allow": []}, {}, False),
        ({"text": None}, {"text": ""}, False),
        ({"flag": False}, {}, True),
    ],
)  # fmt: skip
def test_only_declared_keys_are_compared(declared, actual, differs):
    assert compare.differs(declared, actual) is differs


@given(VALUES)
def test_nothing_differs_from_itself(value):
    assert not compare.differs(value, value)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), VALUES)
def test_what_is_overlaid_is_as_declared(declared, actual):
    assert not compare.differs(declared, compare.overlaid(declared, actual))


def test_what_is_not_declared_stays():
    actual = {"description": "kept", "routes": [{"name": "r", "_id": 7, "port": 1}]}
    declared = {"routes": [{"name": "r", "port": 2}]}
    assert compare.overlaid(declared, actual) == {
        "description": "kept",
        "routes": [{"name": "r", "_id": 7, "port": 2}],
    }


def test_changes_hide_passwords_at_any_depth():
    declared = {"routes": [{"name": "r", "password": "CANARY2"}], "allow": ["a"]}
    actual = {"routes": [{"name": "r", "password": "CANARY1", "_id": 1}], "allow": ["b"]}
    shown = compare.changes(declared, actual)
    assert "CANARY" not in json.dumps(shown)
    assert shown["allow"] == {"old": ["b"], "new": ["a"]}
    assert "another secret" in shown["routes"]["new"]


def test_the_ports_of_live_channels_are_those_of_enabled_tcp_and_tls_channels():
    channels = [
        {"type": "tcp", "tcpPort": 6001, "status": "enabled"},
        {"type": "tls", "tcpPort": 6000},
        {"type": "tcp", "tcpPort": 6002, "status": "disabled"},
        {"type": "tcp", "tcpPort": 6003, "status": "deleted"},
        {"type": "http", "tcpPort": 6004, "status": "enabled"},
        {"type": "tcp", "status": "enabled"},
    ]
    assert ports.of_channels(channels) == [6000, 6001]
