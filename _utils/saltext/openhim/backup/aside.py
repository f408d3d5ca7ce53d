"""The data that a restore is about to replace, kept aside before it does.

Corrupt data is evidence, may be all there is, and somebody may have named the wrong restore point.
So it becomes a restore point of its own, which retention spares for ``keep_aside_days``, and which
nobody takes for the newest backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import Timestamp
from saltext.openhim.backup import points, present, work
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.present import Write
from saltext.openhim.backup.to_time import Way, text
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.status import until

#: Seconds for the member that is read to have the last write.
CATCH_UP = 300.0
#: Whose task it is.
_TASK = "keeping the present data aside"


@dataclass(frozen=True)
class Kept:
    """Where the present data is kept aside; taken: whether it had to be taken now."""

    point: RestorePoint
    repository: str
    taken: bool = False


def last_writes(backups: Backups) -> dict[str, Write | None]:
    """Set → the last write to OpenHIM's databases in it; None where it was not found in time."""
    found = {}
    for name, databases in sorted(backups.databases().items()):
        with work.primary(backups, name) as client:
            found[name] = present.last_write(client, databases)
    return found


def half_replaced(backups: Backups) -> dict[str, Any] | None:
    """What the restore noted that did not come to its end; None when the data is whole."""
    main = backups.stack.databases["main"]
    with work.primary(backups, main.replica_set.name) as client:
        return present.half_replaced(client, main.name)


def foreseen(backups: Backups) -> str:
    """The repository into which :func:`keep` would take the present data; it is asked now.

    Raises :class:`~saltext.openhim.errors.Refused` with what speaks against it.
    """
    backups.require_role("taken_by", _TASK)
    note = half_replaced(backups)
    if note is not None:
        raise present.HalfReplaced(
            f"{present.words(note)}: there is no present data that could be kept aside. Run that "
            "restore again, to its end"
        )
    reasons = []
    for name in backups.first:
        try:
            backups.repository(name).snapshots(["part=manifest"])
        except OpenHIMError as error:
            reasons.append(f"{name}: {error}")
        else:
            return name
    raise _refused(reasons)


def standing(backups: Backups) -> Kept | None:
    """Where the present data is kept aside already: nothing was written since. None where not.

    A repository that cannot be reached holds nothing that one could go back to now.
    """
    writes = last_writes(backups)
    if not all(writes.values()):
        return None
    for name in backups.first:
        try:
            known = points.listing(backups.repository(name), backups.stack.name).points
        except OpenHIMError:
            continue
        for point in reversed(known):
            if point.aside and not _misses(point, writes):
                return Kept(point, name)
    return None


def keep(backups: Backups, by: str, why: str, progress: work.Tell = None) -> Kept:
    """Takes the present data into the first repository that will have it, and reads it back.

    OpenHIM must not write meanwhile. Data that is kept already is not taken once more.

    by, why: for those who read the manifest later.

    Raises :class:`~saltext.openhim.errors.Refused` with what each repository said.
    """
    foreseen(backups)
    found = standing(backups)
    if found:
        return found
    _caught_up(backups)
    reasons = []
    for name in backups.first:
        try:
            with work.patience(CATCH_UP):
                point = work.take(backups, by, why, name, progress, aside=True)
        except OpenHIMError as error:
            reasons.append(f"{name}: {error}")
            continue
        return Kept(_read_back(backups, point, name), name, taken=True)
    raise _refused(reasons)


def way_back(stack: str, point: str) -> str:
    """The command that brings back what was kept aside."""
    return (
        "salt-run state.orchestrate orch.restore pillar='"
        f'{{"restore": {{"confirm": "{stack}", "point": "{point}", "declared_by": "<who>", '
        '"reason": "<why>"}}\''
    )


def until_when(way: Way) -> dict[str, str]:
    """Set → the newest time that a way restores, in ISO 8601."""
    if way.to:
        return {one.name: text(way.to) for one in way.point.manifest.replica_sets}
    return {name: text(Timestamp(*at)) for name, at in way.point.manifest.times().items()}


def told(backups: Backups) -> dict[str, Any]:
    """How the data is that is there now, as plain values.

    Returns ``last_write`` (by set), ``half_replaced``, ``aside`` (``point`` and ``repository``) and
    ``restored`` (the newest marker); each None where there is none.
    """
    note, kept = half_replaced(backups), standing(backups)
    markers = work.restored(backups)
    return {
        "last_write": {
            name: write.told() if write else None for name, write in last_writes(backups).items()
        },
        "half_replaced": _plain(note),
        "aside": {"point": kept.point.id, "repository": kept.repository} if kept else None,
        "restored": _plain(markers[-1]) if markers else None,
    }


def restorable(
    backups: Backups, point: str, to_time: str | None = None, repository: str | None = None
) -> dict[str, Any]:
    """What a restore would bring back, and whether what is there can be kept aside before.

    Parameters and errors are those of :func:`saltext.openhim.backup.work.restore`; changes nothing.
    """
    way = work.foreseen(backups, point, repository, True, to_time)
    verdict = way.point.verdict
    into, refused = None, None
    try:
        into = foreseen(backups)
    except OpenHIMError as error:
        refused = str(error)
    return {
        "point": way.point.id,
        "repository": way.repository,
        "to_time": way.time,
        "until": until_when(way),
        "verified": way.point.verified,
        "failed": "; ".join(verdict.reasons) or "no reason is recorded"
        if verdict and not verdict.ok
        else None,
        "keep_aside": into,
        "keep_aside_refused": refused,
        "present": told(backups),
    }


def _plain(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """With times as text."""
    if found is None:
        return None
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in found.items()
    }


def _caught_up(backups: Backups) -> None:
    """Waits until the members that are read have the last write: a secondary may be behind."""
    for name, write in last_writes(backups).items():
        if write and not until(lambda: _has(backups, name, write), CATCH_UP, poll=0.5):  # noqa: B023
            raise Refused(
                f"the member of {name} that would be read does not have the last write, of "
                f"{write.wall:%Y-%m-%d %H:%M:%S} UTC, after {CATCH_UP:.0f} s; see why it is behind"
            )


def _has(backups: Backups, name: str, write: Write) -> bool:
    with backups.source(name) as client:
        hello = client.admin.command("hello")
    newest: Timestamp = hello["lastWrite"]["majorityOpTime"]["ts"]
    return newest >= write.ts


def _read_back(backups: Backups, point: RestorePoint, name: str) -> RestorePoint:
    """It is listed as committed, and has the last write."""
    listed = points.listing(backups.repository(name), backups.stack.name).point(point.id)
    missing = list(_misses(listed, last_writes(backups)))
    if missing:
        raise Refused(
            f"{point.id} was kept aside in {name}, and does not have all of {', '.join(missing)}: "
            "somebody wrote meanwhile. Stop whoever writes, and restore again"
        )
    return listed


def _misses(point: RestorePoint, writes: Mapping[str, Write | None]) -> list[str]:
    """The sets of which a restore point lacks the last write, as far as that is known."""
    times = point.manifest.times()
    return [
        name
        for name, write in writes.items()
        if write and (name not in times or Timestamp(*times[name]) < write.ts)
    ]


def _refused(reasons: Sequence[str]) -> Refused:
    return Refused(
        f"the present data cannot be kept aside: {'; '.join(reasons)}. Bring one of these "
        "repositories back, or make room in it; or say without_aside: true, and why "
        "(without_aside_reason), if what is there now may be lost for good"
    )
