"""What a minion says of its backups reaches people, by the reactor of the state tree."""

from __future__ import annotations

import json
import time

from tests.integration.conftest import HOST, Site
from tests.listener import Listener


def test_what_a_minion_says_of_its_backups_reaches_people(synced: Site, people: Listener) -> None:
    for kind in (synced.salt, synced.run):
        assert kind("saltutil.sync_all").returncode == 0
    synced.salt("beacons.add", "openhim_backup", [{"interval": 1}])
    try:
        deadline = time.monotonic() + 60
        while not people.calls:
            assert time.monotonic() < deadline, synced.log()[-3000:]
            time.sleep(0.1)
    finally:
        synced.salt("beacons.delete", "openhim_backup")
    told = json.loads(people.calls[0][2])
    assert told["state"] == "unknown"
    assert f"are unknown, says {HOST}: nobody has looked at the backups yet" in told["text"]
    assert people.url("hooks") not in synced.log()


def test_what_a_minion_says_of_an_emergency_reaches_people(synced: Site, people: Listener) -> None:
    for kind in (synced.salt, synced.run):
        assert kind("saltutil.sync_all").returncode == 0
    before = len(people.calls)
    event = {"stack": "example", "state": "entered", "text": "Emergency mode was entered by Ada."}
    synced.salt("event.fire_master", event, "openhim/emergency/entered")
    deadline = time.monotonic() + 60
    while len(people.calls) == before:
        assert time.monotonic() < deadline, synced.log()[-3000:]
        time.sleep(0.1)
    told = json.loads(people.calls[-1][2])
    assert told["text"] == f"Emergency mode was entered by Ada. ({HOST} says so)"
    assert (told["stack"], told["state"]) == ("example", "entered")
