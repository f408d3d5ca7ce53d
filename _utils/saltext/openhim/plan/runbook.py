"""The runbook of a stack: where everything is, who decides, and what is typed. Pure.

It is made of the declaration and of the newest epoch alone, so every host makes the same one, and
needs nobody to be there for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from saltext.openhim import settings
from saltext.openhim.backup import failures
from saltext.openhim.backup.manifest import digest as digest_of
from saltext.openhim.backup.manifest import utc
from saltext.openhim.mongo.config import DATA_DIRECTORY
from saltext.openhim.plan import declared, verbs
from saltext.openhim.schema import needs
from saltext.openhim.schema.plan_rules import WAYS
from saltext.openhim.settings import Stack

FORMAT = 1

#: What need not be declared.
_TIER: Mapping[str, Any] = {"databases": [], "channels": [], "services": [], "sla": None}
_MESSAGE: Mapping[str, Any] = {
    "within_seconds": None,
    "counts_from": "declaration",
    "acknowledged": False,
}


def build(openhim: Mapping[str, Any], written: datetime) -> dict[str, Any]:
    """All that the runbook says. openhim: of a pillar. written: when.

    Raises :class:`~saltext.openhim.errors.Refused` when no plan is declared.
    """
    plan = declared.plan(openhim)
    recovery = openhim.get("recovery") or {}
    known = {**declared.of(openhim), "recovery": recovery}
    stack = settings.from_pillar({"openhim": known})
    model = {
        "format": FORMAT,
        "stack": stack.name,
        "organisation": plan["organisation"],
        "epoch": recovery.get("epoch") or 0,
        "digest": declared.digest(openhim),
        "profile": stack.profile,
        "active_site": stack.active_site,
        "lost_sites": list(stack.lost_sites),
        "contacts": {name: _contact(plan, name) for name in plan["contacts"]},
        "roles": _roles(plan),
        "activation": [{"after_seconds": None, **one} for one in plan["activation"]],
        "looks": [asdict(one) for one in verbs.looks(stack)],
        "verbs": [asdict(one) for one in verbs.all_of(stack)],
        "tiers": [{**_TIER, "name": name, **tier} for name, tier in declared.tiers(openhim)],
        "communication": [{**_MESSAGE, **one} for one in plan["communication"]],
        "emergency_mode": _emergency_mode(known, stack),
        "sites": _sites(stack, plan),
        "databases": [
            {
                "kind": kind,
                "name": one.name,
                "replica_set": one.replica_set.name,
                "members": [f"{m.name} at {m.host.site}" for m in one.replica_set.members],
            }
            for kind, one in sorted(stack.databases.items())
        ],
        "repositories": _repositories(known),
        "start_bundle": _start_bundle(known),
        "keys": _keys(known),
        "tests": [{"name": name, **test} for name, test in (plan.get("tests") or {}).items()],
        "copies": [{"host": None, **one} for one in plan.get("copies") or ()],
    }
    # Of everything but the moment: a runbook that says the same is the same.
    return {**model, "content": digest_of(model), "written": utc(written)}


def _contact(plan: Mapping[str, Any], name: str) -> dict[str, Any]:
    ways = dict.fromkeys(WAYS)
    return {"id": name, **ways, **plan["contacts"][name]}


def commands(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every command that the runbook prints, in its order."""
    mode = model["emergency_mode"] or {"commands": []}
    acting = [one for verb in model["verbs"] for one in verb["commands"]]
    return [*model["looks"], *acting, *mode["commands"]]


def _roles(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "duties": role["duties"],
            "holders": [_contact(plan, one) for one in role["holders"]],
        }
        for name, role in plan["roles"].items()
    ]


def _emergency_mode(openhim: Mapping[str, Any], stack: Stack) -> dict[str, Any] | None:
    mode = openhim["plan"].get("emergency_mode")
    if not mode:
        return None
    channels = (openhim.get("objects") or {}).get("channels") or {}
    return {
        **mode,
        "off": sorted(set(channels) - set(mode["channels"])),
        "commands": [asdict(one) for one in verbs.emergency(stack)],
    }


def _sites(stack: Stack, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    facilities = plan.get("facilities") or {}
    return [
        {
            "name": name,
            "description": (entry or {}).get("description"),
            "active": name == stack.active_site,
            "lost": name in stack.lost_sites,
            "facility": {"instructions": None, **facilities[name]} if name in facilities else None,
            "access": [
                _contact(plan, one) for one in (facilities.get(name) or {}).get("access", ())
            ],
            "hosts": [
                _host(stack, host_id, host)
                for host_id, host in sorted(stack.declared["hosts"].items())
                if host["site"] == name
            ],
        }
        for name, entry in stack.sites.items()
    ]


def _host(stack: Stack, host_id: str, host: Mapping[str, Any]) -> dict[str, Any]:
    """A declared host; one that stands by for a rebuild is no part of the stack yet."""
    there = host_id in stack.hosts
    sets = stack.sets_on(host_id) if there else []
    return {
        "id": host_id,
        "name": host.get("name", host_id),
        "address": str(host["address"]),
        "roles": [*host["roles"], *([] if there else ["stands by"])],
        "data": [f"{DATA_DIRECTORY}/{one.name}" for one in sets],
    }


def _repositories(openhim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the backups are; the place of a repository, never what opens it."""
    backup = openhim.get("backup") or {}
    oplog = backup.get("oplog") or {}
    entries = dict(backup.get("repositories") or {})
    entries |= {
        name: oplog[key]
        for name, key in (("oplog archive", "repository"), ("oplog archive, copy", "copy"))
        if key in oplog
    }
    return [
        {
            "name": name,
            "url": failures.scrubbed(entry["url"], []),
            "filled_by": entry.get("pulled_by") or _filler(name, backup),
            "copy_of": entry.get("copy_of"),
            "pruned_by": entry.get("pruned_by"),
            "key": entry["secret"],
        }
        for name, entry in entries.items()
    ]


def _filler(name: str, backup: Mapping[str, Any]) -> str | None:
    if name.startswith("oplog archive"):
        return str(backup["oplog"]["archived_by"])
    return backup.get("taken_by")


def _start_bundle(openhim: Mapping[str, Any]) -> dict[str, Any] | None:
    bundle = (openhim.get("backup") or {}).get("bundle")
    if not bundle:
        return None
    return {
        "key": bundle["secret"],
        "repositories": [
            {"name": name, "url": failures.scrubbed(entry["url"], [])}
            for name, entry in bundle["repositories"].items()
        ],
    }


def _keys(openhim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Which secret is on which hosts, and what for: the location of a key, never its value."""
    found: dict[str, dict[str, Any]] = {}
    for host in sorted(openhim["hosts"]):
        for name, purpose in needs.needed(openhim, host).items():
            one = found.setdefault(name, {"name": name, "purpose": purpose, "hosts": []})
            one["hosts"].append(host)
    return [found[name] for name in sorted(found)]
