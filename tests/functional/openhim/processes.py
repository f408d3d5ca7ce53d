"""What the functional tests run: a mongod, an OpenHIM, and Salt's loader."""

from __future__ import annotations

import copy
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import pymongo
import salt.config
import salt.loader
from pymongo.errors import PyMongoError
from saltext.openhim.core import synthetic
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError

from lab import artifacts
from tests import ports

MINION = "north-core"
STARTUP = 180.0


def stop(process, seconds=20):
    """End a process that was started here, and its whole group."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


class Database:
    """A one-member replica set with authentication; one pair of databases per OpenHIM."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = ports.free()
        self.operator_password = secrets.token_hex(16)
        self.openhim_password = secrets.token_hex(8) + "/@:%?"  # what a URL must quote
        self.process = None
        #: The CA's file; None without TLS.
        self.authority: Path | None = None

    @property
    def tls(self):
        """PyMongo's options for TLS."""
        return {"tls": True, "tlsCAFile": str(self.authority)} if self.authority else {}

    @property
    def url(self):
        tls = f"&tls=true&tlsCAFile={self.authority}" if self.authority else ""
        return (
            f"mongodb://operator:{self.operator_password}@localhost:{self.port}"
            f"/?authSource=admin&directConnection=true&w=majority{tls}"
        )

    def make_certificate(self):
        """A CA, and this server's certificate from it."""
        inside = {"cwd": self.directory, "check": True, "capture_output": True}
        request = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        authority = ["-x509", "-subj", "/CN=CA", "-keyout", "ca.key", "-out", "ca.crt"]
        subprocess.run([*request, *authority], **inside)
        own = ["-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", "/CN=localhost"]
        name = ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
        subprocess.run([*request, *own, *name, "-keyout", "key", "-out", "crt"], **inside)
        pair = (self.directory / "crt").read_text() + (self.directory / "key").read_text()
        (self.directory / "mongodb.pem").write_text(pair, encoding="utf-8")
        self.authority = self.directory / "ca.crt"
        return self

    def start(self):
        keyfile = self.directory / "keyfile"
        if not keyfile.exists():
            keyfile.write_text(secrets.token_hex(64), encoding="utf-8")
            keyfile.chmod(0o400)
        (self.directory / "data").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [
                artifacts.mongod(),
                "--replSet=openhim",
                f"--port={self.port}",
                "--bind_ip=127.0.0.1",
                f"--dbpath={self.directory / 'data'}",
                f"--keyFile={keyfile}",
                "--oplogSize=64",
                "--wiredTigerCacheSizeGB=0.25",
                "--nounixsocket",
                "--setParameter=diagnosticDataCollectionEnabled=false",
                "--wiredTigerEngineConfigString=log=(file_max=2MB,prealloc=false)",
                f"--logpath={self.directory / 'mongod.log'}",
                *self._tls_arguments(),
            ],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def _tls_arguments(self):
        if not self.authority:
            return []
        pair = self.directory / "mongodb.pem"
        files = [f"--tlsCertificateKeyFile={pair}", f"--tlsCAFile={self.authority}"]
        return ["--tlsMode=requireTLS", *files, "--tlsAllowConnectionsWithoutCertificates"]

    def initiate(self):
        address = f"localhost:{self.port}"
        with pymongo.MongoClient(address, directConnection=True, **self.tls) as client:
            client.admin.command(
                "replSetInitiate",
                {
                    "_id": "openhim",
                    "members": [{"_id": 0, "host": address}],
                    "settings": {"electionTimeoutMillis": 1000},
                },
            )
            wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
            client.admin.command(
                "createUser", "operator", pwd=self.operator_password, roles=["root"]
            )
        with self.client() as client:
            client.admin.command(
                "createUser",
                "openhim",
                pwd=self.openhim_password,
                roles=[{"role": "readWriteAnyDatabase", "db": "admin"}],
            )
        return self

    def client(self):
        return pymongo.MongoClient(self.url)


