"""What a restore makes of a server's answers that a real one gives only at a bad moment.

A real primary steps down within the milliseconds between doing and acknowledging only by chance; so
the answers here are made up, in the form that mongod gives them.
"""

import bson
import pytest
from pymongo.errors import AutoReconnect, NetworkTimeout, NotPrimaryError, OperationFailure
from saltext.openhim.backup import archive, load
from saltext.openhim.mongo.connection import MongoError

STEPPED_DOWN = {"ok": 1, "writeConcernError": {"code": 189, "errmsg": "stepping down"}}
NOT_POSSIBLE = {"ok": 1, "writeConcernError": {"code": 100, "errmsg": "not enough members"}}
INDEX = {"v": 2, "key": {"a": 1}, "name": "a_1"}


def refused(code, **details):
    return OperationFailure("in words", code, {"code": code, "errmsg": "in words", **details})


class Server:
    """Answers a command with the next of its replies."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.sent = []
        self.admin = self

    def __getitem__(self, name):
        return self

    def command(self, command):
        if command == "ping":
            return {}
        self.sent.append(command)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def target(**options):
    metadata = archive.metadata_json("log", "collection", options, [INDEX])
    return load._target(archive.Entry("openhim", "log", metadata=metadata), {})


def prepare(to):
    load._create(to, target(capped=True, size=4096))


def build(to):
    load._build(to, target(), [INDEX])


def insert(to):
    load._insert(to, target(), [memoryview(bson.encode({}))])


def drop(to):
    to.acknowledged(target(), {"drop": "log"}, done=[26])


@pytest.mark.parametrize("act", [prepare, build, drop, insert])
@pytest.mark.parametrize(
    "lost", [STEPPED_DOWN, NotPrimaryError("not primary"), AutoReconnect("connection closed")]
)
def test_what_an_election_may_have_undone_is_told_again(act, lost, monkeypatch):
    monkeypatch.setattr(load.time, "sleep", lambda seconds: None)
    server = Server(lost, lost, {"ok": 1, "n": 1})
    act(load._Destination(server, in_set=True))
    assert len(server.sent) == 3
    assert server.sent[0] == server.sent[2]
    assert server.sent[0]["writeConcern"] == {"w": "majority"}


@pytest.mark.parametrize(("act", "code"), [(prepare, 48), (drop, 26)])
def test_what_had_been_done_after_all_is_no_error(act, code):
    act(load._Destination(Server(STEPPED_DOWN, refused(code)), in_set=True))
    with pytest.raises((MongoError, OperationFailure), match="in words"):
        act(load._Destination(Server(refused(code)), in_set=True))


@pytest.mark.parametrize("act", [prepare, build, drop, insert])
def test_what_the_majority_cannot_take_is_told(act):
    with pytest.raises(MongoError, match=r"openhim\.log: the majority did not take it: not enough"):
        act(load._Destination(Server(NOT_POSSIBLE), in_set=True))


@pytest.mark.parametrize("act", [prepare, build, drop, insert])
def test_no_election_is_waited_for_where_there_can_be_none(act):
    server = Server(AutoReconnect("connection closed"))
    with pytest.raises(AutoReconnect):
        act(load._Destination(server, in_set=False))
    assert len(server.sent) == 1


@pytest.mark.parametrize("lost", [AutoReconnect("closed"), NetworkTimeout("timed out")])
def test_an_election_that_does_not_end_is_not_waited_for_for_ever(lost, monkeypatch):
    monkeypatch.setattr(load, "ELECTION_PATIENCE", 0.5)
    with pytest.raises(AutoReconnect):
        build(load._Destination(Server(*[lost] * 99), in_set=True))


def test_a_capped_collection_s_batch_is_never_sent_twice():
    server = Server(STEPPED_DOWN)
    with pytest.raises(MongoError, match="stepping down"):
        load._insert(
            load._Destination(server, True), target(capped=True), [memoryview(bson.encode({}))]
        )
    assert len(server.sent) == 1


@pytest.mark.parametrize(
    ("act", "code"), [(build, 16755), (build, 17262), (insert, 22), (insert, 16755)]
)
def test_the_server_s_words_of_a_document_are_not_repeated(act, code):
    server = Server(refused(code, codeName="Location", errmsg='{ at: "Jane Doe" }'))
    with pytest.raises(load.OpenHIMError, match=r"openhim\.log") as error:
        act(load._Destination(server, in_set=True))
    assert "Jane" not in str(error.value)
    assert error.value.__cause__ is None
