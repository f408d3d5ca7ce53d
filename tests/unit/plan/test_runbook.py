"""The runbook says what this stack needs, and is the same on every host."""

from __future__ import annotations

import json
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from saltext.openhim.errors import Refused
from saltext.openhim.plan import delivery, pages, runbook

from tests.unit.plan import made
from tests.unit.test_schema import SECRETS

REPOSITORY = Path(__file__).parents[3]


def both(openhim: dict[str, Any]) -> tuple[str, str]:
    """Markdown and HTML, as text."""
    model = runbook.build(openhim, made.NOW)

    class Text(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found = ""

        def handle_data(self, data: str) -> None:
            self.found += data

    reader = Text()
    reader.feed(pages.runbook(model))
    return pages.runbook_text(model), reader.found


def test_everything_that_is_needed_is_in_both_forms() -> None:
    openhim = made.openhim(secrets=SECRETS)
    for text in both(openhim):
        for host in openhim["hosts"].values():
            assert host["address"] in text
        for contact in openhim["plan"]["contacts"].values():
            assert contact["name"] in text
            assert contact["phone"] in text
        for needed in (
            "failover", "openhim-attest", "restic dump latest /etc/salt/openhim-start.sh | sh",
            "epoch 0", "1 Hospital Road", "radio channel 4", "Laboratory orders", "recovery",
            "/var/lib/openhim-backup/copy", "RPO 60 s, RTO 15 minutes", "SNAPSHOT_OF_THE_PART openhim",
        ):  # fmt: skip
            assert needed in text, needed


def test_where_a_key_is_and_never_what_it_is() -> None:
    openhim = made.openhim(secrets=SECRETS)
    openhim["backup"]["repositories"]["store"]["url"] = "rest:https://u:a-literal-password@h/"
    for text in both(openhim):
        assert "backup_verification" in text.replace("\\", "")
        assert "a-literal-password" not in text
        for value in SECRETS.values():
            assert value not in text


def test_two_hosts_with_other_secrets_make_the_same_runbook() -> None:
    one = runbook.build(made.openhim(secrets={"a": "b"}), made.NOW)
    assert one == runbook.build(made.openhim(), made.NOW)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hosts:south-db1:address", "10.20.9.9"),
        ("plan:contacts:ada:phone", "+1 202 555 0177"),
        ("plan:tiers:critical:rto_seconds", 777),
    ],
)
def test_a_change_of_a_host_a_contact_or_a_target_is_said(path: str, value: Any) -> None:
    openhim = made.openhim()
    *parents, last = path.split(":")
    place = openhim
    for key in parents:
        place = place[key]
    place[last] = value
    before, after = (runbook.build(one, made.NOW) for one in (made.openhim(), openhim))
    assert before["digest"] != after["digest"]
    assert before["content"] != after["content"]
    shown = {777: "12 minutes"}.get(value, str(value))
    for text in both(openhim):
        assert shown in text


def test_after_a_failover_it_leads_from_the_new_site() -> None:
    recovery = {
        "epoch": 3, "kind": "failover", "active_site": "south", "profile": "reduced",
        "lost_sites": ["north"],
    }  # fmt: skip
    for text in both(made.openhim(recovery=recovery)):
        assert "epoch 3" in text
        assert "lost: north" in text
        assert "to_site=north" not in text
        assert "salt south-core state.highstate" in text


def test_hosts_that_stand_by_are_told_and_lead_to_a_rebuild() -> None:
    for text in both(made.with_standby()):
        assert "10.20.0.51" in text
        assert "mongodb, stands by" in text
        assert '"to_site": "west", "confirm": "example"' in text


def test_without_a_plan_there_is_no_runbook() -> None:
    openhim = made.openhim()
    del openhim["plan"]
    with pytest.raises(Refused, match="openhim:plan: found nothing; declare the plan"):
        runbook.build(openhim, made.NOW)


def test_a_stack_without_backups_and_calendar_has_one_that_says_so() -> None:
    openhim = made.openhim()
    for key in ("tests", "copies", "emergency_mode"):
        del openhim["plan"][key]
    del openhim["backup"]
    for text in both(openhim):
        assert "No start bundle is declared" in text
        assert "No backups are declared." in text


def test_every_orchestration_is_printed_and_every_printed_one_exists() -> None:
    drills = {"run_by": "west-backup", "max_age_seconds": {"functional": 7776000}}
    declared = made.openhim(drills=drills)
    standby = {"site": "west", "address": "10.20.0.50", "roles": ["mongodb"], "standby": True}
    declared["hosts"]["west-db1"] = standby
    model = runbook.build(declared, made.NOW)
    words = [shlex.split(one["text"]) for one in runbook.commands(model)]
    printed = {line[2] for line in words if line[:2] == ["salt-run", "state.orchestrate"]}
    there = {f"orch.{file.stem}" for file in (REPOSITORY / "salt" / "orch").glob("*.sls")}
    assert printed == there, "add it to plan/verbs.py, so that people find it in a disaster"


