"""The replica-set configuration as a document: declared, actual, and the way from one to the other.

Nothing here talks to a server. :func:`next_step` names the one next configuration, so that whoever
carries it out can stop anywhere and go on later from what the server then has.

https://www.mongodb.com/docs/manual/reference/replica-configuration/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from saltext.openhim.settings import EVERY_SITE, SITE_TAG, VOTER_TAG, Member, ReplicaSet

#: MongoDB's limit; the first members have IDs below it and later ones above.
MAX_MEMBERS = 50

#: MongoDB's own ratio of 2 s heartbeats to 10 s election timeout.
HEARTBEATS_PER_ELECTION_TIMEOUT = 5
MAX_HEARTBEAT_INTERVAL_MS = 2000

_COMPARED_SETTINGS = (
    "electionTimeoutMillis",
    "heartbeatIntervalMillis",
    "heartbeatTimeoutSecs",
    "getLastErrorModes",
)
_COMPARED = {"priority": 1, "votes": 1, "hidden": False, "tags": {}}


@dataclass(frozen=True)
class Step:
    """One reconfiguration: the whole new document, what it does, and what must be true before.

    ``ready`` names the member that must be SECONDARY first; ``joins`` the one that must be probed.
    """

    config: dict[str, Any]
    changes: tuple[str, ...]
    ready: str | None = None
    joins: str | None = None


def member_document(member: Member, member_id: int) -> dict[str, Any]:
    """One declared member as an entry of ``members``."""
    return {
        "_id": member_id,
        "host": member.name,
        "priority": member.priority,
        "votes": member.votes,
        "hidden": member.hidden,
        "tags": dict(member.tags),
    }


def initial_config(replica_set: ReplicaSet) -> dict[str, Any]:
    """The document with which a new set is initiated: all declared members."""
    members = [member_document(m, i) for i, m in enumerate(replica_set.members)]
    return {
        "_id": replica_set.name,
        "version": 1,
        "members": members,
        "settings": _settings(replica_set, {}, members),
    }


def _settings(
    replica_set: ReplicaSet, actual: Mapping[str, Any], members: list[dict[str, Any]]
) -> dict[str, Any]:
    modes = dict(actual.get("getLastErrorModes") or {})
    modes.pop(EVERY_SITE, None)
    modes.update(_write_modes(replica_set, members))
    interval = replica_set.election_timeout_ms // HEARTBEATS_PER_ELECTION_TIMEOUT
    return {
        **actual,
        "electionTimeoutMillis": replica_set.election_timeout_ms,
        "heartbeatIntervalMillis": min(interval, MAX_HEARTBEAT_INTERVAL_MS),
        # MongoDB's own is 10 s beside 10 s: who is silent for an election timeout counts as away.
        "heartbeatTimeoutSecs": -(-replica_set.election_timeout_ms // 1000),
        "getLastErrorModes": modes,
    }


def _write_modes(replica_set: ReplicaSet, members: list[dict[str, Any]]) -> dict[str, Any]:
    """The write mode for the voters of one configuration on the way, not only of the last.

    mongod accepts a mode that no set of its members can satisfy, and then every write fails.
    """
    if replica_set.durability != "every-site":
        return {}
    voters = [m["tags"] for m in members if m["votes"] and VOTER_TAG in m.get("tags", {})]
    sites = {tags.get(SITE_TAG) for tags in voters}
    return {EVERY_SITE: {SITE_TAG: len(sites), VOTER_TAG: len(voters) // 2 + 1}}


def final_config(
    actual: Mapping[str, Any], replica_set: ReplicaSet, add_missing: bool = True
) -> dict[str, Any]:
    """The declared configuration in one document, with the IDs that the actual one has.

    For a forced reconfiguration and for comparing; the ordinary way is :func:`next_step`.
    add_missing: whether declared members that the set does not have yet are part of it.
    """
    by_host = {m["host"]: m for m in actual["members"]}
    members = []
    version = actual["version"]
    for member in replica_set.members:
        if member.name in by_host:
            have = by_host[member.name]
            members.append({**have, **member_document(member, have["_id"])})
        elif add_missing:
            version += 1
            members.append(member_document(member, new_member_id(actual, version)))
    members.sort(key=lambda m: m["_id"])
    settings = _settings(replica_set, actual.get("settings") or {}, members)
    return {**deepcopy(dict(actual)), "members": members, "settings": settings}


def new_member_id(actual: Mapping[str, Any], new_version: int) -> int:
    """An ID that no member of this set has had.

    Versions only grow, and one member is added per version, so the version makes the ID unique
    even when the member with the highest ID was removed in between.
    """
    return max(MAX_MEMBERS + new_version, *(m["_id"] + 1 for m in actual["members"]))


def differences(actual: Mapping[str, Any], replica_set: ReplicaSet) -> list[str]:
    """What is not as declared, each in words; empty when nothing."""
    return config_differences(actual, final_config(actual, replica_set))


def config_differences(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two configuration documents, each in words."""
    have = {m["host"]: m for m in actual["members"]}
    want = {m["host"]: m for m in wanted["members"]}
    found = [f"add the member {host} ({_role(want[host])})" for host in want if host not in have]
    found += [f"remove the member {host}" for host in have if host not in want]
    for host in (host for host in want if host in have):
        for key, default in _COMPARED.items():
            old, new = have[host].get(key, default), want[host].get(key, default)
            if old != new:
                found.append(f"{host}: {key} from {_short(old)} to {_short(new)}")
    old_settings, new_settings = actual.get("settings") or {}, wanted["settings"]
    for key in _COMPARED_SETTINGS:
        if old_settings.get(key) != new_settings[key]:
            found.append(f"settings.{key} from {old_settings.get(key)} to {new_settings[key]}")
    return found


