"""What a member of the lost site wrote past the fork is told, whatever has become of it since."""

from __future__ import annotations

import shutil
import signal
import stat
from pathlib import Path

import pytest
from bson import json_util
from pymongo import WriteConcern
from salt.exceptions import CommandExecutionError

from tests.functional.ledger.conftest import PATIENT, order


def told(part, collection="openhim.transactions"):
    """``_id`` and operation of each write to a collection."""
    return [
        (json_util.loads(write["id"]), write["operation"])
        for write in part["writes"]
        if write["collection"] == collection and write["id"]
    ]


def test_a_fork_from_its_writes_to_the_return_of_the_lost_members(forking):
    with forking.writing("north-db1") as client:
        orders = client.openhim.transactions
        orders.insert_many([order(100), order(101)])
        orders.update_one({"_id": 1}, {"$set": {"status": "Failed"}})
        orders.delete_one({"_id": 2})
        orders.insert_one(order(102))
        orders.delete_one({"_id": 102})
        with client.start_session() as session, session.start_transaction():
            orders.insert_one(order(110), session=session)
            orders.update_one({"_id": 3}, {"$set": {"status": "Failed"}}, session=session)
        with client.start_session() as session:
            session.start_transaction()
            orders.insert_one(order(111), session=session)
            session.abort_transaction()
        client.openhim.created.insert_one({"_id": "there", "n": 1})
        client.openhim.old.drop()
        index = {"key": {"status": 1}, "name": "by_status"}
        # By default it waits for every voting member, and one is away.
        client.openhim.command("createIndexes", "transactions", indexes=[index], commitQuorum=1)
        forking.cluster.eventually(lambda: _has("north-db2", forking, "created"), what="db2")
        # The second member is gone first: what comes now is on the primary alone.
        forking.cluster.members["north-db2"].kill()
        alone = orders.with_options(write_concern=WriteConcern(1, j=True))
        alone.insert_many([order(120), order(121)])
    forking.lose_north()
    forking.promote_south()
    with forking.writing("south-db1") as client:
        client.openhim.transactions.update_one({"_id": 1}, {"$set": {"status": "Completed"}})
        client.openhim.transactions.insert_one(order(101))

    expected = [
        (100, "insert"), (101, "insert"), (1, "update"), (2, "delete"), (102, "insert"),
        (102, "delete"), (110, "insert"), (3, "update"), (120, "insert"), (121, "insert"),
    ]  # fmt: skip
    before = _data(forking, "north-db1")
    part = forking.read("north-db1")
    assert (part["member"]["state"], part["total"]) == ("complete", len(part["writes"]))
    assert told(part) == expected
    assert told(part, "openhim.created") == [("there", "insert")]
    commands = [
        (w["operation"], w["collection"], w["detail"]) for w in part["writes"] if not w["id"]
    ]
    assert commands == [
        ("create", "openhim.created", ""),
        ("drop", "openhim.old", ""),
        ("createIndexes", "openhim.transactions", "by_status"),
    ]
    in_one = {w["transaction"] for w in part["writes"] if w["id"] in ('{"$numberInt": "110"}',)}
    assert len(in_one) == 1 and in_one != {""}
    assert _data(forking, "north-db1") == before, "evidence is read from a copy"
    assert PATIENT not in str(part)

    versions = {json_util.loads(v[1]): v[2] for v in part["versions"] if "trans" in v[0]}
    assert versions[2]["version"] == versions[102]["version"] == "removed"
    assert versions[1]["version"] not in ("removed", None), "updates too, as they were in the end"
    assert versions[100]["facts"]["path"] == "/laboratory/100"

    kept = forking.modules("north-db1")["openhim_ledger.keep"](**forking.fork, set="openhim")
    assert kept["oplog_until"] and kept["rollback_files"] == []
    folder = Path(kept["folder"])
    for path in (folder, *folder.parents[:2], *folder.rglob("*")):
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path
    assert PATIENT.encode() in (folder / "documents.bson").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert (
        forking.modules("north-db1")["openhim_ledger.keep"](**forking.fork, set="openhim") == kept
    )
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == stamps

    behind = forking.read("north-db2")
    assert told(behind) == expected[:-2], "the second member has less, and is complete all the same"
    assert behind["member"]["state"] == "complete"

    forking.return_of("north-db1", "north-db2")
    again = forking.read("north-db1")
    assert again["member"]["state"] == "complete", again["member"]
    assert again["writes"] == part["writes"]
    assert again["versions"] == part["versions"]
    assert again["member"]["rollback_files"] > 0

    undone = forking.read("north-db2")
    assert undone["member"]["state"] == "rolled back", undone["member"]
    assert "not what it deleted" in undone["member"]["because"]
    assert dict(told(undone)) == dict.fromkeys((100, 101, 1, 110, 3), "insert or update")
    kept = forking.modules("north-db2")["openhim_ledger.keep"](**forking.fork, set="openhim")
    assert kept["oplog_until"] is None
    assert kept["rollback_files"]


