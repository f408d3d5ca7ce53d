"""What changes a replica set: initiate, reconfigure step by step, add, remove, step down, freeze.

Every host of a stack runs the same highstate, often at the same moment. So for each change exactly
one host writes (the designated initiator, then whoever is primary), and the others wait for the
result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pymongo import MongoClient
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo.connection import (
    KEYFILE,
    MEMBER,
    NOBODY,
    NOT_INITIATED,
    NOT_REPLICA_SET,
    REMOVED,
    UNAUTHORIZED,
    UNREACHABLE,
    WRONG_KEYFILE,
    MongoError,
    NotPrimary,
    Observation,
    Vantage,
    explained,
    probe,
    probe_all,
)
from saltext.openhim.mongo.replset import Step, initial_config, next_step
from saltext.openhim.mongo.status import (
    DATA_BEARING,
    POLL_SECONDS,
    plain,
    read_config,
    until,
)
from saltext.openhim.settings import SITE_TAG, Host, Member, ReplicaSet

#: Another reconfiguration is under way, is not on a majority yet, or came before ours: look again.
_RETRIED = {50, 103, 109, 308}
_NO_QUORUM = 74
_RECONFIGURE_MS = 15000


def observe_own(vantage: Vantage) -> Observation:
    """A look at this host's own member."""
    return probe(vantage.local, vantage.access, vantage.member.name if vantage.member else None)


def conflict(vantage: Vantage, seen: Observation) -> str | None:
    """Why a member can never be initiated together with ours, however long one waits; or None."""
    name = vantage.replica_set.name
    if seen.set_name and seen.set_name != name:
        return (
            f"{seen.words}; expected was {name}. Nothing was changed. Point the pillar at another "
            "host, or take that member out of its set and empty its data folder first."
        )
    if seen.kind == WRONG_KEYFILE or seen.set_id == "not ours":
        return (
            f"{seen.words}. Nothing was changed. Give all members the same "
            "openhim:secrets:mongodb_keyfile and restart that mongod."
        )
    if seen.kind == UNAUTHORIZED:
        return f"{seen.words}. Nothing was changed."
    return None


def is_ready(seen: Observation) -> bool:
    """Whether a member belongs to a set that has a primary, and has the data."""
    return seen.kind == MEMBER and bool(seen.primary) and seen.state in DATA_BEARING


def foresee_initiation(vantage: Vantage) -> tuple[bool, str]:
    """Whether the set is initiated already, and what initiating would do; nothing is written.

    Raises :class:`~saltext.openhim.errors.Refused` for what would be refused.
    """
    own = observe_own(vantage)
    _refuse_conflicts(vantage, [own])
    if own.kind == MEMBER:
        return True, f"{vantage.replica_set.name} is initiated; {own.words}"
    seen = probe_all([m.name for m in vantage.replica_set.members], vantage.access)
    _refuse_conflicts(vantage, list(seen.values()))
    names = ", ".join(m.name for m in vantage.replica_set.members)
    initiator = vantage.replica_set.initiator
    who = "this host" if initiator == vantage.member else initiator.host.id
    answers = "; ".join(o.words for o in seen.values())
    return False, f"{who} would initiate {vantage.replica_set.name} with {names}. Now: {answers}"


def initiate(vantage: Vantage, timeout: float = 300) -> list[str]:
    """Sees to it that the set is initiated with all declared members; returns what *this host* did.

    The designated initiator looks at all declared members until each is "not initiated" and shares
    our keyfile, and initiates then; the other hosts wait. All wait until their own member belongs
    to the set, has the data and knows a primary.

    timeout: seconds. Raises Refused at once for a member of another set or a foreign keyfile, and
    after the timeout with each member's answer.
    """
    deadline = time.monotonic() + timeout
    done: list[str] = []
    while True:
        own = observe_own(vantage)
        if is_ready(own):
            return done
        seen = probe_all([m.name for m in vantage.replica_set.members], vantage.access)
        _refuse_conflicts(vantage, [own, *seen.values()])
        everybody = all(o.kind == NOT_INITIATED for o in seen.values())
        if everybody and not done and vantage.replica_set.initiator == vantage.member:
            try:
                done = _initiate(vantage)
            except MongoError as error:
                # A member that answered us just now did not answer the server in time.
                if error.code != _NO_QUORUM or time.monotonic() >= deadline:
                    raise
        elif time.monotonic() >= deadline:
            raise Refused(_not_initiated(vantage, own, list(seen.values()), timeout))
        time.sleep(POLL_SECONDS)


