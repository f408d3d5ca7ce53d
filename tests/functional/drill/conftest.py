"""A restore point that is full of work that was under way, and an OpenHIM to start on it."""

import copy
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from bson import ObjectId
from saltext.openhim.backup import dump, points, work
from saltext.openhim.backup import repository as repositories
from saltext.openhim.core import release
from saltext.openhim.drill import records
from saltext.openhim.drill.core import Program

from lab import artifacts

HOST = "west-backup"
PASSWORD = "near-key"
VERSION = "4.0.5"
DATABASES = ["openhim", "openhim_audit"]

#: Whom the restored data would reach: a poll's upstream, a rerun's upstream, the mail server.
POLLED, RERUN, MAIL = "198.51.100.10", "198.51.100.20", "198.51.100.25"


@dataclass
class Shelf:
    """A repository that every test gets a copy of; its restore point; a declaration of drills. In
    ``folder/wrong`` is a restore point whose manifest says something else than its data.
    """

    folder: Path
    point: str
    pillar: dict


@pytest.fixture(scope="package")
def shelf(replica_set, mongod_binary, tmp_path_factory):
    """A restore point of a stack that was in the middle of its work, and a wrong one."""
    folder = tmp_path_factory.mktemp("drill")
    cluster = replica_set({"north-db1": {"site": "north"}})
    cluster.primary()
    try:
        with cluster.members["north-db1"].client() as client:
            fill(client)
            _taken(folder / "wrong", client, _falsified)
            point = _taken(folder / "near", client, lambda dumped: dumped)
    finally:
        cluster.stop()
    return Shelf(folder, point, _pillar(cluster.pillar, mongod_binary))


def _taken(folder, client, told):
    """A restore point; told: what the manifest is told of a dump that is as it should be."""
    opened = repositories.Repository(str(folder), PASSWORD, cache_dir=None)
    opened.initialise()
    with points.Taking(opened, "test", by="a test", why="to be drilled") as taking:
        taking.store_dump("openhim", lambda out: told(dump.dump(client, DATABASES, out)))
        return taking.commit().id


def _falsified(dumped):
    false = [
        replace(one, digest="0" * 64) if one.collection == "transactions" else one
        for one in dumped.namespaces
    ]
    return replace(dumped, namespaces=false)


def fill(client):
    """Channels, and what they had to do: a poll, a task, a retry, and an alert with recipients."""
    now = datetime.now(timezone.utc)
    channel, transaction = ObjectId(), ObjectId()
    route = {"name": "upstream", "port": 80, "primary": True, "type": "http", "status": "enabled"}
    database = client.openhim
    database.channels.insert_many(
        [
            {
                "_id": channel,
                "name": "Laboratory orders",
                "urlPattern": "^/orders$",
                "type": "http",
                "status": "enabled",
                "allow": ["clinics"],
                "authType": "private",
                "routes": [{**route, "host": RERUN}],
                "autoRetryEnabled": True,
                "autoRetryPeriodMinutes": 1,
                "alerts": [
                    {
                        "condition": "status",
                        "status": "5xx",
                        "failureRate": 1,
                        "users": [{"user": "nurse@example.org", "method": "email"}],
                    }
                ],
            },
            {
                "name": "Polls a registry",
                "urlPattern": "_polling",
                "type": "polling",
                "pollingSchedule": "1 second",
                "status": "enabled",
                "allow": ["polling"],
                "authType": "private",
                "routes": [{**route, "host": POLLED}],
            },
        ]
    )
    database.users.insert_one(
        {
            "firstname": "A",
            "surname": "Nurse",
            "email": "nurse@example.org",
            "groups": ["admin"],
            "dailyReport": True,
        }
    )
    database.transactions.insert_one(
        {
            "_id": transaction,
            "channelID": channel,
            "clientID": ObjectId(),
            "status": "Failed",
            "canRerun": True,
            "request": {
                "timestamp": now - timedelta(minutes=10),
                "method": "GET",
                "path": "/orders",
                "querystring": "",
                "host": "localhost",
                "port": "5001",
                "headers": {},
            },
        }
    )
    database.clients.insert_one({"clientID": "clinic", "name": "A clinic", "roles": ["clinics"]})
    database.tasks.insert_one(
        {
            "status": "Queued",
            "transactions": [{"tid": str(transaction), "tstatus": "Queued"}],
            "created": now,
            "totalTransactions": 1,
            "remainingTransactions": 1,
            "batchSize": 1,
            "user": "root@openhim.org",
        }
    )
    database.autoretries.insert_one(
        {
            "transactionID": transaction,
            "channelID": channel,
            "requestTimestamp": now - timedelta(minutes=10),
        }
    )
    database.events.insert_one(
        {
            "created": now,
            "channelID": channel,
            "transactionID": transaction,
            "type": "channel",
            "event": "end",
            "status": 500,
        }
    )
    # Alerts look for events by this index.
    database.events.create_index("created", expireAfterSeconds=3600)
    database.agendaJobs.insert_one(
        {"name": "auto retry failed transactions", "type": "single", "nextRunAt": now, "data": {}}
    )
    client.openhim_audit.audits.insert_one({"at": now})


def _pillar(pillar, mongod_binary):
    pillar = copy.deepcopy(pillar)
    openhim = pillar["openhim"]
    openhim["hosts"][HOST] = {"site": "north", "address": "127.0.0.2", "roles": ["backup"]}
    openhim["mongodb"]["install"]["binary"] = str(mongod_binary)
    # What a real stack may declare, and a scratch mongod cannot do.
    openhim["mongodb"]["durability"] = "every-site"
    openhim["core"] = {
        "version": VERSION,
        "install": {"method": "archive"},
        "node": shutil.which("node"),
        "node_options": ["--require", "./preload.js", "--unhandled-rejections=warn"],
        "config": {"email": {"nodemailer": {"service": None, "host": MAIL, "port": 25}}},
    }
    openhim["backup"] = {
        "taken_by": "north-db1",
        "user": "operator",
        "repositories": {"near": {"url": "to be replaced", "secret": "near"}},
    }
    openhim["drills"] = {
        "run_by": HOST,
        "max_age_seconds": {"functional": 86400},
        "observe_seconds": 1,
    }
    openhim["secrets"] = {"near": PASSWORD}
    return pillar


@pytest.fixture(scope="package")
def program():
    """OpenHIM's release, and a user with no rights as whom it runs."""
    folder = Path(tempfile.mkdtemp(prefix="openhim-program-"))
    folder.chmod(0o755)
    target = folder / "releases" / VERSION
    release.unpack(artifacts.openhim_release(), {"version": VERSION}, target)
    yield Program(target, "nobody", "nogroup")
    shutil.rmtree(folder)


@pytest.fixture
def pillar(shelf, monkeypatch, tmp_path):
    """This test's declaration, with a repository, records and locks of its own."""
    monkeypatch.setattr(work, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(records, "LOCK", str(tmp_path / "drill.lock"))
    monkeypatch.setattr(records, "FILE", str(tmp_path / "drills.jsonl"))
    monkeypatch.setattr(repositories, "CACHE", str(tmp_path / "cache"))
    shutil.copytree(shelf.folder / "near", tmp_path / "near")
    pillar = copy.deepcopy(shelf.pillar)
    pillar["openhim"]["backup"]["repositories"]["near"]["url"] = str(tmp_path / "near")
    return pillar


@pytest.fixture
def memory():
    """A folder in memory that is this test's; nothing may be left in it."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    made = subprocess.check_output(["mktemp", "-d", "-p", base], text=True)
    folder = Path(made.strip())
    folder.chmod(0o711)
    yield folder
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    assert left == []
