"""A Salt master is lost with all that it had, and comes back from its start bundle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import environments
from tests.integration.conftest import REPOSITORY, Site, started

MASTER = "master"
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def site(event_listener: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master with a minion on its own host, and a state tree that can be lost."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("salt", "_beacons", "_modules", "_pillar", "_runners", "_states", "_utils"):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True)
    roots, plain = [tree / "salt"], environments.plain()
    with started("bundle", plain, roots, event_listener, host=MASTER) as site:
        site.tree = tree
        assert site.salt("saltutil.sync_all").returncode == 0
        assert site.run("saltutil.sync_all").returncode == 0
        yield site


@pytest.fixture(scope="module")
def store(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the bundle goes: a folder that is not lost with the master."""
    folder = tmp_path_factory.mktemp("store")

    def change(openhim: dict[str, Any]) -> None:
        openhim["backup"]["bundle"]["repositories"] = {"near": {"url": str(folder / "bundle")}}

    with site.changed_pillar(change):
        site.salt("saltutil.refresh_pillar", wait=True)
        yield folder / "bundle"


def stored(site: Site, test: bool = False) -> dict[str, Any]:
    """What the state answers."""
    done = site.salt(
        "state.single",
        "openhim_bundle.stored",
        "the start bundle is stored",
        config=site.master.config_file,
        test=test,
    )
    (only,) = done.data.values()
    return only


def test_a_preview_stores_nothing_and_a_second_run_neither(site: Site, store: Path) -> None:
    foreseen = stored(site, test=True)
    assert foreseen["result"] is None, foreseen
    assert set(foreseen["changes"]) == {"near"}
    assert not store.exists()
    done = stored(site)
    assert done["result"] is True, done
    assert done["changes"]["near"]["old"] is None
    for test in (True, False):
        again = stored(site, test=test)
        assert (again["result"], again["changes"]) == (True, {})
    (one,) = site.salt("openhim_bundle.list").data
    assert one["repository"] == "near"


def test_before_the_store_can_be_reached_a_preview_knows_nothing(site: Site, store: Path) -> None:
    """As on a new host, to which the highstate opens the way; a run says what is wrong."""

    def change(openhim: dict[str, Any]) -> None:
        away = {"near": {"url": "rest:http://127.0.0.1:1/bundle/"}}
        openhim["backup"]["bundle"]["repositories"] = away

    with site.changed_pillar(change):
        site.salt("saltutil.refresh_pillar", wait=True)
        foreseen = stored(site, test=True)
    site.salt("saltutil.refresh_pillar", wait=True)
    assert (foreseen["result"], foreseen["changes"]) == (None, {})
    assert "Not known yet" in foreseen["comment"]


def test_the_recovery_key_alone_opens_it(site: Site, store: Path) -> None:
    secrets = site.secrets()
    opening = {name for name, value in secrets.items() if restic(store, value, "snapshots")}
    assert opening == {"recovery_key"}


def test_a_host_without_a_master_is_told_so(site: Site, store: Path) -> None:
    done = site.salt("openhim_bundle.store", config="/nowhere/master")
    assert done.returncode != 0
    assert "config: /nowhere/master is not there" in done.data


def restic(store: Path, password: str, *command: str) -> bool:
    """Whether restic can do something with a password."""
    environment = {**os.environ, "RESTIC_PASSWORD": password, "RESTIC_REPOSITORY": str(store)}
    done = subprocess.run(
        ["restic", "--no-cache", "--no-lock", *command],
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


#: In the place of systemd: a process group of its own, which can be ended as a whole.
START_MASTER = """#!/bin/sh
setsid salt-master --config-dir {} </dev/null >/dev/null 2>&1 &
echo $! > {}
"""


def test_on_an_empty_machine_one_command_brings_the_master_back(
    site: Site, store: Path, tmp_path: Path
) -> None:
    """With the recovery key and the repository's URL; its minion trusts it as the same master."""
    (tmp_path / "bundle.url").write_text(str(store))
    (tmp_path / "recovery.key").write_text(site.secrets()["recovery_key"])
    configuration = Path(site.master.config_file).parent
    site.master.terminate()
    lose(site, tmp_path / "away")
    environment = {
        **os.environ,
        "PATH": f"{site.environment / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RESTIC_REPOSITORY_FILE": str(tmp_path / "bundle.url"),
        "RESTIC_PASSWORD_FILE": str(tmp_path / "recovery.key"),
        "START_MASTER": str(tmp_path / "start-master"),
    }
    (tmp_path / "start-master").write_text(START_MASTER.format(configuration, tmp_path / "pid"))
    (tmp_path / "start-master").chmod(0o700)
    command = f"restic dump latest {configuration}/openhim-start.sh | sh"
    try:
        done = subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "The master of example is back" in done.stderr
        again = subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
        )
        assert again.returncode == 2
        assert "has a Salt master already" in again.stderr
        assert answers(site), "its minion does not answer the master that came back"
    finally:
        if (tmp_path / "pid").exists():
            os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def lose(site: Site, away: Path) -> None:
    """Take away all that the master had; its minion is on another host, and keeps what it has."""
    away.mkdir()
    minion = Path(site.minion.config["root_dir"])
    of_the_master = Path(site.master.config["root_dir"])
    lost = [p for p in of_the_master.iterdir() if p != minion and p not in minion.parents]
    lost += [site.pillar, site.root / "secrets", site.tree]
    for number, path in enumerate(lost):
        path.rename(away / str(number))


def answers(site: Site) -> bool:
    """Whether the minion answers, as soon as it has found its master again."""
    command = ["salt", "--config-dir", Path(site.master.config_file).parent, "--timeout", "5"]
    command += ["--out", "json", MASTER, "test.ping"]
    path = f"{site.environment / 'bin'}:{os.environ['PATH']}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = subprocess.run(
            command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        if "true" in done.stdout:
            return True
    return False