def _refuse_conflicts(vantage: Vantage, seen: list[Observation]) -> None:
    reasons = list(dict.fromkeys(filter(None, (conflict(vantage, o) for o in seen))))
    if reasons:
        raise Refused("\n".join(reasons))


def _initiate(vantage: Vantage) -> list[str]:
    config = initial_config(vantage.replica_set)
    # The keyfile also works where restored data holds users already and has closed the exception.
    with vantage.own(KEYFILE if vantage.access.keyfile else NOBODY) as client:
        client.admin.command("replSetInitiate", config)
    names = ", ".join(m["host"] for m in config["members"])
    return [f"initiated {vantage.replica_set.name} with {names}"]


def _not_initiated(
    vantage: Vantage, own: Observation, seen: list[Observation], timeout: float
) -> str:
    initiator = vantage.replica_set.initiator
    head = f"{vantage.replica_set.name} is not ready after {timeout:g} s."
    if own.kind in (UNREACHABLE, NOT_REPLICA_SET):
        advice = "Start this host's own mongod with the declared configuration."
    elif own.kind == MEMBER and not own.primary:
        advice = "The set has no primary: start enough members for a majority of the votes."
    elif own.kind == MEMBER:
        advice = "This member has not copied the data yet: run this again later."
    elif any(o.kind in (MEMBER, REMOVED) for o in seen):
        advice = (
            "The set exists and does not list this host: the primary's host adds it "
            "(mongodb_replset.configured or member_present)."
        )
    elif initiator == vantage.member:
        advice = "Nothing was initiated: all declared members must answer first."
    else:
        advice = f"{initiator.host.id} initiates it: run the highstate there."
    return "\n".join([f"{head} {advice} Seen were:", *(f"  {o.words}" for o in [own, *seen])])


def target(vantage: Vantage, actual: dict[str, Any]) -> ReplicaSet:
    """The declaration, without the members of lost sites that the set does not have.

    They cannot be proved to be ours while they are away; they are added when the site is back.
    """
    have = {m["host"] for m in actual["members"]}
    members = tuple(
        m
        for m in vantage.replica_set.members
        if m.name in have or m.host.site not in vantage.stack.lost_sites
    )
    return replace(vantage.replica_set, members=members)


def configure(
    vantage: Vantage,
    timeout: float = 300,
    wanted: Callable[[Vantage, dict[str, Any]], ReplicaSet] = target,
    from_anywhere: bool = False,
) -> list[str]:
    """Brings the configuration to the declared one, one vote at a time; returns what this host did.

    timeout: seconds. wanted: which configuration, given the actual one. from_anywhere: write
    through the primary wherever it is (for a person); otherwise a host whose member is not primary
    waits.
    """
    deadline = time.monotonic() + timeout
    done: list[str] = []
    while True:
        try:
            with vantage.primary() if from_anywhere else vantage.own() as client:
                waiting = _advance(vantage, client, wanted, from_anywhere, done)
        except (Unreachable, NotPrimary) as error:
            waiting = str(error)
        if waiting is None:
            return done
        if waiting and time.monotonic() >= deadline:
            before = f" Done before: {'; '.join(done)}." if done else ""
            raise Refused(
                f"{vantage.replica_set.name} is not as declared after {timeout:g} s: "
                f"{waiting}.{before}"
            )
        if waiting:
            time.sleep(POLL_SECONDS)


