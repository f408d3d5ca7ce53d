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
    def asked(*answers, silent=(), gone=lambda _: ()):
        bus = Bus(answers)
        monkeypatch.setattr("salt.client.get_local_client", lambda **_: bus)
        monkeypatch.setattr("time.monotonic", lambda: bus.now)
        monkeypatch.setattr("saltext.openhim.fleet._accepted", lambda opts, hosts: list(hosts))
        found = fleet.asked({}, HOSTS, "openhim_dr.sighting", silent=silent, gone=gone)
        return set(found.returned), bus.now

    return asked


SOUTH_HOSTS = {"south-core", "south-db1"}
SOUTH = [(0.5, "south-core", JOB), (1.0, "south-db1", JOB)]


def test_for_who_is_silent_the_master_waits_once(ask):
    assert ask(*SOUTH) == ({"south-core", "south-db1"}, fleet.PING_TIMEOUT)
    assert ask(*SOUTH, silent=["north-db1"]) == ({"south-core", "south-db1"}, 1.0)


def test_who_was_silent_and_is_there_again_is_waited_for(ask):
    back = [(0.7, "north-db1", PING), (9.0, "north-db1", JOB)]
    assert ask(*SOUTH, *back, silent=["north-db1"]) == (set(HOSTS), 9.0)


def test_who_is_gone_by_what_all_others_say_is_not_waited_for(ask):
    gone = lambda returned: {"north-db1"} if set(returned) == SOUTH_HOSTS else set()  # noqa: E731
    assert ask(*SOUTH, gone=gone) == (SOUTH_HOSTS, 1.0)


def test_who_is_said_to_be_gone_and_answers_all_the_same_is_waited_for(ask):
    back = [(0.7, "north-db1", PING), (9.0, "north-db1", JOB)]
    assert ask(*SOUTH, *back, gone=lambda _: ["north-db1"]) == (set(HOSTS), 9.0)


def test_before_anybody_said_anything_nobody_is_taken_to_be_gone(ask):
    assert ask(gone=lambda _: HOSTS) == (set(), fleet.PING_TIMEOUT)


def test_what_the_master_sees_later_than_the_last_answer_counts_soon(ask):
    seen = []
    gone = lambda _: seen.append(1) or (["north-db1"] if len(seen) > 3 else [])  # noqa: E731
    assert ask(*SOUTH, gone=gone)[1] <= 1.0 + 3 * fleet.LOOK_AGAIN
