"""Three hosts on one switch, and the minions on them."""

import json

import pytest

from tests.functional.network import switched
from tests.functional.throwaway import Minion

ADDRESSES = {"core": "10.99.0.21", "db": "10.99.0.11", "stranger": "10.99.0.99"}
MASTER = "10.99.0.10"


@pytest.fixture
def network():
    with switched({**ADDRESSES, "master": MASTER}) as network:
        yield network


class FirewalledMinion(Minion):
    """A minion in one host's network, and what OpenHIM answers it."""

    def __init__(self, network, name, pillar, folder):
        super().__init__(name, pillar, folder, f"/run/netns/{network.namespace(name)}")
        self._answer = folder / "tcp_ports.json"
        self._asked = folder / "asked"
        self.channels([])
        # Stands for OpenHIM's answer only: asking a real one is tested with OpenHIM.
        (folder / "modules" / "openhim.py").write_text(
            "import json, pathlib\n"
            "from salt.exceptions import CommandExecutionError\n"
            "def tcp_ports(**asked):\n"
            f"    with open({str(self._asked)!r}, 'a') as file:\n"
            "        print(json.dumps(asked), file=file)\n"
            f"    answer = json.loads(pathlib.Path({str(self._answer)!r}).read_text())\n"
            "    if 'error' in answer:\n"
            "        raise CommandExecutionError(answer['error'])\n"
            "    return answer\n"
        )

    def channels(self, ports, source="live"):
        self._answer.write_text(json.dumps({"ports": ports, "source": source}))

    def asked(self):
        """With what OpenHIM's module was called, each time."""
        return [json.loads(line) for line in self._asked.read_text().splitlines()]

    def openhim_is_down(self):
        self._answer.write_text(json.dumps({"error": "connection refused"}))


@pytest.fixture
def pillar():
    hosts = {
        name: {"site": "north", "address": address, "roles": roles}
        for (name, address), roles in zip(
            ADDRESSES.items(), (["core"], ["mongodb"], []), strict=True
        )
    }
    return {
        "openhim": {
            "stack": "test",
            "active_site": "north",
            "sites": {"north": {}},
            "hosts": hosts,
            "mongodb": {
                "replica_sets": {"openhim": {"port": 27017, "members": {"db": {}}}},
                "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
            },
            "core": {"ports": {"api": 8080, "http": 5001, "https": 5000}},
            "firewall": {"ssh_from": ["10.99.0.10"], "salt_from": ["10.99.0.0/24"]},
        }
    }


@pytest.fixture
def minion(network, pillar, tmp_path):
    """A factory: the minion of one host of the network."""

    def make(name):
        return FirewalledMinion(network, name, pillar, tmp_path / name)

    return make
