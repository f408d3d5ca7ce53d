"""What is typed in a disaster: each command with the values of one stack, and its preview. Pure.

A command that acts has a preview that does not. What only the moment knows is in capitals:
``YOUR_NAME``, ``REASON``, ``TIME``, ``HOW`` (it is known that a site is off), ``SITE``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saltext.openhim.settings import Stack

#: What a person fills in.
NAME, REASON, TIME, HOW, SITE = "YOUR_NAME", "REASON", "TIME", "HOW", "SITE"


@dataclass(frozen=True)
class Command:
    """One command. acts: whether it changes anything. preview: the same without any effect, where
    there is such a thing."""

    text: str
    what: str
    acts: bool = False
    preview: str | None = None


@dataclass(frozen=True)
class Verb:
    """What ends a disaster. commands: in their order; by hand alone where there are none."""

    name: str
    title: str
    when: str
    commands: tuple[Command, ...]
    by_hand: tuple[str, ...] = ()


def _orchestration(name: str, request: Mapping[str, Any], what: str) -> Command:
    """A run of ``orch.<name>``; ``test=True`` tells what it would do."""
    pillar = shlex.quote(json.dumps({name: dict(request)}))
    begin = f"salt-run state.orchestrate orch.{name}"
    return Command(f"{begin} pillar={pillar}", what, True, f"{begin} test=True pillar={pillar}")


def looks(stack: Stack) -> list[Command]:
    """What to look at first; nothing of it changes anything."""
    commands = [
        Command("salt-run manage.status", "which minions answer the master at all"),
        Command(
            f"salt-run openhim_dr.preflight {stack.name}",
            "what is seen of everything, and for each verb whether it is allowed, or why not",
        ),
        Command(
            "salt '*' openhim_dr.sighting", "what each host sees of the members, and of OpenHIM"
        ),
    ]
    for name, found in sorted(stack.replica_sets.items()):
        for host in (found.initiator.host.id, *_distant(stack, name)):
            commands.append(
                Command(
                    f"salt {host} mongodb_replset.status {name}",
                    f"the set {name}, as {host} sees it",
                )
            )
    if stack.declared.get("backup"):
        commands.append(Command(f"salt-run openhim_dr.status {stack.name}", "how the backups are"))
    commands.append(
        Command(
            f"salt-run openhim_dr.history {stack.name}", "every recovery so far, and its figures"
        )
    )
    commands.append(
        Command(
            f"salt-run openhim_dr.after_action {stack.name}",
            "each recovery by its phases, and what is open: who is to be told, the root cause",
        )
    )
    return commands


def _distant(stack: Stack, name: str) -> list[str]:
    members = stack.replica_sets[name].members
    return [one.host.id for one in members if one.host.site != stack.active_site][:1]


def all_of(stack: Stack) -> list[Verb]:
    """Every verb that this version carries out or describes, for one stack."""
    return [
        Verb(
            "failover",
            "OpenHIM moves to another site",
            "The active site is lost, and known to be off, and MongoDB elects no other primary.",
            tuple(_failover(stack)),
        ),
        Verb(
            "restore",
            "The data becomes that of a restore point, or of a time",
            "The data is corrupt, and the hosts are fine.",
            tuple(_restore(stack)),
        ),
        Verb(
            "backup",
            "A restore point is taken now",
            "Before anything risky, and before equipment is moved.",
            tuple(_backup(stack)),
        ),
        Verb(
            "drill",
            "A restore point becomes a stack that serves, where nothing gets out",
            "On schedule, and before anybody relies on the backups.",
            tuple(_drill(stack)),
        ),
        Verb(
            "core",
            "OpenHIM alone comes back, or moves to another site",
            "OpenHIM's host or site is lost, and MongoDB has a primary: it kept it, or elected one "
            "by itself.",
            tuple(_core(stack)),
        ),
        Verb(
            "rejoin",
            "A site comes back",
            "The hosts of a lost site are repaired.",
            tuple(_rejoin(stack)),
            (
                "Before its network is connected, see that it boots closed, or is fenced "
                "(docs/topics/fencing.md).",
            ),
        ),
        Verb(
            "rebuild",
            "A new environment from the backups",
            "No site is left.",
            tuple(_rebuild(stack)),
            ("Bring the Salt master back first, if it is gone (below: when Salt is gone).",),
        ),
        Verb(
            "switchover",
            "The active site changes while all is well",
            "Work is planned at the active site.",
            tuple(_moves(stack, "switchover")),
        ),
        Verb(
            "failback",
            "The original site is active again",
            "The lost site is back, has rejoined, and its members have caught up.",
            tuple(_moves(stack, "failback")),
        ),
    ]


def emergency(stack: Stack) -> list[Command]:
    """How emergency mode is entered and left, where OpenHIM is active."""
    found = []
    for host in stack.hosts_with("core", stack.active_site)[:1]:
        for sls, request, what in (
            ("entered", {"by": NAME, "reason": REASON}, "enter it: all other channels go off"),
            (
                "left",
                {"by": NAME, "reason": REASON},
                "leave it: every channel is again as it was",
            ),
        ):
            begin = f"salt {host.id} state.apply emergency.{sls}"
            pillar = shlex.quote(json.dumps({"emergency": request}))
            found.append(
                Command(
                    f"{begin} pillar={pillar}", what, True, f"{begin} test=True pillar={pillar}"
                )
            )
    return found


def _failover(stack: Stack) -> Iterator[Command]:
    for site in _possible_sites(stack):
        paper = _paper(stack)
        request = {"to_site": site, **paper, "attest": {stack.active_site: HOW}}
        told = " ".join(f"{key}={_typed(value)}" for key, value in request.items())
        yield Command(
            f"salt-run openhim_dr.failover_plan {told}",
            f"ask whether it may move to {site}; the reasons against it are its answer. HOW is how "
            f"you know that {stack.active_site} is off, and stays off",
        )
        yield _orchestration("failover", request, f"move to {site}")
    yield Command(
        f"salt-run openhim_dr.withdraw confirm={stack.name} declared_by={NAME} reason={REASON}",
        "take it back, when it was declared and refused before anything was promoted",
        True,
    )


def _paper(stack: Stack) -> dict[str, str]:
    return {"confirm": stack.name, "declared_by": NAME, "reason": REASON}


def _typed(value: Any) -> str:
    """A parameter's value as it is typed behind its name."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _moves(stack: Stack, verb: str) -> Iterator[Command]:
    """Both go to the same places; a failback is to a site that was given up before."""
    for site in _possible_sites(stack):
        request = {"to_site": site, **_paper(stack)}
        told = " ".join(f"{key}={_typed(value)}" for key, value in request.items())
        yield Command(
            f"salt-run openhim_dr.move_plan verb={verb} {told}",
            f"ask whether it may move to {site}; the reasons against it are its answer",
        )
        yield _orchestration(verb, request, f"move to {site}, and lose nothing")


