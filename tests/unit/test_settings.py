"""What a declaration means: under each profile, after a recovery, and for OpenHIM's connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from pymongo.uri_parser import parse_uri
from saltext.openhim import secrets, settings
from saltext.openhim.errors import OpenHIMError, PillarError

EXAMPLE = Path(__file__).parents[2] / "pillar" / "openhim" / "production.sls"


@pytest.fixture
def pillar() -> dict[str, Any]:
    """The example pillar."""
    return yaml.safe_load(EXAMPLE.read_text())


def the_set(pillar: dict[str, Any], name: str = "openhim") -> settings.ReplicaSet:
    """One replica set of a pillar, as its profile wants it."""
    return settings.from_pillar(pillar).replica_sets[name]


def test_production_has_every_declared_member(pillar: dict[str, Any]) -> None:
    """Two at the primary site and one distant, all voting."""
    members = the_set(pillar).members
    assert [(m.name, m.priority, m.votes, m.host.site) for m in members] == [
        ("north-db1:27017", 10, 1, "north"),
        ("north-db2:27017", 9, 1, "north"),
        ("south-db1:27017", 1, 1, "south"),
    ]


def test_the_initiator_is_the_same_on_every_host(pillar: dict[str, Any]) -> None:
    """The highest priority; among equals the first name, however the pillar is ordered."""
    assert the_set(pillar).initiator.name == "north-db1:27017"
    members = pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]
    for member in members.values():
        member["priority"] = 1
    assert the_set(pillar).initiator.name == "north-db1:27017"
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"] = dict(
        reversed(members.items())
    )
    assert the_set(pillar).initiator.name == "north-db1:27017"


def test_reduced_is_one_member_at_the_active_site(pillar: dict[str, Any]) -> None:
    """A fresh environment knows of no others."""
    pillar["openhim"] |= {"profile": "reduced", "active_site": "south"}
    (only,) = the_set(pillar).members
    assert (only.name, only.priority, only.votes) == ("south-db1:27017", 1, 1)


def test_reduced_picks_the_best_member_of_the_site(pillar: dict[str, Any]) -> None:
    """The one that was likeliest to be primary there."""
    pillar["openhim"]["profile"] = "reduced"
    assert [m.name for m in the_set(pillar).members] == ["north-db1:27017"]


def test_after_a_failover_the_others_stay_without_a_vote(pillar: dict[str, Any]) -> None:
    """So that they learn of the new configuration and cannot elect a primary between them."""
    pillar["openhim"]["recovery"] = {
        "epoch": 1, "profile": "reduced", "active_site": "south", "lost_sites": ["north"],
    }  # fmt: skip
    stack = settings.from_pillar(pillar)
    assert (stack.profile, stack.active_site, stack.lost_sites) == ("reduced", "south", ("north",))
    found = {m.name: (m.priority, m.votes) for m in stack.replica_sets["openhim"].members}
    assert found == {
        "south-db1:27017": (1, 1),
        "north-db1:27017": (0, 0),
        "north-db2:27017": (0, 0),
    }
    assert stack.core_is_active("south-core")
    assert not stack.core_is_active("north-core")


def recovered(pillar: dict[str, Any], **overlay: Any) -> dict[str, tuple[float, int]]:
    """Member → priority and votes after a recovery."""
    pillar["openhim"]["recovery"] = {"epoch": 1, "id": "an id", **overlay}
    return {m.name.split(":")[0]: (m.priority, m.votes) for m in the_set(pillar).members}


def test_after_a_switchover_the_primary_is_where_openhim_is(pillar: dict[str, Any]) -> None:
    """All vote, and nobody comes before the members of the active site."""
    found = recovered(pillar, profile="production", active_site="south", lost_sites=[])
    assert found == {"north-db1": (10, 1), "north-db2": (9, 1), "south-db1": (11, 1)}
    assert the_set(pillar).initiator.name == "south-db1:27017"
    assert {m.tags["epoch"] for m in the_set(pillar).members} == {"an id"}


def test_back_at_the_declared_site_the_declared_priorities_hold(pillar: dict[str, Any]) -> None:
    """Nothing is left of the time when another site led."""
    declared = {m.name: m.priority for m in the_set(pillar).members}
    recovered(pillar, profile="production", active_site="north", lost_sites=[])
    assert {m.name: m.priority for m in the_set(pillar).members} == declared


def test_once_a_site_is_back_only_those_that_are_lost_have_no_vote(pillar: dict[str, Any]) -> None:
    """The recovery's profile ends with the first rejoin."""
    openhim = pillar["openhim"]
    openhim["sites"]["east"] = {}
    openhim["hosts"]["east-db1"] = {"site": "east", "address": "10.20.3.1", "roles": ["mongodb"]}
    openhim["mongodb"]["replica_sets"]["openhim"]["members"]["east-db1"] = {"priority": 5}
    found = recovered(pillar, active_site="south", lost_sites=["east"])
    assert found["east-db1"] == (0, 0)
    assert found["south-db1"] == (11, 1)
    assert found["north-db1"] == (10, 1)


