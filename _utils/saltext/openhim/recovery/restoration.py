"""A restore in place: what is asked, whether it goes on or begins, and what came of it. Pure.

What a restore replaces is kept aside before, and both are on record in its epoch. A restore that
died is gone on with by the same command: from the record, the note in the database and the marker
that a finished one leaves there it is known how far it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery.epochs import Epoch
from saltext.openhim.recovery.figures import figures, moment

KIND = "restore"

#: Recoveries that somebody must bring to their end before the data is replaced under them.
_FIRST = ("failover", "switchover", "failback", "rebuild", "core")


@dataclass(frozen=True)
class Asked:
    """What a person asks for.

    point: ID of a restore point, ``latest`` or ``verified``. to_time: ISO 8601, or empty.
    disrupted_at: when the data was spoilt, ISO 8601, or None when it is not known. without_aside:
    whether what is there may be lost for good; then with a reason of its own.
    """

    confirm: str = ""
    point: str = ""
    to_time: str = ""
    reason: str = ""
    declared_by: str = ""
    disrupted_at: str | None = None
    without_aside: bool = False
    without_aside_reason: str = ""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Asked:
        """From what was typed; what nobody knows is refused by its name."""
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(given) - known):
            raise OpenHIMError(
                f"restore: found {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        values = {key: value for key, value in given.items() if value is not None}
        texts = {key: str(value) for key, value in values.items() if key != "without_aside"}
        return cls(**texts, without_aside=values.get("without_aside", False))

    @property
    def target(self) -> dict[str, str]:
        """What the data is to become, as it was typed."""
        return {"point": self.point or "latest", "to_time": self.to_time}

    def problems(self) -> list[str]:
        """What is wrong with it on paper."""
        found = []
        if not (self.point or self.to_time).strip():
            found.append("point: found ''; say an ID, latest or verified; or to_time")
        if self.without_aside not in (True, False):
            found.append(f"without_aside: found {self.without_aside!r}; expected true or false")
        elif self.without_aside and not self.without_aside_reason.strip():
            found.append(
                "without_aside_reason: found nothing; say why what is there now may be lost for "
                "good, it goes into the recovery record"
            )
        elif self.without_aside_reason.strip() and not self.without_aside:
            found.append("without_aside_reason: found one, and without_aside is not true; say both")
        if self.disrupted_at is not None:
            try:
                moment(self.disrupted_at, "disrupted_at")
            except OpenHIMError as error:
                found.append(str(error))
        return found


def unfinished(history: Sequence[Epoch], present: Mapping[str, Any]) -> str | None:
    """Which other recovery is to be finished first; None when there is none.

    One that moved OpenHIM to data which is half replaced cannot be: nobody serves that.
    """
    newest = history[-1] if history else None
    if present["half_replaced"] is not None:
        return None
    if newest and newest.kind in _FIRST and newest.completed_at is None:
        return f"{newest.words} is not finished; run it again, to its end, first"
    return None


def continued(history: Sequence[Epoch], asked: Asked, present: Mapping[str, Any]) -> Epoch | None:
    """The epoch of this very restore, if it is under way; None when it is to begin.

    present: as the function ``openhim_backup.present`` tells it. A restore that was declared and
    had not begun goes on only where nothing was written since: what was written is not kept aside.
    """
    newest = history[-1] if history else None
    if newest is None or newest.kind != KIND or newest.completed_at is not None:
        return None
    if newest.evidence["asked"] != asked.target:
        return None
    going_on = (
        replaced(newest, present)
        or _of_the_note(history, present) is not None
        or (
            present["half_replaced"] is None
            and newest.evidence["last_write"] == present["last_write"]
        )
    )
    return newest if going_on else None


def replaced(epoch: Epoch, present: Mapping[str, Any]) -> bool:
    """Whether the data was replaced whole in an epoch."""
    marker = present["restored"]
    return bool(marker and marker.get("epoch_id") == epoch.id and present["half_replaced"] is None)


def inherited(history: Sequence[Epoch], present: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was kept aside by a restore that left the data half replaced; None where none did.

    What is there then is nothing that ever was, and the state before it is what that one kept.
    """
    epoch = _of_the_note(history, present)
    if epoch is None:
        return None
    return {
        "aside": {**epoch.evidence["aside"], "by_epoch": epoch.number},
        "last_write": epoch.evidence["last_write"],
    }