def _rejoin(stack: Stack) -> Iterator[Command]:
    working = {h.site for h in stack.hosts.values() if set(h.roles) & {"mongodb", "core"}}
    for site in sorted(working - {stack.active_site}):
        request = {"site": site, **_paper(stack)}
        told = " ".join(f"{key}={_typed(value)}" for key, value in request.items())
        yield Command(
            f"salt-run openhim_dr.rejoin_plan {told}",
            f"ask whether {site} may come back, and which members have writes that are lost",
        )
        yield _orchestration("rejoin", request, f"{site} belongs to the stack again")
        yield _orchestration(
            "rejoin",
            {**request, "resync": True},
            "the same where members have such writes: their data is kept aside, and copied anew",
        )


def _rebuild(stack: Stack) -> Iterator[Command]:
    if not stack.declared.get("backup"):
        return
    hosts = stack.declared["hosts"].values()
    standby = sorted({entry["site"] for entry in hosts if entry.get("standby")})
    working = sorted(
        {
            entry["site"]
            for entry in hosts
            if set(entry.get("roles") or ()) & {"mongodb", "core"} and not entry.get("standby")
        }
    )
    for site in standby or [SITE]:
        others = [one for one in working if one != site]
        request = {
            "to_site": site,
            **_paper(stack),
            "point": "latest",
            "attest": dict.fromkeys(others, HOW),
        }
        yield _orchestration(
            "rebuild", request, f"made anew at {site} (its hosts are declared first)"
        )


def _possible_sites(stack: Stack) -> list[str]:
    """The sites to which it may move: a core and a member of every set are there."""
    return [
        site
        for site in stack.sites
        if site != stack.active_site
        and site not in stack.lost_sites
        and stack.hosts_with("core", site)
        and all(
            any(member.host.site == site for member in found.members)
            for found in stack.replica_sets.values()
        )
    ]


def _restore(stack: Stack) -> Iterator[Command]:
    if not stack.declared.get("backup"):
        return
    base = {"confirm": stack.name, "declared_by": NAME, "reason": REASON}
    yield _orchestration(
        "restore", {**base, "point": "verified"}, "the newest restore point that was verified"
    )
    if (stack.declared.get("backup") or {}).get("oplog"):
        yield _orchestration(
            "restore",
            {**base, "to_time": TIME},
            "the second before TIME, such as 2026-01-31T11:59:59Z, by the archived oplog",
        )


def _backup(stack: Stack) -> Iterator[Command]:
    if stack.declared.get("backup"):
        yield _orchestration(
            "backup", {"stack": stack.name, "reason": REASON}, "taken, and pulled into the copies"
        )


def _drill(stack: Stack) -> Iterator[Command]:
    if stack.declared.get("drills"):
        yield _orchestration(
            "drill", {"stack": stack.name, "declared_by": NAME}, "held, judged and recorded"
        )


def _core(stack: Stack) -> Iterator[Command]:
    for host in stack.hosts_with("core", stack.active_site):
        yield Command(
            f"salt {host.id} state.highstate",
            f"{host.id} is made anew (a new machine of the same name and address)",
            True,
            f"salt {host.id} state.highstate test=True",
        )
        yield Command(
            f"salt {host.id} openhim.synthetic",
            "a transaction goes through and is found again: the proof of service",
            True,
        )
    for site in stack.sites:
        if site in (stack.active_site, *stack.lost_sites):
            continue
        for host in stack.hosts_with("core", site):
            where = {"to_site": site, "host": host.id}
            request = {**where, **_paper(stack), "attest": {stack.active_site: HOW}}
            told = " ".join(f"{key}={_typed(value)}" for key, value in request.items())
            yield Command(
                f"salt-run openhim_dr.core_plan {told}",
                f"ask whether OpenHIM alone may move to {host.id}; HOW is how you know that what "
                f"does not answer of {stack.active_site} is off, and stays off",
            )
            yield _orchestration("core", request, f"OpenHIM alone moves to {host.id}")
