"""A real fork: the site that is lost goes on writing, the other one becomes the real one."""

from __future__ import annotations

import contextlib
import copy
import json
import signal

import pytest
from bson import ObjectId
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from saltext.openhim import record
from saltext.openhim.mongo import promotion
from saltext.openhim.runners import openhim_dr_ledger as runner

from tests.functional.conftest import Minion

THREE = {
    "north-db1": {"site": "north", "priority": 10},
    "north-db2": {"site": "north", "priority": 9},
    "south-db1": {"site": "south", "priority": 1},
}
CLIENT, CHANNEL = ObjectId(), ObjectId()
PATIENT = "a patient's name"


def order(number, **changes):
    """One of OpenHIM's transactions, numbered."""
    return {
        "_id": number,
        "clientID": CLIENT,
        "channelID": CHANNEL,
        "request": {"method": "POST", "path": f"/laboratory/{number}", "body": PATIENT},
        "status": "Successful",
        "canRerun": True,
        **changes,
    }


class Forked:
    """``cluster``; ``pillars`` of each host; what was written where, and what is there now."""

    def __init__(self, cluster, binary, folder):
        self.cluster = cluster
        self.folder = folder
        self.pillars = {}
        for host, mongod in cluster.members.items():
            pillar = copy.deepcopy(cluster.pillar)
            pillar["openhim"]["mongodb"]["config"] = {
                "storage": {"dbPath": str(mongod.folder / "data")}
            }
            pillar["openhim"]["mongodb"]["install"] = {
                "method": "preinstalled",
                "binary": str(binary),
            }
            pillar["openhim"]["recovery"] = {
                "epoch": 1,
                "active_site": "south",
                "profile": "reduced",
                "lost_sites": ["north"],
            }
            self.pillars[host] = pillar

    def modules(self, host):
        """Salt's modules on a host of this stack; made anew, for the newest made are in force."""
        root = self.folder / host
        root.mkdir(exist_ok=True)
        minion = Minion(host, copy.deepcopy(self.pillars[host]), root)
        minion.opts["openhim_ledger_folder"] = str(root / "ledger")
        minion.modules.opts["openhim_ledger_folder"] = str(root / "ledger")
        return minion.modules

    def read(self, host, **options):
        """What a host tells of its divergence, in one piece."""
        return self.modules(host)["openhim_ledger.divergence"](
            self.fork["fork"], self.fork["new"], "openhim", limit=100000, **options
        )

    def writing(self, host) -> MongoClient:
        """A connection to a member as its own superuser."""
        return self.cluster.members[host].client()

    def all_have_all(self):
        """The distant member is back, and north-db1 is the primary again, should that have moved."""
        self.cluster.members["south-db1"].start().wait()
        everywhere = WriteConcern(3, wtimeout=60000)

        def written():
            with contextlib.suppress(PyMongoError), self.writing("north-db1") as client:
                marks = client.openhim.get_collection("marks", write_concern=everywhere)
                return marks.insert_one({}).acknowledged

        self.cluster.eventually(written, what="a write on all three")

    def lose_north(self):
        """The power goes."""
        for host in ("north-db1", "north-db2"):
            self.cluster.members[host].kill()

    def promote_south(self):
        """As the failover does; then the fork is known."""
        if self.cluster.members["south-db1"].process.poll() is not None:
            self.cluster.members["south-db1"].start().wait()
        modules = self.modules("south-db1")
        self.cluster.eventually(
            lambda: self.cluster.states().get("south-db1") == "secondary", what="the survivor"
        )
        modules["mongodb_replset.promote"]("test", reason="a test", declarer="a test")
        self.fork = modules["openhim_ledger.fork"]("openhim")

    def return_of(self, *hosts):
        """Members come back and join the new history."""
        for host in hosts:
            self.cluster.members[host].start().wait()
        with self.writing("south-db1") as client:
            mark = client.openhim.marks.insert_one({}).inserted_id

        def joined(host):
            # While it undoes its writes it closes connections.
            with contextlib.suppress(PyMongoError), self.writing(host) as client:
                return client.openhim.marks.find_one({"_id": mark})

        for host in hosts:
            self.cluster.eventually(lambda host=host: joined(host), what=f"the return of {host}")


@pytest.fixture
def reached(tmp_path, monkeypatch):
    """A factory: a master that reaches the hosts that run, and has a failover on record."""

    def make(forked, page=7):
        records = tmp_path / "records"
        record.declare(
            "test", records, parent=None, kind="failover", active_site="south", profile="reduced",
            lost_sites=["north"], declared_by="Ada", reason="a test",
            declared_at="2026-01-31T12:00:00+00:00",
        )  # fmt: skip
        forked.silent = set()

        def ask(hosts, function, arguments, timeout):
            answers = {}
            for host in set(hosts) - forked.silent:
                try:
                    found = forked.modules(host)[function](**arguments)
                    answers[host] = {"ret": json.loads(json.dumps(found)), "retcode": 0}
                except Exception as error:
                    answers[host] = {"ret": str(error), "retcode": 1}
            return answers

        pillar = forked.pillars["south-db1"]
        monkeypatch.setattr(runner.fleet, "directory", lambda _: records)
        monkeypatch.setattr(runner.fleet, "declaration", lambda *_: pillar)
        monkeypatch.setattr(runner, "_ask", ask)
        monkeypatch.setattr(runner, "PAGE", page)
        monkeypatch.setattr(runner, "__opts__", {}, raising=False)
        return forked

    return make


@pytest.fixture
def standing(replica_set, reached, mongod_binary, tmp_path, monkeypatch):
    """A factory: a stack under a master, with all its members there and north-db1 its primary."""
    monkeypatch.setattr(promotion, "NOTES_DIRECTORY", str(tmp_path / "notes"))
    made = []

    def make(**mongodb):
        cluster = replica_set(THREE, extra=["--setParameter", "enableTestCommands=1"], **mongodb)
        made.append(cluster)
        cluster.eventually(lambda: cluster.states().get("north-db1") == "primary", what="north-db1")
        return reached(Forked(cluster, mongod_binary, tmp_path), page=500)

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture
def forking(replica_set, mongod_binary, tmp_path, monkeypatch):
    """A stack before its fork: twenty orders are everywhere, and the distant member is away."""
    monkeypatch.setattr(promotion, "NOTES_DIRECTORY", str(tmp_path / "notes"))
    cluster = replica_set(THREE)
    forked = Forked(cluster, mongod_binary, tmp_path)
    cluster.eventually(lambda: cluster.states().get("north-db1") == "primary", what="north-db1")
    with forked.writing("north-db1") as client:
        everywhere = WriteConcern(3, wtimeout=60000)
        orders = client.openhim.get_collection("transactions", write_concern=everywhere)
        orders.insert_many([order(number) for number in range(20)])
        client.openhim.get_collection("old", write_concern=everywhere).insert_one({"_id": 1})
    cluster.members["south-db1"].signal(signal.SIGTERM)
    cluster.members["south-db1"].process.wait(60)
    yield forked
    cluster.stop()
