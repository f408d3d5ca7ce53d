"""What a host sees of the stack: what is gone costs it one timeout, however many of it there are."""

import copy
import threading
from pathlib import Path

import yaml
from saltext.openhim import sighting
from saltext.openhim.mongo import connection

EXAMPLE = yaml.safe_load(
    Path(__file__).parents[3].joinpath("pillar/openhim/production.sls").read_text()
)


class OfOneThread(dict):
    """A pillar as Salt gives it: nobody but the thread that was called finds it."""

    def __init__(self, pillar):
        super().__init__(pillar)
        self._owner = threading.get_ident()

    def get(self, key, default=None):
        assert threading.get_ident() == self._owner
        return super().get(key, default)

    def __getitem__(self, key):
        assert threading.get_ident() == self._owner
        return super().__getitem__(key)


def test_every_member_and_every_core_is_looked_at_at_the_same_time(monkeypatch):
    pillar = OfOneThread(copy.deepcopy(EXAMPLE))
    sets = pillar["openhim"]["mongodb"]["replica_sets"]
    sets["audit"] = {**copy.deepcopy(sets["openhim"]), "port": 27018}
    cores = [name for name, host in pillar["openhim"]["hosts"].items() if "core" in host["roles"]]
    members = sum(len(one["members"]) for one in sets.values())
    looking = threading.Barrier(members + len(cores), timeout=10)

    def probed(member, _):
        looking.wait()
        return connection.Observation(member, connection.UNREACHABLE)

    def reached(*_):
        looking.wait()
        return "timed out"

    monkeypatch.setattr(connection, "probe", probed)
    monkeypatch.setattr(connection, "reach", reached)
    monkeypatch.setattr(sighting, "_own", lambda *_: {})
    # A host that has neither: it reaches all of it over the network.
    seen = sighting.look(pillar, "master")
    assert {one.split("/")[0] for one in seen["members"]} == set(sets)
    assert set(seen["cores"]) == set(cores)
