"""What is new since the last look, and so goes into the chain of evidence. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from saltext.openhim.backup.manifest import canonical, utc
from saltext.openhim.plan import declared, exercises
from saltext.openhim.plan.chain import Record

#: A look at the backups is recorded when the last record of one is so old (seconds): once a day.
LOOK_SECONDS = 20 * 3600

News = tuple[str, Mapping[str, Any]]


def found(
    records: Sequence[Record],
    openhim: Mapping[str, Any],
    now: datetime,
    *,
    epochs: Iterable[Mapping[str, Any]] = (),
    verifications: Iterable[Mapping[str, Any]] = (),
    drills: Iterable[Mapping[str, Any]] = (),
    emergencies: Iterable[Mapping[str, Any]] = (),
    accounts: Iterable[Mapping[str, Any]] = (),
    backups: Mapping[str, Any] | None = None,
) -> list[News]:
    """The records to be added, in the order in which they belong there.

    records: the chain so far. openhim: the declaration. epochs, verifications, drills,
    emergencies, accounts (what was opened and closed): all that are known now; backups: what
    ``openhim_dr.status`` says, None where it was not asked.
    """
    news = list(_plan(records, openhim))
    for kind, known in (
        (exercises.RECOVERY, epochs),
        (exercises.VERIFICATION, verifications),
        (exercises.DRILL, drills),
        (exercises.EMERGENCY, emergencies),
        (exercises.BREAK_GLASS, accounts),
    ):
        there = {canonical(one.content) for one in records if one.kind == kind}
        news += [(kind, one) for one in known if _plain(one) not in there]
    if backups is not None and _look_is_due(records, now):
        news.append((exercises.STATUS, _look(backups, now)))
    return news


def _plain(content: Mapping[str, Any]) -> bytes:
    """As it will be in the chain: a tuple becomes a list."""
    return canonical(json.loads(canonical(content)))


def _plan(records: Sequence[Record], openhim: Mapping[str, Any]) -> Iterator[News]:
    """The plan, when it is another one than that of the newest record."""
    if not openhim.get("plan"):
        return
    digest = declared.digest(openhim)
    last = next((one for one in reversed(records) if one.kind == exercises.PLAN), None)
    if last is None or last.content.get("digest") != digest:
        yield exercises.PLAN, {"digest": digest, "plan": openhim["plan"]}


def _look_is_due(records: Sequence[Record], now: datetime) -> bool:
    last = next((one for one in reversed(records) if one.kind == exercises.STATUS), None)
    if last is None:
        return True
    at = datetime.fromisoformat(last.at.replace("Z", "+00:00"))
    return (now - at).total_seconds() >= LOOK_SECONDS


def _look(backups: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The figures of each repository, as the host sees it that sees it best: it may be ahead."""
    repositories: dict[str, dict[str, Any]] = {}
    for _, said in sorted(backups.get("hosts", {}).items()):
        for name, one in sorted((said.get("repositories") or {}).items()):
            figures = {
                "state": one["state"],
                **{
                    key: one["figures"].get(key)
                    for key in ("newest_age_seconds", "verified_age_seconds", "restore_points")
                },
            }
            known = repositories.get(name)
            if known is None or known["newest_age_seconds"] is None:
                repositories[name] = figures
    return {"at": utc(now), "state": backups["state"], "repositories": repositories}
