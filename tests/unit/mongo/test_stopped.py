"""Who uses a data folder, and for how long one waits to know. The lock is a real one; its holder is
this process, for a mongod that starts with a wrong clock would need another kernel."""

import fcntl
import os
import time

import pytest
from saltext.openhim.mongo import stopped


@pytest.mark.parametrize(("off", "waits"), [(-60.0, False), (0.0, True), (86400.0, True)])
def test_one_that_stays_is_known_in_time_whatever_the_clock_said(tmp_path, monkeypatch, off, waits):
    monkeypatch.setattr(stopped, "STEADY", 0.3)
    lock = tmp_path / "mongod.lock"
    lock.touch()
    began = time.time() + off
    os.utime(lock, (began, began))
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asked = time.monotonic()
        assert stopped.is_used_on(tmp_path) is True
        assert (time.monotonic() - asked >= 0.2) is waits
    assert stopped.is_used_on(tmp_path) is False
