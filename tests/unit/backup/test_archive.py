"""Archives are mongodump's, byte for byte; a damaged one is never taken for a whole one."""

import datetime
import io
import re
import struct

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from saltext.openhim.backup import archive, crc

HEADER = archive.Header("6.0.5", "saltext-openhim 0.1")
DOCUMENTS = [bson.encode({"_id": n, "text": "x" * n}) for n in range(5)]


def written(namespaces, header=HEADER):
    """An archive: ``{"db.collection": [documents]}``."""
    entries = [
        archive.Entry(*name.split(".", 1), metadata=_metadata(name.split(".", 1)[1]))
        for name in namespaces
    ]
    out = io.BytesIO()
    writer = archive.Writer(out, header, entries)
    for name, documents in namespaces.items():
        writer.begin(*name.split(".", 1))
        for document in documents:
            writer.documents(document)
        writer.end()
    writer.finish()
    return out.getvalue()


def _metadata(collection):
    return archive.metadata_json(
        collection, "collection", {}, [{"v": 2, "key": {"_id": 1}, "name": "_id_"}], "ab" * 16
    )


def read(data):
    """What a reader makes of it, in the form that ``written`` takes."""
    reader = archive.Reader(io.BytesIO(data))
    found = {entry.namespace: [] for entry in reader.entries}
    ended = []
    for event in reader:
        if isinstance(event, archive.End):
            ended.append(event.entry.namespace)
        else:
            found[event.entry.namespace] += map(bytes, event.documents)
    assert sorted(ended) == sorted(found)
    return found


def string(text):
    data = text.encode() + b"\0"
    return struct.pack("<i", len(data)) + data


def document(*elements):
    body = b"".join(elements) + b"\0"
    return struct.pack("<i", len(body) + 4) + body


def element(kind, name, value):
    return bytes([kind]) + name.encode() + b"\0" + value


def header_of(db, collection, eof, checksum):
    return document(
        element(2, "db", string(db)),
        element(2, "collection", string(collection)),
        element(8, "EOF", bytes([eof])),
        element(0x12, "CRC", struct.pack("<Q", checksum)),
    )


def entry_of(db, collection, metadata, kind="collection", size=0):
    return document(
        element(2, "db", string(db)),
        element(2, "collection", string(collection)),
        element(2, "metadata", string(metadata)),
        element(0x10, "size", struct.pack("<i", size)),
        element(2, "type", string(kind)),
    )


def prelude_of(*entries, tool="100.7.0", version="0.1"):
    return (
        bytes.fromhex("6de29981")
        + document(
            element(0x10, "concurrent_collections", struct.pack("<i", 4)),
            element(2, "version", string(version)),
            element(2, "server_version", string("6.0.5")),
            element(2, "tool_version", string(tool)),
        )
        + b"".join(entries)
        + b"\xff" * 4
    )


END = b"\xff" * 4


def test_the_bytes_are_the_ones_of_the_format():
    metadata = (
        '{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],'
        '"uuid":"' + "ab" * 16 + '","collectionName":"users","type":"collection"}'
    )
    data = written({"openhim.users": DOCUMENTS[:2], "openhim.zero": []})
    body = b"".join(DOCUMENTS[:2])
    prelude_end = data.index(END) + 4
    assert data.startswith(bytes.fromhex("6de29981"))
    assert entry_of("openhim", "users", metadata) in data[:prelude_end]
    assert data[prelude_end:] == b"".join(
        [
            header_of("openhim", "users", 0, 0),
            body,
            END,
            header_of("openhim", "users", 1, crc.in_python(body)),
            END,
            # The stock tool writes an empty block too: it is what makes a view or an empty
            # collection come into being.
            header_of("openhim", "zero", 0, 0),
            END,
            header_of("openhim", "zero", 1, 0),
            END,
        ]
    )


def test_the_header_has_the_format_s_fields_in_their_order():
    raw = written({})[4:-4]
    found = bson.decode(raw)
    assert list(found) == ["concurrent_collections", "version", "server_version", "tool_version"]
    assert (found["concurrent_collections"], found["version"]) == (1, "0.1")
    assert found["server_version"] == "6.0.5"
    assert re.fullmatch(r"saltext-openhim 0\.1 prelude-crc64=[0-9a-f]{16}", found["tool_version"])


