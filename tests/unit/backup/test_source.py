"""Which member a dump reads, and when none is fresh enough.

The members' answers are made up: a real set is not behind by days.
"""

import time
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from bson import Timestamp
from saltext.openhim.backup import declaration
from saltext.openhim.errors import Refused, Unreachable

from .test_schedule import backups

HERE = "south-db1:27017"


@pytest.fixture
def answers(monkeypatch):
    """By member: seconds that it is behind, and what it is; those that are not named are silent."""
    said = {}

    @contextmanager
    def connected(member, *_, **__):
        if member not in said:
            raise Unreachable(f"{member} does not answer")
        behind, kind = said[member]
        at = Timestamp(int(time.time() - behind), 1)
        hello = {kind: True, "lastWrite": {"majorityOpTime": {"ts": at}}}
        hello["localTime"] = datetime.now(timezone.utc).replace(tzinfo=None)
        admin = SimpleNamespace(command=lambda _: hello)
        yield SimpleNamespace(admin=admin, member=member)

    monkeypatch.setattr(declaration.connection, "connected", connected)
    monkeypatch.setattr(declaration.Backups, "access", lambda _: None)
    return said


def read(max_age=None):
    south = backups("south-db1")
    (name,) = south.stack.replica_sets
    with south.source(name, max_age) as client:
        return client.member


def members():
    (replica_set,) = backups("south-db1").stack.replica_sets.values()
    here = [m.name for m in replica_set.members if m.host.site == "south"]
    there = [m.name for m in replica_set.members if m.host.site != "south"]
    return here, there


def test_a_secondary_here_is_read_unless_it_is_far_behind(answers):
    (here, *_), (first, second, *_) = members()
    answers |= {here: (20, "secondary"), first: (0, "secondary"), second: (0, "isWritablePrimary")}
    assert read() == here
    answers[here] = (declaration.LAG + 60, "secondary")
    assert read() == first
    del answers[first]
    assert read() == second


def test_a_member_that_is_cut_off_gives_no_backup_of_now(answers):
    (here, *_), _ = members()
    answers[here] = (7200, "secondary")
    with pytest.raises(Refused, match=r"is 720\d s old, allowed are 3600: the set has no primary"):
        read(max_age=3600)
    assert read(max_age=7300) == here
    assert read() == here, "somebody wants what there is"
