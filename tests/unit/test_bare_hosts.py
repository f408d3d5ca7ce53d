"""Bare hosts are given minions by salt-cloud; mocked: salt-cloud, and who answers."""

import multiprocessing

import pytest
from saltext.openhim import bare_hosts
from saltext.openhim.errors import OpenHIMError

HOSTS = {"west-db1": "10.20.0.51", "west-core": "10.20.0.52"}


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """What salt-cloud does with a host, and who has a minion then."""
    meeting = multiprocessing.Barrier(len(HOSTS))
    failing = set()

    class Client:
        def __init__(self, path):
            assert path == "/etc/salt/cloud"

        def profile(self, profile, names, vm_overrides):
            (host,) = names
            meeting.wait(20)
            if host in failing:
                return {host: {"Error": f"no way to {vm_overrides[host]['ssh_host']}"}}
            (tmp_path / host).touch()
            return {host: {"deployed": True}}

    there = lambda opts, hosts: {host for host in hosts if (tmp_path / host).exists()}  # noqa: E731
    monkeypatch.setattr("salt.cloud.CloudClient", Client)
    monkeypatch.setattr("saltext.openhim.fleet.present", there)
    monkeypatch.setattr("saltext.openhim.fleet.ask", lambda *_, **__: {})
    return failing


def reach():
    return bare_hosts.reach({"conf_file": "/etc/salt/master"}, HOSTS, "openhim")


def test_all_hosts_are_given_their_minions_at_the_same_time(cloud):
    assert reach() == dict.fromkeys(HOSTS, "was given a minion")
    assert reach() == dict.fromkeys(HOSTS, "has a minion")


def test_every_host_that_failed_is_named_after_the_others_had_their_turn(cloud, tmp_path):
    cloud.add("west-db1")
    with pytest.raises(OpenHIMError, match=r"west-db1 \(10.20.0.51\).*no way to 10.20.0.51"):
        reach()
    assert (tmp_path / "west-core").exists()