def _has(host, forking, collection):
    with forking.writing(host) as client:
        names = client.openhim.list_collection_names()
        indexes = client.openhim.transactions.index_information()
    return collection in names and "by_status" in indexes and "old" not in names


def _data(forking, host):
    """Every file of a data folder, with its time and size."""
    folder = forking.cluster.members[host].folder / "data"
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_a_member_that_never_left_needs_no_rollback_file(forking):
    """It had nothing that the survivor had not, and joins the new history as it is."""
    members = forking.cluster.members
    forking.all_have_all()
    with forking.writing("north-db1") as client:
        members["north-db2"].signal(signal.SIGTERM)
        members["north-db2"].process.wait(60)
        members["south-db1"].signal(signal.SIGSTOP)
        alone = client.openhim.get_collection("transactions", write_concern=WriteConcern(1, j=True))
        alone.insert_one(order(100))
    members["north-db1"].kill()
    members["south-db1"].kill()
    forking.promote_south()
    assert told(forking.read("north-db1")) == [(100, "insert")]
    for _ in range(2):
        part = forking.read("north-db2")
        assert (part["member"]["state"], part["writes"]) == ("complete", [])
        if forking.cluster.members["north-db2"].process.poll() is not None:
            forking.return_of("north-db2")


def test_a_member_that_cannot_be_read_is_not_known(forking):
    """Frozen, still able to write, wiped, or with a file that nobody knows: never "nothing"."""
    with forking.writing("north-db1") as client:
        client.openhim.transactions.insert_one(order(100))
    forking.lose_north()
    forking.promote_south()
    data = forking.cluster.members["north-db1"].folder / "data"

    # It runs, and the new history does not reach it: who is frozen cannot tell it.
    survivor = forking.cluster.members["south-db1"]
    survivor.signal(signal.SIGSTOP)
    forking.cluster.members["north-db1"].start().wait()
    forking.cluster.eventually(lambda: _readable(forking, "north-db1"), what="north-db1")
    part = forking.read("north-db1")
    assert part["member"]["state"] == "unread"
    assert "may write more" in part["member"]["because"]
    assert told(part) == [(100, "insert")]
    forking.cluster.members["north-db1"].signal(signal.SIGSTOP)
    assert "does not answer" in forking.read("north-db1")["member"]["because"]
    with pytest.raises(CommandExecutionError, match="does not answer"):
        forking.modules("north-db1")["openhim_ledger.keep"](**forking.fork, set="openhim")
    forking.cluster.members["north-db1"].kill()
    survivor.signal(signal.SIGCONT)

    strange = data / "rollback" / "somewhere" / "strange.bson"
    strange.parent.mkdir(parents=True)
    strange.touch()
    with pytest.raises(CommandExecutionError, match="is no rollback file of a kind that is known"):
        forking.read("north-db1")
    strange.unlink()

    shutil.rmtree(data)
    data.mkdir()
    part = forking.read("north-db1")
    assert (part["member"]["state"], part["writes"]) == ("unread", [])
    assert "holds no data of a mongod" in part["member"]["because"]


def _readable(forking, host):
    hello = forking.cluster.members[host].hello()
    return hello.get("secondary") or hello.get("isWritablePrimary")
