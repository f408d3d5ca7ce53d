"""The runner takes a failover back, or does not; mocked: the master, and what its hosts answer."""

import pytest
import salt.exceptions
from saltext.openhim import record
from saltext.openhim.recovery.failover import Sighting
from saltext.openhim.runners import openhim_dr

from tests.unit.recovery.test_failover import DECLARED, OVERLAY, SEEN, VOTES

WHY = {"declared_by": "Ada", "reason": "north is back"}


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """What the survivor has of a promotion, to be changed by a test; and what was asked of whom."""
    record.declare(
        "example", tmp_path, parent=None, kind="failover", active_site="south", profile="reduced",
        lost_sites=["north"], declared_by="Ada", reason="fire",
        declared_at="2026-01-31T12:00:00+00:00",
    )  # fmt: skip
    known = {"traces": {"votes": VOTES, "noted": False, "epoch": None}, "asked": []}

    def ask(hosts, function, arguments=(), timeout=30):
        known["asked"].append((hosts, function, arguments))
        return {host: known["traces"] for host in hosts}

    pillar = {"openhim": {**DECLARED, "recovery": {**OVERLAY, "kind": "failover"}}}
    monkeypatch.setattr(openhim_dr, "_directory", lambda: tmp_path)
    monkeypatch.setattr(openhim_dr, "_declaration", lambda _: pillar)
    monkeypatch.setattr(openhim_dr, "_sightings", lambda _: known.get("sightings", SEEN))
    monkeypatch.setattr(openhim_dr, "_ask", ask)
    known["history"] = lambda: record.history("example", tmp_path)
    return known


def test_a_failover_that_promoted_nobody_is_taken_back(hosts):
    done = openhim_dr.failover_withdraw("example", **WHY)
    assert hosts["asked"] == [(["south-db1"], "openhim_dr.traces", ["rs"])]
    assert (done["epoch"], done["kind"], done["active_site"]) == (2, "withdrawal", "north")
    assert (done["profile"], done["lost_sites"]) == ("production", [])
    assert [epoch.kind for epoch in hosts["history"]()] == ["failover", "withdrawal"]


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        ({"votes": {**VOTES, "north-db1:27017": 0, "north-db2:27017": 0}}, "have no vote"),
        ({"noted": True, "epoch": 1}, "has noted that its promotion in epoch 1 began"),
    ],
)
def test_what_the_survivor_has_of_a_promotion_forbids_it(hosts, traces, expected):
    hosts["traces"] = {**hosts["traces"], **traces}
    with pytest.raises(salt.exceptions.CommandExecutionError, match=expected):
        openhim_dr.failover_withdraw("example", **WHY)
    assert len(hosts["history"]()) == 1


def test_a_survivor_that_does_not_answer_forbids_it_and_is_not_asked_in_vain(hosts):
    hosts["sightings"] = [Sighting(each.host, answered=False) for each in SEEN]
    with pytest.raises(salt.exceptions.CommandExecutionError, match="nobody knows"):
        openhim_dr.failover_withdraw("example", **WHY)
    assert hosts["asked"] == []


def test_a_second_withdrawal_asks_nobody(hosts):
    openhim_dr.failover_withdraw("example", **WHY)
    hosts["asked"].clear()
    with pytest.raises(salt.exceptions.CommandExecutionError, match="nothing to take back"):
        openhim_dr.failover_withdraw("example", **WHY)
    assert hosts["asked"] == []


def test_every_host_is_asked_until_it_knows_the_epoch(hosts, monkeypatch):
    """One is slow, one gives no answer at first, and one never does."""
    answers = {"north-db1": [1], "south-db1": [None, 0, 1], "south-core": [..., 1]}
    asked = []

    def cmd(behind, function, arguments, timeout):
        asked.append((tuple(behind), function))
        if function != "openhim_dr.epoch":
            return {}
        said = {host: answers.get(host, [...])[0] for host in behind}
        for host in behind:
            answers[host] = answers.get(host, [...])[1:] or [...]
        return {h: {"ret": one, "retcode": 0} for h, one in said.items() if one is not ...}

    monkeypatch.setattr(openhim_dr, "_cmd", cmd)
    monkeypatch.setattr(openhim_dr, "PAUSE", 0.01)
    three = dict.fromkeys(answers, 1)
    assert openhim_dr.failover_known("example", list(answers)) == three
    rounds = [behind for behind, function in asked if function == "saltutil.refresh_pillar"]
    assert rounds == [tuple(sorted(three)), ("south-core", "south-db1"), ("south-db1",)]
    with pytest.raises(salt.exceptions.CommandExecutionError, match=r"later .* lost \(no answer\)"):
        openhim_dr.failover_known("example", ["lost"], timeout=0.1)
