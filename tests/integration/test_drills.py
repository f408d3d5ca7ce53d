"""The master knows who holds the drills: with the package installed, and synced."""

from __future__ import annotations

from tests.integration.conftest import HOST, Site


def test_who_holds_a_drill_is_told_or_why_nobody_does(site: Site) -> None:
    """A runner that is a file of its own is found by the name of the runner that it is a part of."""
    site.run("saltutil.sync_all")
    with site.changed_pillar(lambda openhim: openhim.pop("drills")):
        found = site.run("openhim_dr.drill_plan", "example", declared_by="Ada").data
        assert found["refusals"] == ["openhim:drills: the pillar of 'example' declares no drills"]

    def declare(openhim: dict, host: str = HOST) -> None:
        openhim["drills"] = {"run_by": host, "max_age_seconds": {"functional": 86400}}

    with site.changed_pillar(declare):
        found = site.run("openhim_dr.drill_plan", "example", declared_by="Ada").data
        assert found == {"refusals": [], "host": HOST}
        found = site.run("openhim_dr.drill_plan", "example", repository="nowhere").data
        assert [reason.split(":")[0] for reason in found["refusals"]] == [
            "declared_by",
            "repository",
        ]
    with site.changed_pillar(lambda openhim: declare(openhim, "west-backup")):
        found = site.run("openhim_dr.drill_plan", "example", declared_by="Ada").data
        assert found["refusals"] == ["west-backup does not answer, and holds the drills"]
        known = site.run("openhim_dr.drills", "example").data
        assert (known["state"], known["retcode"]) == ("unknown", 1)
    assert site.run("openhim_dr.backup_plan", "example").data["refusals"] == []
