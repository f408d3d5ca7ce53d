"""For how long the master waits for hosts; mocked: Salt's event bus, whose order is then known."""

import pytest
from saltext.openhim import fleet

HOSTS = ["north-db1", "south-core", "south-db1"]
PING, JOB = {"jid": "1"}, {"jid": "2"}


class Bus:
    """A client whose jobs are answered when the test says, and a clock that it moves."""

    def __init__(self, answers):
        self.events = [
            (at, {"id": host, "jid": job["jid"], "return": {}, "retcode": 0})
            for at, host, job in sorted(answers, key=lambda one: one[0])
        ]
        self.now, self.event = 0.0, self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run_job(self, hosts, function, arguments, **_):
        return PING if function == "test.ping" else JOB

    def get_event(self, wait, **_):
        if self.events and self.events[0][0] <= self.now + wait:
            self.now, event = self.events.pop(0)
            return event
        self.now += wait
        return None


@pytest.fixture
def ask(monkeypatch):
    def asked(*answers, silent=()):
        bus = Bus(answers)
        monkeypatch.setattr("salt.client.get_local_client", lambda **_: bus)
        monkeypatch.setattr("time.monotonic", lambda: bus.now)
        monkeypatch.setattr("saltext.openhim.fleet._accepted", lambda opts, hosts: list(hosts))
        found = fleet.asked({}, HOSTS, "openhim_dr.sighting", silent=silent)
        return set(found.returned), bus.now

    return asked


SOUTH = [(0.5, "south-core", JOB), (1.0, "south-db1", JOB)]


def test_for_who_is_silent_the_master_waits_once(ask):
    assert ask(*SOUTH) == ({"south-core", "south-db1"}, fleet.PING_TIMEOUT)
    assert ask(*SOUTH, silent=["north-db1"]) == ({"south-core", "south-db1"}, 1.0)


def test_who_was_silent_and_is_there_again_is_waited_for(ask):
    back = [(0.7, "north-db1", PING), (9.0, "north-db1", JOB)]
    assert ask(*SOUTH, *back, silent=["north-db1"]) == (set(HOSTS), 9.0)
