"""The runner of a restore in place is found beside the others of its name, installed and synced."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Site

REQUEST = {"confirm": "example", "point": "latest", "reason": "a test", "declared_by": "a test"}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (REQUEST, "south-db1 does not answer, and it is the one that restores; bring it back"),
        ({**REQUEST, "confirm": "exmaple"}, "confirm: found 'exmaple'"),
        ({**REQUEST, "pont": "latest"}, "restore: found pont; known are confirm"),
        ({**REQUEST, "point": ""}, "point: found ''; say an ID, latest or verified"),
    ],
)
def test_a_plan_is_a_verdict_and_no_traceback(
    site: Site, request_: dict[str, str], reason: str
) -> None:
    """Of the hosts, all but one are silent."""
    done = site.run("openhim_dr.restore_plan", **request_)
    assert done.returncode == 0, done.data
    assert any(reason in one for one in done.data["refusals"]), done.data


def test_what_is_refused_fails_the_orchestration_and_is_on_no_record(site: Site) -> None:
    """As ``orch.restore`` is served to the master."""
    if site.kind == "installed":
        pytest.skip("the wheel holds no state tree")
    request = {**REQUEST, "confirm": "exmaple"}
    done = site.run("state.orchestrate", "orch.restore", pillar={"restore": request})
    assert done.returncode != 0
    assert "Refused: confirm: found 'exmaple'" in str(done.data)
    assert site.run("openhim_dr.history", "example").data == []


def test_a_restore_that_nobody_declared_is_neither_concluded_nor_complete(site: Site) -> None:
    """What is no restore is not taken for one."""
    for function in ("restore_conclude", "restore_complete"):
        done = site.run(f"openhim_dr.{function}", "example")
        assert (done.returncode, "is no restore; run it first" in done.data) == (1, True)
