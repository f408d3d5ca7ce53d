"""Replies of find and getMore are taken apart without decoding a document."""

import bson
import pytest
from saltext.openhim.backup.cursor import parse_reply


def reply(name, documents, **rest):
    return memoryview(bson.encode({name: documents, **rest}))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 99, 100, 101, 1000, 1234])
@pytest.mark.parametrize("name", ["firstBatch", "nextBatch"])
def test_every_document_is_found(name, count):
    documents = [{"_id": n, "nested": {"list": [1, {"x": "y" * (n % 7)}]}} for n in range(count)]
    id_, found = parse_reply(reply(name, documents, id=bson.Int64(2**62), ns="a.b"))
    assert id_ == 2**62
    assert [bytes(each) for each in found] == [bson.encode(each) for each in documents]


def test_fields_between_the_batch_and_the_id_do_no_harm():
    raw = reply(
        "firstBatch", [{"a": 1}], atClusterTime=bson.Timestamp(1, 2), id=bson.Int64(0), ns="a.b"
    )
    assert parse_reply(raw)[0] == 0


def test_the_order_that_a_server_has_for_a_collection_that_is_not_there():
    raw = memoryview(bson.encode({"id": bson.Int64(0), "ns": "a.b", "firstBatch": []}))
    assert parse_reply(raw) == (0, [])
    raw = memoryview(bson.encode({"id": bson.Int64(7), "ns": "a.b", "nextBatch": [{"a": 1}]}))
    assert [bytes(d) for d in parse_reply(raw)[1]] == [bson.encode({"a": 1})]
