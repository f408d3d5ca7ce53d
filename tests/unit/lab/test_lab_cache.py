"""The cache: an entry is whole or not there, and is built once even when two ask for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import artifacts, cache, image, kernel
from lab.errors import LabError
from lab.network import REPOSITORY


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("SALTEXT_OPENHIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_built_once() -> None:
    built = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_text("content")

    first = cache.entry("folder/name", "something", build)
    assert cache.entry("folder/name", "something", build) == first
    assert first.read_text() == "content"
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(empty_cache: Path) -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("half")
        raise LabError("no network")

    with pytest.raises(LabError, match="no network"):
        cache.entry("name", "something", fail)
    assert [path.name for path in empty_cache.iterdir()] == ["locks"]
    assert cache.entry("name", "something", lambda path: path.mkdir()).is_dir()


def test_a_build_that_makes_nothing_is_an_error() -> None:
    with pytest.raises(LabError, match="something: the build made nothing"):
        cache.entry("name", "something", lambda path: None)


ASK = """
import os, sys
from pathlib import Path
from lab import cache
def build(path):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    sys.stdin.readline()
    path.write_text("content")
print(cache.entry("name", "something", build).read_text(), flush=True)
"""


def test_two_processes_build_an_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(log)], cwd=REPOSITORY, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for asker in askers:  # the one that waits for the other does not read it
        asker.stdin.write("go\n")
        asker.stdin.flush()
    answers = [asker.communicate()[0].strip() for asker in askers]
    assert answers == ["content", "content"]
    assert log.read_text() == "built\n"


def test_a_command_that_fails_is_told_with_its_output() -> None:
    with pytest.raises(LabError, match="ended with 3, expected 0:\nsome reason"):
        cache.call(["sh", "-c", "echo some reason >&2; exit 3"])


def test_a_command_that_is_not_installed_is_told_with_the_way_out() -> None:
    with pytest.raises(
        LabError, match="no-such-command is not installed; run: python -m lab doctor"
    ):
        cache.call(["no-such-command"])


def test_sha256_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256(file) == expected
    assert (tmp_path / "file.sha256").read_text().strip() == expected
    assert artifacts.sha256(file) == expected


@pytest.mark.parametrize(
    ("listed", "uri"),
    [
        ("bookworm main http://a/debian\nbookworm-updates main http://a/debian", "http://a/debian"),
        ("x main http://tool\nbookworm contrib http://b\nbookworm main http://c", "http://c"),
        ("trixie-security main http://s\ntrixie main http://d/debian", "http://d/debian"),
    ],
)
def test_the_mirror_is_the_one_that_apt_is_configured_with(listed: str, uri: str) -> None:
    assert image.choose_mirror(listed) == uri


def test_a_machine_without_a_mirror_is_told_what_to_do() -> None:
    with pytest.raises(LabError, match="no source of Debian's component 'main'"):
        image.choose_mirror("stable contrib http://x")


def test_the_image_is_built_anew_when_its_recipe_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.recipe_hash()
    monkeypatch.setitem(image.FILES, "/etc/new", "text")
    assert image.recipe_hash() != before


def test_a_process_is_known_by_its_start_too() -> None:
    process = subprocess.Popen(["sleep", "100"])
    who = kernel.identity(process.pid)
    assert kernel.alive(who)
    assert not kernel.alive(f"{process.pid} 1")
    assert not kernel.wait_for_end(process.pid, 0)
    process.kill()
    assert kernel.wait_for_end(process.pid, 5)
    assert not kernel.alive(who)  # though its parent has not collected it yet
    process.wait()