def _advance(
    vantage: Vantage,
    client: MongoClient,
    wanted: Callable[[Vantage, dict[str, Any]], ReplicaSet],
    from_anywhere: bool,
    done: list[str],
) -> str | None:
    """One step. Returns None when nothing is left, "" after a step, else what it waits for."""
    actual = read_config(client)
    raw = client.admin.command("replSetGetStatus")
    down = [m["name"] for m in raw["members"] if m["health"] != 1]
    step = next_step(actual, wanted(vantage, actual), down)
    if step is None:
        return None
    if not from_anywhere and not _is_primary(client):
        primary = client.admin.command("hello").get("primary") or "(there is none now)"
        return (
            f"the primary {primary} has still to: {'; '.join(step.changes)}; run this on its host"
        )
    waiting = _hindrance(vantage, step, actual, raw)
    if waiting:
        return waiting
    try:
        with explained(raw["set"]):
            client.admin.command("replSetReconfig", step.config, maxTimeMS=_RECONFIGURE_MS)
    except MongoError as error:
        if error.code in _RETRIED:
            return str(error)
        raise
    done.extend(step.changes)
    return ""


def _is_primary(client: MongoClient) -> bool:
    return bool(client.admin.command("hello").get("isWritablePrimary"))


def _hindrance(
    vantage: Vantage, step: Step, actual: dict[str, Any], raw: dict[str, Any]
) -> str | None:
    """What must come before this step, or None; raises Refused when no waiting helps."""
    _refuse_unseating(step, raw)
    if step.joins:
        return _newcomer_hindrance(vantage, step.joins, actual)
    if step.ready:
        state = next((m["stateStr"] for m in raw["members"] if m["name"] == step.ready), "absent")
        if state != "SECONDARY":
            return f"{step.ready} must be SECONDARY before it gets its vote, and is {state}"
    return None


def _refuse_unseating(step: Step, raw: dict[str, Any]) -> None:
    primary = next((m["name"] for m in raw["members"] if m["state"] == 1), None)
    after = next((m for m in step.config["members"] if m["host"] == primary), None)
    if primary and (after is None or not after["votes"] or not after["priority"]):
        raise Refused(
            f"the primary {primary} would lose its vote ({'; '.join(step.changes)}). Let another "
            "member become primary first: salt-call mongodb_replset.step_down on its host."
        )


def _newcomer_hindrance(vantage: Vantage, name: str, actual: dict[str, Any]) -> str | None:
    seen = probe(name, vantage.access)
    reason = conflict(vantage, seen)
    ours = str((actual.get("settings") or {}).get("replicaSetId"))
    if not reason and seen.set_id and seen.set_id != ours:
        reason = (
            f"{seen.words}, but of another set with the same name (its ID is {seen.set_id}, ours "
            f"is {ours}). Nothing was changed. Empty that member's data folder first if it is not "
            "needed."
        )
    if reason:
        raise Refused(reason)
    if seen.kind in (UNREACHABLE, NOT_REPLICA_SET):
        return f"the new member must answer first; {seen.words}"
    return None


def _as_it_is(vantage: Vantage, actual: dict[str, Any]) -> ReplicaSet:
    """The actual configuration as if it were declared, so that one member of it can change."""
    members = tuple(_member_as_it_is(vantage, document) for document in actual["members"])
    timeout = (actual.get("settings") or {}).get("electionTimeoutMillis", 10000)
    return replace(vantage.replica_set, members=members, election_timeout_ms=timeout)


def _member_as_it_is(vantage: Vantage, document: dict[str, Any]) -> Member:
    name, _, port = document["host"].rpartition(":")
    tags = document.get("tags") or {}
    declared = vantage.member_named(document["host"])
    host = declared.host if declared else Host(name, tags.get(SITE_TAG, ""), name, name, ())
    return Member(
        host=host,
        port=int(port),
        priority=document["priority"],
        votes=document["votes"],
        hidden=document.get("hidden", False),
        tags=tags,
    )


def declared_member(vantage: Vantage, member: str) -> Member | None:
    """The declared member that is meant by a minion ID or ``host:port``, or None."""
    members = vantage.replica_set.members
    return next((m for m in members if member in (m.host.id, m.name)), None)


