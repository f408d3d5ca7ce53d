"""Real MongoDB servers and a real Salt loader for the functional tests.

``replica_set`` makes sets of mongods on free ports of this machine. A stack's hosts are all this
one (``name: localhost``), told apart by their ports; so every "host" has its own member, and a test
acts as any of them through ``loaders``.
"""

import contextlib
import copy
import os
import secrets as random_secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import salt.config
import salt.loader
from pymongo import MongoClient
from saltext.openhim.mongo import change, users
from saltext.openhim.mongo.connection import vantage

from tests import ports

REPOSITORY = Path(__file__).resolve().parents[2]
ELECTION_TIMEOUT_MS = 1500
#: Seconds after which what is sure to come is given up: many, for a busy machine is no failure.
PATIENCE = 180
#: Else each mongod takes 300 MB before it has a document: three files of a journal, in memory here.
SMALL_JOURNAL = "log=(file_max=2MB,prealloc=false)"


@pytest.fixture(scope="session")
def mongod_binary():
    """The path of a real mongod."""
    if configured := os.environ.get("MONGOD"):
        return Path(configured)
    from lab import artifacts

    return artifacts.mongod()


def eventually(condition, timeout=PATIENCE, what="it"):
    """The first true answer of a condition; the test fails when there is none in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.05)
    pytest.fail(f"{what} did not come true within {timeout} s")


@dataclass
class Mongod:
    """One mongod of a test: started, killed, frozen and started again."""

    binary: Path
    folder: Path
    set_name: str
    keyfile: str
    port: int = field(default_factory=ports.free)
    extra: list = field(default_factory=list)
    tls_ca: str | None = None
    process: subprocess.Popen | None = None

    @property
    def name(self):
        return f"localhost:{self.port}"

    def start(self):
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        keyfile = self.folder / "keyfile"
        if not keyfile.exists() and self.keyfile:
            keyfile.touch(mode=0o600)
            keyfile.write_text(self.keyfile)
        command = [self.binary, "--dbpath", data, "--port", self.port, "--bind_ip", "127.0.0.1"]
        command += ["--logpath", self.folder / "log", "--logappend", "--nounixsocket"]
        command += ["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        # A mongod that is told to stop gives drivers 15 s to notice it.
        command += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=500"]
        command += ["--wiredTigerEngineConfigString", SMALL_JOURNAL]
        command += ["--replSet", self.set_name] if self.set_name else []
        command += ["--keyFile", keyfile] if self.keyfile else []
        self.process = subprocess.Popen(
            [str(word) for word in [*command, *self.extra]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def wait(self):
        def answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True

        eventually(answers, what=f"mongod at {self.port}")
        return self

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    @contextlib.contextmanager
    def client(self, user="__system", password=None, source="local"):
        """A connection beside the code under test; as the keyfile's owner unless told otherwise."""
        password = password or "".join(self.keyfile.split())
        options = {"tls": True, "tlsCAFile": self.tls_ca} if self.tls_ca else {}
        client = MongoClient(
            "127.0.0.1",
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=3000,
            username=user,
            password=password,
            authSource=source,
            **options,
        )
        try:
            yield client
        finally:
            client.close()

    def hello(self):
        options = {"tls": True, "tlsCAFile": self.tls_ca} if self.tls_ca else {}
        with MongoClient("127.0.0.1", self.port, directConnection=True, **options) as client:
            return client.admin.command("hello")

    def config(self):
        """The replica-set configuration on its disk, or None."""
        with self.client() as client:
            return client.local["system.replset"].find_one()


class Cluster:
    """A declared stack with a running mongod per host.

    ``pillar`` is the whole pillar of every host, to be changed by a test at will.
    """

    eventually = staticmethod(eventually)

    def __init__(self, members, pillar, set_name):
        self.members = members
        self.pillar = pillar
        self.set_name = set_name

    @property
    def declared(self):
        return self.pillar["openhim"]["mongodb"]["replica_sets"][self.set_name]["members"]

    def states(self):
        """What each living member says that it is."""
        found = {}
        for host, mongod in self.members.items():
            if mongod.process.poll() is None:
                hello = mongod.hello()
                other = "secondary" if hello.get("secondary") else "?"
                found[host] = "primary" if hello.get("isWritablePrimary") else other
        return found

    def primary(self, timeout=PATIENCE):
        """The minion ID of the one primary, as soon as there is one."""

        def the_one():
            found = [host for host, state in self.states().items() if state == "primary"]
            return found[0] if len(found) == 1 else None

        return eventually(the_one, timeout, "a single primary")

    def stop(self):
        """Ends the mongods for good: idle ones still cost the other tests' time, and memory."""
        for mongod in self.members.values():
            mongod.kill()
            shutil.rmtree(mongod.folder, ignore_errors=True)

    def configs(self):
        """The configuration that each living member has, by host."""
        living = {h: m for h, m in self.members.items() if m.process.poll() is None}
        return {host: mongod.config() for host, mongod in living.items()}