def test_where_openhim_alone_has_moved_all_who_are_left_vote_and_no_write_waits_for_the_lost(
    pillar: dict[str, Any],
) -> None:
    """Not one member alone, as after a failover: MongoDB had a majority, and keeps one."""
    openhim = pillar["openhim"]
    openhim["sites"]["east"] = {}
    openhim["hosts"]["east-db1"] = {"site": "east", "address": "10.20.3.1", "roles": ["mongodb"]}
    openhim["mongodb"]["replica_sets"]["openhim"]["members"]["east-db1"] = {"priority": 1}
    openhim["mongodb"]["durability"] = "every-site"
    found = recovered(
        pillar, kind="core", profile="production", active_site="south", lost_sites=["north"]
    )
    assert found == {
        "south-db1": (2, 1), "east-db1": (1, 1), "north-db1": (0, 0), "north-db2": (0, 0)
    }  # fmt: skip
    assert the_set(pillar).write_modes == {"everySite": {"site": 2, "voter": 2}}


@pytest.mark.parametrize("highest", [999, 1000])
def test_mongodbs_highest_priority_is_not_exceeded(pillar: dict[str, Any], highest: int) -> None:
    """And the order stays."""
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]["north-db1"] = {
        "priority": highest
    }
    found = recovered(pillar, active_site="south", lost_sites=[])
    assert max(priority for priority, _ in found.values()) <= 1000
    assert found["south-db1"] > found["north-db1"] > found["north-db2"]


def test_reduced_where_no_member_is_says_so(pillar: dict[str, Any]) -> None:
    """With the sites that have one."""
    pillar["openhim"] |= {"profile": "reduced", "active_site": "west"}
    with pytest.raises(PillarError, match=r"'west', where no member .* at north, south"):
        settings.from_pillar(pillar)


def test_a_pillar_without_openhim_is_refused() -> None:
    """Not a KeyError."""
    with pytest.raises(PillarError, match="openhim: found nothing"):
        settings.from_pillar({})


def test_a_host_that_is_not_declared_is_refused(pillar: dict[str, Any]) -> None:
    """With the hosts that are."""
    with pytest.raises(OpenHIMError, match=r"'stranger' is not in openhim:hosts; declared are"):
        settings.from_pillar(pillar).host("stranger")


def test_majority_needs_no_mode_of_its_own(pillar: dict[str, Any]) -> None:
    """It is MongoDB's."""
    replica_set = the_set(pillar)
    assert replica_set.write_modes == {}
    assert replica_set.write_concern == {"w": "majority"}


def test_every_site_asks_for_every_site_and_a_majority(pillar: dict[str, Any]) -> None:
    """Journaled, and with a timeout: without one a write hangs while a site is away."""
    pillar["openhim"]["mongodb"] |= {"durability": "every-site", "write_timeout_ms": 700}
    replica_set = the_set(pillar)
    assert replica_set.write_modes == {"everySite": {"site": 2, "voter": 2}}
    assert replica_set.write_concern == {"w": "everySite", "journal": True, "wtimeoutMS": 700}
    tags = [dict(member.tags) for member in replica_set.members]
    assert tags[0] == {"site": "north", "voter": "north-db1"}
    assert len({tag["voter"] for tag in tags}) == 3


def test_every_site_counts_the_sites_that_are_left(pillar: dict[str, Any]) -> None:
    """After a failover a write must not wait for the dead."""
    pillar["openhim"]["mongodb"]["durability"] = "every-site"
    pillar["openhim"]["recovery"] = {
        "profile": "reduced", "active_site": "south", "lost_sites": ["north"],
    }  # fmt: skip
    replica_set = the_set(pillar)
    assert replica_set.write_modes == {"everySite": {"site": 1, "voter": 1}}
    assert all("voter" not in m.tags for m in replica_set.members if not m.votes)


