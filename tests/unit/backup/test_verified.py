"""When a restore point counts as verified."""

import pytest
from saltext.openhim.backup.points import RestorePoint

from .restore_points import record


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], False),
        ([record()], True),
        ([record(ok=False)], False),
        ([record(), record(ok=False)], False),
        ([record(ok=False), record()], True),
        ([record(sampled=True)], False),
        ([record(), record(sampled=True)], True),
        ([record(), record(ok=False, sampled=True)], False),
        ([record(), record(ok=False), record(sampled=True)], False),
        ([record(), record(ok=False, sampled=True), record(sampled=True)], False),
        ([record(ok=False), record(), record(sampled=True)], True),
    ],
)
def test_it_was_restored_whole_and_nothing_since_speaks_against_it(records, expected):
    assert RestorePoint(None, "", "", tuple(records)).verified is expected
