"""Salt and the artifacts on the lab's hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import HostSpec, Lab, LabError, SaltMaster, artifacts

STATE = """\
/etc/made:
  file.managed:
    - contents: {{ pillar["value"] }}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A master and two hosts that see the artifacts."""
    hosts = [
        HostSpec("master", "hq", "10.20.0.10"),
        HostSpec("north-a", "north", "10.20.1.11"),
        HostSpec("south-a", "south", "10.20.2.11"),
    ]
    share = {
        "/srv/apt": artifacts.mongodb_deb_repository(),
        "/srv/mongodb": artifacts.mongodb_archive().parent,
        "/srv/openhim": artifacts.openhim_release().parent,
    }
    with Lab.start(hosts=hosts, share=share) as running:
        yield running


@pytest.fixture(scope="module")
def salt(lab: Lab) -> SaltMaster:
    """A master whose minions all answer."""
    master = lab.host("master")
    master.write("/srv/salt/file.sls", STATE)
    master.write("/srv/salt/wrong.sls", "refused:\n  test.fail_without_changes: []\n")
    master.write("/srv/salt/orch.sls", "all:\n  salt.state:\n    - tgt: '*'\n    - sls: file\n")
    master.write("/srv/pillar/top.sls", "base:\n  '*': [values]\n")
    master.write("/srv/pillar/values.sls", "value: from the pillar\n")
    started = SaltMaster(lab, "master", config={"state_output": "changes"})
    started.start()
    return started


def test_every_minion_answers_with_its_exit_code(salt: SaltMaster) -> None:
    assert salt.salt("*", "test.ping") == dict.fromkeys(("master", "north-a", "south-a"), True)
    assert salt.retcodes == dict.fromkeys(("master", "north-a", "south-a"), 0)
    salt.salt(["north-a"], "state.apply", "wrong")
    assert salt.retcodes == {"north-a": 2}


def test_services_are_really_managed(salt: SaltMaster, lab: Lab) -> None:
    assert salt.salt("north-a", "service.start", "chrony") == {"north-a": True}
    assert lab.host("north-a").run(["pgrep", "-x", "chronyd"]).stdout.strip()


def test_an_orchestration_reports_what_it_did(salt: SaltMaster, lab: Lab) -> None:
    result = salt.run("state.orchestrate", "orch")
    assert salt.retcodes == {"run": 0}
    assert result["retcode"] == 0
    assert lab.host("south-a").read("/etc/made") == "from the pillar\n"


def test_a_host_alone_can_be_asked(salt: SaltMaster) -> None:
    assert salt.call("south-a", "grains.get", "id") == "south-a"


def test_a_dead_minion_is_missing_and_a_new_host_needs_a_new_key(
    salt: SaltMaster, lab: Lab
) -> None:
    lab.kill_site("south")
    with pytest.raises(LabError, match="no answer from south-a"):
        salt.salt("*", "test.ping", patience=2, alive=5)
    assert salt.missing == ["south-a"]
    host = lab.host("south-a")
    host.destroy()
    host.create(lab.hosts_file())
    host.boot()
    salt.delete_key("south-a")
    salt.start_minion("south-a")
    salt.wait_for(["south-a"])
    assert salt.salt("south-a", "file.file_exists", "/etc/made") == {"south-a": False}


def test_mongodb_installs_as_a_package(lab: Lab) -> None:
    host = lab.host("north-a")
    host.write("/etc/apt/sources.list.d/mongodb.list", "deb [trusted=yes] file:/srv/apt ./\n")
    host.run(["apt-get", "update", "-q"])
    host.run(["apt-get", "install", "-q", "-y", "mongodb-org-server=6.0.5"])
    assert "v6.0.5" in host.run(["/usr/bin/mongod", "--version"]).stdout


def test_mongodb_unpacks_from_its_archive(lab: Lab) -> None:
    archive = f"/srv/mongodb/{artifacts.mongodb_archive().name}"
    lab.host("master").run(["tar", "-xzf", archive, "-C", "/opt"])
    mongod = f"/opt/{artifacts.MONGODB_PLATFORM}/bin/mongod"
    assert "v6.0.5" in lab.host("master").run([mongod, "--version"]).stdout


def test_the_releases_drivers_load_on_a_hosts_node(lab: Lab) -> None:
    host = lab.host("north-a")
    archive = artifacts.openhim_release().name
    host.run(["tar", "-xzf", f"/srv/openhim/{archive}", "-C", "/opt"])
    folder = f"/opt/openhim-core-{artifacts.OPENHIM_VERSION}"
    script = "require('./preload.js'); console.log(require('mongoose').version)"
    command = ["sh", "-c", 'cd "$1" && exec node -e "$2"', "sh", folder, script]
    assert host.run(command).stdout.strip() == artifacts.OPENHIM_DRIVERS["mongoose"]
