"""What is found in an entry's bytes is what decoding finds; anything else is no entry."""

from datetime import datetime, timezone

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup.oplog.entry import Entry, NoEntry, kind_of, operation

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.integers(-(2**31), 2**31 - 1)
    | st.integers(-(2**63), 2**63 - 1).map(Int64)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from(
        [
            *(MinKey(), MaxKey(), ObjectId(), Decimal128("1.5"), Timestamp(7, 7)),
            *(Regex("a.*", "im"), Code("f()"), Code("f()", {"a": 1}), Binary(b"x" * 16, 4)),
            *(DBRef("c", 1), datetime(2026, 1, 1, tzinfo=timezone.utc)),
        ]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)
U32 = st.integers(0, 2**32 - 1)
AWARE = CodecOptions(tz_aware=True)


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS, U32, U32, st.integers(-1, 2**40), st.text(max_size=5))
def test_the_fields_are_those_that_decoding_finds(before, document, query, time, inc, term, ns):
    ns = ns.replace("\0", "")
    # Whatever stands around them, and whatever is called the same within.
    around = {f"x{name}": value for name, value in before.items()}
    inside = {**document, "ts": Timestamp(1, 1), "t": 1, "op": "n", "wall": None}
    fields = {**around, "op": "u", "ns": ns, "o": inside, "o2": query}
    wall = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
    raw = bson.encode({**fields, "ts": Timestamp(time, inc), "t": Int64(term), "wall": wall})
    entry = Entry(raw)
    decoded = bson.decode(raw, AWARE)
    assert (entry.time, entry.inc, entry.term) == (time, inc, term)
    assert entry.wall == decoded["wall"] == wall
    assert (entry.string(b"op"), entry.string(b"ns").decode()) == (b"u", ns)
    assert entry.document(b"o") == bson.encode(inside)
    assert entry.document(b"o2") == bson.encode(query)


def test_an_entry_of_an_old_server_has_no_term_and_no_wall():
    entry = Entry(bson.encode({"op": "n", "ts": Timestamp(60, 1)}))
    assert entry.term == -1
    assert entry.wall == datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)


RAW = bson.encode({"op": "i", "ns": "a.b", "o": {"x": "y"}, "ts": Timestamp(1, 2), "t": Int64(3)})


@given(st.integers(0, len(RAW) - 1))
def test_less_than_an_entry_is_none(length):
    with pytest.raises(NoEntry):
        Entry(RAW[:length])


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255))
def test_whatever_the_bytes_are_it_is_an_entry_or_no_entry(at, value):
    changed = RAW[:at] + bytes([value]) + RAW[at + 1 :]
    try:
        entry = Entry(changed)
        entry.string(b"op")
        entry.document(b"o")
    except (NoEntry, KeyError):
        pass


@pytest.mark.parametrize(
    "other", [{}, {"ts": 5}, {"ts": {"a": 1}}, {"ts": Timestamp(1, 1), "t": "x"}]
)
def test_a_document_without_a_cluster_time_is_no_entry(other):
    with pytest.raises(NoEntry):
        Entry(bson.encode({"op": "i", **other}))


@given(DOCUMENTS, st.none() | DOCUMENTS, NAMES)
def test_an_operation_is_what_encoding_it_gives(document, query, namespace):
    made = {
        "op": "u",
        "ns": namespace,
        "o": document,
        **({"o2": query} if query is not None else {}),
    }
    packed = None if query is None else bson.encode(query)
    found = operation(b"u", namespace.encode(), bson.encode(document), packed)
    assert found == bson.encode(made)
    assert kind_of(found) == "u"
