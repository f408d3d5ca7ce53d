"""Three hosts on one switch: network namespaces with real interfaces, connections and nftables.

Each namespace has a thread of its own that lives in it, so sockets of the test are sockets of that
host, and no process is left over.
"""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.functional.throwaway import Minion

PREFIX = "openhim-fw-"
ADDRESSES = {"core": "10.99.0.21", "db": "10.99.0.11", "stranger": "10.99.0.99"}
MASTER = "10.99.0.10"
CLONE_NEWNET = 0x40000000
#: A dropped connection says nothing; on a veth pair an accepted one is there in a millisecond.
SILENCE = 0.5


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _remove_leftovers():
    """What a test run that was killed has left."""
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).split("-")[0]
        if not Path("/proc", pid).exists() or pid == str(os.getpid()):
            _ip("netns", "del", path.name)


class Network:
    """The hosts of the test by name, and a switch between them."""

    def __init__(self):
        self._prefix = f"{PREFIX}{os.getpid()}-"
        self._threads = {}
        self._sockets = []

    def start(self):
        _remove_leftovers()
        switch = self.namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for name, address in {**ADDRESSES, "master": MASTER}.items():
            host = self.namespace(name)
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
            port = f"to-{name}"
            _ip(*f"-n {host} link add eth0 type veth peer name {port} netns {switch}".split())
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", port, "master", "br0", "up")

    def stop(self):
        for opened in self._sockets:
            opened.close()
        for thread in self._threads.values():
            thread.shutdown()
        for path in Path("/run/netns").glob(f"{self._prefix}*"):
            _ip("netns", "del", path.name)

    def namespace(self, name):
        return self._prefix + name

    def listen(self, name, *ports, address="0.0.0.0"):  # noqa: S104 (a namespace of the test)
        def opened(port):
            return socket.create_server((address, port), backlog=64, reuse_port=False)

        for port in ports:
            self._sockets.append(self._within(name, opened, port))

    def connects(self, source, address, port):
        """Whether a TCP connection from one host to an address is made."""

        def attempt():
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address, port), timeout=SILENCE),
            ):
                return True
            return False

        return self._within(source, attempt)

    def conversation(self, source, target, address, port):
        """An established TCP connection from one host to a port of another: both of its ends."""
        server = self._within(target, socket.create_server, (address, port))
        client = self._within(source, socket.create_connection, (address, port), SILENCE)
        self._sockets += [server, client, server.accept()[0]]
        return client, self._sockets[-1]

    def connects_as(self, uid, source, address, port):
        """The same as :meth:`connects`, for a program of another user."""
        script = f"exec 3<>/dev/tcp/{address}/{port}"
        command = ["ip", "netns", "exec", self.namespace(source)]
        command += ["setpriv", f"--reuid={uid}", "--clear-groups"]
        command += ["timeout", str(SILENCE), "bash", "-c", script]
        return subprocess.run(command, capture_output=True).returncode == 0

    def nft(self, name, *arguments, text=None):
        command = ["ip", "netns", "exec", self.namespace(name), "nft", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        return done.stdout

    def _within(self, name, function, *args):
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(
                1, initializer=_enter, initargs=(f"/run/netns/{self.namespace(name)}",)
            )
        return self._threads[name].submit(function, *args).result()


def _enter(path):
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open() as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


@pytest.fixture
def network():
    missing = [program for program in ("ip", "nft", "mount") if not shutil.which(program)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and the programs ip and nft (missing: {missing or 'root'})")
    network = Network()
    try:
        network.start()
        yield network
    finally:
        network.stop()


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
