"""A find whose documents are never decoded: batches of BSON, as the server sent them.

PyMongo's own ``find_raw_batches`` cannot be told a cluster time, and builds an object for every
document on the way (4 ms of CPU for a megabyte, measured; this takes 1). So the commands are sent
as they are, and of the replies only the cursor's ID is decoded.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import PyMongoError

#: Replies of about this many bytes: a command costs as much as copying a megabyte.
REPLY_BYTES = 2 << 20
_FIRST_BATCH = 100
_MOST_IN_A_BATCH = 10_000
_RAW = CodecOptions(document_class=RawBSONDocument)
_ARRAY = 4
_length = struct.Struct("<i").unpack_from


class RawCursor:
    """Iterates over the documents of one find command, in lists of about two megabytes.

    client: connected to one server directly, for a cursor lives on one. find: the command, without
    a batch size. The cursor does not time out while :meth:`keep_alive` is called now and then.
    """

    def __init__(self, client: MongoClient, db: str, find: Mapping[str, Any]):
        self._client = client
        self._db = client[db]
        self._find = dict(find)
        self._session = client.start_session(causal_consistency=False)
        self._id = 0

    def __iter__(self) -> Iterator[list[memoryview]]:
        size = _FIRST_BATCH
        command = {**self._find, "noCursorTimeout": True}
        collection = self._find["find"]
        while True:
            reply = self._db.command(
                {**command, "batchSize": size}, codec_options=_RAW, session=self._session
            )
            self._id, documents = parse_reply(memoryview(reply["cursor"].raw))
            if documents:
                average = sum(map(len, documents)) // len(documents)
                size = min(max(REPLY_BYTES // average, 1), _MOST_IN_A_BATCH)
                yield documents
            if not self._id:
                return
            command = {"getMore": bson.Int64(self._id), "collection": collection}

    def keep_alive(self) -> None:
        """Tells the server that somebody still wants this: sessions end after 30 idle minutes."""
        with contextlib.suppress(PyMongoError):
            self._client.admin.command("refreshSessions", [self._session.session_id])

    def close(self) -> None:
        """Frees what the server holds for it."""
        with contextlib.suppress(PyMongoError):
            if self._id:
                self._db.command(
                    {"killCursors": self._find["find"], "cursors": [bson.Int64(self._id)]},
                    session=self._session,
                )
            self._session.end_session()


def parse_reply(cursor: memoryview) -> tuple[int, list[memoryview]]:
    """The ID and the documents of a ``cursor`` document of find's or getMore's reply."""
    # {firstBatch: [...], id: ..., ns: ...}; where there is nothing to read, in another order.
    name_end = bytes(cursor[4:20]).find(b"\0") + 4
    if cursor[4] != _ARRAY or not bytes(cursor[5:name_end]).endswith(b"Batch"):
        return _decoded_reply(cursor)
    start = name_end + 1
    end = start + _length(cursor, start)[0]
    # What is left without the batch is a small document.
    rest = bytes(cursor[end:])
    id_ = bson.decode(struct.pack("<i", 4 + len(rest)) + rest)["id"]
    return id_, _split_array(cursor, start + 4, end - 1)


def _decoded_reply(cursor: memoryview) -> tuple[int, list[memoryview]]:
    document = bson.decode(bytes(cursor), _RAW)
    batch = document.get("firstBatch", document.get("nextBatch"))
    return document["id"], [memoryview(each.raw) for each in batch]


def _split_array(data: memoryview, at: int, end: int) -> list[memoryview]:
    """The documents in a BSON array: each is preceded by its type and its number in digits."""
    documents = []
    digits, next_power, number = 1, 10, 0
    while at < end:
        at += 2 + digits
        number += 1
        if number == next_power:
            digits, next_power = digits + 1, next_power * 10
        length = _length(data, at)[0]
        documents.append(data[at : at + length])
        at += length
    return documents
