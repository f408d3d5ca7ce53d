"""Enters and leaves emergency mode, through OpenHIM's API.

What was is in the database before the first channel is touched, and every step looks at what is
so: a run that was broken off anywhere is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saltext.openhim import journal
from saltext.openhim.core import synthetic
from saltext.openhim.core.api import Api
from saltext.openhim.core.host import CoreHost
from saltext.openhim.emergency import memory, mode, protection
from saltext.openhim.emergency.mode import Channel, Mode
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.settings import STATE_DIRECTORY

#: The host's own record of entries and exits.
RECORD = f"{STATE_DIRECTORY}/emergency.jsonl"

ENTERED, LEFT = "entered", "left"

#: The proof of service stays in an emergency: its upstream is OpenHIM's own host.
STAYS = (synthetic.CHANNEL,)


@dataclass(frozen=True)
class Done:
    """What a run did, or would do. recorded: the entry that is new in the record, to be announced;
    None when there is none. mode: the emergency, None when there is none.
    """

    mode: Mode | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, Any] | None = None


def named(core: CoreHost, channels: Sequence[str] | None = None) -> tuple[str, ...]:
    """The critical channels: those given, or those of ``openhim:plan:emergency_mode``."""
    plan = (core.stack.declared.get("plan") or {}).get("emergency_mode") or {}
    return tuple(channels if channels is not None else plan.get("channels") or ())


def enter(
    core: CoreHost,
    by: str,
    reason: str,
    channels: Sequence[str] | None = None,
    *,
    test: bool = False,
    record: str = "",
) -> Done:
    """Lets only critical channels work, and remembers the others.

    by: who decides. reason: why. channels: names of those that stay; the plan's by default. test:
    only tell. record: the file of the host's record;
    :data:`RECORD` when left out.

    Raises :class:`~saltext.openhim.errors.Refused` when audit or TLS is off, or a critical channel
    is missing or ambiguous; nothing was changed then.
    """
    names = named(core, channels)
    api = core.api()
    with memory.opened(core) as kept:
        now = kept.current()
        if now is None or now.phase == mode.ENTERING:
            _require_words(by, reason)
        live = api.get("channels")
        step = mode.entering(now, live, names, STAYS, _new(core, kept, names, by, reason))
        if step.changes:
            protection.require(core, api)
        off = _already_off(live, names)
        if test or not step.changes:
            entry = None if test or now is None else _own(core, _entry(now, ENTERED))
            return Done(now, step.changes, off, _recorded(entry, record))
        written = kept.keep(step.mode)
        after = _carried_out(api, written)
        written = kept.keep(mode.settled(written, after, mode.ON))
    return Done(written, step.changes, off, _recorded(_entry(written, ENTERED), record))


def leave(core: CoreHost, by: str, reason: str, *, test: bool = False, record: str = "") -> Done:
    """Puts back what was. Parameters as in :func:`enter`; without an emergency nothing is done.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when a channel could not be put on: the
    emergency goes on then, and the next run goes on with it.
    """
    api = core.api()
    with memory.opened(core) as kept:
        now = kept.current()
        if now is None:
            ended = kept.all()[-1:]
            entry = None if test or not ended else _own(core, _entry(ended[0], LEFT))
            return Done(None, recorded=_recorded(entry, record))
        if now.left is None:
            _require_words(by, reason)
        step = mode.leaving(now, api.get("channels"), _who(core, by, reason))
        if test:
            return Done(now, step.changes, mode.told(step.mode))
        written = kept.keep(step.mode)
        after = _carried_out(api, written)
        written = kept.keep(mode.settled(written, after, mode.OVER))
    return Done(None, step.changes, mode.told(written), _recorded(_entry(written, LEFT), record))


def status(core: CoreHost) -> dict[str, Any]:
    """How it is now: the emergency, the live channels, audit and TLS.

    ``problems`` names what is not as emergency mode wants it; outside of one it is empty.
    """
    api = core.api()
    now = memory.current(core)
    live = [one for one in api.get("channels") if mode.status(one) != mode.DELETED]
    found, problems = protection.look(core, api)
    wrong = [*problems, *mode.unfinished(now, live, STAYS)] if now else []
    if now and now.phase != mode.ON:
        wrong.append(f"it is {now.phase}, and that was not finished; run the state again")
    return {
        "on": now is not None,
        "phase": now.phase if now else None,
        "number": now.number if now else None,
        **{key: now.entered[key] if now else None for key in ("by", "reason", "at")},
        "critical": list(now.critical) if now else list(named(core)),
        "held": sorted(one.name for one in now.keeps) if now else [],
        "enabled": sorted(one["name"] for one in live if mode.status(one) == mode.ENABLED),
        "protection": found,
        "problems": wrong,
    }


def history(core: CoreHost) -> list[dict[str, Any]]:
    """Every entry and exit that the database remembers, the oldest first."""
    with memory.opened(core) as kept:
        return [
            entry
            for one in kept.all()
            for entry in (_entry(one, ENTERED), _entry(one, LEFT))
            if entry
        ]


def emergencies(core: CoreHost) -> list[dict[str, Any]]:
    """Every emergency as evidence: the oldest first; what is not over has no ``left_at``."""
    with memory.opened(core) as kept:
        return [_evidence(one) for one in kept.all()]


def _evidence(one: Mode) -> dict[str, Any]:
    # What is not over tells nothing that changes from one look to the next but what was put off.
    left = (one.left or {}) if one.phase == mode.OVER else {}
    return {
        "number": one.number,
        "entered_at": one.entered["at"],
        "entered_by": one.entered["by"],
        "reason": one.entered["reason"],
        "critical": list(one.critical),
        "off": sorted(each.name for each in one.held),
        "left_at": left.get("at"),
        "left_by": left.get("by"),
        "left_because": left.get("reason"),
        "told": mode.told(one) if left else {},
    }


def words(entry: Mapping[str, Any]) -> str:
    """An entry of the record, as a person reads it."""
    who = f"by {entry['by']} ({entry['reason']})"
    if entry["what"] == ENTERED:
        critical = ", ".join(entry["critical"])
        return f"Emergency mode of {entry['stack']} was entered {who}. Only these work: {critical}."
    told = "".join(f" {name}: {each}." for name, each in sorted(entry["told"].items()))
    return f"Emergency mode of {entry['stack']} was left {who}.{told}"


def _carried_out(api: Api, wanted: Mode) -> list[Channel]:
    """Puts channels off and on as an emergency wants it, and returns them as they are then.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when something is otherwise in the end; all
    that could be done is done then.
    """
    live = api.get("channels")
    failures = []
    for one in wanted.keeps:
        channel = mode.found(one, live)
        status_wanted = one.before if one.releasing else mode.DISABLED
        if channel is None or mode.status(channel) == status_wanted:
            continue
        try:
            api.put("channels", channel["_id"], body={"status": status_wanted})
        except OpenHIMError as error:
            failures.append(f"{one.name}: {error}")
    after = list(api.get("channels"))
    left = mode.unfinished(wanted, after, STAYS)
    if left or failures:
        raise OpenHIMError(
            "emergency mode is not as it should be: " + "; ".join([*left, *failures]) + ". What "
            "was before is remembered; put it right, and run the same again"
        )
    return after


def _already_off(channels: Iterable[Channel], names: Sequence[str]) -> dict[str, str]:
    """Critical channels that are off: they were so before, and nobody asked to put them on."""
    return {
        one["name"]: "is critical, was off before, and stays so; put it on if it is needed"
        for one in channels
        if one["name"] in names and mode.status(one) == mode.DISABLED
    }


def _new(core: CoreHost, kept: memory.Memory, names: Sequence[str], by: str, reason: str) -> Mode:
    return Mode(
        kept.next_number(), core.stack.name, mode.ENTERING, tuple(names), _who(core, by, reason)
    )


def _who(core: CoreHost, by: str, reason: str) -> dict[str, str]:
    return {"by": by, "reason": reason, "at": journal.now(), "host": core.host.id}


def _require_words(by: str, reason: str) -> None:
    for name, value, what in (("by", by, "who decides"), ("reason", reason, "why")):
        if not isinstance(value, str) or not value.strip():
            raise Refused(f"{name}: found {value!r}; say {what}, for the record. Nothing was done")


def _entry(one: Mode, verb: str) -> dict[str, Any] | None:
    """What the record says of an entry or an exit; None for one that is not finished."""
    held = sorted(each.name for each in one.held)
    about = {"emergency": one.number, "stack": one.stack, "what": verb}
    if verb == LEFT:
        if one.phase != mode.OVER or one.left is None:
            return None
        return {**about, **one.left, "since": one.entered["at"], "told": mode.told(one)}
    if one.phase == mode.ENTERING:
        return None
    return {**about, **one.entered, "critical": list(one.critical), "off": held}


def _own(core: CoreHost, entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """An entry of this host's own; what a broken-off run left out is added by the same host."""
    return entry if entry and entry["host"] == core.host.id else None


def _recorded(entry: Mapping[str, Any] | None, record: str) -> Mapping[str, Any] | None:
    """Appends an entry to the host's record, unless it is there; the entry when it is new."""
    record = record or RECORD
    if entry is None:
        return None
    key = ("emergency", "what", "at")
    if any(all(one.get(k) == entry[k] for k in key) for one in journal.read(record)):
        return None
    journal.append(record, entry)
    return entry