def with_member(member: Member) -> Callable[[Vantage, dict[str, Any]], ReplicaSet]:
    """For :func:`configure`: everything as it is, and this member as declared."""

    def wanted(vantage: Vantage, actual: dict[str, Any]) -> ReplicaSet:
        current = _as_it_is(vantage, actual)
        others = tuple(m for m in current.members if m.name != member.name)
        return replace(current, members=(*others, member))

    return wanted


def without_member(name: str) -> Callable[[Vantage, dict[str, Any]], ReplicaSet]:
    """For :func:`configure`: everything as it is, without the member ``host:port``."""

    def wanted(vantage: Vantage, actual: dict[str, Any]) -> ReplicaSet:
        current = _as_it_is(vantage, actual)
        return replace(current, members=tuple(m for m in current.members if m.name != name))

    return wanted


def foresee(
    vantage: Vantage, wanted: Callable[[Vantage, dict[str, Any]], ReplicaSet]
) -> tuple[list[str], bool]:
    """What :func:`configure` with ``wanted`` would do, in words, and whether this host would."""
    with vantage.own() as client:
        actual = read_config(client)
        goal = wanted(vantage, actual)
        changes: list[str] = []
        while step := next_step(actual, goal):
            changes += step.changes
            actual = step.config
        return changes, _is_primary(client)


def add(vantage: Vantage, member: str, timeout: float = 300) -> list[str]:
    """Adds one declared member: without a vote, then, when it has copied the data, with it.

    member: minion ID or ``host:port``.
    """
    declared = declared_member(vantage, member)
    if declared is None:
        raise Refused(
            f"{member} is no declared member of {vantage.replica_set.name}; declared are "
            f"{', '.join(m.host.id for m in vantage.replica_set.members)}. Declare it first."
        )
    return configure(vantage, timeout, with_member(declared), from_anywhere=True)


def remove(vantage: Vantage, member: str, timeout: float = 300) -> list[str]:
    """Removes one member that is no longer declared.

    member: ``host:port``, or the minion ID of a host that is declared for something else.
    """
    return configure(
        vantage, timeout, without_member(undeclared_name(vantage, member)), from_anywhere=True
    )


def undeclared_name(vantage: Vantage, member: str) -> str:
    """``host:port`` of a member that may be removed; refuses one that the pillar declares."""
    if declared_member(vantage, member):
        raise Refused(
            f"{member} is declared as a member of {vantage.replica_set.name}; the next highstate "
            "would add it again. Take it out of openhim:mongodb:replica_sets first."
        )
    if ":" in member:
        return member
    host = vantage.stack.host(member)
    return f"{host.name}:{vantage.replica_set.port}"


def step_down(vantage: Vantage, seconds: int = 60, catch_up: int = 10) -> dict[str, Any]:
    """Lets the primary step down; returns who was primary and who is now.

    seconds: how long it may not be elected again. catch_up: seconds for a secondary to catch up
    first; MongoDB refuses when none does.
    """
    with vantage.primary() as client:
        before = client.admin.command("hello")["me"]
        # Older servers close the connection instead of answering.
        with suppress(Unreachable), explained(before):
            client.admin.command(
                "replSetStepDown", seconds, secondaryCatchUpPeriodSecs=min(catch_up, seconds)
            )
    after = until(lambda: _other_primary(vantage, before), seconds)
    if not after:
        raise OpenHIMError(f"{before} stepped down and no other member was elected in {seconds} s")
    return {"before": before, "after": after}


def _other_primary(vantage: Vantage, before: str) -> str | None:
    try:
        with vantage.primary() as client:
            now = client.admin.command("hello")["me"]
    except OpenHIMError:
        return None
    return now if now != before else None


def freeze(vantage: Vantage, seconds: int) -> dict[str, Any]:
    """Keeps this host's member from seeking election for so many seconds; 0 lifts it."""
    with vantage.own() as client:
        return plain({"ok": client.admin.command("replSetFreeze", int(seconds))["ok"]})
