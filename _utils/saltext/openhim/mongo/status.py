"""What a replica set is doing: its members' states, their lag, the oplog's window."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from pymongo import MongoClient
from saltext.openhim.errors import OpenHIMError, Unreachable
from saltext.openhim.mongo.connection import NotPrimary, Vantage
from saltext.openhim.mongo.replset import differences

POLL_SECONDS = 0.2
DATA_BEARING = ("PRIMARY", "SECONDARY")


def until(condition: Callable[[], Any], timeout: float, poll: float = POLL_SECONDS) -> Any:
    """The first true answer of ``condition``, or its last false one after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer or time.monotonic() >= deadline:
            return answer
        time.sleep(poll)


def read_config(client: MongoClient) -> dict[str, Any]:
    """The replica-set configuration that a member has."""
    return client.admin.command("replSetGetConfig")["config"]


def status(vantage: Vantage) -> dict[str, Any]:
    """The set as this host's member sees it (or any member, where the host has none).

    Returns plain values: ``set``, ``primary`` (name or None), ``last_committed`` (ISO 8601),
    ``members`` (each with ``state``, ``healthy``, ``lag_seconds``, ``uptime_seconds``,
    ``sync_source``, ``site``, ``host``, ``priority``, ``votes``), ``problems`` (each in words;
    empty when healthy). ``lag_seconds`` is None where it is not known: no primary, or no answer
    from the member.
    """
    with vantage.any() as client:
        raw = client.admin.command("replSetGetStatus")
        config = read_config(client)
    documents = {m["host"]: m for m in config["members"]}
    primary = next((m for m in raw["members"] if m["state"] == 1 and m["health"] == 1), None)
    members = [_member(vantage, m, documents.get(m["name"], {}), primary) for m in raw["members"]]
    found = {
        "set": raw["set"],
        "primary": primary["name"] if primary else None,
        "term": raw.get("term"),
        "config_version": config["version"],
        "last_committed": _iso((raw.get("optimes") or {}).get("lastCommittedWallTime")),
        "members": members,
    }
    found["problems"] = problems(vantage, found)
    return found


def _member(
    vantage: Vantage, raw: dict[str, Any], document: dict[str, Any], primary: dict[str, Any] | None
) -> dict[str, Any]:
    declared = vantage.member_named(raw["name"])
    tags = document.get("tags") or {}
    return {
        "name": raw["name"],
        "host": declared.host.id if declared else None,
        "site": declared.host.site if declared else tags.get("site"),
        "state": raw["stateStr"],
        "healthy": raw["health"] == 1,
        "lag_seconds": _lag(raw, primary),
        "uptime_seconds": int(raw.get("uptime", 0)),
        "sync_source": raw.get("syncSourceHost") or None,
        "priority": document.get("priority"),
        "votes": document.get("votes"),
        "message": raw.get("lastHeartbeatMessage") or raw.get("infoMessage") or "",
    }


def _lag(raw: dict[str, Any], primary: dict[str, Any] | None) -> float | None:
    if primary is None or raw["health"] != 1 or raw["stateStr"] not in DATA_BEARING:
        return None
    # A heartbeat may be older than our own time of the primary: behind zero means level with it.
    times = [m.get("lastAppliedWallTime") or m["optimeDate"] for m in (primary, raw)]
    return round(max(0.0, (times[0] - times[1]).total_seconds()), 3)


def _iso(value: datetime | None) -> str | None:
    # PyMongo answers commands with times that do not say that they are in UTC.
    return value.replace(tzinfo=timezone.utc).isoformat(timespec="milliseconds") if value else None


def problems(vantage: Vantage, found: dict[str, Any], max_lag: float | None = None) -> list[str]:
    """Why a set is not healthy, each reason in words; members of lost sites are not expected.

    max_lag: seconds that a member may be behind the primary; None for any.
    """
    reasons = [] if found["primary"] else ["no primary"]
    present = {m["name"] for m in found["members"]}
    for member in vantage.replica_set.members:
        if member.name not in present and member.host.site not in vantage.stack.lost_sites:
            reasons.append(f"{member.name} is declared and not in the set")
    for member in found["members"]:
        if member["site"] in vantage.stack.lost_sites:
            continue
        if not member["healthy"]:
            why = f": {member['message']}" if member["message"] else ""
            reasons.append(f"{member['name']} does not answer the others{why}")
        elif member["state"] not in DATA_BEARING:
            reasons.append(f"{member['name']} is {member['state']}")
        elif max_lag is not None and (member["lag_seconds"] or 0) > max_lag:
            reasons.append(
                f"{member['name']} is {member['lag_seconds']} s behind the primary, allowed are "
                f"{max_lag}"
            )
    return reasons


