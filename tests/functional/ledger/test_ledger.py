"""The ledger holds every write that is missing afterwards, and nothing else.

Mocked: the way between the master and its minions. Every minion's modules, every mongod and what is
stored are real.
"""

from __future__ import annotations

import json
import random
import signal
import stat

import pytest
from pymongo import WriteConcern
from saltext.openhim.recovery import ledger as listed
from saltext.openhim.runners import openhim_dr_ledger as runner

from tests.functional.ledger.conftest import PATIENT, order


@pytest.fixture
def master(forking, reached):
    """A stack before its fork, with a master that has a failover on record."""
    return reached(forking)


def test_every_missing_write_is_in_the_ledger_and_nothing_else(master):
    """Numbered writes of a random mix; what is truly missing is found without our code."""
    chance = random.Random(7)  # noqa: S311  it decides what is written, and nothing else
    written = {}
    with master.writing("north-db1") as client:
        orders = client.openhim.get_collection(
            "transactions", write_concern=WriteConcern(1, j=True)
        )
        for number in range(100, 160):
            kind = chance.choice(["insert", "insert", "update", "delete", "both"])
            if kind == "insert":
                orders.insert_one(order(number))
                written.setdefault(number, []).append("insert")
            elif kind == "both":
                with client.start_session() as session, session.start_transaction():
                    orders.insert_one(order(number), session=session)
                    client.openhim.others.insert_one({"_id": number}, session=session)
                written.setdefault(number, []).append("insert")
            else:
                known = chance.randrange(20)
                if kind == "update":
                    done = orders.update_one({"_id": known}, {"$set": {"status": f"{number}"}})
                    happened = done.modified_count
                else:
                    happened = orders.delete_one({"_id": known}).deleted_count
                if happened:
                    written.setdefault(known, []).append(kind)
        truth = {document["_id"]: document for document in orders.find()}
    master.lose_north()
    master.promote_south()
    again = min(number for number in written if number >= 100)
    with master.writing("south-db1") as client:
        client.openhim.transactions.insert_one(order(again))  # a clinic has sent it again
        client.openhim.transactions.update_one({"_id": 0}, {"$set": {"status": "rewritten"}})
        now = {document["_id"]: document for document in client.openhim.transactions.find()}

    told = runner.ledger("test")
    (one,) = told["sets"].values()
    assert (told["state"], one["doubts"]) == ("writes were lost", [])
    entries = [e for e in one["writes"] if e["collection"] == "openhim.transactions" and "id" in e]
    by_number = {}
    for entry in entries:
        number = int(entry["id"]["$numberInt"])
        by_number.setdefault(number, []).append(entry)
    assert {n: [e["operation"] for e in es] for n, es in by_number.items()} == written
    missing = {n for n in written if truth.get(n) != now.get(n)}
    fates = {number: {entry["fate"] for entry in found} for number, found in by_number.items()}
    assert {number for number, fate in fates.items() if fate != {"survived"}} == missing
    assert fates[again] == {"survived"}
    if 0 in written:
        assert fates[0] == {"superseded"}
    assert all(fates[number] == {"lost"} for number in missing - {0})
    others = [e for e in one["writes"] if e["collection"] == "openhim.others" and "id" in e]
    assert others and all(entry["fate"] == "lost" and entry["transaction"] for entry in others)
    new = next(
        entry for entry in entries if entry["fate"] == "lost" and entry["operation"] == "insert"
    )
    assert new["path"].startswith("/laboratory/")
    assert {"client", "channel", "method", "status"} <= set(new)
    assert new["rerun"] == "after its document is put back"
    updated = {int(i["$numberInt"]) for i in told["rerun"]}
    assert updated == {n for n in missing if n < 100 and n in now}
    assert PATIENT not in json.dumps(told)
    assert "writes were lost" in listed.table(told)

    stored = master.folder / "records" / "ledgers" / "test" / "1.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert json.loads(stored.read_text()) == told

    # Back, and in the new history: the same ledger, by what was kept.
    master.return_of("north-db1", "north-db2")
    later = runner.ledger("test")
    assert (later["state"], later["sets"]["openhim"]["writes"]) == (told["state"], one["writes"])
    # And when the lost site's hosts are gone for good.
    master.silent |= {"north-db1", "north-db2"}
    gone = runner.ledger("test")
    assert gone["state"] == told["state"]
    assert gone["sets"]["openhim"]["writes"] == one["writes"]


def test_nothing_was_lost_is_said_when_it_was_looked_at(master):
    """Of a member that nobody has read it is not known; of both, it is."""
    members = master.cluster.members
    master.all_have_all()
    for host in ("north-db1", "north-db2", "south-db1"):
        members[host].signal(signal.SIGKILL)
        members[host].process.wait(60)
    master.promote_south()
    master.silent.add("north-db2")
    told = runner.ledger("test")
    assert told["state"] == "not known"
    (one,) = told["sets"].values()
    (doubt,) = one["doubts"]
    assert doubt.startswith(master.cluster.members["north-db2"].name)
    assert "north-db2 gave no answer" in doubt
    assert one["writes"] == []
    master.silent.clear()
    told = runner.ledger("test")
    assert (told["state"], told["sets"]["openhim"]["doubts"]) == ("nothing was lost", [])