def test_five_members_at_three_sites_need_three_voters(pillar: dict[str, Any]) -> None:
    """The same declaration with other numbers."""
    openhim = pillar["openhim"]
    openhim["hosts"] |= {
        "west-db1": {"site": "west", "address": "10.20.0.11", "roles": ["mongodb"]},
        "south-db2": {"site": "south", "address": "10.20.2.12", "roles": ["mongodb"]},
    }
    openhim["mongodb"]["replica_sets"]["openhim"]["members"] |= {
        "west-db1": None,
        "south-db2": {"port": 27117},
    }
    openhim["mongodb"]["durability"] = "every-site"
    replica_set = the_set(pillar)
    assert replica_set.write_modes == {"everySite": {"site": 3, "voter": 3}}
    assert replica_set.member_on("south-db2").name == "south-db2:27117"
    assert replica_set.member_on("west-db1").priority == 1


@pytest.mark.parametrize("kind", ["main", "audit"])
def test_both_urls_ask_for_the_majority(pillar: dict[str, Any], kind: str) -> None:
    """The option for the API alone would leave transactions and audits unprotected."""
    url = settings.from_pillar(pillar).database_url(
        kind, "open/him", "p@ss:/?#[]%", {"tls": True, "tlsCAFile": "/etc/openhim-tls/ca.crt"}
    )
    parsed = parse_uri(url.replace("&tlsCAFile=/etc/openhim-tls/ca.crt", ""))
    assert parsed["username"] == "open/him"
    assert parsed["password"] == "p@ss:/?#[]%"
    assert [host for host, _ in parsed["nodelist"]] == ["north-db1", "north-db2", "south-db1"]
    assert parsed["database"] == {"main": "openhim", "audit": "openhim_audit"}[kind]
    options = parse_qs(urlsplit(url).query)
    assert options["w"] == ["majority"]
    assert options["replicaSet"] == ["openhim"]
    assert options["tls"] == ["true"]
    assert unquote(options["tlsCAFile"][0]) == "/etc/openhim-tls/ca.crt"


def test_the_url_names_only_members_that_vote(pillar: dict[str, Any]) -> None:
    """After a failover OpenHIM does not wait for the lost ones."""
    pillar["openhim"]["recovery"] = {
        "profile": "reduced", "active_site": "south", "lost_sites": ["north"],
    }  # fmt: skip
    url = settings.from_pillar(pillar).database_url("main", "u", "p")
    assert urlsplit(url).netloc == "u:p@south-db1:27017"


def test_the_audit_database_may_be_on_a_set_of_its_own(pillar: dict[str, Any]) -> None:
    """With its own port and members."""
    mongodb = pillar["openhim"]["mongodb"]
    mongodb["replica_sets"]["audit"] = {"port": 27018, "members": {"north-db2": {}}}
    mongodb["databases"]["audit"]["replica_set"] = "audit"
    stack = settings.from_pillar(pillar)
    assert "north-db2:27018/openhim_audit?replicaSet=audit" in stack.database_url("audit", "u", "p")
    assert [found.name for found in stack.sets_on("north-db2")] == ["audit", "openhim"]
    assert [found.name for found in stack.sets_on("north-db1")] == ["openhim"]
    assert stack.sets_on("north-core") == []


def test_hosts_by_role_and_site(pillar: dict[str, Any]) -> None:
    """In the order of their IDs."""
    stack = settings.from_pillar(pillar)
    assert [host.id for host in stack.hosts_with("core")] == ["north-core", "south-core"]
    assert [host.id for host in stack.hosts_with("mongodb", "south")] == ["south-db1"]


def test_a_secret_is_looked_up_by_name() -> None:
    """A missing or empty one is an error that names it, and tells what to do."""
    pillar = {"openhim": {"secrets": {"a": "hush", "empty": "", "number": 7}}}
    assert secrets.lookup(pillar, "a") == "hush"
    for name in ("empty", "number", "other"):
        with pytest.raises(PillarError, match=f"openhim:secrets:{name}: found"):
            secrets.lookup(pillar, name)
