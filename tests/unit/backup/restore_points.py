"""Restore points out of nothing, for tests that only look at them."""

from datetime import datetime, timedelta, timezone

from saltext.openhim.backup.manifest import Manifest, ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.verification import Verification

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def record(ok=True, sampled=False, reasons=()):
    return Verification(
        "p", "demo", "0" * 64, ok, "2026-01-31T12:00:00Z", "a", "h", sampled=sampled,
        reasons=reasons,
    )  # fmt: skip


def point(age=timedelta(0), *records, of=None):
    """A restore point begun so long ago; its data is of another moment when ``of`` says so."""
    point_id = f"{NOW - age:%Y%m%dT%H%M%SZ}-000000"
    at = int((NOW - (age if of is None else of)).timestamp())
    sets = (ReplicaSet("openhim", (at, 1), "6.0.5", "6.0", "openhim.archive"),)
    manifest = Manifest("demo", point_id, 0, sets, (), (), "", "", "", "", "", 0)
    return RestorePoint(manifest, "", "", records)
