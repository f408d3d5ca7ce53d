"""The failover of a replica set that has lost its majority: a forced reconfiguration, well guarded.

MongoDB's recommended topology (two members here, one there) cannot elect a primary when the site
with two members is lost. Somebody has to say that the survivor is alone now. Said while a primary
lives, it makes two of them; so every look that can be taken is taken before, and again nothing is
assumed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo.connection import (
    MEMBER,
    SILENT,
    UNREACHABLE,
    NotPrimary,
    Observation,
    Vantage,
    explained,
    probe_all,
)
from saltext.openhim.mongo.replset import config_differences, final_config
from saltext.openhim.mongo.status import POLL_SECONDS, committed, plain, read_config, until
from saltext.openhim.settings import DEFAULT_MONGODB_PORT, STATE_DIRECTORY

log = logging.getLogger(__name__)

#: Where the proof of each promotion is written, in the database ``admin``.
PROOF_COLLECTION = "saltext_openhim_promotions"
#: Where each survivor notes what it knew before. Not in MongoDB: a collection that a secondary
#: makes in ``local`` is gone after a crash, up to the last checkpoint.
NOTES_DIRECTORY = f"{STATE_DIRECTORY}/promotions"


@dataclass(frozen=True)
class Evidence:
    """What was seen before the decision."""

    status: dict[str, Any]
    config: dict[str, Any]
    observations: dict[str, Observation]

    @property
    def own_name(self) -> str | None:
        """How the configuration calls the survivor."""
        return next((m["name"] for m in self.status["members"] if m.get("self")), None)

    @property
    def own_state(self) -> str:
        """The survivor's state."""
        return next((m["stateStr"] for m in self.status["members"] if m.get("self")), "REMOVED")


def promote(
    vantage: Vantage, confirm: str, reason: str, declarer: str, timeout: float = 60
) -> dict[str, Any]:
    """Makes this host's member the primary of a set that has lost its majority.

    The vantage's stack must be the one after the loss: profile ``reduced``, active site this one,
    the other site among the lost ones (the recovery record in the pillar says so).

    confirm: the stack's name, typed out. reason, declarer: for the record. timeout: seconds to wait
    until the survivor has noticed the loss, and again until it is primary and has proved it by a
    majority write that was read back.

    Returns ``changed``, ``before``, ``after``, ``unseen`` (members that could not be seen: no proof
    that they are dead) and ``seconds``. Raises Refused with every reason why not. Idempotent.
    """
    started = time.monotonic()
    _refuse_paper(vantage, confirm, reason, declarer)
    evidence = _settled(vantage, timeout)
    wanted = final_config(evidence.config, vantage.replica_set, add_missing=False)
    changes = config_differences(evidence.config, wanted)
    already = not changes and evidence.own_state == "PRIMARY"
    # Without changes it was done before, whole or half-way: the survivor elects itself, if at all.
    _refuse(vantage, objections(vantage, evidence) if changes else other_primaries(evidence))
    if changes:
        _note_term(vantage, evidence)
        _force(vantage, wanted)
        _hasten(vantage, evidence)
    after = _prove(vantage, reason, declarer, timeout)
    return {
        "set": vantage.replica_set.name,
        "changed": bool(changes),
        "changes": changes,
        "before": {
            "last_committed": committed(evidence.status),
            "state": evidence.own_state,
            "states": {m["name"]: m["stateStr"] for m in evidence.status["members"]},
            "seen": [o.words for o in evidence.observations.values()],
            "config_version": evidence.config["version"],
        },
        "after": after,
        "unseen": [o.words for o in evidence.observations.values() if o.kind == UNREACHABLE],
        "seconds": round(time.monotonic() - started, 3),
        "comment": _comment(vantage, already, bool(changes)),
    }


def _comment(vantage: Vantage, already: bool, changed: bool) -> str:
    name = vantage.replica_set.name
    if already:
        return f"{name} was promoted already: nothing was done but to prove a write again"
    if changed:
        return f"{name} was promoted by a forced reconfiguration"
    return f"{name} had the configuration already; its member is primary now"


def _refuse_paper(vantage: Vantage, confirm: str, reason: str, declarer: str) -> None:
    """What can be refused without a look at any server."""
    problems = []
    if confirm != vantage.stack.name:
        problems.append(f"confirm is {confirm!r}; type the stack's name, {vantage.stack.name!r}")
    if not (isinstance(reason, str) and reason.strip()):
        problems.append("there is no reason; say why the site counts as lost")
    if not (isinstance(declarer, str) and declarer.strip()):
        problems.append("there is no declarer; say who decided it")
    if vantage.stack.profile != "reduced":
        problems.append(
            f"the profile is {vantage.stack.profile}; a promotion needs the recovery record with "
            "profile reduced, this site as active_site and the lost sites"
        )
    if vantage.member is None or not vantage.member.votes:
        voters = ", ".join(m.name for m in vantage.replica_set.voters)
        problems.append(f"this host is not the member that is to survive; that is {voters}")
    _refuse(vantage, problems)


