"""Restarts a mongod that runs with something else than what is on its disk, without an outage.

What a mongod was started with is on record: its unit writes the hashes of its configuration, unit
and keyfile at every start, whoever starts it (``ExecStartPre``). So a highstate that was cut off
between the change of a file and the restart is finished by the next one.

Members restart one after the other: each waits for its turn (a lease in the set's own database)
and for all others to be well enough to keep a majority without it; a primary steps down first. Who
does not come back from its restart leaves a mark beside the lease, and nobody else takes the same
step into the dark before that member is well.
A new certificate needs no restart.
https://www.mongodb.com/docs/manual/tutorial/rotate-certificates-with-replica-sets/
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError
from saltext.openhim import certificates
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized, Unreachable
from saltext.openhim.mongo import change, status
from saltext.openhim.mongo.config import KEYFILE_PATH
from saltext.openhim.mongo.connection import (
    MEMBER,
    MongoError,
    NotPrimary,
    Observation,
    Vantage,
)

#: Where the turn to restart is on record, in the set itself.
LEASE_DATABASE, LEASE_COLLECTION = "saltext_openhim", "leases"
#: Seconds after which the turn of a host that died with it is given to another.
LEASE_SECONDS = 300
#: Seconds that an election may take before a set without a primary counts as one that has none.
ELECTION_SECONDS = 30


@dataclass
class Pending:
    """What a running mongod does not have yet.

    ``reasons``: why it must restart, in words. ``at_once``: it cannot speak to the others, or they
    not with it, until it did; waiting for a turn would be in vain. ``certificate``: the file that
    it should hand out and does not.
    """

    reasons: list[str] = field(default_factory=list)
    at_once: bool = False
    certificate: str = ""

    def __bool__(self) -> bool:
        return bool(self.reasons or self.certificate)

    @property
    def words(self) -> list[str]:
        """Everything that is pending, each in one clause."""
        return self.reasons + ([f"{self.certificate} is new"] if self.certificate else [])


def pending(vantage: Vantage, instance: Mapping[str, Any]) -> Pending:
    """What the mongod of ``instance`` runs without, though it is declared and on its disk."""
    found = Pending(reasons=_changed_files(instance))
    found.at_once = any(reason.startswith(KEYFILE_PATH) for reason in found.reasons)
    pem = instance.get("certificate")
    if pem and certificates.served_is_another(pem, "127.0.0.1", instance["port"]):
        found.certificate = pem
    try:
        with vantage.own() as client:
            running = client.server_info()["version"]
    except (Unauthorized, Unreachable):
        running = None  # not initiated yet, or not trusted: the version is asked again next time
    if running:
        found.reasons += _version(running, str(vantage.stack.declared["mongodb"]["version"]))
    return found


def _version(running: str, declared: str) -> list[str]:
    # A package's version may have a revision behind it, and a release candidate's a tilde in it.
    if f"{declared.replace('~', '-')}-".startswith(f"{running}-"):
        return []
    return [f"it runs version {running}, declared is {declared}"]


def _require_binary(instance: Mapping[str, Any], declared: str) -> None:
    """Refuses when a restart would bring back the version that runs now."""
    said = subprocess.run([instance["binary"], "--version"], capture_output=True, text=True)
    first = said.stdout.partition("\n")[0].rpartition(" v")[2].strip()
    if said.returncode or not first or _version(first, declared):
        raise Refused(
            f"{instance['binary']} is version {first or 'unknown'}, declared is {declared}; "
            "nothing was restarted. Install the declared version, or declare the one that is there."
        )


def _changed_files(instance: Mapping[str, Any]) -> list[str]:
    try:
        lines = Path(instance["started_with"]).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return [f"it is not on record with what it was started ({instance['started_with']})"]
    then = {path.strip(): digest for digest, _, path in (line.partition(" ") for line in lines)}
    return [
        f"{path} has changed since it was started"
        for path, digest in sorted(then.items())
        if _digest(path) != digest
    ]


def _digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def needed_members(found: Mapping[str, Any], own: str) -> str | None:
    """Why the set cannot do without the member ``own`` for a while, in words; None when it can.

    found: the answer of :func:`status.status`. A set whose only voter this is has no choice.
    """
    voters = [m for m in found["members"] if m["votes"]]
    others = [m for m in voters if m["name"] != own]
    if not others or all(m["name"] != own for m in voters):
        return None
    well = [m for m in others if m["healthy"] and m["state"] in status.DATA_BEARING]
    needed = len(voters) // 2 + 1
    if len(well) >= needed:
        return None
    ill = ", ".join(f"{m['name']} ({m['state']})" for m in others if m not in well)
    return (
        f"{needed} of {len(voters)} voters must stay up, and {len(well)} would: not well is {ill}"
    )


def bring_up_to_date(
    vantage: Vantage,
    instance: Mapping[str, Any],
    restart: Callable[[], Any],
    timeout: float = 600,
) -> list[str]:
    """Lets the mongod have what is pending; returns what was done, in words.

    restart: restarts its unit. timeout: seconds for its turn to come and for it to be back.

    Raises Refused when the set could not do without it until then; nothing was restarted.
    """
    wanted = pending(vantage, instance)
    done: list[str] = []
    if wanted.certificate and not wanted.reasons:
        done = _rotate(vantage, instance, wanted)  # which may become a reason
    if wanted.reasons:
        _require_binary(instance, str(vantage.stack.declared["mongodb"]["version"]))
        done = _restart(vantage, wanted, restart, timeout)
    left = pending(vantage, instance)
    if left:
        raise OpenHIMError(
            f"mongod of {vantage.replica_set.name} still lacks: {'; '.join(left.words)}. "
            "Look at its log, and at what else starts it."
        )
    return done


def _rotate(vantage: Vantage, instance: Mapping[str, Any], wanted: Pending) -> list[str]:
    """Hands mongod its new certificate while it runs; where it does not take it, a restart will."""
    try:
        with vantage.own() as client:
            client.admin.command("rotateCertificates", 1)
    except (MongoError, Unauthorized, Unreachable) as error:
        wanted.reasons.append(f"{wanted.certificate} is new, and was not taken ({error})")
        # What does not trust us now, because the authority is new as well, never will.
        wanted.at_once = isinstance(error, (Unauthorized, Unreachable))
        return []
    return [f"took the new certificate {wanted.certificate} without a restart"]


def _restart(
    vantage: Vantage, wanted: Pending, restart: Callable[[], Any], timeout: float
) -> list[str]:
    deadline = time.monotonic() + timeout
    done = [f"restarted, because {'; '.join(wanted.reasons)}"]
    if wanted.at_once or not _depended_upon(vantage, deadline):
        restart()
        return done
    back = False
    try:
        _wait_for_turn(vantage, deadline)
        if change.observe_own(vantage).is_primary and _electable(vantage):
            moved = change.step_down(vantage, seconds=60)
            done.insert(0, f"stepped down for {moved['after']}")
            # That takes long enough for another member to be lost meanwhile.
            _wait_for_turn(vantage, deadline)
        # Before, and not when it failed: who fails may take this process with it.
        with vantage.primary() as client:
            _mark(client, vantage)
        restart()
        _wait_until_back(vantage, deadline)
        back = True
    finally:
        # A turn that could not be given back ends by itself.
        with suppress(OpenHIMError), vantage.primary() as client:
            _give_back(client, vantage, well=back)
    return done


def _depended_upon(vantage: Vantage, deadline: float) -> bool:
    """Whether it is in its set, and the set has a primary to lose.

    In an election nobody knows a primary, and it is another member's restart that caused it more
    often than not: whoever took that for a set without one would be the second to go down.
    """
    election = max(ELECTION_SECONDS, 3 * vantage.replica_set.election_timeout_ms / 1000)

    def decided() -> Observation | None:
        seen = change.observe_own(vantage)
        return seen if seen.kind != MEMBER or seen.primary else None

    seen = status.until(decided, min(election, max(0.0, deadline - time.monotonic())), poll=0.5)
    return bool(seen and seen.kind == MEMBER)


def _electable(vantage: Vantage) -> bool:
    return any(m.priority > 0 for m in vantage.replica_set.voters if m != vantage.member)


def _wait_for_turn(vantage: Vantage, deadline: float) -> None:
    """Waits until it is our turn and the set can do without us; raises Refused when it never is."""
    reason = "nobody has looked yet"

    def ours() -> bool:
        nonlocal reason
        try:
            with vantage.primary() as client:
                holder, marked = _take(client, vantage)
            found = status.status(vantage)
        except (Unreachable, NotPrimary) as error:
            reason = str(error)
            return False
        if holder != _own(vantage):
            reason = f"it is the turn of {holder}"
        elif not found["primary"]:
            reason = "the set has no primary"
        else:
            reason = not_back(vantage, found, marked) or needed_members(found, holder) or ""
        return not reason

    if not status.until(ours, max(0.0, deadline - time.monotonic()), poll=0.5):
        raise Refused(
            f"mongod of {vantage.replica_set.name} was not restarted, for the set could not do "
            f"without it: {reason}. Bring the others back, then run this again; or restart the "
            "unit by hand, which stops the set for that time."
        )


def not_back(vantage: Vantage, found: Mapping[str, Any], marked: str) -> str | None:
    """Why no other member may restart after ``marked`` did, in words; None when one may.

    found: the answer of :func:`status.status`.
    """
    declared = vantage.member_named(marked)
    if declared and declared.host.site in vantage.stack.lost_sites:
        return None
    member = next((m for m in found["members"] if m["name"] == marked), None)
    if marked == _own(vantage) or member is None:
        return None
    if member["healthy"] and member["state"] in status.DATA_BEARING:
        return None
    return (
        f"{marked} was the last to be restarted and is not well ({member['state']}): look at its "
        "log first, for what keeps it from coming back may do the same here"
    )


def _wait_until_back(vantage: Vantage, deadline: float) -> None:
    def back() -> bool:
        return change.is_ready(change.observe_own(vantage))

    if not status.until(back, max(0.0, deadline - time.monotonic())):
        seen = change.observe_own(vantage)
        raise OpenHIMError(
            f"mongod of {vantage.replica_set.name} was restarted and is not back: {seen.words}. "
            "The other members were not restarted; look at its log."
        )


def _own(vantage: Vantage) -> str:
    return vantage.member.name if vantage.member else ""


def _turn(vantage: Vantage) -> dict[str, str]:
    return {"_id": f"restart {vantage.replica_set.name}"}


def _take(client: MongoClient, vantage: Vantage) -> tuple[str, str]:
    """Takes the turn if it is free, or holds it for longer; returns who has it.

    And who was restarted last, and was not seen to be back. Who died with the turn loses it, by the
    primary's clock.
    """
    now = client.admin.command("hello")["localTime"]
    until = now + timedelta(seconds=LEASE_SECONDS)
    # A missing field is null: the turn was given back, and the mark has stayed.
    free = {"$or": [{"holder": {"$in": [_own(vantage), None]}}, {"until": {"$lt": now}}]}
    leases = client[LEASE_DATABASE][LEASE_COLLECTION]
    with suppress(DuplicateKeyError):  # then somebody else has it
        leases.update_one(
            {**_turn(vantage), **free},
            {"$set": {"holder": _own(vantage), "until": until}},
            upsert=True,
        )
    found = leases.find_one(_turn(vantage)) or {}
    return found.get("holder", ""), found.get("restarted", "")


def _mark(client: MongoClient, vantage: Vantage) -> None:
    """Puts on record that the holder of the turn restarts now."""
    leases = client[LEASE_DATABASE][LEASE_COLLECTION]
    ours = {**_turn(vantage), "holder": _own(vantage)}
    if not leases.update_one(ours, {"$set": {"restarted": _own(vantage)}}).matched_count:
        raise Refused(
            f"mongod of {vantage.replica_set.name} was not restarted: its turn has passed to "
            "another member meanwhile. Run this again."
        )


def _give_back(client: MongoClient, vantage: Vantage, well: bool = True) -> None:
    """Lets others have the turn; the mark of who is not well stays.

    well: whether this member is. One that never came to its restart leaves another's mark alone.
    """
    leases = client[LEASE_DATABASE][LEASE_COLLECTION]
    ours = {**_turn(vantage), "holder": _own(vantage)}
    nobody = {"restarted": {"$in": [None, _own(vantage)] if well else [None]}}
    if not leases.delete_one({**ours, **nobody}).deleted_count:
        leases.update_one(ours, {"$unset": {"holder": "", "until": ""}})
