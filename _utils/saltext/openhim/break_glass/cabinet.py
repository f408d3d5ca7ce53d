"""Opens and closes accounts for the emergency, and writes down that it did.

In this order, so that a run which is broken off leaves nothing that stays: the account is written
down, its timer armed, its password handed over, and only then the user is made. What was begun is
finished by the same again, or removed by the timer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saltext.openhim import files, journal, settings
from saltext.openhim.break_glass import account as accounts
from saltext.openhim.break_glass import handover, mongodb_user, openhim_user, timer
from saltext.openhim.break_glass.account import CLOSING, OPEN, Account
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.connection import vantage

#: The host's own record of accounts, and how many of its entries were told.
RECORD = f"{settings.STATE_DIRECTORY}/break-glass.jsonl"
TOLD = f"{settings.STATE_DIRECTORY}/break-glass.told"

OPENED, CLOSED = "opened", "closed"


@dataclass(frozen=True)
class Host:
    """Where an account is opened: this host, and where its things are.

    pillar: the minion's whole pillar. config_dir: the minion's. config_file: OpenHIM's. keyfile:
    the members'. The defaults are the places of this package.
    """

    pillar: Mapping[str, Any]
    id: str
    config_dir: str = "/etc/salt"
    config_file: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True)
class Done:
    """What a run did, or would do; account: None where there is none."""

    account: Account | None
    changes: Mapping[str, Any] = field(default_factory=dict)


def wanted(
    host: Host,
    name: str,
    by: str,
    reason: str,
    valid_for: int,
    groups: Any = (),
    roles: Any = (),
    replica_set: str | None = None,
    recipient_key: str | None = None,
) -> Account:
    """The account that is asked for, once it is known that this host could remove it.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` with the reason when it is refused.
    """
    stack = settings.from_pillar(host.pillar)
    asked = accounts.asked(name, stack.name, host.id, by, reason, valid_for, groups, roles)
    timer.require()
    recipient = handover.fingerprint(recipient_key) if recipient_key else ""
    openhim: dict[str, Any] = {}
    mongodb: dict[str, Any] = {}
    if asked.groups:
        openhim = openhim_user.where(CoreHost(host.pillar, host.id), host.config_file)
    if asked.roles:
        here = vantage(host.pillar, host.id, replica_set)
        mongodb = mongodb_user.where(here, host.keyfile)
    return replace(
        asked,
        openhim=openhim,
        mongodb=mongodb,
        recipient=recipient,
        handover=handover.path(asked.slug, recipient),
    )


def open_(host: Host, asked: Account, recipient_key: str | None, test: bool = False) -> Done:
    """Opens an account, or finishes one that was begun; one that is open stays as it is.

    Raises :class:`~saltext.openhim.errors.Refused` when another one of that name is there, or the
    same was opened before.
    """
    there = kept(asked.name)
    if there is None:
        accounts.require_new(asked, journal.read(RECORD))
        _require_free(asked)
    else:
        _require_open(there, asked)
        if there.phase == OPEN:
            return Done(there)
        asked = there
    changes = {asked.name: {"old": None, "new": _told(asked)}}
    if test:
        return Done(asked, changes)
    _keep(asked)
    timer.arm(asked.slug, asked.ends, host.config_dir)
    password = handover.password()
    text = f"user: {asked.name}\npassword: {password}\nuntil: {asked.until}\n"
    handover.write(asked.handover, text, recipient_key)
    if asked.openhim:
        openhim_user.remember(asked)
        openhim_user.make(CoreHost(host.pillar, host.id), asked, password)
    if asked.mongodb:
        mongodb_user.make(asked, password)
    _record(OPENED, asked, asked.by, asked.reason)
    opened = replace(asked, phase=OPEN)
    _keep(opened)
    return Done(opened, changes)


def close(name: str, by: str, reason: str, test: bool = False) -> Done:
    """Removes an account before its time; without one nothing is done."""
    there = kept(name)
    if there is None:
        return Done(None)
    for key, value in (("by", by), ("reason", reason)):
        if not isinstance(value, str) or not value.strip():
            raise Refused(f"{key}: found {value!r}; say it, for the record. Nothing was done")
    changes = {there.name: {"old": _told(there), "new": None}}
    if not test:
        _remove(there, by, reason)
    return Done(there, changes)


def expire(name: str) -> bool:
    """Removes an account when its time is over; whether it is gone. name: or its slug.

    Needs no pillar and no master.
    """
    there = next((one for one in all_() if name in (one.name, one.slug)), None)
    if there is None:
        return True
    if not there.is_due():
        return False
    _remove(there, "the timer", "its time is over")
    return True


def sweep(host: Host, test: bool = False) -> dict[str, str]:
    """Sees to it that no account outlives its time: name → what was done, or would be.

    Those of this host, and those that OpenHIM's database or a replica set here remembers: the host
    that opened them may be lost.
    """
    done: dict[str, str] = {}
    for one in [*all_(), *_others(host)]:
        if one.is_due():
            done[one.name] = "removed, for its time was over"
            if not test:
                _keep(one)
                _remove(one, "the sweep", "its time is over")
        elif not timer.armed(one.slug):
            done[one.name] = f"given a timer, for it had none here; it ends at {one.until}"
            if not test:
                _keep(one)
                timer.arm(one.slug, one.ends, host.config_dir)
    return done


def _others(host: Host) -> list[Account]:
    """Accounts of which this host has no file, each with what can be removed here."""
    stack = settings.from_pillar(host.pillar)
    here = {one.name for one in all_()}
    found: dict[str, Account] = {}
    if stack.core_is_active(host.id):
        way = openhim_user.where(CoreHost(host.pillar, host.id), host.config_file)
        for one in openhim_user.remembered(way):
            found[one.name] = replace(one, openhim=way, mongodb={})
    for replica_set in stack.sets_on(host.id):
        way = mongodb_user.where(vantage(host.pillar, host.id, replica_set.name), host.keyfile)
        for one in mongodb_user.remembered(way):
            known = found.get(one.name, replace(one, openhim={}))
            found[one.name] = replace(known, mongodb=way)
    return [
        replace(one, phase=OPEN, handover=handover.path(one.slug, one.recipient))
        for name, one in sorted(found.items())
        if name not in here
    ]


def all_() -> list[Account]:
    """The accounts that this host has to remove, by their names."""
    folder = Path(handover.FOLDER)
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    return [one for one in found if one]


def kept(name: str) -> Account | None:
    """The account of a name; None where there is none."""
    return _read(_path(accounts.slug(name)))


def status() -> list[dict[str, Any]]:
    """Every account of this host with ``problems``: what is not as it should be."""
    found = []
    for one in all_():
        problems = [] if timer.armed(one.slug) else ["no timer will remove it"]
        if one.phase != OPEN:
            problems.append(f"it is {one.phase}, which was not finished")
        if one.is_due():
            problems.append("its time is over")
        keys = ("name", "by", "reason", "opened_at", "until", "phase", "handover", "recipient")
        told = {key: getattr(one, key) for key in keys}
        found.append({**told, **_what(one), "problems": problems})
    return found


def untold() -> tuple[int, list[dict[str, Any]]]:
    """How many entries of the record were told, and those that were not."""
    try:
        number = int(Path(TOLD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        number = 0
    return number, journal.read(RECORD)[number:]


def mark_told(number: int) -> None:
    """So many entries were told."""
    files.write(TOLD, str(number).encode(), 0o600)


def words(entry: Mapping[str, Any]) -> str:
    """An entry of the record, as a person reads it."""
    what = f"The emergency account {entry['name']} of {entry['stack']} was {entry['what']}"
    if entry["what"] == CLOSED:
        return f"{what} by {entry['closed_by']} ({entry['closed_because']})."
    who = f"by {entry['by']} ({entry['reason']})"
    may = ", ".join([*entry["groups"], *entry["roles"]])
    return f"{what} {who}, until {entry['until']}. It may: {may}."


def _require_free(asked: Account) -> None:
    where = []
    if asked.openhim and openhim_user.exists(asked):
        where.append("OpenHIM")
    if asked.mongodb and mongodb_user.exists(asked):
        where.append(f"the replica set {asked.mongodb['set']}")
    if where:
        raise Refused(
            f"{' and '.join(where)} has a user {asked.name} that this host did not open for an "
            "emergency. Choose another name: an account is never laid over somebody's own"
        )


def _require_open(there: Account, asked: Account) -> None:
    accounts.require_same(there, asked)
    if there.phase == CLOSING or there.is_due():
        raise Refused(
            f"the account {there.name} was {there.words}, and is being removed; see "
            "openhim_break_glass.status"
        )
    missing = []
    if there.phase == OPEN:
        if there.openhim and not openhim_user.exists(there):
            missing.append("OpenHIM")
        if there.mongodb and not mongodb_user.exists(there):
            missing.append(f"the replica set {there.mongodb['set']}")
    if missing:
        raise OpenHIMError(
            f"the account {there.name} was {there.words}, and somebody has removed its user from "
            f"{' and '.join(missing)}. Remove the rest of it (openhim_break_glass.absent)"
        )


def _remove(there: Account, by: str, reason: str) -> None:
    _keep(replace(there, phase=CLOSING))
    Path(there.handover).unlink(missing_ok=True)
    if there.openhim:
        openhim_user.remove(there)
    if there.mongodb:
        mongodb_user.remove(there)
    _record(CLOSED, there, by, reason)
    timer.disarm(there.slug)
    _path(there.slug).unlink()


def _record(what: str, one: Account, by: str, reason: str) -> None:
    """Once for each opening and each end, also when a run is broken off after it."""
    about = {"what": what, "name": one.name, "opened_at": one.opened_at}
    if any(all(entry.get(k) == v for k, v in about.items()) for entry in journal.read(RECORD)):
        return
    ended = {"by": by, "reason": reason}
    if what == CLOSED:
        # By these words the same opening is known again.
        ended = {"by": one.by, "reason": one.reason, "closed_by": by, "closed_because": reason}
    entry = {**about, "stack": one.stack, "host": one.host, "until": one.until, **_what(one)}
    journal.append(RECORD, {**entry, **ended, "at": journal.now()})


def _what(one: Account) -> dict[str, Any]:
    return {"groups": list(one.groups), "roles": [f"{role}@{db}" for role, db in one.roles]}


def _told(one: Account) -> dict[str, Any]:
    return {"until": one.until, **_what(one)}


def _path(slug: str) -> Path:
    return Path(handover.FOLDER) / f"{slug}.json"


def _keep(one: Account) -> None:
    files.make_directory(handover.FOLDER)
    files.write(str(_path(one.slug)), json.dumps(one.plain(), indent=1).encode(), 0o600)


def _read(path: Path) -> Account | None:
    try:
        return Account.of(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenHIMError(
            f"{path} tells of an account for the emergency, and cannot be read ({error}); look "
            "for its user in OpenHIM and MongoDB, remove it, and then this file"
        ) from error
