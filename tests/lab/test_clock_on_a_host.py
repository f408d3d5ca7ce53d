"""chrony on hosts that may not set their clock: one is the stack's clock, the other follows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import HostSpec, Lab

REPOSITORY = Path(__file__).resolve().parents[2]
PILLAR = {
    "openhim": {
        "stack": "test",
        "active_site": "north",
        "sites": {"hq": {}, "north": {}},
        "hosts": {
            "master": {"site": "hq", "address": "10.20.0.10", "roles": ["master"]},
            "north-a": {"site": "north", "address": "10.20.1.11", "roles": []},
        },
        "mongodb": {"replica_sets": {}, "databases": {}},
        "clock": {"servers": ["10.20.0.10"]},
    }
}
CALL = """\
import json, sys
from saltext.openhim import clock, files, settings
stack, host = settings.from_pillar(json.loads(sys.argv[1])), sys.argv[2]
if sys.argv[3] == "write":
    for path, text in clock.wanted_files(stack, host).items():
        files.write(path, text.encode(), mode=0o644)
else:
    found = clock.wait(int(sys.argv[3]), 500, clock.serves(stack, host), None)
    print(json.dumps(found.__dict__))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A clock and one host that follows it."""
    hosts = [HostSpec("master", "hq", "10.20.0.10"), HostSpec("north-a", "north", "10.20.1.11")]
    with Lab.start(hosts=hosts, share={"/srv/library": REPOSITORY / "_utils"}) as running:
        # The lab has a drop-in of its own; ours must do without it.
        for name in ("master", "north-a"):
            host = running.host(name)
            host.run(["rm", "/etc/systemd/system/chrony.service.d/lab.conf"])
            host.write("/etc/default/chrony", 'DAEMON_OPTS="-F 1"\n')
            call(running, name, "write")
            host.run(["systemctl", "daemon-reload"])
            host.run(["systemctl", "restart", "chrony"])
        yield running


def call(lab: Lab, host: str, what: str) -> dict:
    """What our library finds on a host, or nothing when it writes."""
    command = ["env", "PYTHONPATH=/srv/library", "/opt/salt/bin/python3", "-c", CALL]
    said = lab.host(host).run([*command, json.dumps(PILLAR), host, what]).stdout
    return json.loads(said) if said else {}


def test_the_stacks_clock_follows_itself(lab: Lab) -> None:
    assert call(lab, "master", "20")["status"] == "synchronised"


def test_a_host_follows_the_stacks_clock(lab: Lab) -> None:
    found = call(lab, "north-a", "30")
    assert found["status"] == "synchronised", found
    assert found["source"] in ("10.20.0.10", "master")
    assert abs(found["offset_ms"]) < 100


def test_a_host_whose_clock_server_is_dead_is_told(lab: Lab) -> None:
    lab.host("master").run(["systemctl", "stop", "chrony"])
    lab.host("north-a").run(["systemctl", "restart", "chrony"])
    found = call(lab, "north-a", "3")
    assert found["status"] == "no source"
    assert "10.20.0.10" in found["reason"]
    lab.host("north-a").run(["systemctl", "stop", "chrony"])
    assert call(lab, "north-a", "0")["status"] == "not running"
