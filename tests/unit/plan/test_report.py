"""Every clause has evidence or a named gap, and nothing that is unknown looks like either."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from saltext.openhim.plan import clauses, declared, report
from saltext.openhim.plan.chain import Judgement
from saltext.openhim.plan.clauses import MISSING, SHOWN, UNKNOWN
from saltext.openhim.plan.facts import Facts, Unknown

from tests.unit.plan import made

IDS = [
    "164.308(a)(7)(ii)(A)", "164.308(a)(7)(ii)(B)", "164.308(a)(7)(ii)(C)", "164.308(a)(7)(ii)(D)",
    "164.308(a)(7)(ii)(E)", "164.310(a)(2)(i)", "164.310(d)(2)(iv)", "164.312(a)(2)(ii)",
    "164.312(a)(2)(iv)", "164.312(e)", "164.316(b)(2)(i)",
]  # fmt: skip
A, B, C, D, E, ACCESS, COPY, EMERGENCY, REST, SENT, KEPT = IDS


def said(facts: Facts, clause: str, state: str) -> str:
    """What a clause says in one state."""
    (one,) = [each for each in clauses.judged(facts) if each.id == clause]
    return "\n".join(finding.text for finding in one.findings if finding.state == state)


def test_every_clause_is_there_with_evidence_where_all_is_well() -> None:
    built = report.build(made.well())
    assert [one["id"] for one in built["clauses"]] == IDS
    for clause in (A, B, D, E, ACCESS, COPY, REST, KEPT):
        (one,) = [each for each in built["clauses"] if each["id"] == clause]
        assert one["state"] == SHOWN, one
    json.dumps(built, allow_nan=False)


def test_with_nothing_known_every_clause_names_what_is_missing_or_unknown() -> None:
    """A stack with no plan, whose hosts are all silent, and of which nothing was recorded."""
    bare = made.openhim()
    for key in ("plan", "backup", "targets"):
        bare.pop(key)
    for one in report.build(Facts(bare, made.NOW))["clauses"]:
        assert one["state"] in (MISSING, UNKNOWN), one
        assert any(finding["state"] != SHOWN for finding in one["findings"]), one


def test_with_the_plan_alone_nothing_that_must_be_measured_is_shown() -> None:
    built = report.build(Facts(made.openhim(), made.NOW))
    states = {one["id"]: one["state"] for one in built["clauses"]}
    assert states.pop(E) == SHOWN
    assert states.pop(ACCESS) == SHOWN
    assert set(states.values()) <= {MISSING, UNKNOWN}
    assert built["targets"][0]["rpo"]["measured"] is None
    assert built["repositories"]["state"] == "unknown"


GAPS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"backups": Unknown("its minion does not answer")}, A, UNKNOWN,
     "How the backups are: its minion does not answer."),
    ({"backups": Unknown("its minion does not answer")}, COPY, UNKNOWN,
     "Whether an exact copy is there now: its minion does not answer."),
    ({"runbooks": {"north-db1": {"digest": "old"}, "south-db1": Unknown("no answer")}}, B, MISSING,
     "The present runbook on north-db1"),
    ({"runbooks": {"north-db1": {"digest": "old"}, "south-db1": Unknown("no answer")}}, B, UNKNOWN,
     "The runbook on south-db1: no answer."),
    ({"at_rest": {"north-db1": [{"path": "/d", "state": "plain", "why": "on vda without dm-crypt"}]}},
     REST, MISSING, "Encryption of /d on north-db1: on vda without dm-crypt."),
    ({"at_rest": {"north-db1": [{"path": "/d", "state": "unknown", "why": "on overlay"}]}},
     REST, UNKNOWN, "/d on north-db1: on overlay."),
    ({"at_rest": {"north-db1": Unknown("no answer")}}, REST, UNKNOWN,
     "The disks of north-db1: no answer."),
    ({"anchors_asked": {"south-db1": "no answer"}}, KEPT, UNKNOWN,
     "The anchors that south-db1 sees: no answer."),
    ({"chain": Judgement((), ("record 43 is missing: removed",))}, KEPT, MISSING,
     "An untouched chain of evidence: record 43 is missing: removed."),
    ({"records": []}, D, MISSING, "restore (verification, every 7 days): never passed."),
    ({"records": []}, D, MISSING, "Any version of the plan on record"),
    ({"records": []}, COPY, MISSING, "A restore point that was restored and compared"),
    ({"records": []}, KEPT, MISSING, "Any evidence on record"),
    ({"now": made.NOW + timedelta(days=400)}, D, MISSING,
     "site-lost (drill, every 90 days): overdue since"),
    ({}, C, MISSING, "A record of emergency mode"),
    ({}, EMERGENCY, MISSING, "Emergency access that was tried"),
    ({}, SENT, MISSING, "TLS on the way to store"),
    ({}, SENT, MISSING, "TLS to the upstreams of Laboratory orders"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "clause", "state", "text"), GAPS, ids=lambda v: str(v)[:50])
def test_what_is_missing_is_named(
    changes: dict[str, Any], clause: str, state: str, text: str
) -> None:
    assert text in said(made.well(**changes), clause, state)


def test_a_repository_that_is_not_well_is_missing_and_one_not_seen_is_unknown() -> None:
    hosts = {
        "south-db1": {"state": "failing", "repositories": {
            "store": {**made.repository("failing"), "reasons": ["its newest is 3 days old"]}}},
        "west-backup": {"state": "unknown", "reasons": ["its minion does not answer"]},
    }  # fmt: skip
    facts = made.well(backups={"state": "failing", "reasons": [], "hosts": hosts})
    assert "store in good order, as south-db1 sees it: failing, its newest" in said(
        facts, A, MISSING
    )
    assert "What west-backup sees of the backups: its minion" in said(facts, A, UNKNOWN)


def test_a_schedule_that_cannot_meet_the_rpo_is_named() -> None:
    slow = made.openhim()
    del slow["backup"]["oplog"]
    facts = made.well(openhim=slow)
    assert "restore Points" not in said(facts, A, MISSING)
    assert "Backups often enough: restore points are taken every 60 minutes" in said(
        facts, A, MISSING
    ).replace("1 hour", "60 minutes")


def test_a_channel_without_a_tier_and_a_site_without_a_facility_are_gaps() -> None:
    less = made.openhim()
    less["plan"]["tiers"]["critical"]["channels"] = []
    del less["plan"]["facilities"]["south"]
    facts = made.well(openhim=less)
    assert "A tier for the channels Laboratory orders." in said(facts, E, MISSING)
    assert "Who lets people into south (openhim:plan:facilities)." in said(facts, ACCESS, MISSING)


def test_what_the_provider_encrypts_counts_as_declared_and_never_as_seen() -> None:
    told = made.openhim()
    told["plan"]["encryption_at_rest"] = {"north-db1": "volumes of the provider, key 7"}
    plain = {"north-db1": [{"path": "/d", "state": "plain", "why": "on vda"}]}
    facts = made.well(openhim=told, at_rest=plain)
    text = "/d on north-db1: declared, and not seen by the host: volumes of the provider, key 7."
    assert text in said(facts, REST, SHOWN)


def test_the_newest_figure_is_beside_each_target() -> None:
    built = report.build(made.well())
    stack, critical, records = built["targets"]
    assert (stack["tier"], stack["rpo_seconds"], stack["rto_seconds"]) == (None, 60.0, 900.0)
    assert (critical["tier"], records["tier"]) == ("critical", "records")
    newest = [one for one in built["exercises"] if one["rto_seconds"] is not None][-1]
    assert critical["rto"]["measured"] == newest["rto_seconds"]
    assert critical["rto"]["met"] is True
    late = [*made.years(1)][-1]
    slow = made.recorded([(made.NOW, made.drill(made.NOW, 1, rto_seconds=901.0))])
    assert late.number > 1
    assert report.build(made.well(records=slow))["targets"][0]["rto"]["met"] is False


def test_a_drill_that_was_refused_or_failed_is_no_drill_that_passed() -> None:
    for verdict in ("failed", "refused", "interrupted", "under way"):
        records = made.recorded([(made.NOW, made.drill(made.NOW, 1, verdict=verdict))])
        facts = made.well(records=records)
        assert "site-lost (drill, every 90 days): never passed. It was tried" in said(
            facts, D, MISSING
        )


def test_an_epoch_that_was_recorded_twice_is_told_once_as_it_is_known_now() -> None:
    begun = made.epoch(result=None, completed_at=None)
    news = [(made.NOW - timedelta(hours=1), ("recovery", begun)),
            (made.NOW, ("recovery", made.epoch()))]  # fmt: skip
    (one,) = report.build(made.well(records=made.recorded(news)))["exercises"]
    assert (one["rto_seconds"], one["record"], one["ok"]) == (720.5, 2, True)


def test_the_topology_says_where_the_primary_is_and_what_lags() -> None:
    members = [
        made.member("north-db1", "PRIMARY"), made.member("north-db2", "SECONDARY", 95.0),
        made.member("south-db1", "(not reachable/healthy)", None, healthy=False),
    ]  # fmt: skip
    built = report.build(made.well(members={"openhim": {"members": members}}))
    hosts = {host["host"]: host for site in built["topology"] for host in site["hosts"]}
    assert hosts["north-db1"]["primary_of"] == ["openhim"]
    assert hosts["north-db2"]["notes"] == ["openhim: SECONDARY, 95 s behind"]
    assert [name for name, host in hosts.items() if host["attention"]] == ["north-db2", "south-db1"]
    silent = report.build(made.well(members={"openhim": Unknown("no answer")}))
    hosts = {host["host"]: host for site in silent["topology"] for host in site["hosts"]}
    assert hosts["north-db1"]["notes"] == ["members: not known"]
    assert hosts["north-db1"]["attention"]


def test_a_host_that_stands_by_is_not_missed() -> None:
    built = report.build(made.well(openhim=made.with_standby()))
    hosts = {host["host"]: host for site in built["topology"] for host in site["hosts"]}
    for name in ("west-db1", "west-core"):
        assert hosts[name]["notes"] == ["stands by for a rebuild"]
        assert not hosts[name]["attention"]


def test_a_core_that_runs_where_it_must_not_needs_attention() -> None:
    built = report.build(made.well(cores={"north-core": True, "south-core": True}))
    hosts = {host["host"]: host for site in built["topology"] for host in site["hosts"]}
    assert not hosts["north-core"]["attention"]
    assert hosts["south-core"]["attention"]


def test_the_digest_is_the_same_on_every_host_and_changes_with_the_declaration() -> None:
    first = made.openhim()
    second = {**made.openhim(), "secrets": {"a": "b"}, "recovery": {"epoch": 3}}
    assert declared.digest(first) == declared.digest(second)
    second["plan"]["contacts"]["ada"]["phone"] = "+1 202 555 0199"
    assert declared.digest(first) != declared.digest(second)


def test_a_fault_in_the_chain_is_in_the_report() -> None:
    facts = made.well()
    broken = replace(facts.chain, faults=("record 3 was edited",), proved=0)
    built = report.build(replace(facts, chain=broken))
    assert built["evidence"]["faults"] == ["record 3 was edited"]
    assert built["clauses"][-1]["state"] == MISSING
