"""The recovery record: what it remembers, and what it refuses."""

import threading

import pytest
from saltext.openhim import record
from saltext.openhim.errors import OpenHIMError, Refused

VALUES = {
    "kind": "failover", "active_site": "south", "profile": "reduced", "lost_sites": ["north"],
    "declared_by": "Ada", "reason": "fire", "declared_at": "2026-01-31T12:00:00+00:00",
}  # fmt: skip


def test_a_stack_that_was_never_recovered_has_no_epoch(tmp_path):
    assert record.current("example", tmp_path) is None
    assert record.history("example", tmp_path) == []


def test_each_epoch_names_its_parent_and_survives_on_disk(tmp_path):
    first = record.declare("example", tmp_path, parent=None, **VALUES)
    second = record.declare("example", tmp_path, parent=first.id, **VALUES)
    assert [e.number for e in record.history("example", tmp_path)] == [1, 2]
    assert record.current("example", tmp_path) == second
    assert second.parent == first.id
    assert (tmp_path / "example.json").stat().st_mode & 0o777 == 0o600


def test_two_recoveries_that_start_from_the_same_state_cannot_both_be_declared(tmp_path):
    outcomes = []

    def declare(who):
        try:
            record.declare("example", tmp_path, parent=None, **{**VALUES, "declared_by": who})
            outcomes.append("declared")
        except Refused as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=declare, args=(f"person {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("declared") == 1
    assert len(record.history("example", tmp_path)) == 1
    assert all("has changed meanwhile" in o for o in outcomes if o != "declared")


def test_an_epoch_keeps_the_result_that_it_was_given_first(tmp_path):
    epoch = record.declare("example", tmp_path, parent=None, **VALUES)
    record.conclude("example", epoch.id, {"rto_seconds": 7}, tmp_path)
    kept = record.conclude("example", epoch.id, {"rto_seconds": 900}, tmp_path)
    assert kept.result == {"rto_seconds": 7}
    assert record.current("example", tmp_path).result == {"rto_seconds": 7}


@pytest.mark.parametrize("text", ["", "{", '[{"number": 1}]', "[1]", '{"a": 1}'])
def test_a_damaged_record_is_an_error_and_never_nothing(tmp_path, text):
    (tmp_path / "example.json").write_text(text)
    with pytest.raises(OpenHIMError, match="is damaged"):
        record.current("example", tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_the_name_of_a_stack_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(OpenHIMError, match="is no name of a stack"):
        record.history(name, tmp_path)


def test_a_crash_while_writing_leaves_the_record_as_it_was(tmp_path, monkeypatch):
    first = record.declare("example", tmp_path, parent=None, **VALUES)

    def full(descriptor):
        raise OSError("disk full")

    # A disk that fills at exactly this moment cannot be had for real.
    monkeypatch.setattr("saltext.openhim.files.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        record.declare("example", tmp_path, parent=first.id, **VALUES)
    assert record.current("example", tmp_path) == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["example.json", "example.lock"]
