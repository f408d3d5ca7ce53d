"""Which restore point is meant by ``latest``, and which is verified next."""

from datetime import datetime, timedelta, timezone

import pytest
from saltext.openhim.backup import points, verify, work
from saltext.openhim.errors import OpenHIMError

from . import restore_points
from .restore_points import point, record
from .test_schedule import backups

HOUR = timedelta(hours=1)


@pytest.fixture
def holding(monkeypatch):
    """The first repository holds these; its contents are seen from the host that verifies."""
    monkeypatch.setattr(restore_points, "NOW", datetime.now(timezone.utc).replace(microsecond=0))

    def hold(*known):
        monkeypatch.setattr(points, "listing", lambda *_: points.Listing(points=known))
        found = backups("south-core")
        found.pillar["openhim"]["secrets"] = {"near": "key"}
        return found

    return hold


def test_latest_is_what_shows_the_latest_data_and_is_not_of_the_future(holding):
    fresh, stale, future = point(3 * HOUR), point(HOUR, of=30 * HOUR), point(-2 * HOUR, record())
    found = holding(fresh, stale, future)
    assert work.find(found) == (fresh, "near")
    assert work.find(found, future.id) == (future, "near"), "a person who names it may have it"
    with pytest.raises(OpenHIMError, match="near: holds no such restore point"):
        work.find(found, "verified")
    verified = point(40 * HOUR, record())
    assert work.find(holding(verified, fresh, future), "verified") == (verified, "near")


def test_a_point_of_the_future_is_not_verified_before_the_others(holding, monkeypatch):
    asked = []

    def one(_, chosen, name, *__):
        asked.append((chosen, name))
        return chosen

    monkeypatch.setattr(verify, "_verify", one)
    today, future = point(HOUR), point(-2 * HOUR)
    verify.verify_due(holding(today, future), by="a test")
    assert asked == [(today, "near")]
