"""The record of drills: appended to, read back, and honest about what is torn or killed."""

import json
import stat
from dataclasses import asdict
from datetime import datetime, timedelta, timezone

import pytest
from saltext.openhim.backup.status import DEGRADED, FAILING, OK, UNKNOWN
from saltext.openhim.drill import declaration, records, status
from saltext.openhim.drill.functional import verdict_reasons
from saltext.openhim.drill.isolation import Denied
from saltext.openhim.drill.records import Drill

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
DAY = 86400


def drill(days_ago=0.0, verdict=records.PASSED, kind="functional", **fields):
    began = (NOW - timedelta(days=days_ago)).isoformat(timespec="milliseconds")
    given = {"reasons": () if verdict == records.PASSED else ("it broke",), **fields}
    return Drill(f"{kind}-{days_ago}", kind, "example", "west", "Ada", began, "", verdict, **given)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FILE", str(tmp_path / "state" / "drills.jsonl"))
    monkeypatch.setattr(records, "LOCK", str(tmp_path / "drill.lock"))
    return tmp_path


def test_what_was_appended_is_read_back_and_root_s_alone(folder):
    first = drill(2, rpo_seconds=3.5, steps={"restore": 1.0}, set_aside={"tasks": 2})
    second = drill(1, records.FAILED, wanted=("192.0.2.7 tcp 80",), denied=3)
    records.append(first)
    before = (folder / "state" / "drills.jsonl").read_bytes()
    records.append(second)
    file = folder / "state" / "drills.jsonl"
    assert file.read_bytes().startswith(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert records.read() == records.Known((first, second))


def test_a_line_that_a_crash_tore_costs_no_other(folder):
    records.append(drill(2))
    file = folder / "state" / "drills.jsonl"
    with file.open("a") as out:
        out.write('{"id": "torn", "ki')
    records.append(drill(1))
    known = records.read()
    assert [each.id for each in known.drills] == ["functional-2", "functional-1"]
    assert known.unreadable == (2,)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        json.dumps({**asdict(drill()), "verdict": "great"}),
        json.dumps({**asdict(drill()), "kind": "imagined"}),
        json.dumps({**asdict(drill()), "began_at": "yesterday"}),
        json.dumps({**asdict(drill()), "began_at": "2026-01-31T12:00:00"}),
    ],
)
def test_what_is_no_drill_is_told_and_counts_for_none(line):
    assert records.parsed([line], False) == records.Known((), (1,))


def test_a_newer_version_s_record_is_read():
    line = json.dumps({**asdict(drill()), "weather": "fine"})
    assert records.parsed([line], False).drills == (drill(),)


def test_a_drill_that_did_not_end_was_interrupted_unless_somebody_is_at_it():
    lines = [json.dumps(asdict(drill(days, records.UNDER_WAY))) for days in (2, 1)]
    verdicts = [each.verdict for each in records.parsed(lines, True).drills]
    assert verdicts == [records.INTERRUPTED, records.UNDER_WAY]
    verdicts = [each.verdict for each in records.parsed(lines, False).drills]
    assert verdicts == [records.INTERRUPTED] * 2


def test_who_drills_is_seen_and_keeps_others_away(monkeypatch):
    assert not records.under_way()
    with records.alone():
        assert records.under_way()
    assert not records.under_way()


@pytest.mark.parametrize(
    ("drills", "state", "reason"),
    [
        ([drill(0.5)], OK, None),
        ([], DEGRADED, "no functional drill was ever passed"),
        ([drill(0.5), drill(0.1, records.UNDER_WAY)], OK, None),
        ([drill(1.5)], FAILING, "is of 36 hours ago, allowed are 24 hours"),
        ([drill(-1)], FAILING, "is of the future"),
        ([drill(0.5), drill(0.1, records.FAILED)], FAILING, "is failed: it broke"),
        ([drill(0.5), drill(0.1, records.REFUSED)], FAILING, "is refused"),
        ([drill(0.5), drill(0.1, records.INTERRUPTED)], FAILING, "is interrupted"),
        ([drill(0.5, records.FAILED), drill(0.1)], OK, None),
    ],
)
def test_the_state_of_a_kind(drills, state, reason):
    found = status.judge("functional", drills, DAY, NOW)
    assert found.state == state
    assert not found.reasons if reason is None else reason in " ".join(found.reasons)


def declared(**drills):
    openhim = {
        "stack": "example",
        "active_site": "north",
        "sites": {"north": {}},
        "hosts": {
            "north-db1": {"site": "north", "address": "10.0.0.1", "roles": ["mongodb"]},
            "west": {"site": "north", "address": "10.0.0.2", "roles": ["backup"]},
        },
        "mongodb": {
            "replica_sets": {"openhim": {"members": {"north-db1": {}}}},
            "databases": {},
        },
        "targets": {"rto_seconds": 900},
        "drills": {"run_by": "west", "max_age_seconds": {"functional": DAY}, **drills},
    }
    return declaration.from_pillar({"openhim": openhim}, "west")


def test_each_declared_kind_is_judged_and_measured_beside_its_target():
    records.append(drill(0.5, rto_seconds=42.5, rpo_seconds=7))
    drills = declared(max_age_seconds={"functional": DAY, "tabletop": 300 * DAY})
    found = status.status(drills, NOW)
    assert found["state"] == DEGRADED
    assert found["reasons"] == ["no tabletop drill was ever passed"]
    assert found["kinds"]["functional"]["rto_seconds"] == 42.5
    assert found["targets"] == {"rto_seconds": 900}
    shown = status.metrics(found)
    assert 'openhim_drill_state{stack="example",state="degraded"} 1' in shown
    assert 'openhim_drill_rto_seconds{stack="example",kind="functional"} 42.5' in shown
    assert 'openhim_drill_age_seconds{stack="example",kind="functional"} 43200' in shown
    assert 'kind="tabletop"' not in shown


def test_a_record_that_cannot_be_read_is_unknown_and_torn_lines_are_told(folder):
    (folder / "state").mkdir()
    (folder / "state" / "drills.jsonl").mkdir()
    assert status.status(declared(), NOW)["state"] == UNKNOWN
    (folder / "state" / "drills.jsonl").rmdir()
    records.append(drill(0.5))
    with (folder / "state" / "drills.jsonl").open("a") as out:
        out.write("torn\n")
    found = status.status(declared(), NOW)
    assert (found["state"], "in the lines 2" in found["reasons"][0]) == (DEGRADED, True)


def test_only_the_declared_host_schedules_drills():
    drills = declared(schedule={"functional": 604800})
    (entry,) = drills.schedule().values()
    assert (entry["function"], entry["seconds"]) == ("openhim_drill.run", 604800)
    other = declaration.from_pillar(drills.pillar, "north-db1")
    assert other.schedule() == {}
    assert declared().schedule() == {}


def test_one_packet_fails_a_drill():
    assert verdict_reasons(Denied(0)) == ()
    (reason,) = verdict_reasons(Denied(1, ("192.0.2.7 tcp 80",)))
    assert reason.startswith("1 packets were for 192.0.2.7 tcp 80")
