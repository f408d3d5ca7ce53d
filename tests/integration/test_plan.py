"""Runbook, evidence and report through Salt, in both ways of use; and every command that is printed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.openhim.plan import runbook

from tests.answers import NOT_UNDERSTOOD
from tests.integration.conftest import HOST, Site
from tests.unit.plan.made import NOW, epoch


@pytest.fixture
def recorded(site: Site) -> Iterator[Site]:
    """A site whose records are gone afterwards."""
    try:
        yield site
    finally:
        shutil.rmtree(site.records, ignore_errors=True)


def chain(site: Site) -> Path:
    return site.records / "evidence" / "example.jsonl"


def test_evidence_is_collected_once_checked_and_found_to_be_tampered_with(recorded: Site) -> None:
    first = recorded.run("openhim_dr.evidence_collect", "example")
    assert first.returncode == 0, first.data
    assert [one.split(": ")[1] for one in first.data["added"]] == ["plan", "status"]
    assert any("west-backup" in why for why in first.data["unknown"])
    again = recorded.run("openhim_dr.evidence_collect", "example")
    assert (again.returncode, again.data["added"]) == (0, [])
    told = {"by": "Ada", "what": "all of them answered"}
    added = recorded.run("openhim_dr.evidence_add", "example", "contacts", **told)
    assert (added.returncode, added.data["number"]) == (0, 3)
    checked = recorded.run("openhim_dr.evidence_check", "example")
    assert checked.data["records"] == 3
    assert "whether it was cut off or written anew cannot be told" in checked.data["comment"]
    copy = recorded.records / "copy.jsonl"
    copy.write_bytes(chain(recorded).read_bytes().replace(b"all of them", b"none of them"))
    found = recorded.run("openhim_dr.evidence_check", "example", file=str(copy))
    assert found.returncode != 0
    assert "record 3 (contacts of " in str(found.data)
    assert "was edited" in str(found.data)
    other = recorded.run("openhim_dr.evidence_check", "another", file=str(copy))
    assert other.returncode != 0
    assert "is of the stack 'example'; expected 'another'" in str(other.data)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["example", "party", "Ada", "x"], "kind: found 'party'; allowed drill, tabletop"),
        (["example", "note", " ", ""], "by: found nothing; say who did it"),
        (["nobody", "note", "Ada", "x"], "stack: found 'nobody'"),
    ],
)
def test_what_says_nothing_is_not_recorded(
    recorded: Site, arguments: list[str], words: str
) -> None:
    done = recorded.run("openhim_dr.evidence_add", *arguments)
    assert done.returncode != 0
    assert words in str(done.data)
    assert not chain(recorded).exists()


@pytest.fixture
def recovered(recorded: Site) -> Site:
    """A site with a failover on its record."""
    recorded.records.mkdir(mode=0o700, exist_ok=True)
    (recorded.records / "example.json").write_text(json.dumps([epoch(rejoins=[])]))
    return recorded


def test_what_people_know_of_a_recovery_goes_on_record_and_closes_what_was_open(
    recovered: Site,
) -> None:
    """The epoch itself stays as it is, to the byte."""
    before = (recovered.records / "example.json").read_bytes()
    (shown,) = recovered.run("openhim_dr.after_action", "example").data
    assert [one["state"] for one in shown["phases"]] == ["under way", "done", "under way"]
    fields = [one["field"] for one in shown["open"]]
    assert fields == ["notified"] * 3 + ["rejoined", "root_cause", "corrective_action"]
    assert shown["open"][0]["overdue"] is True
    told = {"notified": "laboratory", "acknowledged_by": "Chi", "root_cause": "a pump failed",
            "late_because": "its line was busy"}  # fmt: skip
    added = recovered.run("openhim_dr.after_action", "example", 1, by="Ada", **told)
    assert (added.returncode, added.data["kind"], added.data["number"]) == (0, "after-action", 2)
    action = {"corrective_action": "a second pump", "owner": "Ben", "due": "2999-12-31"}
    third = recovered.run("openhim_dr.after_action", "example", "epoch-1", by="Ada", **action)
    assert third.data["content"]["due"] == "2999-12-31", third.data
    done = recovered.run("openhim_dr.after_action", "example", 1, by="Ben", done=3)
    assert done.returncode == 0, done.data
    (shown,) = recovered.run("openhim_dr.after_action", "example", 1).data
    assert [one["field"] for one in shown["open"]] == ["notified"] * 2 + ["rejoined"]
    assert shown["root_cause"] == "a pump failed"
    (late,) = [one for one in shown["notifications"] if one["whom"] == "laboratory"]
    assert (late["in_time"], late["late_because"]) == (False, "its line was busy")
    assert recovered.run("openhim_dr.evidence_check", "example").data["records"] == 4
    assert (recovered.records / "example.json").read_bytes() == before


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"epoch": 7, "by": "Ada", "root_cause": "x"}, "epoch: found 7; the epochs on record: 1"),
        ({"by": "Ada", "root_cause": "x"}, "epoch: found None; the epochs on record: 1 (failover)"),
        ({"epoch": 1, "root_cause": "x"}, "by: found nothing; say who puts it on record"),
        ({"epoch": 1, "by": "Ada"}, "by, at: found nothing that was put on record with them"),
        ({"epoch": 1, "by": "Ada", "corrective_action": "x"}, "owner: found nothing"),
        ({"epoch": 7}, "epoch: found 7; the epochs on record: 1"),
    ],
)
def test_a_statement_that_says_too_little_is_not_recorded(
    recovered: Site, named: dict[str, Any], words: str
) -> None:
    done = recovered.run("openhim_dr.after_action", "example", **named)
    assert done.returncode != 0
    assert words in str(done.data)
    assert not chain(recovered).exists()


def test_nothing_is_anchored_where_no_host_answers_and_it_is_said(recorded: Site) -> None:
    recorded.run("openhim_dr.evidence_add", "example", "note", by="Ada", what="x")
    done = recorded.run("openhim_dr.evidence_anchor", "example")
    assert done.returncode != 0
    assert "south-db1: its minion does not answer" in str(done.data)
    live = recorded.run("openhim_dr.evidence_check", "example", live=True)
    assert live.returncode != 0
    assert "the anchors that south-db1 sees are not known" in str(live.data)


def test_a_chain_that_is_cut_off_with_its_anchors_is_found_by_the_repositories(
    recorded: Site, tmp_path: Path
) -> None:
    """Whoever has the master has the list of anchors too; the repository remembers all the same."""

    def change(openhim: dict[str, Any]) -> None:
        near = {"url": str(tmp_path / "near"), "secret": "mongodb_backup"}
        openhim["backup"] = {"taken_by": HOST, "user": "backup", "repositories": {"near": near}}

    with recorded.changed_pillar(change):
        recorded.salt("saltutil.refresh_pillar", wait=True)
        assert recorded.salt("openhim_backup.initialise").data is True
        for what in ("one", "two", "three"):
            recorded.run("openhim_dr.evidence_add", "example", "note", by="Ada", what=what)
        done = recorded.run("openhim_dr.evidence_anchor", "example")
        assert (done.returncode, done.data["record"], done.data["in"]) == (0, 3, ["near"]), done
        checked = recorded.run("openhim_dr.evidence_check", "example", live=True)
        assert (checked.returncode, checked.data["proved_until"]) == (0, 3), checked
        (anchor,) = recorded.salt("openhim_plan.anchors").data
        assert anchor["number"] == 3
        assert recorded.salt("openhim_plan.verifications").data == []
        lines = chain(recorded).read_bytes().splitlines(keepends=True)
        chain(recorded).write_bytes(b"".join(lines[:2]))
        chain(recorded).with_suffix(".anchors.json").unlink()
        offline = recorded.run("openhim_dr.evidence_check", "example")
        assert (offline.returncode, offline.data["proved_until"]) == (0, 0), offline
        live = recorded.run("openhim_dr.evidence_check", "example", live=True)
        assert live.returncode != 0
        assert "the chain was cut off: it ends with record 2" in str(live.data)
        assert "in the repository near knows record 3" in str(live.data)
        refused = recorded.run("openhim_dr.evidence_anchor", "example")
        assert "what is wrong must not be anchored as if it were right" in str(refused.data)
    recorded.salt("saltutil.refresh_pillar", wait=True)


def test_the_report_is_written_and_names_every_gap(recorded: Site) -> None:
    recorded.run("openhim_dr.evidence_collect", "example")
    done = recorded.run("openhim_dr.report", "example")
    assert done.returncode == 0, done.data
    page, model = (Path(one) for one in done.data["files"])
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    built = json.loads(model.read_text())
    assert built["stack"] == "example"
    assert len(built["clauses"]) == 11
    hosts = {host["host"]: host for one in built["topology"] for host in one["hosts"]}
    assert hosts["south-core"]["notes"] == ["OpenHIM: not known"]
    gaps = "\n".join(done.data["gaps"])
    assert "unknown: The runbook on south-db1: its minion does not answer." in gaps
    assert "missing: The present runbook on north-db1" in gaps
    assert f"/var/lib/mongodb/openhim on {HOST}" in page.read_text()
    assert done.data["findings"]["missing"] + done.data["findings"]["unknown"] == len(
        done.data["gaps"]
    )


def test_a_status_page_is_renewed_in_its_place(recovered: Site, tmp_path: Path) -> None:
    """Whoever reads it sees the old one or the new one, and when it was written."""
    asked = {"folder": str(tmp_path / "status"), "live": False, "refresh": 30}
    first = recovered.run("openhim_dr.report", "example", **asked)
    assert first.returncode == 0, first.data
    page = tmp_path / "status" / "example.html"
    before = page.read_text()
    assert '<meta http-equiv="refresh" content="30">' in before
    assert "it is stale:" in before
    assert any("epoch 1: root cause: open since" in one for one in first.data["open"])
    second = recovered.run("openhim_dr.report", "example", **asked)
    while second.data["as_of"][:19] == first.data["as_of"][:19]:  # the page tells whole seconds
        second = recovered.run("openhim_dr.report", "example", **asked)
    assert second.data["as_of"] > first.data["as_of"]
    assert second.data["stale_from"] > second.data["as_of"]
    assert page.read_text() != before
    names = sorted(file.name for file in page.parent.iterdir())
    assert names == ["example.html", "example.json"]
    wrong = recovered.run("openhim_dr.report", "example", **{**asked, "refresh": "soon"})
    assert wrong.returncode != 0
    assert "refresh: found 'soon'; allowed a whole number of seconds" in str(wrong.data)


@pytest.mark.parametrize("test", [True, False])
def test_a_highstate_brings_the_runbook_and_keeps_the_one_before(
    recorded: Site, tmp_path: Path, test: bool
) -> None:
    folder = tmp_path / "runbook"

    def state() -> dict[str, Any]:
        done = recorded.salt(
            "state.single", "openhim_plan.runbook_present", "the runbook is at hand",
            folder=str(folder), test=test,
        )  # fmt: skip
        (only,) = done.data.values()
        return only

    first = state()
    assert first["changes"]["runbook"]["old"] is None
    if test:
        assert first["result"] is None
        assert not folder.exists()
        return
    assert first["result"] is True
    assert (state()["result"], state()["changes"]) == (True, {})

    def change(openhim: dict[str, Any]) -> None:
        openhim["plan"]["contacts"]["ada"]["phone"] = "+1 202 555 0177"

    with recorded.changed_pillar(change):
        recorded.salt("saltutil.refresh_pillar", wait=True)
        assert state()["result"] is True
        assert "+1 202 555 0177" in (folder / "runbook.md").read_text()
        held = recorded.salt("openhim_plan.runbook", folder=str(folder)).data
        assert held["older"] == 1
    recorded.salt("saltutil.refresh_pillar", wait=True)


def test_the_master_makes_the_same_runbook_as_its_hosts(recorded: Site, tmp_path: Path) -> None:
    done = recorded.run("openhim_dr.runbook", "example", folder=str(tmp_path / "master"))
    assert done.returncode == 0, done.data
    assert {Path(one).suffix for one in done.data["files"]} >= {".md", ".html"}
    folder = tmp_path / "host"
    recorded.salt("state.single", "openhim_plan.runbook_present", "x", folder=str(folder))
    held = recorded.salt("openhim_plan.runbook", folder=str(folder)).data
    assert (held["digest"], held["epoch"]) == (done.data["digest"], done.data["epoch"])
    text = (tmp_path / "master" / "example.md").read_text()
    for value in recorded.secrets().values():
        assert value not in text


def test_at_rest_is_seen_by_the_host_itself(recorded: Site) -> None:
    (one,) = recorded.salt("openhim_plan.at_rest").data
    assert one["path"] == "/var/lib/mongodb/openhim"
    assert one["state"] in ("encrypted", "plain", "memory", "unknown")
    assert one["why"]


def test_every_command_that_the_runbook_prints_is_understood(synced: Site, tmp_path: Path) -> None:
    """As a person types it. What would act is previewed; who does not answer is asked here."""
    assert synced.salt("saltutil.sync_all").returncode == 0
    assert synced.run("saltutil.sync_all").returncode == 0
    openhim = yaml.safe_load((synced.pillar / "openhim" / "production.sls").read_text())["openhim"]
    for name in ("salt", "salt-run"):
        program = tmp_path / name
        configuration = Path(synced.master.config_file).parent
        program.write_text(
            f'#!/bin/sh\nexec {synced.environment}/bin/{name} -c {configuration} "$@"\n'
        )
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    commands = runbook.commands(runbook.build(openhim, NOW))
    assert len(commands) >= 14
    for one in commands:
        typed = one["preview"] or one["text"]
        typed = typed.replace("TIME", "2026-01-31T11:59:59Z").replace("HOST", HOST)
        words = shlex.split(typed)
        if words[0] == "salt":
            typed = typed.replace(words[1], HOST, 1)
        done = subprocess.run(
            ["sh", "-c", typed], env=environment, capture_output=True, text=True, cwd="/",
            timeout=300, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert not [word for word in NOT_UNDERSTOOD if word in said], f"{typed}\n{said}"
        assert said.strip(), typed
        # salt-run shows what is refused in words with a traceback above it.
        assert "Traceback" not in said or "salt.exceptions.CommandExecutionError: " in said, said
        if "state.orchestrate" in typed:
            assert "Refused: " in said or "Succeeded: " in said, f"{typed}\n{said}"
    shutil.rmtree(synced.records, ignore_errors=True)
