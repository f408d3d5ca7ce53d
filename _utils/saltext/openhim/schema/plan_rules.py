"""What must fit together in ``openhim:plan``: a plan that names nobody is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from saltext.openhim.schema.kinds import did_you_mean, problem
from saltext.openhim.schema.rules import names

ROOT = "openhim:plan"

#: Ways by which a contact is reached.
WAYS = ("phone", "email", "other")

Declared = Mapping[str, Any]


def check(declared: Declared, known: Iterable[str] = ()) -> list[str]:
    """All problems of a plan whose single values are well-formed; none where there is no plan.

    known: what is wrong with the single values; an entry of which a part is missing by that is not
    blamed for it a second time.
    """
    if "plan" not in declared:
        return []
    found = [found for rule in RULES for found in rule(declared["plan"], declared)]
    return [one for one in found if not _follows(one, known)]


def _follows(found: str, known: Iterable[str]) -> bool:
    """Whether a part of what is blamed is malformed, and so missing."""
    return any(one.startswith(found.partition(": found")[0] + ":") for one in known)


def _contacts(plan: Declared, _: Declared) -> Iterator[str]:
    for name, contact in plan.get("contacts", {}).items():
        if contact and not any(way in contact for way in WAYS):
            yield problem(
                f"{ROOT}:contacts:{name}",
                "no way to reach",
                "a phone, an email or another way, best two of them",
            )


def _names(plan: Declared, declared: Declared) -> Iterator[str]:
    """Whoever and whatever is named is declared."""
    contacts, roles = plan.get("contacts"), plan.get("roles")
    both = None if contacts is None or roles is None else {**contacts, **roles}
    sites, hosts = declared.get("sites"), declared.get("hosts")
    for path, found, known in (
        *((f"facilities:{site}", site, sites) for site in plan.get("facilities", {})),
        *_each(plan.get("facilities", {}), "facilities", "access", contacts),
        *_each(plan.get("roles", {}), "roles", "holders", contacts),
        *_each(_numbered(plan.get("activation", ())), "activation", "decided_by", roles),
        *_each(_numbered(plan.get("communication", ())), "communication", "by", roles),
        *_each(_numbered(plan.get("communication", ())), "communication", "whom", both),
        *_each({"": plan.get("emergency_mode", {})}, "emergency_mode", "entered_by", roles),
        *_each(plan.get("tests", {}), "tests", "owner", roles),
        *_each(_numbered(plan.get("copies", ())), "copies", "kept_by", contacts),
        *_each(_numbered(plan.get("copies", ())), "copies", "host", hosts),
        *((f"encryption_at_rest:{host}", host, hosts) for host in plan.get(
            "encryption_at_rest", {})),
    ):  # fmt: skip
        if known is not None and found not in known:
            hint = names(known) + did_you_mean(found, tuple(known))
            yield problem(f"{ROOT}:{path}", repr(found), hint)


def _each(
    entries: Mapping[Any, Declared], path: str, key: str, known: Any
) -> Iterator[tuple[str, str, Any]]:
    """Every name that the entries have under a key, with its path and what is known."""
    for name, entry in entries.items():
        found = entry.get(key)
        below = f"{path}:{name}" if name != "" else path
        if isinstance(found, list):
            yield from ((f"{below}:{key}:{i}", one, known) for i, one in enumerate(found))
        elif found is not None:
            yield f"{below}:{key}", found, known


def _numbered(entries: Iterable[Declared]) -> dict[int, Declared]:
    return dict(enumerate(entries))


def _successors(plan: Declared, _: Declared) -> Iterator[str]:
    for name, role in plan.get("roles", {}).items():
        holders = role.get("holders")
        if holders is None:
            continue
        path = f"{ROOT}:roles:{name}:holders"
        if len(set(holders)) == 1:
            yield problem(
                path,
                f"{holders[0]!r} and no successor",
                "two contacts or more: the first is in charge, the others succeed in this order",
            )
        elif len(set(holders)) < len(holders):
            twice = [one for one, count in Counter(holders).items() if count > 1]
            yield problem(path, f"{twice[0]!r} twice", "each contact once")


def _tiers(plan: Declared, _: Declared) -> Iterator[str]:
    orders: dict[int, str] = {}
    for name, tier in plan.get("tiers", {}).items():
        path = f"{ROOT}:tiers:{name}"
        other = orders.setdefault(tier.get("order", -len(orders)), name)
        if other != name:
            yield problem(
                f"{path}:order", f"{tier['order']}, which {other!r} has", "an order of its own"
            )
        target, limit = tier.get("rto_seconds"), tier.get("max_downtime_seconds")
        if target is not None and limit is not None and target > limit:
            yield problem(
                f"{path}:rto_seconds",
                f"{target}, more than max_downtime_seconds",
                f"at most {limit}: what is tolerable is the limit of what is aimed at",
            )


def _members_of_tiers(plan: Declared, declared: Declared) -> Iterator[str]:
    """What is in a tier is declared, and in one tier only; each database is in one."""
    tiers = plan.get("tiers")
    if tiers is None:
        return
    channels = declared.get("objects", {}).get("channels", {})
    for kind, known in (("databases", None), ("channels", channels)):
        seen: dict[str, str] = {}
        for name, tier in tiers.items():
            for number, one in enumerate(tier.get(kind, ())):
                path = f"{ROOT}:tiers:{name}:{kind}:{number}"
                if known is not None and one not in known:
                    yield problem(path, repr(one), names(known) + did_you_mean(one, tuple(known)))
                if seen.setdefault(one, path) != path:
                    yield problem(path, f"{one!r}, which is at {seen[one]} too", "one tier for it")
        if kind == "databases":
            for one in sorted({"main", "audit"} - set(seen)):
                yield problem(
                    f"{ROOT}:tiers",
                    f"no tier for the {one} database",
                    f"{one!r} under databases of exactly one tier",
                )


def _emergency_channels(plan: Declared, declared: Declared) -> Iterator[str]:
    channels = declared.get("objects", {}).get("channels", {})
    for number, one in enumerate(plan.get("emergency_mode", {}).get("channels", ())):
        if one not in channels:
            hint = names(channels) + did_you_mean(one, tuple(channels))
            yield problem(f"{ROOT}:emergency_mode:channels:{number}", repr(one), hint)


RULES = (_contacts, _names, _successors, _tiers, _members_of_tiers, _emergency_channels)
