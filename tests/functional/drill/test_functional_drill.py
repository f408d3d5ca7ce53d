"""A functional drill: real restic, real mongods, the real OpenHIM, a real network namespace."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError
from saltext.openhim.backup import work
from saltext.openhim.drill import declaration, functional, inert, records
from saltext.openhim.drill.functional import NotPassed
from saltext.openhim.drill.records import Drill
from saltext.openhim.errors import Refused

from tests.functional.conftest import REPOSITORY, eventually
from tests.functional.drill.conftest import HOST, MAIL, POLLED, RERUN


@pytest.fixture
def drill(pillar, program, memory):
    """A factory: a drill of this test."""

    def run(**options):
        drills = declaration.from_pillar(pillar, options.pop("host", HOST))
        return functional.run(drills, by="a test", folder=memory, program=program, **options)

    return run


def test_nothing_leaves_although_the_data_is_full_of_work(drill, shelf):
    done = drill()
    assert (done.verdict, done.reasons, done.denied, done.wanted) == ("passed", (), 0, ())
    assert (done.point, done.repository) == (shelf.point, "near")
    assert done.transaction
    assert done.set_aside == {
        "tasks": 1,
        "autoretries": 1,
        "agendaJobs": 1,
        "polling channels": 1,
    }
    assert 0 < done.rto_seconds < 120
    assert 0 <= done.rpo_seconds < 3600
    assert records.read().drills == (done,)


def test_without_the_inert_settings_packets_are_counted(drill, pillar, monkeypatch):
    monkeypatch.setattr(inert, "CONFIG", {})
    monkeypatch.setattr(inert, "set_aside", lambda database: {})
    pillar["openhim"]["drills"]["observe_seconds"] = 8
    with pytest.raises(NotPassed, match="would have sent") as caught:
        drill()
    done = caught.value.drill
    assert done.verdict == "failed"
    assert done.denied > 0
    for address, port in ((POLLED, 80), (RERUN, 80), (MAIL, 25)):
        assert f"{address} tcp {port}" in done.wanted


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("s/policy drop/policy accept/", "was not dropped"),
        ("s/counter name denied//", "2 packets were sent, and 0 counted"),
        ("s/.*/ /", "the counter of the isolated place cannot be read"),
    ],
)
def test_where_egress_is_not_denied_and_counted_openhim_does_not_start(
    drill, tmp_path, monkeypatch, change, reason
):
    """The real nft, and rules that somebody got wrong."""
    fake = tmp_path / "bin" / "nft"
    fake.parent.mkdir()
    real = shutil.which("nft")
    load = f'sed "{change}" | exec {real} -f -'
    fake.write_text(f'#!/bin/sh\n[ "$1" != -f ] || {{ {load}; exit; }}\nexec {real} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    with pytest.raises(NotPassed, match="egress is not denied") as caught:
        drill()
    done = caught.value.drill
    assert (done.verdict, done.transaction, done.documents) == ("refused", "", None)
    assert reason in done.reasons[0]
    assert records.read().drills == (done,)


def test_a_bad_restore_point_fails_the_drill(drill, shelf, pillar):
    pillar["openhim"]["backup"]["repositories"]["near"]["url"] = str(shelf.folder / "wrong")
    with pytest.raises(NotPassed, match=r"differs from the manifest in openhim\.transactions"):
        drill()
    (done,) = records.read().drills
    assert (done.verdict, done.transaction) == ("failed", "")


def test_a_restore_point_that_is_not_there_fails_the_drill(drill):
    with pytest.raises(NotPassed, match="there is no restore point 20260101T000000Z-000000"):
        drill(point="20260101T000000Z-000000")


def test_an_openhim_that_does_not_start_fails_the_drill_with_its_words(drill, pillar):
    pillar["openhim"]["core"]["node_options"] = ["--require", "./nowhere.js"]
    with pytest.raises(NotPassed, match=r"ended with 1 before it served: Error: .*nowhere\.js"):
        drill()


def test_a_folder_that_the_isolated_place_does_not_have_is_told_at_once(pillar, program):
    drills = declaration.from_pillar(pillar, HOST)
    with pytest.raises(NotPassed, match="below /run, which is empty in the isolated place"):
        functional.run(drills, by="a test", folder="/run", program=program)


def test_another_host_and_a_second_task_are_refused_and_not_recorded(drill):
    with pytest.raises(Refused, match="drills are the task of west-backup"):
        drill(host="north-db1")
    with work.alone("a verification"), pytest.raises(Refused, match="a verification"):
        drill()
    assert records.read().drills == ()


_KILLED = """
import json, sys
from saltext.openhim.backup import work
from saltext.openhim.backup import repository as repositories
from saltext.openhim.drill import declaration, functional, records
from saltext.openhim.drill.core import Program
from pathlib import Path
given = json.loads(sys.argv[1])
work.LOCK, records.LOCK, records.FILE, repositories.CACHE = given["files"]
drills = declaration.from_pillar(given["pillar"], given["host"])
program = Program(Path(given["program"]), "nobody", "nogroup")
functional.run(drills, by="who is killed", folder=given["folder"], program=program)
"""


def test_a_drill_that_is_killed_half_way_is_cleaned_up_by_the_next(
    pillar, program, memory, loaders, monkeypatch
):
    pillar["openhim"]["drills"]["observe_seconds"] = 600
    given = {
        "files": [work.LOCK, records.LOCK, records.FILE, os.environ.get("TMPDIR", "/tmp")],
        "pillar": pillar,
        "host": HOST,
        "program": str(program.current),
        "folder": str(memory),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, json.dumps(given)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "_utils")},
    )
    try:
        eventually(lambda: b"HTTP listening" in _log(memory), what="a running OpenHIM")
        (begun,) = records.read().drills
        assert begun.verdict == records.UNDER_WAY
        assert len(_processes(memory)) >= 3, "mongod, its keeper, OpenHIM"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: not _processes(memory), what="the end of what the drill had started")
    (killed,) = records.read().drills
    assert killed.verdict == records.INTERRUPTED
    assert list(memory.iterdir()), "the kernel removes no files"

    pillar["openhim"]["drills"]["observe_seconds"] = 0
    monkeypatch.setattr(functional, "Program", lambda: program)
    monkeypatch.setattr(functional.scratch, "FOLDER", str(memory))
    told = loaders(HOST, pillar, test=True).states["openhim_drill.passed"]("now")
    assert (told["result"], killed.id in str(told)) == (None, False)
    assert records.read().drills == (killed,)

    done = loaders(HOST, pillar).states["openhim_drill.passed"]("now", by="Ada")
    assert done["result"] is True, done["comment"]
    first, second = records.read().drills
    assert (first.id, first.verdict, bool(first.ended_at)) == (killed.id, "interrupted", True)
    assert (second.by, second.verdict) == ("Ada", "passed")
    assert done["changes"]["drill"]["new"] == second.id
    # The fixture sees that nothing is left in the folder, of either.
    again = loaders(HOST, pillar).states["openhim_drill.passed"]("now", max_age=3600)
    assert (again["result"], again["changes"]) == (True, {})
    found = loaders(HOST, pillar).modules["openhim_drill.status"]()
    assert (found["state"], found["reasons"]) == ("ok", [])
    assert found["kinds"]["functional"]["rto_seconds"] == second.rto_seconds


def _log(memory):
    return b"".join(log.read_bytes() for log in memory.glob("*/core/log"))


def _processes(memory):
    """The processes whose command line names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if str(memory).encode() in line and b"-c\0" + b"\nimport json" not in line:
                found.append(process.name)
    return found


