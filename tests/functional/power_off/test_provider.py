"""A provider's power switch as somebody's own program: a shell script with a file for each host."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from saltext.openhim.power_off import Switch

OFF = 'echo "$1" >> "$FOLDER/told"; echo off > "$FOLDER/$1"'
STATE = 'cat "$FOLDER/$1"'


@pytest.fixture
def provider(tmp_path: Path) -> Callable[..., Switch]:
    """A factory: the switch; ``off`` and ``state`` are what the programs do. Both hosts are on."""
    for host in ("north-db1", "north-core"):
        (tmp_path / host).write_text("on\n")

    def make(off: str = OFF, state: str = STATE, timeout: float = 5) -> Switch:
        for name, body in (("off", off), ("state", state)):
            program = tmp_path / f"provider-{name}"
            program.write_text(f"#!/bin/sh\nFOLDER='{tmp_path}'\n{body}\n")
            program.chmod(0o700)
        told = [[str(tmp_path / f"provider-{name}"), "{host}"] for name in ("off", "state")]
        return Switch("example", *told, "off", timeout)

    return make


def told(folder: Path) -> list[str]:
    """Which hosts the provider was told to switch off."""
    file = folder / "told"
    return sorted(file.read_text().split()) if file.exists() else []


def test_hosts_are_switched_off_and_read_back(provider, tmp_path: Path) -> None:
    """Once: one that is off already is not told again."""
    both = ("north-db1", "north-core")
    found = provider().switched_off(both, "e1")
    assert [(one.host, one.off, one.epoch, one.said) for one in found] == [
        ("north-db1", True, "e1", "it says 'off'"),
        ("north-core", True, "e1", "it says 'off'"),
    ]
    assert told(tmp_path) == ["north-core", "north-db1"]
    assert all(one.off for one in provider().switched_off(both, "e1"))
    assert told(tmp_path) == ["north-core", "north-db1"]


def test_a_look_switches_nothing(provider, tmp_path: Path) -> None:
    """A preview does no more."""
    (found,) = provider().looked(["north-db1"])
    assert (found.off, found.said, found.answers) == (False, "it says 'on'", True)
    assert told(tmp_path) == []


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({"off": "true"}, "it says 'on'"),
        ({"off": "echo offline > $FOLDER/$1"}, "it says 'offline'"),
        ({"off": "echo off on fire > $FOLDER/$1"}, "it says 'off on fire'"),
        ({"off": "echo no such host >&2; exit 3"}, "exit code 3) and said: no such host; asked"),
        ({"state": "echo no credentials >&2; exit 4"}, "exit code 4) and said: no credentials"),
        ({"state": "true"}, "it says ''"),
        ({"off": "sleep 9"}, "had not ended after 1 s and was killed"),
        ({"state": "sleep 9"}, "had not ended after 1 s and was killed"),
    ],
)
def test_anything_but_off_is_not_off_and_it_is_told_what_was_said(
    provider, programs: dict[str, str], said: str
) -> None:
    """In a bounded time."""
    began = time.monotonic()
    (found,) = provider(**programs, timeout=1).switched_off(["north-db1"], "e1")
    assert not found.off
    assert said in found.said
    assert time.monotonic() - began < 8


def test_a_host_that_takes_its_time_is_waited_for(provider) -> None:
    """As a machine does that shuts down."""
    slow = """setsid sh -c 'sleep 1.5; echo off > "$0"' "$FOLDER/$1" > /dev/null 2>&1 &"""
    (found,) = provider(off=slow).switched_off(["north-db1"], "e1")
    assert found.off


def test_a_provider_that_ends_badly_and_has_switched_it_off_is_believed(provider) -> None:
    """What counts is what it reads back."""
    (found,) = provider(off=f"{OFF}; exit 1").switched_off(["north-db1"], "e1")
    assert found.off


def test_a_hosts_name_is_one_argument_and_no_shell_reads_it(provider, tmp_path: Path) -> None:
    """And the programs know the stack and the host."""
    evil = "x; touch evil"
    seen = provider(state='echo "$# $OPENHIM_STACK $OPENHIM_HOST"').looked([evil])
    assert seen[0].said == f"it says '1 example {evil}'"
    assert not (tmp_path / "evil").exists()
