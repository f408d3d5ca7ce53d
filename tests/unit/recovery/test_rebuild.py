"""A rebuild: who it is made on, what it refuses, and what it measured."""

from dataclasses import replace

import pytest
import yaml
from saltext.openhim import settings
from saltext.openhim.errors import PillarError
from saltext.openhim.recovery import layout, rebuild
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.observations import Attestation, Evidence, Report
from saltext.openhim.recovery.verdicts import Point, Request
from saltext.openhim.schema import needs, rules

from tests.unit.test_schema import EXAMPLE

NORTH = ("north-core", "north-db1", "north-db2")
SOUTH = ("south-core", "south-db1")
WEST = ("west-core", "west-db1")


@pytest.fixture
def pillar():
    """The example, with two hosts that stand by at the third site."""
    found = yaml.safe_load(EXAMPLE.read_text())
    openhim = found["openhim"]
    for name, role, address in (("west-db1", "mongodb", 11), ("west-core", "core", 21)):
        openhim["hosts"][name] = {
            "site": "west",
            "address": f"10.20.3.{address}",
            "roles": [role],
            "standby": True,
        }
    members = openhim["mongodb"]["replica_sets"]["openhim"]["members"]
    members["west-db1"] = {"votes": 0, "priority": 0}
    openhim["objects"]["channels"]["Laboratory orders"]["routes"][0]["host"]["west"] = "10.20.3.31"
    return found


def test_what_stands_by_is_no_part_of_the_stack_until_its_site_is_rebuilt(pillar):
    assert rules.check(pillar["openhim"]) == []
    before = settings.from_pillar(pillar)
    assert not set(WEST) & set(before.hosts)
    assert [m.host.id for m in before.replica_sets["openhim"].members] == [
        "north-db1",
        "north-db2",
        "south-db1",
    ]
    pillar["openhim"]["recovery"] = rebuild.overlay("west", ("north", "south"), 1)
    after = settings.from_pillar(pillar)
    assert set(WEST) <= set(after.hosts)
    (only,) = after.replica_sets["openhim"].members
    assert (only.host.id, only.votes, only.priority) == ("west-db1", 1, 1)
    assert [host.id for host in after.hosts_with("core", after.active_site)] == ["west-core"]


def test_it_reads_the_repositories_and_removes_nothing(pillar):
    found = needs.by_file(pillar["openhim"], "west-db1")
    assert set(found["backup"]) == {"backup_store", "backup_store_producer"}
    assert "backup" not in needs.by_file(pillar["openhim"], "west-core")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda o: o["hosts"]["north-core"].update(standby=True), "true at the active site"),
        (
            lambda o: o["mongodb"]["replica_sets"]["openhim"]["members"]["west-db1"].update(
                priority=1
            ),
            "a vote, or a priority, of a host that stands by",
        ),
    ],
)
def test_what_stands_by_serves_nothing_and_has_no_vote(pillar, change, problem):
    change(pillar["openhim"])
    assert any(problem in found for found in rules.check(pillar["openhim"]))


def test_the_target_is_all_of_the_site_and_gives_up_the_others(pillar):
    aim = rebuild.target(pillar, "west")
    assert aim == rebuild.Target(WEST, "west-db1", ("west-core",), ("north", "south"))
    for host in WEST:
        del pillar["openhim"]["hosts"][host]
    del pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]["west-db1"]
    with pytest.raises(PillarError, match="no member"):
        rebuild.target(pillar, "west")


REQUEST = Request("rebuild", "west", "example", "fire", "Ada", point=Point("p", True, True))


def evidence(pillar, silent=(*NORTH, *SOUTH), attested=("north", "south")):
    """All other hosts are silent, and a person says that their sites are off."""
    plan = layout.from_stack(settings.from_pillar(settings.with_standby(pillar, "west")))
    reports = tuple(
        Report(host, host not in silent, site, holds_data=False if site == "west" else None)
        for host, site in plan.hosts
    )
    words = tuple(Attestation(site, "Ada", None) for site in attested)
    return Evidence(
        layout=plan, reports=reports, asked_from="", attestations=words, master_epochs=()
    )