def test_what_acts_through_an_orchestration_has_a_preview() -> None:
    for one in runbook.commands(runbook.build(made.openhim(), made.NOW)):
        if "state.orchestrate" in one["text"] or "state.highstate" in one["text"]:
            assert one["acts"]
            assert "test=True" in shlex.split(one["preview"])
            rest = [word for word in shlex.split(one["preview"]) if word != "test=True"]
            assert rest == shlex.split(one["text"])


def test_every_verb_of_the_criteria_is_described() -> None:
    model = runbook.build(made.openhim(), made.NOW)
    assert {one["verb"] for one in model["activation"]} <= {one["name"] for one in model["verbs"]}
    from saltext.openhim.schema.plan_table import VERBS

    assert set(VERBS) <= {one["name"] for one in model["verbs"]}


EVIL = "</code><script>alert(1)</script> | *a* `b` [c](javascript:d)\n# e"


def test_nothing_that_is_declared_becomes_markup() -> None:
    openhim = made.openhim()
    openhim["plan"]["organisation"] = EVIL
    openhim["plan"]["roles"]["coordinator"]["duties"] = EVIL
    openhim["plan"]["communication"][0]["template"] = EVIL
    model = runbook.build(openhim, made.NOW)
    page, text = pages.runbook(model), pages.runbook_text(model)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in text.replace("\\<", "")
    assert "\n# e" not in text


# On a host


def test_it_is_delivered_once_and_the_one_before_is_kept(tmp_path: Path) -> None:
    folder, openhim = str(tmp_path / "runbook"), made.openhim()
    assert delivery.held(folder) == {}
    assert delivery.differences(openhim, folder)["runbook"]["old"] is None
    assert not (tmp_path / "runbook").exists()
    delivery.deliver(openhim, folder)
    assert delivery.differences(openhim, folder) == {}
    first = (tmp_path / "runbook" / "runbook.md").read_text()
    openhim["plan"]["contacts"]["ada"]["phone"] = "+1 202 555 0177"
    (change,) = delivery.differences(openhim, folder).values()
    assert change["old"] != change["new"]
    delivery.deliver(openhim, folder)
    assert delivery.differences(openhim, folder) == {}
    assert "+1 202 555 0177" in (tmp_path / "runbook" / "runbook.html").read_text()
    (kept,) = (tmp_path / "runbook" / "older").glob("*.md")
    assert kept.read_text() == first
    assert delivery.held(folder)["older"] == 1
    for file in (tmp_path / "runbook").rglob("*.*"):
        if file.is_file():
            assert file.stat().st_mode & 0o777 == 0o600


def test_a_page_that_somebody_changed_is_written_again(tmp_path: Path) -> None:
    folder, openhim = str(tmp_path), made.openhim()
    delivery.deliver(openhim, folder)
    before = (tmp_path / "runbook.md").read_text()
    (tmp_path / "runbook.md").write_text("call nobody")
    (tmp_path / "runbook.html").unlink()
    assert set(delivery.differences(openhim, folder)) == {"runbook.md", "runbook.html"}
    delivery.deliver(openhim, folder)
    assert (tmp_path / "runbook.md").read_text() == before
    assert not (tmp_path / "older").exists()


@pytest.mark.parametrize("fatal", range(5))
def test_what_a_crash_left_is_written_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """Wherever it dies, and twice: the one before is never lost."""
    folder, openhim = str(tmp_path), made.openhim()
    delivery.deliver(openhim, folder)
    first = (tmp_path / "runbook.md").read_text()
    openhim["plan"]["organisation"] = "Another"
    write, left = delivery.files.write, [fatal]

    def dying(path: str, *rest: Any) -> None:
        if not left[0]:
            raise OSError("killed")
        left[0] -= 1
        write(path, *rest)

    with monkeypatch.context() as mortal:
        mortal.setattr(delivery.files, "write", dying)
        for again in (fatal, 2):
            left[0] = again
            with pytest.raises(OSError, match="killed"):
                delivery.deliver(openhim, folder)
            assert delivery.differences(openhim, folder)
            assert first in [file.read_text() for file in tmp_path.rglob("*.md")]
    delivery.deliver(openhim, folder)
    assert delivery.differences(openhim, folder) == {}
    (kept,) = (tmp_path / "older").glob("*.md")
    assert kept.read_text() == first
    assert json.loads((tmp_path / "about.json").read_text())["stack"] == "example"
