"""Two sites and a third place with a witness: the real programs, in networks and on disks of their
own, with short leases."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from saltext.openhim import settings
from saltext.openhim.lease import agent, archive, book, host, table

from tests.authority import Authority, pem
from tests.functional.network import switched

ADDRESSES = {
    "north-db": "10.98.1.11",
    "north-core": "10.98.1.21",
    "south-core": "10.98.2.21",
    "south-db": "10.98.2.11",
    "west": "10.98.0.10",
    "backup": "10.98.0.31",
    "clinic": "10.98.9.9",
}
ROLES = {"db": ["mongodb"], "core": ["core"], "west": ["master"], "backup": ["backup"]}
SECONDS, RENEW_EVERY, MAX_SKEW = 3.0, 0.5, 0.5

MONGODB, ROUTER = 27017, 5001
RECORD = "/var/lib/openhim-recovery/test.json"

#: What a host has on its own disk.
_PLACES = (
    "/etc/openhim-lease",
    "/etc/openhim-tls",
    "/run/saltext-openhim",
    "/var/lib/openhim-recovery",
    "/var/lib/openhim-witness",
    "/var/lib/saltext-openhim",
)

#: Runs a program on a host's own disk. The folders may not be there on the machine, so something
#: is laid over theirs.
_ON_ITS_DISK = f"""\
set -e
mount --make-rprivate /
layers=$(mktemp -d "$0/layers.XXXXXX")
for top in etc run var/lib; do
    mkdir -p "$layers/$top/upper" "$layers/$top/work"
    mount -t overlay overlay /$top \
        -o lowerdir=/$top,upperdir="$layers/$top/upper",workdir="$layers/$top/work"
done
for place in {" ".join(_PLACES)}; do
    mkdir -p $place
    mount --bind "$0$place" $place
done
exec "$@"
"""


def pillar(seconds):
    hosts = {
        name: {"site": name.split("-")[0], "address": address, "roles": ROLES[name.split("-")[-1]]}
        for name, address in ADDRESSES.items()
        if name != "clinic"
    }
    hosts["backup"]["site"] = "west"
    return {
        "openhim": {
            "stack": "test",
            "active_site": "north",
            "sites": {"north": {}, "south": {}, "west": {}},
            "hosts": hosts,
            "mongodb": {
                "replica_sets": {"openhim": {"members": {"north-db": {}, "south-db": {}}}},
                "databases": {"main": {"name": "openhim", "replica_set": "openhim"}},
            },
            "core": {"ports": {"api": 8080, "http": ROUTER, "https": 5000}},
            "certificates": {"method": "pillar"},
            "lease": {
                "enabled": True,
                "seconds": seconds,
                "renew_every_seconds": RENEW_EVERY,
                "max_skew_seconds": MAX_SKEW,
            },
        }
    }


def epoch(number, active_site, lost=(), **values):
    """An epoch, as the recovery record holds it."""
    return {
        "number": number,
        "id": f"epoch-{number}",
        "parent": f"epoch-{number - 1}" if number > 1 else None,
        "kind": "failover",
        "stack": "test",
        "active_site": active_site,
        "profile": "production",
        "lost_sites": list(lost),
        "declared_by": "Ada",
        "reason": "fire",
        "declared_at": "2026-01-31T12:00:00+00:00",
        "witnesses": ["west"],
        **values,
    }


def until(condition, seconds=60.0):
    """Waits until a condition holds; its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {condition}"
        time.sleep(0.02)
    return found


@dataclass
class Place:
    """One host of the test. disk: the folder with what it has written."""

    name: str
    disk: Path
    network: object
    program: Path

    def __post_init__(self):
        self._running = []
        for place in _PLACES:
            self.path(place).mkdir(parents=True)

    def path(self, path):
        """Where a file of the host is on this machine."""
        return Path(f"{self.disk}{path}")

    def write(self, path, content):
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.new")
        partial.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        partial.replace(target)

    def start(self, program, clock=None):
        """The agent or the witness, as its unit starts it.

        clock: a file with the seconds that this program's time of day is ahead of the machine's.
        """
        config = host.HOLDER_CONFIG if program == "agent" else host.WITNESS_CONFIG
        log = (self.disk / f"{program}.log").open("a")
        inside = ["ip", "netns", "exec", self.network.namespace(self.name), "unshare", "--mount"]
        inside += ["bash", "-c", _ON_ITS_DISK, str(self.disk)]
        process = subprocess.Popen(
            [*inside, *_python(clock), str(self.program), program, config],
            env={"PATH": os.environ["PATH"], "TZ": "UTC"},
            stdout=log,
            stderr=log,
        )
        log.close()
        self._running.append(process)
        return process

    def end(self):
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self, program):
        return (self.disk / f"{program}.log").read_text()

    def status(self):
        """What the agent of this host found last."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads(self.path(agent.STATUS).read_text())
        return {"state": None, "reasons": []}

    def state(self):
        return self.status()["state"]


#: libfaketime would do, but for clock_nanosleep(2), which fails under it when Python sleeps.
_ANOTHER_TIME = """\
import runpy, sys, time
real, ahead = time.time, sys.argv[1]
time.time = lambda: real() + float(open(ahead).read())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _python(clock):
    python = ["/usr/bin/python3", "-I"]
    return python if clock is None else [*python, "-c", _ANOTHER_TIME, str(clock)]