def changed(seen, host, **what):
    reports = [replace(r, **what) if r.host == host else r for r in seen.reports]
    return replace(seen, reports=tuple(reports))


def test_where_nothing_is_left_and_the_target_is_empty_it_is_allowed(pillar):
    assert rebuild.reasons(evidence(pillar), REQUEST) == ()


@pytest.mark.parametrize(
    ("change", "request_", "reason"),
    [
        (lambda s: changed(s, "west-db1", holds_data=True), REQUEST, "west-db1 holds data"),
        (lambda s: changed(s, "west-db1", holds_data=None), REQUEST, "does not say if it holds"),
        (
            lambda s: changed(s, "west-core", answered=False),
            REQUEST,
            "and the stack is rebuilt there",
        ),
        (lambda s: changed(s, "south-db1", answered=True), REQUEST, "answers and is not fenced"),
        (lambda s: replace(s, attestations=()), REQUEST, "north is not proven closed"),
        (lambda s: s, replace(REQUEST, point=Point("p", False, None)), "has no manifest"),
        (lambda s: s, replace(REQUEST, point=Point("p", True, False)), "fails its checks"),
        (lambda s: s, replace(REQUEST, confirm="exmaple"), "confirm: found 'exmaple'"),
        (lambda s: s, replace(REQUEST, declared_by=" "), "declared_by: found nothing"),
    ],
)
def test_what_it_refuses(pillar, change, request_, reason):
    assert any(reason in each for each in rebuild.reasons(change(evidence(pillar)), request_))


def test_a_fenced_host_that_answers_is_no_reason_against_it(pillar):
    seen = changed(evidence(pillar), "south-db1", answered=True, fenced=True)
    assert rebuild.reasons(seen, REQUEST) == ()


def test_bare_hosts_are_taken_for_empty_until_they_can_be_asked(pillar):
    silent = evidence(pillar, silent=(*NORTH, *SOUTH, *WEST))
    assert rebuild.reasons(silent, REQUEST)
    assert rebuild.reasons(rebuild.with_bare(silent, WEST), REQUEST) == ()
    told = changed(silent, "west-db1", answered=True, holds_data=True)
    assert "west-db1 holds data" in rebuild.reasons(rebuild.with_bare(told, WEST), REQUEST)[0]


def epoch(**values):
    given = {
        "number": 1, "id": "e", "parent": None, "kind": "rebuild", "stack": "example",
        "active_site": "west", "profile": "reduced", "lost_sites": ("north", "south"),
        "declared_by": "Ada", "reason": "fire", "declared_at": "2026-01-31T12:10:00+00:00",
        "disrupted_at": "2026-01-31T12:00:00+00:00",
        "evidence": {"point": {"id": "p", "as_of": 1769860500.0, "bad": [], "verified": True}},
    }  # fmt: skip
    return Epoch(**{**given, **values})


def test_what_it_measured_is_of_the_restored_data():
    found = rebuild.result(epoch(), "2026-01-31T12:20:00+00:00", {"west-core": {}})
    assert found["rto_seconds"] == 1200.0
    assert found["rto_from_declaration_seconds"] == 600.0
    assert found["rpo_seconds"] == 300.0
    assert "restored data" in found["notes"][0]
    unknown = rebuild.result(epoch(disrupted_at=None), "2026-01-31T12:20:00+00:00", {})
    assert (unknown["rto_seconds"], unknown["rpo_seconds"]) == (None, None)


def test_a_rebuild_is_continued_at_its_own_site_until_it_is_done():
    assert rebuild.under_way(epoch(), "west")
    assert not rebuild.under_way(epoch(), "south")
    assert not rebuild.under_way(epoch(kind="failover"), "west")
    assert not rebuild.under_way(epoch(completed_at="2026-01-31T12:30:00+00:00"), "west")
    assert not rebuild.under_way(None, "west")