def _refuse(vantage: Vantage, reasons: list[str]) -> None:
    if reasons:
        lines = "\n".join(f"  - {reason}" for reason in reasons)
        raise Refused(f"{vantage.replica_set.name} was not promoted:\n{lines}")


def declared_names(vantage: Vantage) -> list[str]:
    """Every member that the pillar declares, whatever the profile leaves of them.

    But for those on hosts that stand by: they were never in the set.
    """
    entry = vantage.stack.declared["mongodb"]["replica_sets"][vantage.replica_set.name]
    port = entry.get("port", DEFAULT_MONGODB_PORT)
    return [
        f"{vantage.stack.host(host_id).name}:{(values or {}).get('port', port)}"
        for host_id, values in entry["members"].items()
        if host_id in vantage.stack.hosts
    ]


def look(vantage: Vantage, seen: Mapping[str, Observation] = MappingProxyType({})) -> Evidence:
    """What this host's member says of the set, and how each of its members looks, and each that is
    declared. seen: how some looked a moment ago; nobody looks at them again."""
    with vantage.own() as client:
        status = client.admin.command("replSetGetStatus")
        config = read_config(client)
    names = [m["host"] for m in config["members"]] + declared_names(vantage)
    unseen = [name for name in names if name not in seen]
    return Evidence(status, config, {**seen, **probe_all(unseen, vantage.access)})


def _settled(vantage: Vantage, timeout: float) -> Evidence:
    """A look at a time when the survivor's heartbeats have noticed who is gone.

    For as long as the election timeout after a loss, the survivor still counts the lost members as
    alive. That is refused like any living primary, so it is worth the wait; and so is a member
    beside it that has newer data, for the survivor copies from that one. After ``timeout`` seconds
    the last look counts, whatever it shows.
    """
    deadline = time.monotonic() + timeout
    while True:
        evidence = look(vantage)
        gone = {name for name, o in evidence.observations.items() if o.kind == UNREACHABLE}
        alive = {m["name"] for m in evidence.status["members"] if m["health"] == 1}
        settled = not gone & alive and not _ahead(evidence)
        if settled or time.monotonic() >= deadline:
            return evidence
        time.sleep(POLL_SECONDS)


def objections(vantage: Vantage, evidence: Evidence) -> list[str]:
    """Every reason why the survivor must not be promoted now; empty when there is none."""
    return (
        lasting_objections(vantage, evidence) + _primaries_by_heartbeat(evidence) + _newer(evidence)
    )


def lasting_objections(vantage: Vantage, evidence: Evidence) -> list[str]:
    """Those of :func:`objections` that no wait heals. The others :func:`promote` waits for."""
    reasons = _objections_to_survivor(vantage, evidence)
    if evidence.own_state == "PRIMARY":
        reasons.append("the survivor is primary: nothing is lost, and nothing is to be forced")
    return reasons + _primaries_that_answer(evidence) + _without_need(evidence)


def other_primaries(evidence: Evidence) -> list[str]:
    """Every sign of a primary other than the survivor: by heartbeat, or by its own answer."""
    return _primaries_by_heartbeat(evidence) + _primaries_that_answer(evidence)


def _primaries_by_heartbeat(evidence: Evidence) -> list[str]:
    return [
        f"{member['name']} is primary in the survivor's eyes; if it died seconds ago, wait for the "
        "heartbeats to notice and try again"
        for member in evidence.status["members"]
        if member["state"] == 1 and member["health"] == 1 and not member.get("self")
    ]


def _primaries_that_answer(evidence: Evidence) -> list[str]:
    reasons = []
    for seen in evidence.observations.values():
        if seen.is_primary and seen.name != evidence.own_name:
            reasons.append(f"a primary answers: {seen.words}")
        if seen.kind == SILENT and seen.name != evidence.own_name:
            reasons.append(
                f"something is there that may wake up as the primary: {seen.words}; shut it off"
            )
    return reasons