class Fleet:
    """All hosts, with the lease's files on them as the state tree writes them."""

    def __init__(self, network, folder, program):
        self.network = network
        self.authority = Authority()
        self.places = {}
        for name in ADDRESSES:
            place = self.places[name] = Place(name, folder / name, network, program)
            if name == "clinic":
                continue
            certificate, key = self.authority.issue([name, ADDRESSES[name]])
            place.write("/etc/openhim-tls/ca.crt", pem(self.authority.certificate))
            place.write("/etc/openhim-tls/host.crt", certificate)
            place.write("/etc/openhim-tls/host.key", key)
        self.configure()

    def __getitem__(self, name):
        return self.places[name]

    def configure(self, seconds=SECONDS):
        """Writes what the programs are told, for leases of so many seconds."""
        self.stack = settings.from_pillar(pillar(seconds))
        for name, place in self.places.items():
            files = host.wanted(self.stack, name, RECORD) if name != "clinic" else {}
            for path, content in files.items():
                if path.startswith("/etc/openhim-lease"):
                    place.write(path, content)

    def declare(self, *epochs):
        """The recovery record on the witness, as the master writes it."""
        self["west"].write(RECORD, list(epochs))

    def witness(self, fresh=False):
        """Starts the witness; without its first pause, unless it is what the test is about."""
        if not fresh and not self["west"].path(book.FILE).exists():
            self["west"].write(book.FILE, {"boot": book.boot(), "given": []})
        return self["west"].start("witness")

    def admits(self, name):
        """Whether the kernel of a host has a lease that has not run out."""
        return "expires" in self.network.nft(name, "list", "table", "inet", table.TABLE)

    def dropped(self, name):
        """How many packets of clients a host has dropped for want of a lease."""
        listed = self.network.nft(name, "list", "chain", "inet", table.TABLE, "lease")
        return int(re.search(r"counter packets (\d+)", listed)[1])

    def granted(self):
        with contextlib.suppress(FileNotFoundError):
            return json.loads(self["west"].path(book.FILE).read_text())["given"]
        return []

    def reaches(self, source, target, port):
        return self.network.connects(source, ADDRESSES[target], port)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The file with both programs; the machine's own place for it is not touched."""
    path = tmp_path_factory.mktemp("program") / "lease.pyz"
    path.write_bytes(archive.content())
    return path


@pytest.fixture
def fleet(program, tmp_path):
    with switched(ADDRESSES) as network:
        made = Fleet(network, tmp_path, program)
        try:
            yield made
        finally:
            for place in made.places.values():
                place.end()


class Caller(threading.Thread):
    """A client with one connection, which says something all the time, and when it was answered."""

    def __init__(self, network, source, target, port):
        super().__init__(daemon=True)
        self.server, self.client = None, None
        self._stop_it = threading.Event()
        client, server = network.conversation(source, target, ADDRESSES[target], port)
        self.client, self.server = client, server
        self.answered = []
        threading.Thread(target=self._echo, daemon=True).start()
        self.start()

    def _echo(self):
        with contextlib.suppress(OSError):
            while data := self.server.recv(1):
                self.server.sendall(data)

    def run(self):
        self.client.settimeout(60)
        while not self._stop_it.is_set():
            try:
                self.client.sendall(b"x")
                self.client.recv(1)
            except OSError:
                return
            self.answered.append(time.monotonic())
            time.sleep(0.01)

    def is_heard(self):
        """Whether it is answered, by now at the latest."""
        before = len(self.answered)
        end = time.monotonic() + 1.0
        while len(self.answered) == before and time.monotonic() < end:
            time.sleep(0.01)
        return len(self.answered) > before

    def end(self):
        self._stop_it.set()
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def call(fleet):
    callers = []

    def made(source, target, port):
        callers.append(Caller(fleet.network, source, target, port))
        return callers[-1]

    yield made
    for caller in callers:
        caller.end()


def freeze(process):
    process.send_signal(signal.SIGSTOP)


def thaw(process):
    process.send_signal(signal.SIGCONT)