def _of_the_note(history: Sequence[Epoch], present: Mapping[str, Any]) -> Epoch | None:
    note = present["half_replaced"]
    if note is None or not note.get("epoch_id"):
        return None
    own = (epoch for epoch in history if epoch.kind == KIND and epoch.id == note["epoch_id"])
    return next(own, None)


def amid_another(history: Iterable[Epoch], to_time: str) -> str | None:
    """Why a time is none that anybody should go back to: the data was being replaced then."""
    wanted = moment(to_time, "to_time")
    for epoch in history:
        if epoch.kind != KIND:
            continue
        begun = moment(epoch.evidence["minted_at"], "minted_at")
        end = (epoch.result or {}).get("served_at")
        if begun < wanted and (end is None or wanted < moment(end, "served_at")):
            until = f"to {end}" if end else "on, for it is not finished"
            return (
                f"to_time: found {to_time}; from {epoch.evidence['minted_at']} {until} the data "
                f"was being replaced by {epoch.words}. Choose a time before or after"
            )
    return None


def next_epoch(stack: str, declared: Mapping[str, Any], newest: Epoch | None) -> dict[str, Any]:
    """The values of the epoch of a restore: but for the history, the reality stays what it is.

    declared: ``openhim`` in the pillar.
    """
    profile = declared.get("profile", "production")
    if newest is None:
        return {
            "stack": stack,
            "parent": None,
            "kind": KIND,
            "active_site": declared["active_site"],
            "profile": profile,
            "lost_sites": (),
        }
    return {
        "stack": stack,
        "parent": newest.id,
        "kind": KIND,
        "active_site": newest.active_site,
        # Once a site is back, the declared profile holds again.
        "profile": profile if newest.rejoined else newest.profile,
        "lost_sites": newest.still_lost,
        "witnesses": newest.witnesses,
    }


def gives_up(
    until: Mapping[str, str], last_write: Mapping[str, Mapping[str, Any] | None]
) -> float | None:
    """Seconds from the newest time that is restored to the last write before; None if not known.

    until: by set, ISO 8601. last_write: by set, with its ``wall`` (ISO 8601).
    """
    found = []
    for name, time in until.items():
        write = last_write.get(name)
        if write is None:
            return None
        behind = moment(write["wall"], "last_write") - moment(time, "until")
        found.append(max(0.0, behind.total_seconds()))
    return round(max(found), 3) if found else None


def result(epoch: Epoch, served_at: str) -> dict[str, Any]:
    """RPO and RTO of a restore that serves, and what was kept aside; times are ISO 8601."""
    evidence = epoch.evidence
    found = figures(
        epoch.disrupted_at, epoch.declared_at, served_at, list(evidence["until"].values())
    )
    rpo = gives_up(evidence["until"], evidence["last_write"])
    notes = [note for note in found["notes"] if not note.startswith("RPO ")]
    if epoch.disrupted_at is None:
        notes.append("RTO from the disruption is not known, because nobody said when it was")
    notes.append(
        "RPO is not known, because the last write before was not found in time"
        if rpo is None
        else "RPO is the time from the newest that is restored to the last write before; what was "
        "written in between is given up"
    )
    kept = evidence["aside"]
    if "point" in kept:
        notes.append(f"what was given up is kept aside as {kept['point']} in {kept['repository']}")
    return {
        **found,
        "rpo_seconds": rpo,
        "notes": notes,
        "point": evidence["point"],
        "to_time": evidence["to_time"],
        "aside": kept,
    }
