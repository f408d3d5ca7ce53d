"""What becomes of a write, and when "nothing was lost" may be said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from saltext.openhim.recovery import ledger
from saltext.openhim.recovery.ledger import (
    COMPLETE,
    LOST,
    REMOVED,
    ROLLED_BACK,
    SUPERSEDED,
    SURVIVED,
    UNREAD,
    Lost,
    Member,
    Now,
    Write,
)

INSERT = Write("openhim.transactions", '"a"', "insert", "0000000001-0000000001-0000000001", "t")
UPDATE = replace(INSERT, operation="update", position="0000000001-0000000002-0000000001")
FACTS = {"client": "c", "channel": "h", "method": "POST", "path": "/x", "can_rerun": True}


@pytest.mark.parametrize(
    ("lost", "now", "fate"),
    [
        # The new history has the same.
        (Lost("v1"), Now("v1", written=True), SURVIVED),
        (Lost("v1"), Now("v1", written=None), SURVIVED),
        (Lost(REMOVED), Now(None, written=False), SURVIVED),
        # It has a later version, or has removed it since.
        (Lost("v1"), Now("v2", written=True), SUPERSEDED),
        (Lost("v1"), Now(None, written=True), SUPERSEDED),
        (Lost(REMOVED), Now("v2", written=True), SUPERSEDED),
        (Lost(None), Now("v2", written=True), SUPERSEDED),
        # It has nothing of it, or the version of before the fork.
        (Lost("v1"), Now(None, written=False), LOST),
        (Lost("v1"), Now("v0", written=False), LOST),
        (Lost(REMOVED), Now("v0", written=False), LOST),
        # In doubt it is lost.
        (Lost("v1"), Now("v2", written=None), LOST),
        (Lost(None), Now("v2", written=None), LOST),
        (Lost(None), Now(None, written=None), LOST),
        (Lost(REMOVED), Now("v2", written=None), LOST),
    ],
)
def test_what_became_of_a_write(lost: Lost, now: Now, fate: str) -> None:
    """By the last version of its document in both histories."""
    assert ledger.fate(lost, now) == fate


@pytest.mark.parametrize(
    ("fate", "lost", "now", "rerun"),
    [
        (LOST, Lost("v1", FACTS), Now(), "after its document is put back"),
        (LOST, Lost("v1", FACTS), Now("v0", False, FACTS), "by its ID"),
        (LOST, Lost("v1", {**FACTS, "can_rerun": False}), Now(), "impossible"),
        (LOST, Lost("v1", FACTS), Now("v0", False, {**FACTS, "can_rerun": False}), "impossible"),
        (SURVIVED, Lost("v1", FACTS), Now("v1", True, FACTS), ""),
        (LOST, Lost("v1"), Now(), ""),
    ],
)
def test_whether_openhim_can_rerun_it(fate: str, lost: Lost, now: Now, rerun: str) -> None:
    """What OpenHIM has now decides; what it does not have must be put back first."""
    assert ledger.rerun(fate, lost, now) == rerun


def test_what_two_members_and_a_rollback_file_tell_is_told_once() -> None:
    """In the order of the oplog; what a rollback file alone knows comes last."""
    undone = Write(INSERT.collection, INSERT.id, ledger.WRITTEN)
    other = replace(undone, id='"b"')
    assert ledger.merged([other, UPDATE, INSERT, undone, INSERT]) == [INSERT, UPDATE, other]


def test_of_two_members_the_longer_one_knows_the_last_version() -> None:
    """In whichever order they are asked."""
    short = ([INSERT], {INSERT.document: Lost("v1")})
    long = ([INSERT, UPDATE], {INSERT.document: Lost("v2")})
    for parts in ([short, long], [long, short]):
        assert ledger.versions(parts) == {INSERT.document: Lost("v2")}


@pytest.mark.parametrize(
    ("members", "doubts"),
    [
        ([Member("a", COMPLETE), Member("b", COMPLETE)], []),
        ([Member("a", COMPLETE)], ["b: nobody has read it"]),
        ([Member("a", COMPLETE), Member("b", UNREAD, "it burnt")], ["b: it burnt"]),
        ([Member("a", ROLLED_BACK, "no deletes"), Member("b", COMPLETE)], ["a: no deletes"]),
    ],
)
def test_it_is_known_only_of_members_that_were_read_whole(
    members: list[Member], doubts: list[str]
) -> None:
    """And not known is not "nothing", even if nothing was found."""
    assert ledger.doubts(members, ["a", "b"]) == doubts
    assert ledger.verdict([], doubts) == (ledger.NOT_KNOWN if doubts else ledger.NOTHING_LOST)


def stored(members: list[Member], writes: list[Write], now: Now) -> dict:
    """The ledger of a stack with one set and members a and b."""
    entries = ledger.entries(
        writes, {w.document: Lost("v1") for w in writes}, {w.document: now for w in writes}, {}
    )
    one = ledger.of_set(
        {"fork": "f", "new": "n"}, entries, members, ledger.doubts(members, ["a", "b"])
    )
    return ledger.of_stack("example", 1, "t", {"rs": one})


def test_survivors_alone_are_no_loss_and_all_sets_count() -> None:
    """The worst of the sets is the whole's."""
    members = [Member("a", COMPLETE), Member("b", COMPLETE)]
    fine = stored(members, [INSERT], Now("v1"))
    lost = stored(members, [INSERT], Now(None, written=False))
    unknown = stored(members[:1], [], Now())
    assert [one["state"] for one in (fine, lost, unknown)] == [
        "nothing was lost", "writes were lost", "not known",
    ]  # fmt: skip
    sets = {"x": fine["sets"]["rs"], "y": lost["sets"]["rs"]}
    assert ledger.of_stack("example", 1, "t", sets)["state"] == "writes were lost"
    sets["z"] = unknown["sets"]["rs"]
    assert ledger.of_stack("example", 1, "t", sets)["state"] == "not known"


