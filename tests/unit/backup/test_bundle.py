"""What a start bundle holds, and what its script does before it touches anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.openhim import settings
from saltext.openhim.backup import bundle
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.errors import OpenHIMError

from tests.unit.test_schema import EXAMPLE


@pytest.fixture
def master(tmp_path: Path) -> dict[str, Any]:
    """The configuration of a master whose folders are all there."""
    folders = ("etc/salt/pki/master", "srv/salt", "srv/pillar", "var/lib/record", "srv/library")
    for name in (*folders, "var/cache"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/salt/master").write_text("{}")
    (tmp_path / "etc/salt/pki/master/master.pem").write_text("a key")
    return {
        "conf_file": str(tmp_path / "etc/salt/master"),
        "pki_dir": str(tmp_path / "etc/salt/pki/master"),
        "file_roots": {"base": [str(tmp_path / "srv/salt"), str(tmp_path / "srv/nothing")]},
        "pillar_roots": {"base": [str(tmp_path / "srv/pillar")]},
        "ext_pillar": [{"openhim_recovery": str(tmp_path / "var/lib/record")}],
        "cachedir": str(tmp_path / "var/cache"),
        "gpg_keydir": None,
    }


@pytest.fixture
def backups() -> Backups:
    """The example's backups, as the master's host sees them."""
    pillar = yaml.safe_load(EXAMPLE.read_text())
    return Backups(settings.from_pillar(pillar), "master", pillar)


def relative(paths: list[Path], root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in paths if path.is_relative_to(root)]


def test_it_holds_what_the_masters_configuration_names(
    master: dict[str, Any], tmp_path: Path
) -> None:
    """Each folder once: the keys are inside the configuration's; and no folder that is not there."""
    found = relative(bundle.contents(master), tmp_path)
    assert found == ["etc/salt", "srv/pillar", "srv/salt", "var/lib/record"]


def test_it_holds_what_links_point_to(master: dict[str, Any], tmp_path: Path) -> None:
    """The state tree of this package links to the folders beside it."""
    (tmp_path / "srv/salt/_modules").symlink_to("../library")
    (tmp_path / "srv/library/deeper").symlink_to(tmp_path / "var/deeper")
    (tmp_path / "var/deeper").mkdir()
    (tmp_path / "srv/salt/nowhere").symlink_to("/does/not/exist")
    found = relative(bundle.contents(master), tmp_path)
    assert {"srv/library", "var/deeper"} <= set(found)


def test_clones_of_a_git_server_are_kept_as_well(master: dict[str, Any], tmp_path: Path) -> None:
    """The server may be lost in the same disaster."""
    (tmp_path / "var/cache/gitfs").mkdir()
    assert "var/cache/gitfs" in relative(bundle.contents(master), tmp_path)


def test_without_a_masters_key_or_with_a_path_that_is_missing_it_is_refused(
    master: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(OpenHIMError, match=r"paths: /not/there is not on this host"):
        bundle.contents(master, ["/not/there"])
    (tmp_path / "etc/salt/pki/master/master.pem").unlink()
    with pytest.raises(OpenHIMError, match=r"master\.pem is not there"):
        bundle.contents(master)


def started(script: str, tmp_path: Path, version: str = "salt-master 3008.1", **environment: str):
    """Run ``start.sh`` with a Salt that only tells its version and a restic that does nothing."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in (
        ("salt-master", f"echo '{version} (Argon)'"),
        ("restic", f"touch {tmp_path}/restored"),
        ("id", f"echo {environment.pop('uid', '0')}"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    known = {"RESTIC_REPOSITORY": "/nowhere", "RESTIC_PASSWORD_FILE": "/nowhere"}
    path = f"{programs}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-s"],
        input=script,
        env={**known, "PATH": path, "START_MASTER": "false", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"uid": "1000"}, "this is not root"),
        (
            {"RESTIC_REPOSITORY": ""},
            "RESTIC_REPOSITORY_FILE is not set; expected a file that holds the bundle's",
        ),
        ({"RESTIC_PASSWORD_FILE": ""}, "RESTIC_PASSWORD_FILE is not set"),
        ({"version": "salt-master 3006.9"}, "Salt 3006.9 was found; expected 3008.1"),
    ],
)
def test_the_script_refuses_before_it_restores(
    backups: Backups, master: dict[str, Any], tmp_path: Path, change: dict[str, str], said: str
) -> None:
    """In words that say what to do."""
    (tmp_path / "etc/salt/pki/master/master.pem").unlink()
    done = started(bundle.script(backups, master, "3008.1", []), tmp_path, **change)
    assert done.returncode == 2
    assert f"Refused: {said}" in done.stderr
    assert not (tmp_path / "restored").exists()


def test_the_script_never_overwrites_a_master(
    backups: Backups, master: dict[str, Any], tmp_path: Path
) -> None:
    """Whose key is another one's, minions would not trust."""
    done = started(bundle.script(backups, master, "3008.1", []), tmp_path)
    assert done.returncode == 2
    assert "this machine has a Salt master already" in done.stderr
    assert not (tmp_path / "restored").exists()


def test_a_restore_that_brought_no_key_is_no_success(
    backups: Backups, master: dict[str, Any], tmp_path: Path
) -> None:
    """The restic of this test restores nothing."""
    (tmp_path / "etc/salt/pki/master/master.pem").unlink()
    done = started(bundle.script(backups, master, "3008.1", []), tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "restored").exists()
    assert "the files were restored, and" in done.stderr


def test_files_go_to_the_user_of_the_same_name(
    backups: Backups, master: dict[str, Any], tmp_path: Path
) -> None:
    """On another machine, the same user has another number."""
    folder = tmp_path / "srv/pillar"
    os.chown(folder, 1, 1)  # daemon, on every Debian
    text = bundle.script(backups, master, "3008.1", [folder])
    assert f"find {folder} -uid 1 -exec chown -h daemon {{}} +" in text
    assert f"find {folder} -gid 1 -exec chgrp -h daemon {{}} +" in text
