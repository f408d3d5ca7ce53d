"""The master serves the package from a git remote, with the settings that the README shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import environments
from tests.integration.conftest import REPOSITORY, Site, modules, started

README = REPOSITORY / "README.md"

#: What stands in the README for what is different everywhere.
REMOTE = "https://git.example.org/saltext-openhim.git"


def git(folder: Path, *arguments: str | Path) -> str:
    """What git prints."""
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Remote:
    """A bare repository that holds what is in the working tree now, on the branch ``main``."""

    def __init__(self, folder: Path):
        self.path = folder / "saltext-openhim.git"
        self.work = folder / "work"
        listed = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            source, target = REPOSITORY / name, self.work / name
            if source.is_symlink() or source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        git(folder, "init", "--quiet", "--initial-branch", "main", self.work)
        git(self.work, "add", "--all")
        author = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        git(self.work, *author, "commit", "--quiet", "--message", "All of it")
        git(folder, "clone", "--quiet", "--bare", self.work, self.path)

    def files(self, folder: str, pattern: str = "*") -> dict[str, bytes]:
        """The files below a folder, relative to it, and what is in each; links are not followed."""
        return {
            str(path.relative_to(self.work / folder)): path.read_bytes()
            for path in (self.work / folder).rglob(pattern)
            if path.is_file()
        }


@pytest.fixture(scope="module")
def remote() -> Iterator[Remote]:
    """A git remote, in a folder that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="gitfs-"))
    try:
        yield Remote(folder)
    finally:
        shutil.rmtree(folder)


def settings_of_the_readme(remote: Remote) -> dict[str, Any]:
    """The master's settings as the README shows them, with this remote in place of the example."""
    (block,) = re.findall(r"```yaml\n(# /etc/salt/master.d/.*?)```", README.read_text(), re.DOTALL)
    assert REMOTE in block
    return yaml.safe_load(block.replace(REMOTE, f"file://{remote.path}"))


@pytest.fixture(scope="module")
def served(remote: Remote, event_listener: Any) -> Iterator[Site]:
    """A master that has nothing of the package but what gitfs serves, after both syncs."""
    settings = settings_of_the_readme(remote)
    empty = remote.path.with_name("empty")
    empty.mkdir()
    with started("gitfs", environments.plain(), [empty], event_listener, settings) as site:
        for synced in (site.run("saltutil.sync_all"), site.salt("saltutil.sync_all")):
            assert synced.returncode == 0, synced.data
        yield site


def test_the_state_tree_is_served_and_nothing_beside_it(served: Site, remote: Remote) -> None:
    """Above all not the pillar, which only the master may read."""
    listed = set(served.salt("cp.list_master").data)
    expected = set(remote.files("salt"))
    assert expected <= listed
    folders = ("_modules", "_states", "_runners", "_pillar", "_beacons", "_utils", "disasters")
    # gitfs lists the links between the folders as files, and does not follow them.
    assert {name for name in listed - expected if name.split("/")[0] not in folders} == set()


@pytest.mark.parametrize(
    ("daemon", "folder"),
    [
        ("north-db1", "_modules"),
        ("north-db1", "_states"),
        ("north-db1", "_beacons"),
        ("north-db1", "_utils"),
        ("gitfs-master", "_runners"),
        ("gitfs-master", "_pillar"),
        ("gitfs-master", "_utils"),
    ],
)
def test_sync_all_brings_every_file(served: Site, remote: Remote, daemon: str, folder: str) -> None:
    """Each folder of modules, and the library as a whole, as the remote has it."""
    kept = {
        str(path.relative_to(found)): path.read_bytes()
        for found in served.root.glob(f"**/{daemon}/**/extmods/{folder.removeprefix('_')}")
        for path in found.rglob("*.py")
    }
    expected = remote.files(folder, "*.py")
    assert expected
    assert kept == expected


def test_what_is_synced_loads(served: Site) -> None:
    """Modules, states and runner by their names, and the external pillar by its answer."""
    assert set(modules("_modules")) <= set(served.salt("sys.list_modules").data)
    assert set(modules("_states")) <= set(served.salt("sys.list_state_modules").data)
    assert served.run("openhim_dr.history", stack="example").data == []
    assert served.salt("openhim.pillar_check").data["stack"] == "example"


def test_the_disasters_are_served(served: Site, remote: Remote) -> None:
    """Each can be talked through, with what the master's file server has."""
    found = served.run("openhim_dr.disasters").data
    assert set(found) == {name.split("/")[0] for name in remote.files("disasters", "happens.yaml")}
    sheet = served.run("openhim_dr.tabletop", "example", "dead-minion").data
    assert sheet["happens"] == ["minion_stopped: host north-db1"]


def test_the_states_render(served: Site) -> None:
    """``state.show_sls openhim``: what a member of the replica set gets, without its secrets."""
    shown = served.salt("state.show_sls", "openhim")
    assert shown.returncode == 0, shown.data
    assert {"the pillar is allowed", "mongod of openhim runs", "the set openhim is healthy"} <= set(
        shown.data
    )
    assert not [name for name, value in served.secrets().items() if value in str(shown.data)]


def test_the_failover_is_found(served: Site) -> None:
    """Rendered with the runner's help; it refuses, because nothing is up and it is not confirmed."""
    request = {
        "to_site": "south",
        "confirm": "another",
        "declared_by": "a test",
        "reason": "a test",
    }
    done = served.run("state.orchestrate", "orch.failover", pillar={"failover": request})
    assert done.returncode != 0
    assert "Refused: confirm: found 'another'" in str(done.data)


def test_what_pip_installs_needs_only_the_state_tree(remote: Remote, event_listener: Any) -> None:
    """The wheel does not hold it: the first of the remotes serves it, and nothing is synced."""
    settings = settings_of_the_readme(remote)
    settings["gitfs_remotes"] = settings["gitfs_remotes"][:1]
    with tempfile.TemporaryDirectory(prefix="installed-") as folder:
        environment, empty = Path(folder) / "environment", Path(folder) / "empty"
        environments.install(environment)
        assert not list(environment.rglob("checked.sls"))
        empty.mkdir()
        with started("wheel", environment, [empty], event_listener, settings) as site:
            assert set(site.salt("cp.list_master").data) >= set(remote.files("salt"))
            synced = site.salt("saltutil.sync_all")
            assert synced.returncode == 0
            assert not any(synced.data.values()), synced.data
            shown = site.salt("state.show_sls", "openhim")
            assert shown.returncode == 0, shown.data
            assert "the set openhim is healthy" in shown.data