GOLDEN = bytes.fromhex(
    "6de299819100000010636f6e63757272656e745f636f6c6c656374696f6e7300010000000276657273696f6e"
    "0004000000302e3100027365727665725f76657273696f6e0006000000362e302e350002746f6f6c5f766572"
    "73696f6e003300000073616c746578742d6f70656e68696d20302e31207072656c7564652d63726336343d39"
    "6566353831313634323534353539370000f70000000264620002000000640002636f6c6c656374696f6e0002"
    "0000006300026d6574616461746100a90000007b22696e6465786573223a5b7b2276223a7b22246e756d6265"
    "72496e74223a2232227d2c226b6579223a7b225f6964223a7b22246e756d626572496e74223a2231227d7d2c"
    "226e616d65223a225f69645f227d5d2c2275756964223a226162616261626162616261626162616261626162"
    "616261626162616261626162222c22636f6c6c656374696f6e4e616d65223a2263222c2274797065223a2263"
    "6f6c6c656374696f6e227d001073697a6500000000000274797065000b000000636f6c6c656374696f6e0000"
    "ffffffff340000000264620002000000640002636f6c6c656374696f6e0002000000630008454f4600001243"
    "5243000000000000000000000e000000105f6964000100000000ffffffff3400000002646200020000006400"
    "02636f6c6c656374696f6e0002000000630008454f4600011243524300fe59446a4361eaf300ffffffff"
)


def test_what_this_version_wrote_is_written_and_read_the_same_for_ever():
    assert written({"d.c": [bson.encode({"_id": 1})]}) == GOLDEN
    assert read(GOLDEN) == {"d.c": [bson.encode({"_id": 1})]}


def test_what_is_written_is_read():
    namespaces = {"a.one": DOCUMENTS, "a.two": [], "b.one": DOCUMENTS[:1]}
    assert read(written(namespaces)) == namespaces


def test_the_stock_tool_s_interleaved_archives_are_read():
    one, two = DOCUMENTS[:3], DOCUMENTS[3:]
    data = b"".join(
        [
            prelude_of(entry_of("d", "one", ""), entry_of("d", "two", "")),
            *(header_of("d", "one", 0, 0), one[0], END),
            *(header_of("d", "two", 0, 0), two[0], END),
            *(header_of("d", "one", 0, 0), one[1], one[2], END),
            *(header_of("d", "one", 1, crc.in_python(b"".join(one))), END),
            *(header_of("d", "two", 0, 0), two[1], END),
            *(header_of("d", "two", 1, crc.in_python(b"".join(two))), END),
        ]
    )
    assert read(data) == {"d.one": one, "d.two": two}


def test_a_time_series_has_its_documents_under_its_buckets_until_8_3():
    entry = archive.Entry("d", "measures", archive.TIMESERIES)
    assert entry.data_collection("6.0.5") == "system.buckets.measures"
    assert entry.data_collection("8.3.0") == "measures"
    assert archive.Entry("d", "plain").data_collection("6.0.5") == "plain"


@pytest.mark.parametrize("size", [1, 5, 4096, 1 << 20])
def test_documents_come_whole_however_small_the_pieces_are_that_a_stream_gives(size):
    class Trickle(io.BytesIO):
        def read(self, count=-1):
            return super().read(min(count, size))

    documents = [bson.encode({"_id": n, "text": "y" * (n * 37 % 900)}) for n in range(300)]
    reader = archive.Reader(Trickle(written({"d.c": documents})))
    found = [bytes(d) for e in reader if isinstance(e, archive.Documents) for d in e.documents]
    assert found == documents


def test_a_document_of_16_mb_passes():
    room = archive.MAX_DOCUMENT - len(bson.encode({"_id": 1, "text": ""}))
    large = bson.encode({"_id": 1, "text": "z" * room})
    assert read(written({"d.c": [large, DOCUMENTS[0]]})) == {"d.c": [large, DOCUMENTS[0]]}


def test_a_raw_stream_that_takes_a_part_gets_the_rest_too():
    class Narrow(io.BytesIO):
        def write(self, data):
            return super().write(data[:7])

    out = Narrow()
    writer = archive.Writer(out, HEADER, [archive.Entry("d", "c")])
    writer.begin("d", "c")
    writer.documents(DOCUMENTS[4])
    writer.end()
    writer.finish()
    assert read(out.getvalue()) == {"d.c": [DOCUMENTS[4]]}


# Damage

SMALL = written({"openhim.channels": DOCUMENTS, "openhim.users": DOCUMENTS[:2]})


@pytest.mark.parametrize("end", range(len(SMALL)))
def test_an_archive_that_is_cut_off_anywhere_is_refused(end):
    with pytest.raises(archive.ArchiveDamaged, match=r"cut off|four bytes") as error:
        read(SMALL[:end])
    assert "interrupted" in str(error.value) or end < 4


def test_a_flipped_bit_anywhere_is_noticed():
    whole = archive.Reader(io.BytesIO(SMALL))
    documents = read(SMALL)
    for bit in range(len(SMALL) * 8):
        data = bytearray(SMALL)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read(bytes(data))
        except archive.ArchiveDamaged:
            continue
        # What may change without a word is the writer's name, on which nothing depends.
        damaged = archive.Reader(io.BytesIO(bytes(data)))
        assert (found, damaged.entries) == (documents, whole.entries)
        assert damaged.header.server_version == whole.header.server_version


