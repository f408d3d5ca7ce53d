"""Hosts on one switch: network namespaces with real interfaces, connections and nftables.

Each namespace has a thread of its own that lives in it, so sockets of the test are sockets of that
host, and no process is left over.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PREFIX = "openhim-fw-"
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
    """The hosts of the test, and a switch between them. addresses: by the hosts' names."""

    def __init__(self, addresses):
        self._addresses = addresses
        self._prefix = f"{PREFIX}{os.getpid()}-"
        self._threads = {}
        self._sockets = []

    def start(self):
        _remove_leftovers()
        switch = self.namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        for name, address in self._addresses.items():
            host = self.namespace(name)
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
            port = f"to-{name}"
            _ip(*f"-n {host} link add eth0 type veth peer name {port} netns {switch}".split())
            _ip("-n", host, "address", "add", f"{address}/16", "dev", "eth0")
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
            self._sockets.append(self.within(name, opened, port))

    def connects(self, source, address, port):
        """Whether a TCP connection from one host to an address is made."""

        def attempt():
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address, port), timeout=SILENCE),
            ):
                return True
            return False

        return self.within(source, attempt)

    def conversation(self, source, target, address, port):
        """An established TCP connection from one host to a port of another: both of its ends."""
        server = self.within(target, socket.create_server, (address, port))
        client = self.within(source, socket.create_connection, (address, port), SILENCE)
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

    def within(self, name, function, *args):
        """What a function returns that is called on a host."""
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


@contextlib.contextmanager
def switched(addresses):
    """A started network; skips where this machine cannot have one."""
    missing = [program for program in ("ip", "nft", "mount") if not shutil.which(program)]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and the programs ip and nft (missing: {missing or 'root'})")
    network = Network(addresses)
    try:
        network.start()
        yield network
    finally:
        network.stop()