def test_an_overdue_drill_is_an_alarm(loaders, pillar):
    beacon = _beacon(loaders(HOST, pillar))
    (first,) = beacon([{"repeat": 3600}])
    assert (first["tag"], first["what"]) == ("degraded", "drills")
    assert beacon([{"repeat": 3600}]) == []
    old = datetime.now(timezone.utc) - timedelta(days=3)
    records.append(
        Drill("1", "functional", "test", HOST, "Ada", old.isoformat(), verdict=records.PASSED)
    )
    (event,) = beacon([])
    assert (event["tag"], event["stack"]) == ("failing", "test")
    assert "is of 3 days ago, allowed are 24 hours" in event["reasons"][0]


def test_drills_that_are_not_declared_any_more_do_not_silence_the_beacon(loaders, pillar):
    pillar["openhim"].pop("drills")
    (event,) = _beacon(loaders(HOST, pillar))([])
    assert (event["tag"], "found nothing" in event["reasons"][0]) == ("unknown", True)


def _beacon(minion):
    minion.opts["beacons_dirs"] = [str(REPOSITORY / "_beacons")]
    loaded = salt.loader.beacons(minion.opts, minion.modules)
    validate = loaded["openhim_drill.validate"]
    assert (validate([{"repeat": 60}])[0], validate([{"repeat": 0}])[0]) == (True, False)
    return loaded["openhim_drill.beacon"]


def test_what_people_held_is_recorded_and_nothing_else(loaders, pillar):
    record = loaders(HOST, pillar).modules["openhim_drill.record"]
    for arguments, reason in (
        (("functional", "passed", "Ada", "x"), "expected one of full, tabletop"),
        (("full", "fine", "Ada", "x"), "expected passed or failed"),
        (("full", "passed", " ", "x"), "by or notes is empty"),
        (("full", "passed", "Ada", "x", "yesterday"), "expected a time of the past"),
        (("full", "passed", "Ada", "x", "2999-01-01T00:00:00Z"), "expected a time of the past"),
        (("full", "passed", "Ada", "x", None, "long"), "expected a number of seconds"),
    ):
        with pytest.raises(CommandExecutionError, match=reason):
            record(*arguments)
    assert records.read().drills == ()
    done = record("full", "failed", "Ada", "no key", "2026-01-31T12:00:00+02:00", rto_seconds="90")
    assert (done["kind"], done["reasons"], done["rto_seconds"]) == ("full", ["no key"], 90.0)
    (listed,) = loaders(HOST, pillar).modules["openhim_drill.list"]()
    assert listed == done
