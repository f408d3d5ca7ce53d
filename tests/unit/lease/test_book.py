"""What a witness remembers, and that it never counts too short."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.lease import book
from saltext.openhim.lease.book import Book, Given

NORTH = Given("north-core", "north", at=100.0, seconds=30.0)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "granted.json")


def test_a_site_that_was_never_granted_a_lease_is_unknown():
    assert Book(()).left("north", 1e9) is None


def test_a_site_with_a_host_that_never_held_a_lease_is_unknown():
    """That host is open, whatever became of the others' leases."""
    one = Book((Given("north-core", "north", 100.0, 30.0),))
    assert one.left("north", 131.0, ["north-core"]) == -1.0
    assert one.left("north", 131.0, ["north-core", "north-db1"]) is None


def test_the_last_host_of_a_site_counts():
    granted = Book((NORTH,)).granted(Given("north-db", "north", 110.0, 30.0))
    assert granted.left("north", 110.0) == 30.0


def test_a_renewal_replaces_the_lease_of_that_host_only():
    granted = Book((NORTH, Given("north-db", "north", 90.0, 30.0)))
    renewed = granted.granted(Given("north-core", "north", 105.0, 30.0))
    assert {one.host: one.at for one in renewed.given} == {"north-db": 90.0, "north-core": 105.0}


def test_another_site_waits_until_this_one_has_run_out_and_not_for_itself():
    granted = Book((NORTH,))
    assert granted.elsewhere("south", 110.0, 2.0) == 22.0
    assert granted.elsewhere("south", 140.0, 2.0) == 0.0
    assert granted.elsewhere("north", 110.0, 2.0) == 0.0


def test_a_lease_that_was_given_back_is_over_but_for_the_skew():
    given_back = Book((NORTH,)).granted(Given("north-core", "north", 110.0, 0.0))
    assert given_back.elsewhere("south", 110.0, 2.0) == 2.0


def test_one_that_nobody_knows_of_may_be_anybodys(path):
    begun, problem = book.begun(30.0, path)
    assert "is not there" in problem
    now = book.now()
    for site in ("north", "south"):
        assert begun.elsewhere(site, now, 2.0) == pytest.approx(32.0, abs=1)
    north = begun.granted(Given("north-core", "north", now - 31, 30.0))
    assert north.left("north", now) == pytest.approx(30.0, abs=1)


@pytest.mark.parametrize("text", ["", "half a bo", "[]", '{"boot": "x"}', '{"given": [{}]}'])
def test_a_damaged_book_is_told_and_counts_like_none(path, text):
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)
    with pytest.raises(OpenHIMError, match="cannot be read"):
        book.read(path)
    begun, problem = book.begun(30.0, path)
    assert "cannot be read" in problem
    assert begun.elsewhere("north", book.now(), 2.0) > 0


def test_what_was_written_is_read_again(path):
    book.write(Book((NORTH, Given("", None, 5.0, 30.0))), path)
    assert book.read(path) == Book((NORTH, Given("", None, 5.0, 30.0)))


@given(at=st.floats(0, 1e7), up=st.floats(0, 1e3))
def test_after_a_boot_no_lease_is_counted_too_short(tmp_path_factory, at, up):
    """It was granted before the boot, when this boot's clock had not begun."""
    path = tmp_path_factory.mktemp("book") / "granted.json"
    entry = {"host": "north-core", "site": "north", "at": at, "seconds": 30.0}
    path.write_text(json.dumps({"boot": "an earlier one", "given": [entry]}))
    left = book.read(str(path)).left("north", up)
    assert left == 30.0 - up