@pytest.fixture(scope="package")
def cluster_factory(mongod_binary):
    """Starts mongods for a declaration; all are gone when the layer ends."""
    started = []
    # On memory where possible: journals of a dozen mongods are slow on a shared disk.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="openhim-mongo-", dir=base))
    keyfile = random_secrets.token_urlsafe(48).replace("-", "A").replace("_", "B")

    def make(members, set_name="openhim", extra=(), ca=None, keyfiles=None, **mongodb):
        """members: minion ID -> its entry in the declaration, with ``site`` beside."""
        running = {
            host: Mongod(
                mongod_binary,
                folder / f"{len(started)}-{host}-{random_secrets.token_hex(3)}",
                set_name,
                (keyfiles or {}).get(host, keyfile),
                extra=list(extra),
                tls_ca=str(ca) if ca else None,
            )
            for host in members
        }
        for mongod in running.values():
            mongod.start()
            started.append(mongod)
        for mongod in running.values():
            mongod.wait()
        pillar = _pillar(members, running, set_name, keyfile, mongodb)
        return Cluster(running, pillar, set_name)

    yield make
    for mongod in started:
        mongod.kill()
    shutil.rmtree(folder, ignore_errors=True)


def _pillar(members, running, set_name, keyfile, mongodb):
    sites = sorted({entry["site"] for entry in members.values()})
    declared = {
        host: {key: value for key, value in entry.items() if key != "site"}
        | {"port": running[host].port}
        for host, entry in members.items()
    }
    return {
        "openhim": {
            "stack": "test",
            "profile": "production",
            "active_site": "north",
            "sites": {site: {} for site in sites},
            "hosts": {
                host: {
                    "site": entry["site"],
                    "address": "127.0.0.1",
                    "name": "localhost",
                    "roles": ["mongodb"],
                }
                for host, entry in members.items()
            },
            "mongodb": {
                "version": "6.0.5",
                "install": {"method": "preinstalled", "binary": "/usr/bin/mongod"},
                "replica_sets": {set_name: {"members": declared}},
                "databases": {
                    "main": {"name": "openhim", "replica_set": set_name},
                    "audit": {"name": "openhim_audit", "replica_set": set_name},
                },
                "durability": "majority",
                "election_timeout_ms": ELECTION_TIMEOUT_MS,
                "users": {
                    "operator": {
                        "secret": "mongodb_operator",
                        "roles": [{"role": "root", "db": "admin"}],
                        "operator": True,
                    },
                    "openhim": {
                        "secret": "mongodb_openhim",
                        "roles": [{"role": "readWrite", "db": "openhim"}],
                    },
                },
                **mongodb,
            },
            "secrets": {
                "mongodb_keyfile": f"{keyfile[:20]}\n{keyfile[20:]}\n",
                "mongodb_operator": random_secrets.token_urlsafe(12),
                "mongodb_openhim": random_secrets.token_urlsafe(12),
            },
        }
    }


def on_all_hosts(cluster, function, *args, **kwargs):
    """What a library function answers for each host's vantage, all called at the same time."""

    def call(host):
        return function(vantage(cluster.pillar, host, cluster.set_name), *args, **kwargs)

    with ThreadPoolExecutor(len(cluster.declared)) as pool:
        return dict(zip(cluster.declared, pool.map(call, cluster.declared), strict=True))


@pytest.fixture(scope="package")
def replica_set(cluster_factory):
    """A factory: a running set, initiated, with its users."""

    def make(members, **arguments):
        cluster = cluster_factory(members, **arguments)
        on_all_hosts(cluster, change.initiate, timeout=PATIENCE)
        known = cluster.pillar["openhim"]["secrets"]
        for user, entry in cluster.pillar["openhim"]["mongodb"]["users"].items():
            password = known[entry["secret"]]
            on_all_hosts(cluster, users.ensure, user, password, entry["roles"], timeout=PATIENCE)
        return cluster

    return make


class Minion:
    """One host's minion: Salt's own loader over this package, with a pillar and a test mode."""

    def __init__(self, minion_id, pillar, root, test=False):
        opts = salt.config.DEFAULT_MINION_OPTS.copy()
        opts.update(
            id=minion_id,
            root_dir=str(root),
            cachedir=str(root / "cache"),
            file_client="local",
            pillar=pillar,
            test=test,
            grains={"id": minion_id, "kernel": "Linux", "os": "Debian", "os_family": "Debian"},
            module_dirs=[str(REPOSITORY / "_modules")],
            states_dirs=[str(REPOSITORY / "_states")],
            extension_modules=str(root / "extmods"),
        )
        self.opts = opts
        utils = salt.loader.utils(opts)
        self.modules = salt.loader.minion_mods(opts, utils=utils)
        self.states = salt.loader.states(opts, self.modules, utils, None)


@pytest.fixture
def loaders(tmp_path):
    """A factory: ``loaders(minion_id, pillar, test=False)`` with ``.modules`` and ``.states``."""

    def make(minion_id, pillar, test=False):
        return Minion(minion_id, copy.deepcopy(pillar), tmp_path, test)

    return make
