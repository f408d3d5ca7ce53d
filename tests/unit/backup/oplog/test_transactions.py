"""Transactions as the oplog has them: one entry, a chain, or prepared first."""

import pytest
from bson import Binary, Int64, Timestamp
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup.oplog.transactions import Transactions
from saltext.openhim.errors import Refused

from tests.unit.backup.oplog.made import entry, ts

NONE = {"ts": Timestamp(0, 0), "t": Int64(-1)}


def _operation(number):
    return {"op": "i", "ns": "openhim.numbers", "o": {"_id": number}}


def _entry(at, command, previous=None, number=1, **more):
    link = {"ts": ts(previous), "t": Int64(1)} if previous is not None else NONE
    raw = entry(
        at,
        op="c",
        ns="admin.$cmd",
        o=command,
        lsid={"id": Binary(b"s" * 16, 4), "uid": b"u"},
        txnNumber=Int64(number),
        prevOpTime=link,
        **more,
    )
    return RawBSONDocument(raw)


def _ids(operations):
    return [each["o"]["_id"] for each in operations]


def _chain(at, sizes, number=1):
    """A transaction of one entry for each size, beginning at ``at``; and what it inserts."""
    made, inserted, first = [], [], 1000 * at
    for index, size in enumerate(sizes):
        operations = [_operation(first + each) for each in range(size)]
        inserted += _ids(operations)
        first += size
        last = index + 1 == len(sizes)
        command = {"applyOps": operations, **({} if last else {"partialTxn": True})}
        made.append(_entry(at + index, command, at + index - 1 if index else None, number))
    return made, inserted


def _none():
    return []


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_a_chain_comes_whole_and_in_order_with_its_last_entry(sizes):
    entries, inserted = _chain(5, sizes)
    transactions = Transactions(_none)
    given_out = [transactions.feed(each, True) for each in entries]
    assert given_out[:-1] == [[]] * (len(sizes) - 1)
    assert _ids(given_out[-1]) == inserted


@given(st.integers(2, 6), st.integers(0, 6), st.integers(1, 6))
def test_a_chain_that_began_before_the_base_comes_whole(length, missed, pieces):
    """``missed`` entries are in older slices, of ``pieces`` entries each."""
    missed = min(missed, length - 1)
    entries, inserted = _chain(5, [1] * length)
    other, _ = _chain(5, [1] * length, number=2)
    older = [*entries[:missed], *other[:missed]]
    older.sort(key=lambda each: each["ts"])
    cut = [older[at : at + pieces] for at in range(0, len(older), pieces)]
    transactions = Transactions(lambda: reversed(cut))
    for each in entries[missed:-1]:
        transactions.feed(each, False)
    assert _ids(transactions.feed(entries[-1], True)) == inserted


def test_a_chain_whose_beginning_is_nowhere_is_refused():
    entries, _ = _chain(5, [1, 1, 1])
    with pytest.raises(Refused, match="began before what the archive has"):
        Transactions(_none).feed(entries[-1], True)
    with pytest.raises(Refused, match="began before what the archive has"):
        Transactions(lambda: [entries[1:2]]).feed(entries[-1], True)


def test_a_transaction_that_the_base_has_is_not_given_out_again():
    entries, _ = _chain(5, [1, 1])
    transactions = Transactions(_none)
    assert [transactions.feed(each, False) for each in entries] == [[], []]
    assert transactions.unfinished() == 0


def test_a_prepared_transaction_waits_for_its_commit():
    prepared = _entry(5, {"applyOps": [_operation(1)], "prepare": True})
    transactions = Transactions(_none)
    assert transactions.feed(prepared, True) == []
    commit = _entry(9, {"commitTransaction": 1, "commitTimestamp": ts(8)}, previous=5)
    assert _ids(transactions.feed(commit, True)) == [1]


def test_a_prepared_transaction_of_before_the_base_is_looked_up():
    prepared = _entry(5, {"applyOps": [_operation(1)], "prepare": True})
    commit = _entry(9, {"commitTransaction": 1, "commitTimestamp": ts(8)}, previous=5)
    assert _ids(Transactions(lambda: [[prepared]]).feed(commit, True)) == [1]


def test_an_aborted_transaction_never_was():
    transactions = Transactions(_none)
    transactions.feed(_entry(5, {"applyOps": [_operation(1)], "prepare": True}), True)
    assert transactions.feed(_entry(6, {"abortTransaction": 1}, previous=5), True) == []
    assert transactions.unfinished() == 0


def test_two_transactions_that_interleave_are_kept_apart():
    one, first = _chain(5, [2, 2], number=1)
    two, second = _chain(15, [1, 1], number=2)
    transactions = Transactions(_none)
    for each in (one[0], two[0]):
        transactions.feed(each, True)
    assert _ids(transactions.feed(two[1], True)) == second
    assert _ids(transactions.feed(one[1], True)) == first


def test_what_is_no_transaction_is_left_to_others():
    transactions = Transactions(_none)
    assert transactions.feed(_entry(5, {"create": "x"}), True) is None
    retryable = _entry(6, {"applyOps": [_operation(1)]}, previous=3, multiOpType=1)
    assert _ids(transactions.feed(retryable, True)) == [1]
