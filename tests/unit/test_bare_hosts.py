"""Bare hosts are given minions by salt-cloud; mocked: salt-cloud, and who answers."""

import multiprocessing
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import salt.cloud
from salt.exceptions import SaltCloudSystemExit
from saltext.openhim import bare_hosts
from saltext.openhim.errors import OpenHIMError

SCRIPT = Path(__file__).parents[2] / "salt" / "cloud" / "deploy.sh"
HOSTS = {"west-db1": "10.20.0.51", "west-core": "10.20.0.52"}


class Cloud:
    """As salt-cloud's client, which makes its cache and ends when somebody else has just done it."""

    def __init__(self, folder):
        self.folder = folder
        self.opts = {"profiles": {"openhim": {"keep_tmp": True}}}
        self.meeting = multiprocessing.Barrier(len(HOSTS))
        #: Hosts that cannot be reached, and those of which it misses how a command ended: before
        #: the minion was there, and as the last thing.
        self.failing, self.missed, self.missed_last = set(), set(), set()

    def __call__(self, path):
        assert path == "/etc/salt/cloud"
        if not (self.folder / "cache").exists():
            time.sleep(0.2)  # the gap in which another one makes it, wide enough to be seen
            (self.folder / "cache").mkdir()
        return self

    def profile(self, profile, names, vm_overrides, keep_tmp):
        (host,) = names
        # How overrides become a host's own differs from one release of Salt to the next.
        address = salt.cloud.Cloud.vm_config(host, {}, {}, {}, vm_overrides)["ssh_host"]
        assert address == HOSTS[host]
        (self.folder / f"keep_tmp was {keep_tmp}").touch()
        if (self.folder / host).exists():
            return {"Error": f"{host} already exists under openhim:saltify"}
        if not (self.folder / f"{host} was tried").exists():
            (self.folder / f"{host} was tried").touch()
            self.meeting.wait(20)
            if host in self.missed:
                raise SaltCloudSystemExit("Command 'ssh' failed. Exit code: None")
        if host in self.failing:
            raise SaltCloudSystemExit(f"no way to {address}")
        (self.folder / host).touch()
        if host in self.missed_last:
            return {host: {"Error": "Command 'ssh' failed. Exit code: None"}}
        return {host: {"deployed": True}}


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """What salt-cloud does with a host, and who has a minion then."""
    cloud = Cloud(tmp_path)
    there = lambda opts, hosts: {host for host in hosts if (tmp_path / host).exists()}  # noqa: E731
    monkeypatch.setattr("salt.cloud.CloudClient", cloud)
    monkeypatch.setattr("saltext.openhim.fleet.present", there)
    monkeypatch.setattr("saltext.openhim.fleet.ask", lambda *_, **__: {})
    return cloud


def reach():
    return bare_hosts.reach({"conf_file": "/etc/salt/master"}, HOSTS, "openhim")


def test_all_hosts_are_given_their_minions_at_the_same_time(cloud):
    assert reach() == dict.fromkeys(HOSTS, "was given a minion")
    assert reach() == dict.fromkeys(HOSTS, "has a minion")


@pytest.mark.parametrize(
    ("profile", "expected"), [({"keep_tmp": True}, True), ({"keep_tmp": False}, False), ({}, False)]
)
def test_the_profile_says_whether_the_script_tidies_up_itself(cloud, profile, expected):
    cloud.opts["profiles"]["openhim"] = profile
    reach()
    assert [path.name for path in cloud.folder.glob("keep_tmp was *")] == [
        f"keep_tmp was {expected}"
    ]


def test_every_host_that_failed_is_named_after_the_others_had_their_turn(cloud):
    cloud.failing.add("west-db1")
    with pytest.raises(OpenHIMError, match=r"west-db1 \(10.20.0.51\).*no way to 10.20.0.51"):
        reach()
    assert (cloud.folder / "west-core").exists()


def test_a_command_whose_end_salt_cloud_missed_is_run_again(cloud):
    cloud.missed.add("west-core")
    cloud.missed_last.add("west-db1")
    assert reach() == dict.fromkeys(HOSTS, "was given a minion")


def test_a_configuration_that_salt_cloud_does_not_take_is_told_once(cloud, monkeypatch):
    def ended(path):
        raise SystemExit(17)

    monkeypatch.setattr("salt.cloud.CloudClient", ended)
    with pytest.raises(
        OpenHIMError, match=r"does not start with /etc/salt/cloud .*--list-profiles"
    ):
        reach()


@pytest.mark.parametrize(("name", "left"), [(".saltcloud-1db2", []), ("own-1db2", ["deploy.sh"])])
def test_a_bare_host_keeps_no_key_of_its_minion_when_its_script_fails(tmp_path, name, left):
    folder = tmp_path / name
    folder.mkdir()
    # All that it writes to is in here, and its tools are these.
    text = SCRIPT.read_text()
    assert text.count("\nsalt=/opt/salt\n") == 1
    (folder / "deploy.sh").write_text(text.replace("salt=/opt", f"salt={tmp_path}"))
    (folder / "minion.pem").write_text("a key")
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, program in {"dirname": "dirname", "rm": "rm", "python3": "false"}.items():
        (tools / tool).symlink_to(shutil.which(program))
    done = subprocess.run(
        ["/bin/sh", folder / "deploy.sh"], env={"PATH": str(tools)}, capture_output=True
    )
    assert done.returncode
    assert [path.name for path in folder.glob("*")] == left
