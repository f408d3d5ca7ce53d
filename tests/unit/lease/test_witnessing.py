"""Who is granted a lease, who is not, and what each is told."""

from dataclasses import replace

import pytest
from saltext.openhim.lease.book import Book, Given
from saltext.openhim.lease.witnessing import Told, decide, stranger
from saltext.openhim.lease.words import RENEW, Request
from saltext.openhim.recovery.epochs import Epoch

TOLD = Told.read(
    {
        "stack": "example",
        "host": "master",
        "site": "west",
        "active_site": "north",
        "seconds": 30,
        "max_skew": 2,
        "holders": {
            "north-core": {"site": "north", "name": "core.north"},
            "south-core": {"site": "south", "name": "core.south"},
        },
    }
)
NOW, WALL = 1000.0, 1.8e9


def epoch(number, site, **values):
    made = Epoch(
        number=number,
        id=f"{number}: {site}",
        parent=None,
        kind="failover",
        stack="example",
        active_site=site,
        profile="reduced",
        lost_sites=(),
        declared_by="Ada",
        reason="fire",
        declared_at="2026-01-31T12:00:00+00:00",
        witnesses=("master",),
    )
    return replace(made, **values)


FIRST = epoch(1, "south")
SECOND = replace(epoch(2, "north"), parent=FIRST.id)


def asked(host="north-core", records=(), **values):
    return replace(Request(RENEW, "example", host, WALL, tuple(records)), **values)


def answered(request, records=(), book=None, **values):
    given = {"vouches": True, "now": NOW, "wall": WALL, **values}
    return decide(TOLD, request, list(records), book or Book(()), **given)


def test_the_active_site_is_granted_the_lease():
    answer = answered(asked())
    assert (answer.granted, answer.seconds, answer.reasons) == (True, 30.0, ())


@pytest.mark.parametrize(
    ("request_", "records", "values", "words"),
    [
        (asked("south-core"), (), {}, "south is not the active site"),
        (asked(records=[FIRST]), [FIRST], {}, "north is not the active site"),
        (asked(), [FIRST], {}, "the holder another"),
        (asked(records=[FIRST, SECOND]), [FIRST], {}, "the holder another"),
        (asked("south-core", [FIRST]), [FIRST, epoch(1, "north")], {}, "contradict each other"),
        (asked(time=WALL - 3), (), {}, "3.0 s apart"),
        (asked(time=WALL + 3), (), {}, "-3.0 s apart"),
        (asked(), (), {"vouches": False}, "does not know that its epoch is the newest"),
    ],
)
def test_who_is_not_granted_is_told_why(request_, records, values, words):
    answer = answered(request_, records, **values)
    assert not answer.granted
    assert words in "; ".join(answer.reasons)


def test_another_sites_lease_is_waited_for():
    book = Book((Given("north-core", "north", NOW - 10, 30.0),))
    answer = answered(asked("south-core", [FIRST]), [FIRST], book)
    assert "another site may still hold a lease for 22.0 s" in answer.reasons[0]
    assert answered(asked("south-core", [FIRST]), [FIRST], book, now=NOW + 23).granted


def test_a_site_that_was_given_up_is_told_to_close():
    answer = answered(asked(records=[]), [FIRST])
    assert answer.given_up
    assert answer.records == (FIRST,)


def test_who_knows_more_than_the_witness_is_not_told_what_to_do():
    answer = answered(asked(records=[FIRST, SECOND]), [FIRST])
    assert (answer.granted, answer.given_up, answer.unneeded) == (False, False, False)


def test_a_witness_that_does_not_vouch_tells_nobody_to_close_or_to_open():
    bare = epoch(1, "north", witnesses=())
    for records in ([FIRST], [bare]):
        answer = answered(asked(records=records), records, vouches=False)
        assert (answer.granted, answer.given_up, answer.unneeded) == (False, False, False)


def test_an_epoch_without_witnesses_needs_no_lease_once_the_other_site_has_none():
    bare = epoch(1, "south", witnesses=())
    book = Book((Given("north-core", "north", NOW - 10, 30.0),))
    request = asked("south-core", [bare])
    assert not answered(request, [bare], book).unneeded
    later = answered(request, [bare], book, now=NOW + 23)
    assert later.unneeded
    assert not later.granted


def test_a_witness_at_the_same_site_grants_nothing():
    there = replace(TOLD, site="north")
    answer = decide(there, asked(), [], Book(()), vouches=True, now=NOW, wall=WALL)
    assert "is no witness of north's lease" in answer.reasons[0]


@pytest.mark.parametrize(
    ("request_", "names", "words"),
    [
        (asked(), ["core.south", "localhost"], "each host asks for itself"),
        (asked(), [], "each host asks for itself"),
        (asked("west-backup"), ["west-backup"], "no host of that name"),
        (asked(stack="another"), ["core.north"], "this is the witness of 'example'"),
    ],
)
def test_a_stranger_is_not_answered(request_, names, words):
    assert words in stranger(TOLD, request_, names)


def test_a_host_with_its_own_certificate_is_no_stranger():
    assert stranger(TOLD, asked(), ["core.north", "localhost"]) is None
