"""When a restore point counts as verified."""

import pytest
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.verification import Verification


def record(ok=True, sampled=False):
    return Verification(
        "p", "demo", "0" * 64, ok, "2026-01-31T12:00:00Z", "a", "h", sampled=sampled
    )


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
    ],
)
def test_it_was_restored_whole_and_nothing_since_speaks_against_it(records, expected):
    assert RestorePoint(None, "", "", tuple(records)).verified is expected
