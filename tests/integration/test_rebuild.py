"""The master says why a stack cannot be made anew: with the package installed, and synced."""

from __future__ import annotations

from typing import Any

from tests.integration.conftest import Site

REQUEST = {"confirm": "example", "declared_by": "Ada", "reason": "fire"}
WEST = {"west-db1": ("mongodb", "10.20.3.11"), "west-core": ("core", "10.20.3.21")}


def refusals(site: Site, **request: Any) -> list[str]:
    return site.run("openhim_dr.rebuild_plan", **{**REQUEST, **request}).data["refusals"]


def standing_by(openhim: dict) -> None:
    for name, (role, address) in WEST.items():
        openhim["hosts"][name] = {
            "site": "west",
            "address": address,
            "roles": [role],
            "standby": True,
        }
    members = openhim["mongodb"]["replica_sets"]["openhim"]["members"]
    members["west-db1"] = {"votes": 0, "priority": 0}
    for channel in openhim["objects"]["channels"].values():
        channel["routes"][0]["host"]["west"] = "10.20.3.31"


def test_what_is_against_a_rebuild_is_told(site: Site) -> None:
    site.run("saltutil.sync_all")
    (found,) = refusals(site, to_site="east")
    assert found == "to_site: found 'east'; declared sites are north, south, west"
    assert "where no member of the replica set" in refusals(site, to_site="west")[0]
    with site.changed_pillar(standing_by):
        found = refusals(site, to_site="west")
        assert [reason.split(" is not proven")[0] for reason in found if "proven" in reason] == [
            "north",
            "south",
        ]
        assert "to_time" in refusals(site, to_site="west", to_time="yesterday")[0]
        assert "expected a mapping" in refusals(site, to_site="west", attest="yes")[0]
        (known,) = refusals(site, to_site="west", confirm="exmaple")
        assert "confirm: found 'exmaple'" in known
