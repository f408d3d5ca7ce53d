"""MongoDB does not undo what a majority had: such a member ends after each start. It is read between
two starts, as nobody else may then.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager

from bson import json_util
from pymongo import WriteConcern
from saltext.openhim.mongo import stopped

from tests.functional.ledger.conftest import order

ALONE = list(range(100, 110))


@contextmanager
def started_again_and_again(mongod, lives=None):
    """As systemd does it: two seconds after each end. Gives how it ended each time.

    lives: seconds after which it is killed; until it ends by itself when left out.
    """
    over, ends = threading.Event(), []

    def keep_starting():
        while not over.is_set():
            process = mongod.start().process
            if lives is not None:
                over.wait(lives)
                process.kill()
            ends.append(process.wait())
            over.wait(2)

    thread = threading.Thread(target=keep_starting, daemon=True)
    thread.start()
    try:
        yield ends
    finally:
        over.set()
        mongod.kill()
        thread.join(60)


def test_a_member_that_cannot_undo_what_a_majority_had_is_read_between_its_starts(
    forking, monkeypatch, mongod_binary
):
    data = forking.cluster.members["north-db1"].folder / "data"
    place = {"set": "openhim", "data": str(data), "binary": str(mongod_binary), "unit": "none"}
    monkeypatch.setattr("saltext.openhim.mongo.config.instances", lambda *_: [place])
    with forking.writing("north-db1") as client:
        majority = WriteConcern(2, j=True)
        orders = client.openhim.transactions.with_options(write_concern=majority)
        orders.insert_many([order(number) for number in ALONE])
        written = client.admin.command("replSetGetStatus")["optimes"]["appliedOpTime"]["ts"]
        marks = client.openhim.get_collection("marks", write_concern=majority)

        def on_disk():
            marks.insert_one({})
            client.admin.command("fsync")
            return client.admin.command("replSetGetStatus")["lastStableRecoveryTimestamp"] > written

        forking.cluster.eventually(on_disk, what="a checkpoint after the orders")
    forking.lose_north()
    forking.promote_south()
    member = forking.cluster.members["north-db1"]
    with started_again_and_again(member) as ends:
        forking.cluster.eventually(lambda: len(ends) >= 2, what="its second end")
    assert set(ends[:2]) == {14}, "it was to end by itself"

    north = forking.modules("north-db1")
    # The same so short that it never answers, and asked while it uses its data.
    with started_again_and_again(member, lives=0.5):
        forking.cluster.eventually(lambda: stopped.is_used(data), what="a start")
        stand = north["openhim_dr.positions"](True)["openhim"]
        forking.cluster.eventually(lambda: stopped.is_used(data), what="another one")
        kept = north["openhim_ledger.keep"](**forking.fork, set="openhim")
    part = forking.read("north-db1")
    assert part["member"]["state"] == "complete", part["member"]
    told = [json_util.loads(w["id"]) for w in part["writes"] if "transactions" in w["collection"]]
    assert told == ALONE
    assert kept["oplog_until"]
    has = forking.modules("south-db1")["openhim_dr.has_writes"]("openhim", {"north-db1": stand})
    assert has == {"north-db1": False}