def test_what_is_no_archive_is_refused():
    with pytest.raises(archive.ArchiveDamaged, match="not an archive of mongodump"):
        archive.Reader(io.BytesIO(b"\x1f\x8b\x08\x00 compressed"))
    with pytest.raises(archive.ArchiveDamaged, match="cut off after 0 bytes"):
        archive.Reader(io.BytesIO(b""))


def test_a_newer_format_is_refused_by_its_version():
    with pytest.raises(archive.ArchiveDamaged, match=r"the format '0\.2'; this reads '0\.1'"):
        archive.Reader(io.BytesIO(prelude_of(version="0.2")))


def test_an_unannounced_namespace_is_refused():
    data = prelude_of(entry_of("d", "c", "")) + header_of("d", "other", 0, 0) + END
    with pytest.raises(archive.ArchiveDamaged, match=r"documents of d\.other.*not announce"):
        list(archive.Reader(io.BytesIO(data)))


def test_a_wrong_checksum_names_the_namespace():
    data = bytearray(SMALL)
    at = SMALL.index(DOCUMENTS[4]) + len(DOCUMENTS[4]) - 3
    data[at] ^= 1
    with pytest.raises(archive.ArchiveDamaged, match=r"documents of openhim\.channels are not"):
        read(bytes(data))


# Writing in the wrong order


def test_a_writer_writes_what_it_announced_and_nothing_else():
    writer = archive.Writer(io.BytesIO(), HEADER, [archive.Entry("d", "c")])
    with pytest.raises(ValueError, match=r"d\.other is not to be written"):
        writer.begin("d", "other")
    with pytest.raises(ValueError, match="no namespace"):
        writer.end()
    with pytest.raises(ValueError, match="not written"):
        writer.finish()
    with pytest.raises(ValueError, match="twice"):
        archive.Writer(io.BytesIO(), HEADER, [archive.Entry("d", "c")] * 2)


# Metadata

EVERYTHING = {
    "int": 1,
    "long": Int64(1),
    "double": 1.0,
    "nan": float("inf"),
    "decimal": Decimal128("1.10"),
    "oid": ObjectId("0123456789abcdef01234567"),
    "date": DatetimeMS(253402300800000),
    "binary": Binary(b"\x00\xff", 4),
    "timestamp": Timestamp(1, 2),
    "regex": Regex("^a", "i"),
    "code": Code("f()"),
    "scoped": Code("f()", {"x": 1}),
    "min": MinKey(),
    "max": MaxKey(),
    "null": None,
    "yes": True,
    "text": 'Jürgen\u2028 "quoted" \x01 </script>',
    "nested": {"list": [1, Int64(2), {"deep": None}]},
}


def test_options_and_indexes_of_every_type_come_back_as_they_were():
    indexes = [{"v": 2, "key": {"b": 1, "a": -1.0}, "name": "b_1_a_-1", "partial": EVERYTHING}]
    text = archive.metadata_json("c", "collection", EVERYTHING, indexes)
    found = archive.parse_metadata(text)
    assert bson.encode(found["options"]) == bson.encode(EVERYTHING)
    assert bson.encode(found["indexes"][0]) == bson.encode(indexes[0])


@pytest.mark.parametrize(
    "query",
    [
        {"name": {"$regex": "^a"}},
        {"name": {"$regex": "^a", "$options": "i"}},
        {"x": {"$type": "string"}},
        {"$jsonSchema": {"properties": {"$ref": {"$id": 1}}}},
        {"$expr": {"$gt": ["$a", {"$date": "x", "other": 1}]}},
    ],
)
def test_a_query_in_a_validator_or_a_partial_index_stays_a_query(query):
    text = archive.metadata_json("c", "collection", {"validator": query}, [])
    assert archive.parse_metadata(text)["options"]["validator"] == query


def test_the_stock_tool_s_metadata_is_read():
    text = (
        '{"options":{"capped":true,"size":{"$numberInt":"4096"}},"indexes":[{"v":{"$numberInt":"2"},'
        '"key":{"t":{"$numberDouble":"1.0"}},"name":"t_1","expireAfterSeconds":'
        '{"$numberLong":"60"}}],"uuid":"00","collectionName":"c","type":"collection"}'
    )
    found = archive.parse_metadata(text)
    assert found["options"] == {"capped": True, "size": 4096}
    assert found["indexes"][0]["expireAfterSeconds"] == 60


def test_no_metadata_is_no_options_and_no_indexes():
    assert archive.parse_metadata("") == {"options": {}, "indexes": []}


@pytest.mark.parametrize("text", ["{", "[]", '{"options": {"x": {"$numberInt": "many"}}}'])
def test_metadata_that_is_none_is_refused(text):
    with pytest.raises(archive.ArchiveDamaged, match="not extended JSON"):
        archive.parse_metadata(text)


def test_dates_are_exact_to_the_millisecond():
    date = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=datetime.timezone.utc)
    text = archive.metadata_json("c", "collection", {"from": date}, [])
    assert '{"$date":{"$numberLong":"1767323045678"}}' in text