def wait_for(condition, seconds=STARTUP):
    """Wait until a condition holds; errors of MongoDB and OpenHIM count as not yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = condition()
            if found:
                return found
            problem = "it does not hold"
        except (PyMongoError, OpenHIMError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {problem}")
        time.sleep(0.05)


class OpenHIM:
    """One running OpenHIM: its release, pillar, process and database."""

    def __init__(self, directory: Path, program: Path, version: str, database: Database):
        self.directory, self.program, self.database = directory, program, database
        listeners = "api", "http", "https", "rerun", "tcp", "polling", "responder", "upstream"
        self.ports = {name: ports.free() for name in listeners}
        self.pillar = self._pillar(version)
        self.config_file = directory / "core.json"
        self.responder = directory / "responder.js"
        self.process = None

    def _pillar(self, version):
        ports = self.ports
        name = f"openhim_{version.replace('.', '_')}"
        return {
            "openhim": {
                "stack": "example",
                "active_site": "north",
                "sites": {"north": {}, "south": {}},
                "hosts": {
                    MINION: {
                        "site": "north",
                        "address": "127.0.0.1",
                        "name": "localhost",
                        "roles": ["core", "mongodb"],
                    },
                    "south-core": {"site": "south", "address": "127.0.0.2", "roles": ["core"]},
                },
                "mongodb": {
                    "version": "6.0.5",
                    "replica_sets": {
                        "openhim": {"port": self.database.port, "members": {MINION: {}}}
                    },
                    "databases": {
                        "main": {"name": name, "replica_set": "openhim"},
                        "audit": {"name": f"{name}_audit", "replica_set": "openhim"},
                    },
                    "tls": False,
                    "users": {"openhim": {"secret": "mongodb_openhim", "roles": []}},
                },
                "core": {
                    "version": version,
                    "install": {"method": "archive"},
                    "node": "node",
                    "node_options": [
                        *(["--require", "./preload.js"] if version.startswith("4.") else []),
                        "--unhandled-rejections=warn",
                    ],
                    "database_user": "openhim",
                    "ports": {k: ports[k] for k in ("api", "http", "https")},
                    "config": {
                        "bindAddress": "127.0.0.1",
                        "rerun": {"httpPort": ports["rerun"]},
                        "tcpAdapter": {"httpReceiver": {"httpPort": ports["tcp"]}},
                        "polling": {"pollingPort": ports["polling"]},
                        "logger": {"level": "info"},
                        "reports": {"enableReports": False},
                        "email": {"nodemailer": {"service": None, "host": "127.0.0.1", "port": 9}},
                    },
                    "api_certificate": str(self.program / "resources/certs/default/cert.pem"),
                    "administrator": {
                        "email": "root@openhim.org",
                        "secret": "openhim_administrator",
                    },
                    "synthetic": {
                        "client": "openhim-synthetic",
                        "secret": "openhim_synthetic",
                        "port": ports["responder"],
                    },
                },
                "objects": {},
                "secrets": {
                    "mongodb_openhim": self.database.openhim_password,
                    **{
                        name: f"CANARY-{secrets.token_hex(16)}"
                        for name in (
                            "openhim_administrator",
                            "openhim_session_key",
                            "openhim_synthetic",
                            "laboratory",
                            "another",
                        )
                    },
                },
            }
        }

    @property
    def core(self):
        return CoreHost(self.pillar, MINION)

    @property
    def main(self):
        """The main database's name."""
        return self.pillar["openhim"]["mongodb"]["databases"]["main"]["name"]

    def start(self, states=None):
        core = self.core
        self.config_file.write_text(json.dumps(core.config), encoding="utf-8")
        self.responder.write_text(synthetic.responder(core.responder_port), encoding="utf-8")
        command = core.command(self.program, str(self.config_file), str(self.responder))
        with (self.directory / "openhim.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )
        return self

    def stop(self):
        stop(self.process)

    def log(self):
        return (self.directory / "openhim.log").read_text(encoding="utf-8", errors="replace")


class Loaded:
    """Salt's own modules and states with a pillar, as a minion loads them."""

    def __init__(self, directory: Path, pillar, test=False, minion_id=MINION, file_roots=None):
        opts = salt.config.DEFAULT_MINION_OPTS.copy()
        opts.update(
            {
                "id": minion_id,
                "root_dir": str(directory),
                "cachedir": str(directory / "cache"),
                "extension_modules": str(directory / "extmods"),
                "file_client": "local",
                "file_roots": {"base": [str(path) for path in file_roots or []]},
                "conf_file": str(directory / "minion"),
                "pki_dir": str(directory / "pki"),
                "sock_dir": str(directory / "sock"),
                "pillar": copy.deepcopy(pillar),
                "test": test,
                "grains": {
                    "id": minion_id,
                    "os": "Debian",
                    "os_family": "Debian",
                    "kernel": "Linux",
                },
            }
        )
        context = {}
        utils = salt.loader.utils(opts, context=context)
        self.modules = salt.loader.minion_mods(opts, utils=utils, context=context)
        self.states = salt.loader.states(
            opts, self.modules, utils, salt.loader.serializers(opts), context=context
        )
