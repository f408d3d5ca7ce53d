"""Facts as the example's hosts would give them, and years of evidence."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta, timezone
from typing import Any

import yaml
from saltext.openhim.backup.manifest import utc
from saltext.openhim.plan import chain, declared
from saltext.openhim.plan.chain import Anchor, Judgement, Record
from saltext.openhim.plan.facts import Facts

from tests.unit.test_schema import EXAMPLE

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)


def openhim(**changes: Any) -> dict[str, Any]:
    """The example's declaration."""
    return {**copy.deepcopy(yaml.safe_load(EXAMPLE.read_text())["openhim"]), **changes}


def with_standby() -> dict[str, Any]:
    """The same with hosts at the third site that stand by for a rebuild."""
    declaration = openhim()
    for name, role, number in (("west-db1", "mongodb", 51), ("west-core", "core", 52)):
        declaration["hosts"][name] = {
            "site": "west", "address": f"10.20.0.{number}", "roles": [role], "standby": True,
        }  # fmt: skip
    members = declaration["mongodb"]["replica_sets"]["openhim"]["members"]
    members["west-db1"] = {"votes": 0, "priority": 0}
    return declaration


def epoch(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A failover as the recovery record has it."""
    return {
        "number": number, "id": f"epoch-{number}", "parent": None, "kind": "failover",
        "stack": "example", "active_site": "south", "profile": "reduced", "lost_sites": ["north"],
        "declared_by": "Ada", "reason": "fire", "declared_at": "2026-10-01T12:10:00+00:00",
        "disrupted_at": "2026-10-01T12:00:00+00:00", "completed_at": "2026-10-01T12:20:00+00:00",
        "result": {"rpo_seconds": 4.0, "rto_seconds": 720.5,
                   "served_at": "2026-10-01T12:12:00.5+00:00"},
        "rejoins": [{"site": "north", "by": "Ben", "reason": "its power is back",
                     "at": "2026-10-03T08:00:00+00:00"}], **changes,
    }  # fmt: skip


def statement(number: int = 1, **fields: Any) -> tuple[str, Any]:
    """What somebody put on record of an epoch."""
    about = {"epoch": f"epoch-{number}", "number": number, "by": "Ada"}
    return "after-action", {**about, "at": "2026-10-01T12:13:00.000Z", **fields}


def lessons() -> list[tuple[datetime, tuple[str, Any]]]:
    """All that is asked of the first epoch of the example, a day after it."""
    told = [
        statement(notified=whom, acknowledged_by="Chi")
        for whom in ("technical-lead", "communications", "laboratory")
    ]
    told += [
        statement(root_cause="a pump failed", decision="the south takes over"),
        statement(corrective_action="a second pump", owner="Ben", due="2026-12-31"),
    ]
    at = datetime(2026, 10, 2, 12, 0, tzinfo=timezone.utc)
    return [(at, one) for one in told]


def verification(at: datetime, ok: bool = True, repository: str = "copy") -> tuple[str, Any]:
    """A verification as it is recorded."""
    content = {
        "point": f"{at:%Y%m%dT%H%M%SZ}-3f09ab", "repository": repository, "ok": ok, "at": utc(at),
        "host": "west-backup",
    }  # fmt: skip
    return "verification", content


def drill(at: datetime, number: int, **changes: Any) -> tuple[str, Any]:
    """A drill as it is recorded."""
    content = {
        "id": f"drill-{number}", "kind": "functional", "stack": "example", "host": "west-backup",
        "by": "schedule", "began_at": utc(at), "ended_at": utc(at + timedelta(minutes=9)),
        "verdict": "passed", "reasons": [], "rpo_seconds": 30.0 + number % 7,
        "rto_seconds": 400.0 + 13 * (number % 11), **changes,
    }  # fmt: skip
    return "drill", content


def status(at: datetime, day: int) -> tuple[str, Any]:
    """A daily look at the repositories."""
    repositories = {
        name: {"state": "ok", "newest_age_seconds": 600.0 + 97 * (day % 31) + extra,
               "verified_age_seconds": 40000.0, "restore_points": 42}
        for name, extra in (("store", 0), ("copy", 1800))
    }  # fmt: skip
    return "status", {"at": utc(at), "state": "ok", "repositories": repositories}


def recorded(news: list[tuple[datetime, tuple[str, Any]]]) -> list[Record]:
    """A chain of all this."""
    records: list[Record] = []
    for at, (kind, content) in sorted(news, key=lambda one: one[0]):
        before = records[-1] if records else None
        records.append(chain.following(before, "example", kind, content, utc(at)))
    return records


def years(count: int, now: datetime = NOW) -> list[Record]:
    """Evidence of so many years: daily looks and verifications, drills by the month, a plan."""
    news: list[tuple[datetime, tuple[str, Any]]] = []
    days = round(count * 365.25)
    for day in range(days):
        at = now - timedelta(days=days - day)
        news += [(at, status(at, day)), (at, verification(at, day % 200 != 13))]
        if day % 30 == 29:
            news.append((at, drill(at, day)))
        if day % 60 == 7:
            news.append((at, ("tabletop", {"at": utc(at), "by": "Ada", "ok": True, "what": "x"})))
            news.append((at, ("contacts", {"at": utc(at), "by": "Chi", "ok": True, "what": "x"})))
    news.append((now - timedelta(days=days), ("plan", {"digest": declared.digest(openhim())})))
    recovery = ("recovery", epoch())
    news.append((datetime(2026, 10, 1, 12, 20, tzinfo=timezone.utc), recovery))
    records = recorded([*news, *lessons()])
    action = next(one.number for one in records if "corrective_action" in one.content)
    done = statement(done=action, at="2026-10-09T12:00:00.000Z")
    return [*records, chain.following(records[-1], "example", *done, utc(now))]


def member(host: str, state: str, lag: float | None = 0.0, healthy: bool = True) -> dict[str, Any]:
    """A member as ``mongodb_replset.status`` tells it."""
    return {"host": host, "state": state, "healthy": healthy, "lag_seconds": lag}


def repository(state: str = "ok", **figures: Any) -> dict[str, Any]:
    """A repository as ``openhim_backup.status`` tells it."""
    known = {"restore_points": 42, "newest_age_seconds": 900.0, "verified_age_seconds": 40000.0}
    return {"state": state, "reasons": [], "figures": {**known, **figures}}


def well(**changes: Any) -> Facts:
    """Everything was asked, and all is well."""
    declaration = changes.pop("openhim", None) or openhim()
    records = changes.pop("records", None)
    records = years(1) if records is None else records
    head = records[-1] if records else None
    anchors = [Anchor("example", head.number, head.sha256, head.at, "store", "a")] if head else []
    digest = declared.digest(declaration)
    values: dict[str, Any] = {
        "openhim": declaration,
        "now": NOW,
        "epochs": [epoch()],
        "chain": Judgement(tuple(records), (), head.number if head else 0),
        "anchors": anchors,
        "anchors_asked": {"south-db1": None, "west-backup": None},
        "backups": {
            "state": "ok",
            "reasons": [],
            "hosts": {
                "south-db1": {"state": "ok", "repositories": {"store": repository()}},
                "west-backup": {"state": "ok", "repositories": {
                    "store": repository(), "copy": repository(newest_age_seconds=2700.0)}},
                "master": {"state": "ok", "repositories": {
                    "start bundle in store": {
                        "state": "ok", "reasons": [],
                        "figures": {"restore_points": 9, "newest_age_seconds": 70000.0}}}},
            },
        },
        "members": {"openhim": {"members": [
            member("north-db1", "PRIMARY"), member("north-db2", "SECONDARY"),
            member("south-db1", "SECONDARY", 1.0)]}},
        "cores": {"north-core": True, "south-core": False},
        "at_rest": {
            host: [{"path": "/var/lib/mongodb/openhim", "state": "encrypted",
                    "why": "dm-crypt: dm-0"}]
            for host in ("north-db1", "north-db2", "south-db1")
        },
        "runbooks": {host: {"digest": digest, "epoch": 0} for host in declaration["hosts"]},
    }  # fmt: skip
    return Facts(**{**values, **changes})
