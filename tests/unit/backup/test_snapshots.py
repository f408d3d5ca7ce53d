"""What restic lists, when somebody who has the key wrote a snapshot by hand."""

import json
from types import SimpleNamespace

import pytest
from saltext.openhim.backup.repository import Damaged, Repository

GOOD = {
    "id": "1" * 64, "time": "2026-11-22T09:00:00.123456789Z", "tree": "2" * 64,
    "tags": ["stack=demo"], "hostname": "here", "paths": ["/manifest.json"],
}  # fmt: skip


def listing(*entries):
    """A repository whose restic answers with these; restic itself writes no others."""
    found = Repository("r", "a password", cache_dir=None)
    run = SimpleNamespace(finish=lambda _: json.dumps(entries), errors=lambda: "")
    found._run = lambda *_, **__: run
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "0000-01-01T00:00:00Z"},
        {"time": "soon"},
        {"time": None},
        {"tree": ...},
        {"tags": 5},
    ],
)
def test_a_malformed_one_is_told_and_hides_no_other(changes):
    bad = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    damaged = []
    found = listing(bad, GOOD).snapshots(damaged=damaged)
    assert [one.id for one in found] == [GOOD["id"]]
    assert len(damaged) == 1
    with pytest.raises(Damaged, match="a snapshot is malformed"):
        listing(bad, GOOD).snapshots()
