"""A tabletop exercise through a real master: asked, scored, and put on record by a real minion."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from saltext.openhim.drill import records

from tests.integration.conftest import HOST, REPOSITORY, Site

DISASTER = "primary-site-is-cut-off"

#: The minion of these tests is this machine, and so is what it keeps.
KEPT = Path(records.FILE)


@pytest.fixture
def kept() -> Iterator[Path]:
    """The record of drills, which is afterwards what it was before."""
    before = KEPT.read_bytes() if KEPT.exists() else None
    made = not KEPT.parent.exists()
    try:
        yield KEPT
    finally:
        if before is not None:
            KEPT.write_bytes(before)
        else:
            KEPT.unlink(missing_ok=True)
            if made and KEPT.parent.exists():
                KEPT.parent.rmdir()


def declare(openhim: dict) -> None:
    openhim["drills"] = {"run_by": HOST, "max_age_seconds": {"tabletop": 86400}}


def place(site: Site) -> dict[str, str]:
    """With the package alone installed nothing serves the disasters."""
    return {"folder": str(REPOSITORY / "disasters")} if site.kind == "installed" else {}


def answers(site: Site) -> dict[str, object]:
    """The right ones: an exercise that nobody answers tells them."""
    told = site.run(
        "openhim_dr.tabletop", "example", DISASTER, answers={}, record=False, **place(site)
    )
    return {name: one["right"] for name, one in told.data["answers"].items()}


def test_the_disasters_are_listed(site: Site) -> None:
    """From the master's file server, or from a folder."""
    found = site.run("openhim_dr.disasters", **place(site))
    assert found.data[DISASTER] == "The primary site is cut off from everybody", found.data
    assert len(found.data) >= 25


def test_a_passed_exercise_is_on_record_as_a_drill(site: Site, kept: Path) -> None:
    """The minion that keeps the record says so itself."""
    with site.changed_pillar(declare):
        assert site.salt("saltutil.refresh_pillar", wait=True).data is True
        done = site.run(
            "openhim_dr.tabletop", "example", DISASTER, by="Ada", answers=answers(site), **place(site)
        )  # fmt: skip
        assert done.returncode == 0, done.data
        assert done.data["passed"] is True
        (drill,) = site.salt("openhim_drill.list", kind="tabletop").data
    assert drill == done.data["drill"]
    assert (drill["verdict"], drill["by"]) == ("passed", "Ada")
    assert f"({DISASTER}): {len(done.data['answers'])} of" in drill["notes"]


def test_a_harmful_answer_fails_it_and_that_is_on_record(site: Site, kept: Path) -> None:
    """All right but the one: to fail over while the other site may still be written to."""
    with site.changed_pillar(declare):
        site.salt("saltutil.refresh_pillar", wait=True)
        given = {**answers(site), "may:failover:south": "yes"}
        found = site.run(
            "openhim_dr.tabletop", "example", DISASTER, by="Ada", answers=given, **place(site)
        ).data
    assert (found["passed"], found["retcode"]) == (False, 1)
    wrong = found["answers"]["may:failover:south"]
    assert wrong["right"] == ["no"]
    assert "north is not proven closed" in wrong["because"]
    assert found["drill"]["verdict"] == "failed"
    assert "may:failover:south (vital)" in found["drill"]["reasons"][0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("exmaple", DISASTER), "stack: found 'exmaple'"),
        (("example", "primary-site-is-cut-of"), f"did you mean '{DISASTER}'?"),
        (("example", DISASTER, "Ada", {"frist": "critical"}), "answers:frist: found an unknown"),
        (("example", DISASTER, "Ada", [1]), "answers: found [1]; allowed a mapping"),
        (("example", DISASTER, "Ada", "/nowhere/answers.yaml"), "answers: the file cannot be read"),
    ],
)
def test_bad_input_is_named_and_nothing_is_recorded(synced, kept, arguments, expected) -> None:
    """One error each, with what was given and what is allowed."""
    assert synced.run("saltutil.sync_all").returncode == 0
    done = synced.run("openhim_dr.tabletop", *arguments, record=False)
    assert done.returncode != 0
    assert expected in str(done.data)
    assert not kept.exists() or b"tabletop" not in kept.read_bytes()


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, "by: found nothing; say who holds the exercise"),
        ({"by": "Ada", "pass_percent": 0, "record": False}, "pass_percent: found 0"),
        ({"names": "north", "record": False}, "names: found 'north'; allowed a mapping"),
        ({"folder": "salt://nowhere"}, "folder: found no disaster in salt://nowhere"),
    ],
)
def test_what_could_not_be_recorded_is_refused_before_anybody_is_asked(
    synced, named, expected
) -> None:
    """Nobody answers twenty questions in vain."""
    done = synced.run("openhim_dr.tabletop", "example", DISASTER, answers={}, **named)
    assert done.returncode != 0
    assert expected in str(done.data)


def test_where_nobody_keeps_a_record_that_is_said_before_anybody_is_asked(synced: Site) -> None:
    """A stack without drills."""
    with synced.changed_pillar(lambda openhim: openhim.pop("drills")):
        done = synced.run("openhim_dr.tabletop", "example", DISASTER, answers={}, by="Ada")
    assert done.returncode != 0
    assert "openhim:drills: found nothing, so nobody keeps a record" in str(done.data)


def test_without_answers_and_without_a_person_it_returns_the_questions(synced: Site) -> None:
    """And no answers with them."""
    sheet = synced.run("openhim_dr.tabletop", "example", DISASTER).data
    assert sheet["happens"] == ["isolated: site north"]
    assert sheet["questions"]["may:failover:south"]["choices"] == ["yes", "no"]
    assert "right" not in json.dumps(sheet["questions"])


def test_a_person_is_asked_one_question_after_the_other(synced: Site) -> None:
    """At a terminal; a slip of the finger is asked again, and the end of input ends it."""
    sheet = synced.run("openhim_dr.tabletop", "example", DISASTER).data["questions"]
    right = answers(synced)
    lines = ["none of them"]
    for name, one in sheet.items():
        lines.append(",".join(str(one["choices"].index(each) + 1) for each in right[name]))
    said, code = at_a_terminal(synced, "\n".join(lines) + "\n")
    assert code == 0, said
    assert "found 'none of them'; allowed" in said
    assert f"(1 of {len(sheet)})" in said and f"({len(sheet)} of {len(sheet)})" in said
    assert f"PASSED: {len(sheet)} of {len(sheet)} right" in said
    assert "no, by the preflight: failover south" in said
    assert "Nothing was recorded." in said
    said, code = at_a_terminal(synced, "1\n1\n\x04")
    assert code != 0
    assert "broken off after 2 answers; nothing was recorded" in said


def at_a_terminal(site: Site, typed: str) -> tuple[str, int]:
    """What ``salt-run`` prints at a terminal where something is typed, and its exit code."""
    ours, theirs = pty.openpty()
    try:
        program = [
            site.environment / "bin" / "salt-run",
            "-c",
            site.master.config_dir,
            "--no-color",
        ]
        process = subprocess.Popen(
            [*program, "openhim_dr.tabletop", "example", DISASTER, "record=False"],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/",
        )  # fmt: skip
        os.write(ours, typed.encode())
        said, _ = process.communicate(timeout=120)
        return said, process.returncode
    finally:
        os.close(ours)
        os.close(theirs)