def wait_healthy(
    vantage: Vantage, timeout: float = 300, max_lag: float | None = None
) -> dict[str, Any]:
    """The set's status as soon as it is healthy; raises with the reasons when it is not in time.

    timeout: seconds. max_lag: seconds that a member may be behind the primary; None for any.
    """
    last: dict[str, Any] = {}

    def healthy() -> bool:
        try:
            last.clear()
            last.update(status(vantage))
            last["problems"] = problems(vantage, last, max_lag)
        except (Unreachable, NotPrimary) as error:
            last["problems"] = [str(error)]
        return not last["problems"]

    if not until(healthy, timeout):
        raise OpenHIMError(
            f"the replica set {vantage.replica_set.name} is not healthy after {timeout:g} s: "
            f"{'; '.join(last['problems'])}"
        )
    return last


def members_by_site(vantage: Vantage) -> dict[str, list[dict[str, Any]]]:
    """The members with their states, by the site at which they are."""
    sites: dict[str, list[dict[str, Any]]] = {}
    for member in status(vantage)["members"]:
        sites.setdefault(member["site"] or "unknown", []).append(member)
    return sites


def lag(vantage: Vantage) -> dict[str, float | None]:
    """Seconds that each member is behind the primary; None where it is not known."""
    return {m["name"]: m["lag_seconds"] for m in status(vantage)["members"]}


def last_committed(vantage: Vantage) -> dict[str, Any]:
    """The time of the newest write that is on a majority, as this host's member knows it.

    Returns ``time`` (ISO 8601), ``ts`` (seconds and increment) and ``term``.
    """
    with vantage.any() as client:
        return committed(client.admin.command("replSetGetStatus"))


def committed(raw: dict[str, Any]) -> dict[str, Any]:
    """The last committed operation in an answer of ``replSetGetStatus``, in plain values."""
    optimes = raw.get("optimes") or {}
    optime = optimes.get("lastCommittedOpTime")
    return {
        "time": _iso(optimes.get("lastCommittedWallTime")),
        "ts": [optime["ts"].time, optime["ts"].inc] if optime else None,
        "term": optime["t"] if optime else None,
    }


def oplog_window(vantage: Vantage) -> dict[str, Any]:
    """How far back a member's oplog reaches: ``first``, ``last``, ``hours``, and its size in MB.

    A member that is away for longer than this must copy everything anew.
    """
    with vantage.any() as client:
        oplog = client.local["oplog.rs"]
        first = oplog.find_one(sort=[("$natural", 1)], projection={"ts": 1})
        last = oplog.find_one(sort=[("$natural", -1)], projection={"ts": 1})
        size = client.local.command("collStats", "oplog.rs", scale=1 << 20)
    if not first or not last:
        raise OpenHIMError(f"{vantage.replica_set.name}: the oplog of this member is empty")
    return {
        "first": _iso(first["ts"].as_datetime()),
        "last": _iso(last["ts"].as_datetime()),
        "hours": round((last["ts"].time - first["ts"].time) / 3600, 3),
        "used_mb": size["size"],
        "max_mb": size["maxSize"],
    }


def config(vantage: Vantage) -> dict[str, Any]:
    """The configuration that this host's member has, in plain values."""
    with vantage.any() as client:
        return plain(read_config(client))


def pending(vantage: Vantage) -> list[str]:
    """What the actual configuration does not have as declared, each in words."""
    with vantage.any() as client:
        return differences(read_config(client), vantage.replica_set)


def plain(value: Any) -> Any:
    """A MongoDB document with nothing in it that Salt cannot carry."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime):
        return _iso(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