def test_a_member_that_was_read_and_is_gone_was_read() -> None:
    """What it had told stays in the ledger, and is no doubt any more."""
    earlier = stored([Member("a", COMPLETE), Member("b", COMPLETE)], [INSERT], Now())
    gone = stored([Member("a", UNREAD, "gone"), Member("b", COMPLETE)], [], Now())
    again = ledger.with_earlier(gone, earlier)
    assert again["state"] == "writes were lost"
    assert again["sets"]["rs"]["writes"] == earlier["sets"]["rs"]["writes"]
    assert again["sets"]["rs"]["counts"]["lost"] == 1


def test_what_an_earlier_ledger_knew_does_not_hide_a_new_doubt() -> None:
    """A member that wrote on after it was read; another fork; no earlier ledger."""
    earlier = stored([Member("a", COMPLETE), Member("b", COMPLETE)], [INSERT], Now())
    wrote = stored([Member("a", ROLLED_BACK, "more"), Member("b", COMPLETE)], [INSERT], Now())
    assert ledger.with_earlier(wrote, earlier)["state"] == "not known"
    gone = stored([Member("a", UNREAD, "gone"), Member("b", COMPLETE)], [], Now())
    gone["sets"]["rs"]["fork"] = "another"
    assert ledger.with_earlier(gone, earlier)["state"] == "not known"
    gone = stored([Member("a", UNREAD, "gone"), Member("b", COMPLETE)], [], Now())
    assert ledger.with_earlier(gone, None)["state"] == "not known"


def test_the_table_says_why_it_is_not_known_and_lists_the_writes() -> None:
    """As a person reads it at night."""
    told = stored([Member("a", UNREAD, "it burnt")], [INSERT], Now())
    text = ledger.table(told)
    assert "epoch 1: not known" in text
    assert "not known, because a: it burnt" in text
    assert "not known, because b: nobody has read it" in text
    assert "1 lost, 0 superseded, 0 survived" in text
    assert any(line.split()[:3] == ["rs", INSERT.collection, "a"] for line in text.splitlines())
