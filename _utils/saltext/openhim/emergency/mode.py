"""What emergency mode wants of OpenHIM's channels, and what leaving it gives back. Pure.

A channel that is put off is *held*: its status of before is remembered together with a digest of
everything else in it, so that at the end one that somebody changed is told from one that is as it
was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from saltext.openhim.errors import Refused

Channel = Mapping[str, Any]

ENABLED, DISABLED, DELETED = "enabled", "disabled", "deleted"

#: Phases of an emergency. In all but the last one nothing of this package puts channels on.
ENTERING, ON, LEAVING, OVER = "entering", "on", "leaving", "over"

#: What became of a held channel.
RESTORED = "put on again"
GONE = "deleted meanwhile, so nothing is put on"
MEANWHILE = "put on by somebody meanwhile, and left so"
CHANGED = "changed by somebody meanwhile, and left off; look at it, and put it on by hand"

#: What OpenHIM writes by itself, and what emergency mode itself changes.
_NOT_COMPARED = ("_id", "__v", "updatedBy", "lastBodyCleared", "status")


@dataclass(frozen=True)
class Held:
    """One channel that emergency mode keeps off.

    id: OpenHIM's; empty for one that is about to be made. before: the status that it had. digest:
    of all else in it. releasing: it is about to be put on again. outcome: what became of it; empty
    while it is held.
    """

    name: str
    id: str
    before: str
    digest: str
    releasing: bool = False
    outcome: str = ""


@dataclass(frozen=True)
class Mode:
    """One emergency, from its first moment to its last.

    number: the first is 1. critical: names of the channels that stay. entered, left: ``by``,
    ``reason`` and ``at`` (ISO 8601). revision: counts what was written of it.
    """

    number: int
    stack: str
    phase: str
    critical: tuple[str, ...]
    entered: Mapping[str, str]
    left: Mapping[str, str] | None = None
    held: tuple[Held, ...] = ()
    revision: int = 0

    @property
    def keeps(self) -> tuple[Held, ...]:
        """The channels that are held now."""
        return tuple(one for one in self.held if not one.outcome)

    @property
    def words(self) -> str:
        """Since when, by whom and why."""
        entered = self.entered
        return f"since {entered['at']} by {entered['by']} ({entered['reason']})"

    def plain(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Mode:
        """What :meth:`plain` gave; keys of newer versions are passed over."""
        known = {key: stored[key] for key in cls.__dataclass_fields__ if key in stored}
        held = tuple(
            Held(**{key: one[key] for key in Held.__dataclass_fields__ if key in one})
            for one in stored["held"]
        )
        return cls(**{**known, "critical": tuple(stored["critical"]), "held": held})


@dataclass(frozen=True)
class Step:
    """Where to: the emergency as it is to be stored, and what changes by it, for a person."""

    mode: Mode
    changes: Mapping[str, Any] = field(default_factory=dict)


def digest(channel: Channel) -> str:
    """Of everything in a channel but its status and what OpenHIM writes by itself."""
    rest = {key: value for key, value in channel.items() if key not in _NOT_COMPARED}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def status(channel: Channel) -> str:
    """A channel's status; OpenHIM takes one without for enabled."""
    return str(channel.get("status") or ENABLED)


def critical_channels(channels: Iterable[Channel], names: Sequence[str]) -> list[Channel]:
    """The channels of these names.

    Raises :class:`~saltext.openhim.errors.Refused` when no name is given, or one names no channel,
    or several.
    """
    if not names:
        raise Refused(
            "no critical channel is named: found nothing in openhim:plan:emergency_mode:channels. "
            "Declare the channels that stay on, or name them"
        )
    living = [one for one in channels if status(one) != DELETED]
    counted = Counter(one["name"] for one in living)
    problems = []
    for name in dict.fromkeys(names):
        if not counted[name]:
            known = ", ".join(sorted(counted)) or "none"
            problems.append(f"the critical channel {name!r} is not in OpenHIM; there are: {known}")
        elif counted[name] > 1:
            ids = ", ".join(one["_id"] for one in living if one["name"] == name)
            problems.append(
                f"the critical channel {name!r} is ambiguous: OpenHIM has {counted[name]} channels "
                f"of that name ({ids}). Rename or delete all but one"
            )
    if problems:
        raise Refused("nothing was changed:\n" + "\n".join(problems))
    return [one for one in living if one["name"] in set(names)]


