"""Somebody's own program leads clients to a site; these are shell scripts that write a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from saltext.openhim.cut_over.command import Command
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The file that says where clients are led; as a load balancer's table."""
    return tmp_path / "place"


@pytest.fixture
def command(tmp_path: Path, place: Path) -> Callable[..., Command]:
    """A factory: the commands of a stack; ``move`` and ``tell`` are what the programs do."""

    def make(
        move: str = 'echo "$1" >> "$OPENHIM_PLACE"', tell: str | None = 'cat "$OPENHIM_PLACE"'
    ) -> Command:
        for name, body in (("move", move), ("tell", tell or "")):
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\nOPENHIM_PLACE='{place}'\n{body}\n")
            program.chmod(0o700)
        run = {site: [str(tmp_path / "move"), site] for site in ("north", "south")}
        return Command("example", run, [str(tmp_path / "tell")] if tell else [], 5)

    return make


def test_the_command_runs_and_is_read_back(command: Callable[..., Command], place: Path) -> None:
    """Once: where clients are led already, it is not run."""
    place.write_text("")
    way = command(move='echo "$1" > "$OPENHIM_PLACE"; echo ran >> "$OPENHIM_PLACE.log"')
    assert way.points_to().state == "none"
    done = way.move("south")
    assert (done.changed, done.confirmed, done.after["site"]) == (True, True, "south")
    assert done.kept_for is None, "nobody knows what a program of somebody's own does to clients"
    assert (way.move("south").changed, way.move("south").confirmed) == (False, True)
    assert Path(f"{place}.log").read_text() == "ran\n"


def test_a_preview_runs_nothing(command: Callable[..., Command], place: Path) -> None:
    """But the command that looks."""
    place.write_text("north\n")
    done = command().move("south", test=True)
    assert (done.changed, done.confirmed, done.before["site"]) == (False, False, "north")
    assert place.read_text() == "north\n"


def test_without_a_command_that_looks_nothing_is_confirmed(
    command: Callable[..., Command], place: Path
) -> None:
    """It is run each time, and the result says that nobody looked."""
    way = command(tell=None)
    assert way.points_to().state == "unknown"
    for times in (1, 2):
        done = way.move("south")
        assert (done.changed, done.confirmed) == (True, False)
        assert "was not looked at" in done.comment
        assert place.read_text() == "south\n" * times


@pytest.mark.parametrize(
    ("programs", "error", "words"),
    [
        ({"move": "echo no route >&2; exit 3"}, OpenHIMError, r"exit code 3\) and said: no route"),
        ({"move": "exit 1"}, OpenHIMError, r"exit code 1\) and said nothing"),
        ({"move": "true"}, OpenHIMError, "ended well, and clients are not led to south: they are"),
        ({"move": 'echo west > "$OPENHIM_PLACE"'}, OpenHIMError, "told west, which is no site"),
        ({"tell": "exit 4"}, OpenHIMError, "not led to south: .*exit code 4"),
    ],
)
def test_what_fails_says_why(
    command: Callable[..., Command],
    place: Path,
    programs: dict[str, str],
    error: type[OpenHIMError],
    words: str,
) -> None:
    """A program that ends well and moves nothing is a failure too."""
    place.write_text("north\n")
    with pytest.raises(error, match=words):
        command(**programs).move("south")


def test_a_site_without_a_command_is_refused(command: Callable[..., Command]) -> None:
    """Before anything runs."""
    with pytest.raises(Refused, match="'west', which has no command"):
        command().move("west")


def test_a_program_that_is_not_there_says_so(place: Path) -> None:
    """By its name."""
    way = Command("example", {"south": ["/nonexistent/move"]}, [], 5)
    with pytest.raises(OpenHIMError, match="/nonexistent/move cannot be run: No such file"):
        way.move("south")


def test_a_program_that_hangs_is_killed_with_what_it_started(
    command: Callable[..., Command], place: Path
) -> None:
    """Otherwise it would move the clients some time later, when nobody looks any more."""
    way = command(move='(sleep 2; echo late > "$OPENHIM_PLACE.late") & wait', tell=None)
    way = Command(way.stack, way.run, way.tells, timeout=0.3)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"had not ended after 0.3 s and was killed"):
        way.move("south")
    assert time.monotonic() - started < 2, "it waited for the child"
    time.sleep(max(0.0, 2.3 - (time.monotonic() - started)))
    assert not Path(f"{place}.late").exists()


def test_a_program_knows_the_stack_and_the_site(
    command: Callable[..., Command], place: Path
) -> None:
    """By its environment, and nothing is on its standard input."""
    way = command(move='cat; echo "$OPENHIM_STACK $OPENHIM_SITE" > "$OPENHIM_PLACE"', tell=None)
    way.move("south")
    assert place.read_text() == "example south\n"