def _objections_to_survivor(vantage: Vantage, evidence: Evidence) -> list[str]:
    reasons = []
    if evidence.status["set"] != vantage.replica_set.name:
        reasons.append(
            f"the survivor is in the set {evidence.status['set']}, expected was "
            f"{vantage.replica_set.name}"
        )
    if vantage.member and evidence.own_name != vantage.member.name:
        reasons.append(
            f"the configuration calls the survivor {evidence.own_name}, the pillar "
            f"{vantage.member.name}"
        )
    if evidence.own_state not in ("SECONDARY", "PRIMARY"):
        reasons.append(f"the survivor is {evidence.own_state}; only a SECONDARY has all its data")
    documents = {m["host"]: m for m in evidence.config["members"]}
    own = documents.get(evidence.own_name, {})
    if own.get("arbiterOnly") or own.get("secondaryDelaySecs"):
        reasons.append(
            "the survivor is an arbiter or a delayed member, and has not the newest data"
        )
    return reasons


def _without_need(evidence: Evidence) -> list[str]:
    voters = [m["host"] for m in evidence.config["members"] if m["votes"]]
    ours = str((evidence.config.get("settings") or {}).get("replicaSetId"))
    alive = [
        name
        for name in voters
        if (seen := evidence.observations.get(name)) and seen.kind == MEMBER and seen.set_id == ours
    ]
    if len(alive) <= len(voters) // 2:
        return []
    return [
        f"{len(alive)} of {len(voters)} voters answer ({', '.join(alive)}), which is a majority: "
        "they elect a primary by themselves, or do as soon as they see each other"
    ]


def _newer(evidence: Evidence) -> list[str]:
    """More would be lost than need be."""
    return [
        f"{member['name']} answers and has newer data (its last write is of "
        f"{member['optimeDate'].isoformat()}); the survivor copies from it: see what keeps it from "
        "catching up, or give that one the higher priority, and try again"
        for member in _ahead(evidence)
    ]


def _ahead(evidence: Evidence) -> list[dict[str, Any]]:
    """Living members, in the survivor's eyes, that have newer data than it."""
    own = next((m for m in evidence.status["members"] if m.get("self")), None)
    return [
        member
        for member in evidence.status["members"]
        if own
        and member["health"] == 1
        and member["stateStr"] in ("SECONDARY", "RECOVERING")
        and _optime(member) > _optime(own)
    ]


def _optime(member: dict[str, Any]) -> tuple[int, int, int]:
    optime = member.get("optime") or {}
    ts = optime.get("ts")
    return (optime.get("t", -1), ts.time, ts.inc) if ts else (-1, 0, 0)


def _note_term(vantage: Vantage, evidence: Evidence) -> None:
    """Keeps the last term of the old history on the survivor's disk.

    Should it be primary, restart and be elected once more before the proof, its own first writes
    would pass for the old primary's, and the loss would look smaller than it is.
    """
    files.make_directory(NOTES_DIRECTORY)
    epoch = (vantage.stack.declared.get("recovery") or {}).get("epoch")
    note = {"term": evidence.status["term"], "epoch": epoch}
    files.write(_note_file(vantage), json.dumps(note).encode(), 0o600)


def _noted_term(vantage: Vantage) -> int | None:
    note = _note(vantage)
    return note["term"] if note else None


