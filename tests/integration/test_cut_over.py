"""A person leads clients to another site with ``salt-run``: of the package installed, and synced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.cut_over.name_server import ZONE, Knot
from tests.integration.conftest import Site

STACK = "example"


@pytest.fixture(scope="module")
def knot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Knot]:
    """The name server of the clients."""
    with Knot(tmp_path_factory.mktemp("knot")).running() as server:
        yield server


@pytest.fixture
def declared(site: Site, knot: Knot) -> Iterator[dict[str, Any]]:
    """The example's stack leads its clients by that server; the key is in the pillar."""
    dns = {
        "name": f"{site.kind}.{ZONE}", "zone": ZONE, "server": "127.0.0.1", "port": knot.port,
        "key": {"name": "mover", "secret": "dns_update"},
        "addresses": {"north": ["10.0.0.1"], "south": ["10.0.0.2"]},
    }  # fmt: skip

    def change(openhim: dict[str, Any]) -> None:
        openhim["cut_over"] = {"dns": dns}
        openhim["secrets"] = {"dns_update": knot.mover}

    with site.changed_pillar(change):
        yield dns


def test_clients_are_led_to_a_site(site: Site, knot: Knot, declared: dict[str, Any]) -> None:
    """Beside the other functions of the runner, which are in another file."""
    assert site.run("openhim_dr.points_to", STACK).data["state"] == "none"
    preview = site.run("openhim_dr.cut_over", STACK, "south", test=True)
    assert (preview.returncode, preview.data["changed"]) == (0, False)
    assert knot.asked(declared["name"], "A") == []
    done = site.run("openhim_dr.cut_over", stack=STACK, site="south")
    assert (done.returncode, done.data["changed"], done.data["confirmed"]) == (0, True, True)
    assert knot.asked(declared["name"], "A") == ["60 10.0.0.2"]
    assert site.run("openhim_dr.points_to", STACK).data["site"] == "south"
    assert site.run("openhim_dr.cut_over", STACK, "south").data["changed"] is False
    assert site.run("openhim_dr.history", STACK).data == []


def test_what_fails_fails_the_run_and_tells_no_secret(
    site: Site, knot: Knot, declared: dict[str, Any]
) -> None:
    """An orchestration stops at an exception alone."""
    for arguments, words in (
        ((STACK, "west"), "'west', which has no addresses"),
        (("exmaple", "south"), "no accepted minion's pillar declares a stack of that name"),
    ):
        done = site.run("openhim_dr.cut_over", *arguments)
        assert done.returncode != 0
        assert f"clients are not led to {arguments[1]}" in done.data
        assert words in done.data
    declared["key"]["name"] = "stranger"

    def change(openhim: dict[str, Any]) -> None:
        openhim["cut_over"] = {"dns": declared}
        openhim["secrets"] = {"dns_update": knot.mover}

    with site.changed_pillar(change):
        done = site.run("openhim_dr.cut_over", STACK, "south")
        assert (done.returncode, "does not know the key stranger" in done.data) == (1, True)
        assert site.run("openhim_dr.points_to", STACK).data["state"] == "unknown"
    assert knot.mover not in site.log()


def test_a_stack_without_a_cut_over(site: Site) -> None:
    """An orchestration goes on, if it says so; a person is told."""
    done = site.run("openhim_dr.cut_over", STACK, "south", if_declared=True)
    assert (done.returncode, done.data["changed"], done.data["declared"]) == (0, False, False)
    done = site.run("openhim_dr.cut_over", STACK, "south")
    assert done.returncode != 0
    assert "openhim:cut_over: found nothing" in done.data


def test_in_an_orchestration_it_is_one_step(
    site: Site, knot: Knot, declared: dict[str, Any], tmp_path: Path
) -> None:
    """And a step that fails ends it."""
    name = "led"
    steps = """
Clients are led to {site}:
  salt.runner:
    - name: openhim_dr.cut_over
    - kwarg: {{stack: example, site: {site}, if_declared: true}}
    - failhard: true
"""
    folder = site.orchestrations
    for place, succeeds in (("north", True), ("west", False)):
        (folder / f"{name}_{place}.sls").write_text(steps.format(site=place))
        done = site.run("state.orchestrate", f"{name}_{place}")
        assert (done.returncode == 0) == succeeds, done.data
    assert knot.asked(declared["name"], "A") == ["60 10.0.0.1"]
