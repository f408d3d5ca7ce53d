"""Keeps what declares channels from undoing emergency mode.

A channel that is declared and not critical is not put on while an emergency lasts; one that is new
is made off, and held, so that the end of the emergency puts it on. All else that is declared of it
is written, and does not count as somebody's change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from saltext.openhim.core.api import Api
from saltext.openhim.core.host import CoreHost
from saltext.openhim.emergency import memory, mode, switch
from saltext.openhim.emergency.mode import Channel, Held, Mode


def kept_off(
    now: Mode | None, wanted: Mapping[str, Any], actual: Channel | None
) -> tuple[dict[str, Any], str]:
    """A declared channel as an emergency allows it, and what is to be told of it, if anything.

    now: the emergency, None when there is none. wanted: the channel as declared. actual: as OpenHIM
    has it, None when it has not.
    """
    allowed = dict(wanted)
    name = allowed["name"]
    if now is None or name in now.critical or name in switch.STAYS:
        return allowed, ""
    if allowed.get("status", mode.ENABLED) != mode.ENABLED:
        return allowed, ""
    note = f"it is kept off while emergency mode lasts, {now.words}"
    if actual is None or mode.status(actual) == mode.DELETED:
        return {**allowed, "status": mode.DISABLED}, note
    # Whether one is off that says nothing of its status, and is not held, is not our business.
    ours = "status" in allowed or any(one.name == name for one in now.keeps)
    allowed.pop("status", None)
    return allowed, note if ours and mode.status(actual) == mode.DISABLED else ""


def hold_new(core: CoreHost, name: str) -> None:
    """Remembers a channel that is about to be made off, so that it is put on in the end."""
    with memory.opened(core) as kept:
        now = kept.current()
        if now and not any(one.name == name for one in now.keeps):
            held = (*now.held, Held(name, "", mode.ENABLED, ""))
            kept.keep(replace(now, held=held))


@contextmanager
def ours(core: CoreHost, api: Api) -> Iterator[None]:
    """What is written to held channels in this block is the declaration's, and not an operator's.

    One that somebody had changed before stays a changed one. A run that is broken off in the block
    leaves the channel as one that was changed: it is told in the end, and stays off.
    """
    with memory.opened(core) as kept:
        now = kept.current()
        before = _untouched(now, api.get("channels")) if now else set()
    yield
    if not before:
        return
    live = api.get("channels")
    with memory.opened(core) as kept:
        now = kept.current()
        if now:
            held = tuple(_taken(one, live) if one.name in before else one for one in now.held)
            if held != now.held:
                kept.keep(replace(now, held=held))


def _untouched(now: Mode, live: Sequence[Channel]) -> set[str]:
    """The names of held channels that are as they were, or are still to be made."""
    names = set()
    for one in now.keeps:
        channel = mode.found(one, live)
        if not one.digest or (channel and mode.digest(channel) == one.digest):
            names.add(one.name)
    return names


def _taken(one: Held, live: Sequence[Channel]) -> Held:
    channel = mode.found(one, live)
    if one.outcome or channel is None:
        return one
    return replace(one, id=channel["_id"], digest=mode.digest(channel))
