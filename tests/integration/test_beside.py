"""What Salt makes of a step that runs beside others: the failover relies on it."""

from __future__ import annotations

from tests.integration.conftest import Site

STEPS = """
Told:
  salt.runner:
    - name: openhim_dr.tell
    - kwarg: {stack: nobody-declares-it}
    - parallel: true

Meanwhile:
  test.succeed_without_changes: []

Promoted:
  test.succeed_without_changes:
    - require:
      - salt: Told
    - failhard: true

Afterwards:
  test.succeed_without_changes: []
"""


def test_who_requires_it_waits_for_it_and_does_not_run_when_it_fails(site: Site) -> None:
    (site.orchestrations / "beside.sls").write_text(STEPS)
    done = site.run("state.orchestrate", "beside")
    assert done.returncode != 0
    (steps,) = done.data["data"].values()
    results = {step["__id__"]: step["result"] for step in steps.values()}
    assert results == {"Told": False, "Meanwhile": True, "Promoted": False}
    (promoted,) = (step for step in steps.values() if step["__id__"] == "Promoted")
    assert "requisite failed" in promoted["comment"]
