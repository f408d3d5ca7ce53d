"""The beacon: a minion says when its backups change, and when nobody looks any more."""

from datetime import datetime, timedelta, timezone

import pytest
import salt.loader
from saltext.openhim.backup import status

from tests.functional.conftest import REPOSITORY


@pytest.fixture
def beacon(loaders, tmp_path, monkeypatch):
    """The beacon as Salt loads it, and a file of this test's own behind it."""
    file = str(tmp_path / "status.json")
    monkeypatch.setattr(status.kept, "__defaults__", (None, file))
    minion = loaders("south-db1", {})
    minion.opts["beacons_dirs"] = [str(REPOSITORY / "_beacons")]
    loaded = salt.loader.beacons(minion.opts, minion.modules)
    loaded["openhim_backup.beacon"]  # load it

    class Asked:
        def __call__(self, **settings):
            return loaded["openhim_backup.beacon"]([settings] if settings else [])

        def said(self, state, *reasons, age=0):
            at = datetime.now(timezone.utc) - timedelta(seconds=age)
            found = {"state": state, "reasons": list(reasons), "at": at.isoformat(), "stack": "t"}
            status.keep(found, file)

        validate = staticmethod(loaded["openhim_backup.validate"])

    return Asked()


def test_a_minion_that_nobody_has_asked_says_that_it_does_not_know(beacon):
    (event,) = beacon()
    assert event["state"] == event["tag"] == "unknown"
    assert "nobody has looked" in event["reasons"][0]
    assert beacon() == []


def test_every_change_is_an_event_and_nothing_else_is(beacon):
    beacon.said("ok")
    assert [event["state"] for event in beacon()] == ["ok"]
    beacon.said("ok")
    assert beacon() == []
    beacon.said("failing", "near: it holds no restore point")
    (event,) = beacon()
    assert (event["state"], event["reasons"]) == ("failing", ["near: it holds no restore point"])
    beacon.said("failing", "near: it holds no restore point", "far: so does this")
    assert len(beacon()) == 1
    beacon.said("ok")
    assert [event["state"] for event in beacon()] == ["ok"]


def test_silence_is_not_ok(beacon):
    beacon.said("ok")
    beacon()
    beacon.said("ok", age=100)
    assert [event["state"] for event in beacon(max_age=60)] == ["unknown"]


def test_what_is_not_ok_is_said_again(beacon):
    beacon.said("failing", "near: full")
    assert len(beacon(repeat=3600)) == 1
    assert beacon(repeat=3600) == []
    assert len(beacon(repeat=1e-9)) == 1


@pytest.mark.parametrize("config", [{}, [{"max_age": "soon"}], [{"repeat": 0}]])
def test_a_wrong_configuration_is_refused(beacon, config):
    assert beacon.validate(config)[0] is False


def test_the_documented_configuration_is_valid(beacon):
    assert beacon.validate([{"interval": 60}, {"max_age": 1800}, {"repeat": 3600}])[0] is True