def _note(vantage: Vantage) -> dict[str, Any] | None:
    """What this member noted before its last promotion; None where it never was, or by another."""
    try:
        return json.loads(Path(_note_file(vantage)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def traces(vantage: Vantage) -> dict[str, Any]:
    """What this host's member has of a promotion, whatever its state is now.

    Returns ``votes`` (``host:port`` → its votes in the configuration that the member has),
    ``noted`` (whether a promotion began here) and ``epoch`` (the one in which it did, or None).
    """
    with vantage.own() as client:
        config = read_config(client)
    note = _note(vantage)
    return {
        "votes": {member["host"]: member["votes"] for member in config["members"]},
        "noted": note is not None,
        "epoch": note.get("epoch") if note else None,
    }


def _note_file(vantage: Vantage) -> str:
    name, port = vantage.replica_set.name, vantage.member.port if vantage.member else 0
    return f"{NOTES_DIRECTORY}/{name}-{port}.json"


def _force(vantage: Vantage, wanted: dict[str, Any]) -> None:
    wanted = {key: value for key, value in wanted.items() if key != "term"}
    wanted["version"] += 1
    with vantage.own() as client:
        client.admin.command("replSetReconfig", wanted, force=True)


def _hasten(vantage: Vantage, evidence: Evidence) -> None:
    """Elects the survivor at once, and spares it the search for newer data where nobody has any.

    MongoDB comes to both by itself, after the election timeout (10 s) and when the heartbeats to
    the lost members are given up (5 s); so an error here costs time and nothing else.

    https://www.mongodb.com/docs/manual/reference/command/replSetAbortPrimaryCatchUp/
    """
    others = [m for m in evidence.status["members"] if not m.get("self") and m["health"] == 1]
    commands = ["replSetStepUp"] if others else ["replSetStepUp", "replSetAbortPrimaryCatchUp"]
    try:
        with vantage.own() as client:
            for command in commands:
                client.admin.command(command)
    except (PyMongoError, OpenHIMError) as error:
        log.info("%s is left to its own election: %s", vantage.local, error)


def _prove(vantage: Vantage, reason: str, declarer: str, timeout: float) -> dict[str, Any]:
    """Waits for the primary, and proves by a majority write that it takes writes."""
    started = time.monotonic()
    last = {"error": "it never became primary"}

    def written() -> dict[str, Any] | None:
        try:
            return _write_proof(vantage, reason, declarer, timeout)
        except (Unreachable, NotPrimary) as error:
            last["error"] = str(error)
            return None

    proof = until(written, timeout)
    if not proof:
        raise OpenHIMError(
            f"{vantage.local} has the new configuration and took no write within {timeout:g} s "
            f"({last['error']}). Running this again goes on from here."
        )
    with vantage.own() as client:
        status = client.admin.command("replSetGetStatus")
        version = read_config(client)["version"]
    return {
        "primary": next((m["name"] for m in status["members"] if m["state"] == 1), None),
        "states": {m["name"]: m["stateStr"] for m in status["members"]},
        "last_committed": committed(status),
        "config_version": version,
        "proved_write": proof,
        "seconds_until_writable": round(time.monotonic() - started, 3),
    }


def _write_proof(
    vantage: Vantage, reason: str, declarer: str, timeout: float
) -> dict[str, Any] | None:
    """One majority write, read back; None while this member is not primary.

    The document is the promotion's record. Facts of the first time stay when it is proved again.
    """
    with vantage.own() as client, explained(vantage.local):
        if not client.admin.command("hello").get("isWritablePrimary"):
            return None
        version = read_config(client)["version"]
        now = datetime.now(timezone.utc)
        key = {"_id": f"{vantage.replica_set.name}/{version}"}
        facts = {
            "stack": vantage.stack.name,
            "set": vantage.replica_set.name,
            "reason": reason,
            "declarer": declarer,
            "at": now,
            "config_version": version,
            **_survived(vantage, client),
        }
        proofs = client.admin.get_collection(
            PROOF_COLLECTION,
            write_concern=WriteConcern("majority", wtimeout=int(timeout * 1000)),
            read_concern=ReadConcern("majority"),
        )
        proofs.update_one(key, {"$setOnInsert": facts, "$set": {"proved_at": now}}, upsert=True)
        found = proofs.find_one(key)
    # MongoDB keeps milliseconds.
    if not found or abs((found["proved_at"] - now).total_seconds()) > 0.001:
        raise OpenHIMError(f"{vantage.local} acknowledged a majority write and does not have it")
    return plain(found)


def _survived(vantage: Vantage, client: MongoClient) -> dict[str, Any]:
    """The last write of the old primary that this member has: the newest of an earlier term."""
    term = client.admin.command("replSetGetStatus")["term"]
    noted = _noted_term(vantage)
    old = {"t": {"$lt": term} if noted is None else {"$lte": noted}}
    last = client.local["oplog.rs"].find_one(old, sort=[("$natural", -1)])
    if not last:
        return {"term": term, "survived_until": None}
    return {"term": term, "survived_until": last["wall"], "survived_ts": str(last["ts"])}


def recorded(vantage: Vantage) -> dict[str, Any]:
    """The record of the last promotion of this host's member, as :func:`promote` wrote it.

    ``survived_until`` (ISO 8601) is the time of the last write of the lost primary that survived.
    """
    with vantage.own() as client:
        found = client.admin[PROOF_COLLECTION].find_one(
            {"set": vantage.replica_set.name}, sort=[("at", -1)]
        )
    if not found:
        raise OpenHIMError(
            f"{vantage.local} has no record of a promotion of {vantage.replica_set.name}; "
            f"expected was one in admin.{PROOF_COLLECTION}. Promote it first "
            "(mongodb_replset.promote)."
        )
    return plain(found)


def foresee(
    vantage: Vantage, confirm: str, reason: str, declarer: str, timeout: float = 60
) -> tuple[list[str], str]:
    """What :func:`promote` would change, and the member's state; raises what it would refuse.

    It waits as :func:`promote` does, or it would foresee a refusal that does not come.
    """
    _refuse_paper(vantage, confirm, reason, declarer)
    evidence = _settled(vantage, timeout)
    wanted = final_config(evidence.config, vantage.replica_set, add_missing=False)
    changes = config_differences(evidence.config, wanted)
    _refuse(vantage, objections(vantage, evidence) if changes else other_primaries(evidence))
    return changes, evidence.own_state
