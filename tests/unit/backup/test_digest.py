"""The content hash tells documents apart and not their order."""

import hashlib

import bson
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup import digest

DOCUMENTS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def test_it_is_what_it_says_it_is():
    one, two = bson.encode({"a": 1}), bson.encode({"a": 2})
    numbers = [int(hashlib.sha256(each).hexdigest(), 16) for each in (one, two)]
    assert digest.of([one, two]) == f"{sum(numbers) % 2**256:064x}"
    assert digest.of([]) == "0" * 64


@given(DOCUMENTS, st.randoms())
def test_the_order_does_not_matter(documents, random):
    other = list(documents)
    random.shuffle(other)
    assert digest.of(documents) == digest.of(other)


@given(DOCUMENTS, DOCUMENTS)
def test_parts_can_be_added(one, two):
    whole, first, second = digest.Digest(), digest.Digest(), digest.Digest()
    whole.update(one + two)
    first.update(one)
    second.update(two)
    first.merge(second)
    assert first == whole
    assert (whole.count, whole.bytes) == (len(one + two), sum(map(len, one + two)))


@given(DOCUMENTS.filter(bool), st.integers(min_value=0), st.integers(0, 7))
def test_a_changed_bit_a_missing_and_a_doubled_document_do_matter(documents, where, bit):
    index = where % len(documents)
    changed = bytearray(documents[index])
    changed[where % len(changed)] ^= 1 << bit
    for other in (
        [*documents[:index], bytes(changed), *documents[index + 1 :]],
        documents[:index] + documents[index + 1 :],
        [*documents, documents[index]],
    ):
        assert digest.of(other) != digest.of(documents)
