"""The preflight asks real minions through a real master; one of the stack's hosts is there."""

from __future__ import annotations

import subprocess
import time

from tests.integration.conftest import HOST, Site


def test_every_verb_has_its_verdict_and_silence_is_no_proof(site: Site) -> None:
    """No mongod runs, and all hosts but one are silent."""
    found = heard(site)
    assert (found["stack"], found["active_site"], found["epoch"]) == ("example", "north", None)
    assert HOST not in found["silent"]
    assert found["silent"]["south-db1"] == "does not answer"
    assert found["hosts"][HOST]["answered"] is True, found["hosts"][HOST]
    assert {one["status"] for one in found["members"].values()} == {"unknown"}
    verdicts = {(one["verb"], one["site"]): one for one in found["verdicts"]}
    refused = verdicts["failover", "south"]
    assert refused["allowed"] is False
    assert any("south-db1 does not answer, and it is to take over" in r for r in refused["reasons"])
    assert any("north is not proven closed" in reason for reason in refused["reasons"])
    assert refused["rpo"]["seconds"] is None
    assert refused["rto"]["words"] == "not known, because none was measured"


def heard(site: Site) -> dict:
    """A preflight in which the one host is heard: on a busy machine it may be late for the first."""
    deadline = time.monotonic() + 120
    while True:
        done = site.run("openhim_dr.preflight", "example")
        assert done.returncode == 0, done.data
        if HOST not in done.data["silent"] or time.monotonic() > deadline:
            return done.data


def test_a_person_sees_a_table(site: Site) -> None:
    """As ``salt-run`` prints it."""
    command = [site.environment / "bin" / "salt-run", "-c", site.master.config_dir]
    done = subprocess.run(
        [*command, "openhim_dr.preflight", "example", "repositories=False"],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["south-db1", "south:"] for line in lines), done.stdout
    assert any(line.startswith("failover south  ") and "refused" in line for line in lines)
    assert "{" not in done.stdout


def test_a_stack_that_nobody_declares_is_refused(site: Site) -> None:
    """By the name of the parameter."""
    done = site.run("openhim_dr.preflight", "exmaple")
    assert done.returncode != 0
    assert "stack: found 'exmaple'" in str(done.data)
