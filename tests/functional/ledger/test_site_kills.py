"""The primary site is killed at a random moment, under load: what was acknowledged is there, or in
the ledger.

Mocked: the way between the master and its minions. Every mongod, kill and write is real.
"""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from saltext.openhim import settings
from saltext.openhim.runners import openhim_dr_ledger as runner

from tests.functional.ledger.conftest import order

WRITERS = 4

#: Three in every run; all twenty each night.
KILLS = [pytest.param(n, marks=[pytest.mark.nightly] if n >= 3 else []) for n in range(20)]


class Load:
    """Writers at the primary site that note what was acknowledged, until their site is gone."""

    def __init__(self, master, concern):
        self.acknowledged = set()
        self._master, self._concern = master, concern
        self._threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer):
        with self._master.writing("north-db1") as client:
            orders = client.openhim.get_collection("transactions", write_concern=self._concern)
            for number in range(100 + writer, 10**6, WRITERS):
                try:
                    orders.insert_one(order(number))
                except PyMongoError:
                    return
                self.acknowledged.add(number)

    def end(self):
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def acknowledged_until_the_kill(master, seed, unheard=0):
    """Numbers that were acknowledged before both members of north were killed at once.

    The distant member hears nothing for a moment before, as on a bad line. unheard: how many of
    them must be of that moment.
    """
    chance = random.Random(seed)  # noqa: S311  it decides when, and nothing else
    members = master.cluster.members
    declared = settings.from_pillar(master.cluster.pillar).replica_sets["openhim"]
    # As OpenHIM's connection has it: by the names that it has in a URL.
    with MongoClient(connect=False, **declared.write_concern) as client:
        load = Load(master, client.write_concern)
    master.cluster.eventually(lambda: len(load.acknowledged) >= 50, what="the load")
    time.sleep(chance.uniform(0, 1))
    hears(members["south-db1"], False)
    enough = len(load.acknowledged) + unheard
    time.sleep(chance.uniform(0.2, 1))
    master.cluster.eventually(lambda: len(load.acknowledged) >= enough, what="more load")
    for host in ("north-db1", "north-db2"):
        members[host].signal(signal.SIGKILL)
    for host in ("north-db1", "north-db2"):
        members[host].process.wait(60)
    load.end()
    hears(members["south-db1"], True)
    master.promote_south()
    return load.acknowledged


def hears(mongod, whether):
    """Whether a member gets the others' writes; its heartbeats go on."""
    mode = "off" if whether else "alwaysOn"
    with mongod.client() as client:
        client.admin.command("configureFailPoint", "stopReplProducer", mode=mode)


def present(master):
    """The numbers that the new history has."""
    with master.writing("south-db1") as client:
        return {one["_id"] for one in client.openhim.transactions.find({}, {"_id": 1})}


@pytest.mark.parametrize("seed", KILLS)
def test_with_every_site_no_acknowledged_write_is_missing(standing, seed):
    master = standing(durability="every-site")
    acknowledged = acknowledged_until_the_kill(master, seed)
    missing = acknowledged - present(master)
    assert missing == set(), f"{len(missing)} of {len(acknowledged)}"


@pytest.mark.parametrize("seed", KILLS)
def test_with_majority_every_missing_one_is_in_the_ledger(standing, seed):
    master = standing(durability="majority")
    acknowledged = acknowledged_until_the_kill(master, seed, unheard=30)
    missing = acknowledged - present(master)
    assert missing, "a distant member that heard nothing has it all the same"
    told = runner.ledger("test")
    (one,) = told["sets"].values()
    assert (told["state"], one["doubts"]) == ("writes were lost", [])
    lost = {
        int(entry["id"]["$numberInt"])
        for entry in one["writes"]
        if entry["collection"] == "openhim.transactions" and entry["fate"] == "lost"
    }
    assert missing - lost == set()