def _short(value: Any) -> Any:
    """A number as a person writes it: MongoDB answers 10.0 for 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _role(document: Mapping[str, Any]) -> str:
    return f"priority {_short(document['priority'])}, votes {document['votes']}"


def next_step(
    actual: Mapping[str, Any], replica_set: ReplicaSet, down: Collection[str] = ()
) -> Step | None:
    """The next configuration on the way to the declared one; None when it is reached.

    Each changes the vote of one member at most. down: members that do not answer, whose votes are
    taken first, because every vote that cannot be given makes a majority harder.
    """
    return (
        _adjust(actual, replica_set)
        or _retire(actual, replica_set, down)
        or _join(actual, replica_set)
        or _grant(actual, replica_set)
        or _retire(actual, replica_set, None)
    )


def _proposal(
    actual: Mapping[str, Any], replica_set: ReplicaSet, members: list[dict[str, Any]]
) -> dict[str, Any]:
    settings = _settings(replica_set, actual.get("settings") or {}, members)
    return {
        **deepcopy(dict(actual)),
        "version": actual["version"] + 1,
        "members": members,
        "settings": settings,
    }


def _step(
    actual: Mapping[str, Any],
    replica_set: ReplicaSet,
    members: list[dict[str, Any]],
    **requirements: str,
) -> Step | None:
    config = _proposal(actual, replica_set, members)
    changes = tuple(config_differences(actual, config))
    return Step(config, changes, **requirements) if changes else None


def _adjust(actual: Mapping[str, Any], replica_set: ReplicaSet) -> Step | None:
    """Everything but votes of the members that are in the set, and the settings."""
    members = _adjusted(actual, replica_set)
    if not _electable(members):
        # Who may be primary then has not joined yet: that comes first, and this afterwards.
        members = _adjusted(actual, replica_set, keep=("priority",))
    return _step(actual, replica_set, members)


def _adjusted(
    actual: Mapping[str, Any], replica_set: ReplicaSet, keep: Collection[str] = ()
) -> list[dict[str, Any]]:
    declared = {m.name: m for m in replica_set.members}
    members = []
    for document in deepcopy(list(actual["members"])):
        member = declared.get(document["host"])
        if member and member.votes == document["votes"]:
            kept = {key: document[key] for key in keep}
            document = {**document, **member_document(member, document["_id"]), **kept}
        members.append(document)
    return members


def _electable(members: list[dict[str, Any]]) -> bool:
    """Whether anybody may be primary; MongoDB accepts no configuration without."""
    return any(m["votes"] and m["priority"] for m in members)


def _join(actual: Mapping[str, Any], replica_set: ReplicaSet) -> Step | None:
    """One declared member more, without a vote until it has copied the data."""
    have = {m["host"] for m in actual["members"]}
    for member in replica_set.members:
        if member.name not in have:
            new = member_document(member, new_member_id(actual, actual["version"] + 1))
            new.update(votes=0, priority=0)
            new["tags"].pop(VOTER_TAG, None)
            members = [*deepcopy(list(actual["members"])), new]
            return _step(actual, replica_set, members, joins=member.name)
    return None


def _grant(actual: Mapping[str, Any], replica_set: ReplicaSet) -> Step | None:
    """The vote of one member that has none yet."""
    declared = {m.name: m for m in replica_set.members}
    members = deepcopy(list(actual["members"]))
    for index, document in enumerate(members):
        member = declared.get(document["host"])
        if member and member.votes and not document["votes"]:
            members[index] = {**document, **member_document(member, document["_id"])}
            return _step(actual, replica_set, members, ready=member.name)
    return None


def _retire(
    actual: Mapping[str, Any], replica_set: ReplicaSet, down: Collection[str] | None
) -> Step | None:
    """One member fewer, or one vote fewer. down: only these; None for any."""
    declared = {m.name: m for m in replica_set.members}
    members = deepcopy(list(actual["members"]))
    for index, document in enumerate(members):
        host = document["host"]
        member = declared.get(host)
        if (down is not None and host not in down) or (
            member and member.votes >= document["votes"]
        ):
            continue
        if member:
            members[index] = {**document, **member_document(member, document["_id"])}
        else:
            del members[index]
        return _step(actual, replica_set, members) if _electable(members) else None
    return None


def path(actual: Mapping[str, Any], replica_set: ReplicaSet) -> list[Step]:
    """All steps from the actual to the declared configuration."""
    steps: list[Step] = []
    while step := next_step(actual, replica_set):
        steps.append(step)
        actual = step.config
        if len(steps) > 4 * MAX_MEMBERS:  # every step comes nearer; this is only a fence
            raise AssertionError(f"no way from {actual} to {replica_set}")
    return steps
