"""Bare hosts are given minions by salt-cloud; mocked: salt-cloud, and who answers."""

import multiprocessing
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from saltext.openhim import bare_hosts
from saltext.openhim.errors import OpenHIMError

SCRIPT = Path(__file__).parents[2] / "salt" / "cloud" / "deploy.sh"
HOSTS = {"west-db1": "10.20.0.51", "west-core": "10.20.0.52"}


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """What salt-cloud does with a host, and who has a minion then."""
    meeting = multiprocessing.Barrier(len(HOSTS))
    failing, missed = set(), set()

    class Client:
        """As salt-cloud's, which makes its cache and ends when somebody else has just done it."""

        opts = {"profiles": {"openhim": {"keep_tmp": True}}}  # noqa: RUF012

        def __init__(self, path):
            assert path == "/etc/salt/cloud"
            if not (tmp_path / "cache").exists():
                time.sleep(0.2)
                (tmp_path / "cache").mkdir()

        def profile(self, profile, names, vm_overrides, keep_tmp):
            assert keep_tmp
            (host,) = names
            if not (tmp_path / f"{host} was tried").exists():
                (tmp_path / f"{host} was tried").touch()
                meeting.wait(20)
                if host in missed:
                    return {host: {"Error": "Command 'ssh' failed. Exit code: None"}}
            if host in failing:
                return {host: {"Error": f"no way to {vm_overrides[host]['ssh_host']}"}}
            (tmp_path / host).touch()
            return {host: {"deployed": True}}

    there = lambda opts, hosts: {host for host in hosts if (tmp_path / host).exists()}  # noqa: E731
    monkeypatch.setattr("salt.cloud.CloudClient", Client)
    monkeypatch.setattr("saltext.openhim.fleet.present", there)
    monkeypatch.setattr("saltext.openhim.fleet.ask", lambda *_, **__: {})
    return failing, missed


def reach():
    return bare_hosts.reach({"conf_file": "/etc/salt/master"}, HOSTS, "openhim")


def test_all_hosts_are_given_their_minions_at_the_same_time(cloud):
    assert reach() == dict.fromkeys(HOSTS, "was given a minion")
    assert reach() == dict.fromkeys(HOSTS, "has a minion")


def test_every_host_that_failed_is_named_after_the_others_had_their_turn(cloud, tmp_path):
    failing, _ = cloud
    failing.add("west-db1")
    with pytest.raises(OpenHIMError, match=r"west-db1 \(10.20.0.51\).*no way to 10.20.0.51"):
        reach()
    assert (tmp_path / "west-core").exists()


def test_a_command_whose_end_salt_cloud_missed_is_run_again(cloud):
    _, missed = cloud
    missed.add("west-core")
    assert reach() == dict.fromkeys(HOSTS, "was given a minion")


def test_a_configuration_that_salt_cloud_does_not_take_is_told_once(cloud, monkeypatch):
    def ended(path):
        raise SystemExit(17)

    monkeypatch.setattr("salt.cloud.CloudClient", ended)
    with pytest.raises(
        OpenHIMError, match=r"does not start with /etc/salt/cloud .*--list-profiles"
    ):
        reach()


def test_a_bare_host_keeps_no_key_of_its_minion_when_its_script_fails(tmp_path):
    folder = tmp_path / ".saltcloud-1db2a3f4"
    folder.mkdir()
    shutil.copy(SCRIPT, folder / "deploy.sh")
    (folder / "minion.pem").write_text("a key")
    tools = tmp_path / "tools"  # nothing else, so that it does nothing to the host of the tests
    tools.mkdir()
    for name, program in {"dirname": "dirname", "rm": "rm", "python3": "false"}.items():
        (tools / name).symlink_to(shutil.which(program))
    done = subprocess.run(
        ["/bin/sh", folder / "deploy.sh"], env={"PATH": str(tools)}, capture_output=True
    )
    assert done.returncode
    assert not folder.exists()
