"""When OpenHIM was stopped for a recovery; mocked: systemd."""

from datetime import datetime, timezone

import pytest
from saltext.openhim import systemd
from saltext.openhim.core import standby
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.systemd import UnitState


@pytest.fixture
def unit(monkeypatch, tmp_path):
    """OpenHIM's, which runs; systemd forgets its times as soon as it is stopped."""
    states = {standby.UNIT: UnitState("loaded", "active")}
    monkeypatch.setattr(standby, "STOPPED", str(tmp_path / "state" / "openhim-stopped"))
    monkeypatch.setattr(systemd, "booted", lambda: True)
    monkeypatch.setattr(systemd, "states", lambda units: {one: states[one] for one in units})
    monkeypatch.setattr(systemd, "systemctl", lambda *_, **__: False)

    def stop(units):
        for one in units:
            states[one] = UnitState("loaded", "inactive")

    monkeypatch.setattr(systemd, "stop", stop)
    return states


def test_the_time_is_known_though_systemd_has_forgotten_it(unit):
    assert standby.stopped_at() is None
    before = datetime.now(timezone.utc)
    standby.close()
    at = datetime.fromisoformat(standby.stopped_at())
    assert abs((at - before).total_seconds()) < 5
    standby.close()
    assert standby.stopped_at() == at.isoformat(timespec="milliseconds"), "it did not run again"


def test_what_runs_again_is_not_stopped(unit):
    standby.close()
    unit[standby.UNIT] = UnitState("loaded", "active")
    assert standby.stopped_at() is None


def test_a_run_that_died_while_it_stopped_openhim_has_noted_when(unit, monkeypatch):
    def dies(units):
        unit[standby.UNIT] = UnitState("loaded", "inactive")
        raise KeyboardInterrupt

    monkeypatch.setattr(systemd, "stop", dies)
    with pytest.raises(KeyboardInterrupt):
        standby.close()
    assert standby.stopped_at() is not None


def test_a_note_that_cannot_be_read_is_not_never(unit, tmp_path):
    standby.close()
    (tmp_path / "state" / "openhim-stopped").write_text("noon")
    with pytest.raises(OpenHIMError, match="cannot be read"):
        standby.stopped_at()
