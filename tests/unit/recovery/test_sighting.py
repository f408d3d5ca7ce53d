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


def test_every_set_and_every_core_is_looked_at_at_the_same_time(monkeypatch):
    pillar = copy.deepcopy(EXAMPLE)
    sets = pillar["openhim"]["mongodb"]["replica_sets"]
    sets["audit"] = {**copy.deepcopy(sets["openhim"]), "port": 27018}
    cores = [name for name, host in pillar["openhim"]["hosts"].items() if "core" in host["roles"]]
    looking = threading.Barrier(len(sets) + len(cores), timeout=10)

    def probed(members, _):
        looking.wait()
        return {name: connection.Observation(name, connection.UNREACHABLE) for name in members}

    def reached(*_):
        looking.wait()
        return "timed out"

    monkeypatch.setattr(connection, "probe_all", probed)
    monkeypatch.setattr(connection, "reach", reached)
    monkeypatch.setattr(sighting, "_own", lambda *_: {})
    # A host that has neither: it reaches all of it over the network.
    seen = sighting.look(pillar, "master")
    assert {one.split("/")[0] for one in seen["members"]} == set(sets)
    assert set(seen["cores"]) == set(cores)