def entering(
    mode: Mode | None,
    channels: Sequence[Channel],
    names: Sequence[str],
    stays: Sequence[str],
    new: Mode,
) -> Step:
    """What is to be done so that only the critical channels are on.

    mode: the present emergency, None when there is none. names: the critical channels. stays: names
    of further channels that stay as they are, if they exist. new: the emergency to begin with.

    Raises :class:`~saltext.openhim.errors.Refused` as :func:`critical_channels` does, and when the
    last emergency is about to be left.
    """
    if mode and mode.phase == LEAVING:
        raise Refused(
            f"emergency mode ({mode.words}) is being left, which was begun at {mode.left['at']} "  # type: ignore[index]
            "and not finished: finish it first"
        )
    kept = {one["_id"] for one in critical_channels(channels, names)}
    kept |= {one["_id"] for one in channels if one["name"] in stays}
    off = [one for one in channels if status(one) == ENABLED and one["_id"] not in kept]
    changes: dict[str, Any] = {one["name"]: _change(ENABLED, DISABLED) for one in off}
    # One that is held and on was put on meanwhile; it is put off anew, as it is now.
    again = {one["_id"] for one in off}
    old = [one for one in (mode.held if mode else ()) if one.outcome or one.id not in again]
    held = [
        *(_released(one, channels) if one.id in kept and not one.outcome else one for one in old),
        *(Held(one["name"], one["_id"], ENABLED, digest(one)) for one in off),
    ]
    changes |= {
        one.name: _change(DISABLED, one.before) for one in held if one.releasing and not one.outcome
    }
    if mode is None or mode.phase != ON:
        changes["emergency mode"] = _change("off" if mode is None else mode.phase, ON)
    elif sorted(mode.critical) != sorted(names):
        changes["critical channels"] = _change(", ".join(mode.critical), ", ".join(names))
    begun = mode or new
    return Step(
        replace(begun, phase=ENTERING, critical=tuple(names), held=tuple(held)),
        changes,
    )


def leaving(mode: Mode, channels: Sequence[Channel], left: Mapping[str, str]) -> Step:
    """What is to be done so that everything is as it was. left: by whom, why, when."""
    held = tuple(one if one.outcome else _released(one, channels) for one in mode.held)
    changes = {one.name: _change(DISABLED, one.before) for one in held if not one.outcome}
    changes["emergency mode"] = _change(mode.phase, "off")
    return Step(replace(mode, phase=LEAVING, left=mode.left or left, held=held), changes)


def settled(mode: Mode, channels: Sequence[Channel], phase: str) -> Mode:
    """The emergency after what was to be done: with what became of the released channels."""
    held = tuple(
        _outcome(one, channels) if one.releasing and not one.outcome else one for one in mode.held
    )
    return replace(mode, phase=phase, held=held)


def unfinished(mode: Mode, channels: Sequence[Channel], stays: Sequence[str]) -> list[str]:
    """What is not as the emergency wants it, in words."""
    kept = {*mode.critical, *stays}
    if mode.phase in (ENTERING, ON):
        found = [
            f"{one['name']} is on"
            for one in channels
            if status(one) == ENABLED and one["name"] not in kept
        ]
    else:
        found = []
    return found + [
        f"{one.name} is still off"
        for one in mode.held
        if one.releasing and not one.outcome and not _outcome(one, channels).outcome
    ]


def told(mode: Mode) -> dict[str, str]:
    """What became of the channels that were not simply put on again: name → words."""
    return {one.name: one.outcome for one in mode.held if one.outcome not in ("", RESTORED)}


def found(held: Held, channels: Iterable[Channel]) -> Channel | None:
    """The channel that is held, or None when it is gone. One without ID is found by its name."""
    for one in channels:
        same = one["_id"] == held.id if held.id else one["name"] == held.name
        if same and status(one) != DELETED:
            return one
    return None


def _released(held: Held, channels: Sequence[Channel]) -> Held:
    """A held channel that is to be put on: marked so, or with its outcome where it is not."""
    channel = found(held, channels)
    if channel is None:
        return replace(held, outcome=GONE)
    if status(channel) == ENABLED:
        return replace(held, outcome=RESTORED if held.releasing else MEANWHILE)
    # One that the state tree made just off has no digest yet if that run was broken off.
    if held.digest and digest(channel) != held.digest:
        return replace(held, releasing=False, outcome=CHANGED)
    return replace(held, releasing=True)


def _outcome(held: Held, channels: Sequence[Channel]) -> Held:
    channel = found(held, channels)
    if channel is None:
        return replace(held, outcome=GONE)
    return replace(held, outcome=RESTORED) if status(channel) == held.before else held


def _change(old: str, new: str) -> dict[str, str]:
    return {"old": old, "new": new}
