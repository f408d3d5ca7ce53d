"""How the backups are: one function judges, and everything else shows what it said.

The judgement is pure: observations in, a state with its reasons out. Unknown is not ok: what could
not be looked at is told as unknown, and a judgement that grows old becomes unknown as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import files, settings
from saltext.openhim.backup import bundle, points, retention
from saltext.openhim.backup.declaration import MAX_AGE, Backups
from saltext.openhim.backup.oplog import declared, health
from saltext.openhim.errors import OpenHIMError

OK = "ok"
DEGRADED = "degraded"
FAILING = "failing"
UNKNOWN = "unknown"
#: From the best to the worst; a person must be told of everything but the first.
STATES = (OK, DEGRADED, UNKNOWN, FAILING)

#: Seconds that another clock may be ahead of ours.
_TOLERANCE = retention.CLOCK_TOLERANCE.total_seconds()

#: The last judgement of this host, for the beacon: it must not talk to a server.
FILE = f"{settings.STATE_DIRECTORY}/backup-status.json"


@dataclass(frozen=True)
class Seen:
    """What a look at one repository showed.

    error: why it could not be looked at. newest, verified: the moments (seconds since 1970) that
    the newest restore point shows, and the newest that was verified. failed_verification: why the
    newest that was judged at all is bad. future: IDs of restore points whose time has not come.
    """

    error: str = ""
    points: int = 0
    newest: float | None = None
    newest_id: str = ""
    verified: float | None = None
    verified_id: str = ""
    failed_verification: str = ""
    future: Sequence[str] = ()
    leftovers: int = 0
    broken: Sequence[str] = ()
    unreadable: int = 0
    copy: bool = False


@dataclass(frozen=True)
class Limits:
    """What is allowed, in seconds."""

    max_age: float = MAX_AGE
    max_unverified: float = 604800


@dataclass
class Judgement:
    """A state with its reasons, and the figures behind it."""

    state: str
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def judge_repository(seen: Seen, limits: Limits, now: float) -> Judgement:
    """The state of one repository. now: seconds since 1970."""
    if seen.error:
        return Judgement(UNKNOWN, [f"it could not be looked at: {seen.error}"])
    figures = {
        "restore_points": seen.points,
        "newest": seen.newest_id or None,
        "newest_age_seconds": _age(seen.newest, now),
        "verified": seen.verified_id or None,
        "verified_age_seconds": _age(seen.verified, now),
        "leftovers": seen.leftovers,
        "broken": len(seen.broken),
    }
    failing, degraded = [], []
    if seen.newest is None:
        failing.append("it holds no restore point")
    elif seen.newest - now > _TOLERANCE:
        failing.append(
            f"its newest restore point {seen.newest_id} is of the future: set the clocks"
        )
    elif now - seen.newest > limits.max_age:
        failing.append(
            f"its newest restore point {seen.newest_id} shows what was "
            f"{in_words(now - seen.newest)} ago, allowed are {in_words(limits.max_age)}"
        )
    if seen.newest is not None and seen.verified is None:
        degraded.append("none of its restore points was ever verified")
    elif seen.verified is not None and now - seen.verified > limits.max_unverified:
        degraded.append(
            f"its newest verified restore point {seen.verified_id} shows what was "
            f"{in_words(now - seen.verified)} ago, allowed are {in_words(limits.max_unverified)}"
        )
    if seen.failed_verification:
        failing.append(
            f"the newest of its restore points that was judged did not verify: "
            f"{seen.failed_verification}"
        )
    degraded += [
        f"the restore point {point} is of the future: a clock was wrong, or somebody forged it"
        for point in seen.future
    ]
    degraded += [f"a restore point cannot be used: {reason}" for reason in seen.broken]
    if seen.unreadable:
        degraded.append(f"{seen.unreadable} of its snapshots cannot be read; check the repository")
    state = FAILING if failing else DEGRADED if degraded else OK
    return Judgement(state, failing + degraded, figures)


def judge(repositories: Mapping[str, Judgement]) -> Judgement:
    """The state of all: one bad repository beside a good one is a degradation, not a failure."""
    if not repositories:
        return Judgement(UNKNOWN, ["this host can look at no repository"])
    reasons = [
        f"{name}: {reason}" for name, found in repositories.items() for reason in found.reasons
    ]
    states = {found.state for found in repositories.values()}
    if states == {OK}:
        state = OK
    elif states & {OK, DEGRADED}:
        state = DEGRADED
    else:
        state = FAILING if FAILING in states else UNKNOWN
    return Judgement(state, reasons)


def worst(states: Sequence[str]) -> str:
    """The worst of several states; unknown when there is none."""
    return max(states, key=STATES.index, default=UNKNOWN)


def fleet(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a stack's backups from what every host with a task says; the worst counts."""
    return {
        "state": worst([str(one["state"]) for one in said.values()]),
        "reasons": [
            f"{host}: {reason}" for host, one in said.items() for reason in one.get("reasons", ())
        ],
        "hosts": {host: dict(one) for host, one in said.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """What :func:`fleet` says, for a person: a line per host and repository, then the reasons."""
    rows = [("HOST", "REPOSITORY", "STATE", "NEWEST", "VERIFIED", "POINTS")]
    for host, said in found["hosts"].items():
        repositories = said.get("repositories") or {}
        for name, one in repositories.items():
            figures = one["figures"]
            rows.append(
                (
                    host,
                    name,
                    one["state"],
                    _ago(figures.get("newest_age_seconds")),
                    _ago(figures["verified_age_seconds"])
                    if "verified_age_seconds" in figures
                    else "-",
                    str(figures.get("restore_points", "?")),
                )
            )
        if not repositories:
            rows.append((host, "?", said["state"], "?", "?", "?"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"Backups of {found['stack']}: {found['state'].upper()}"
    return "\n".join([head, "", *lines, *([""] if found["reasons"] else []), *found["reasons"]])


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{in_words(seconds)} ago"


def look(backups: Backups, name: str, now: datetime | None = None) -> Seen:
    """What a repository shows to this host; never raises for what it finds."""
    copy = "copy_of" in backups.repositories[name]
    try:
        known = points.listing(backups.repository(name), backups.stack.name)
        return seen(known, now or datetime.now(timezone.utc), copy)
    except OpenHIMError as error:
        return Seen(error=str(error), copy=copy)
    except Exception as error:
        # What nobody has foreseen is in there: the other repositories are still to be told of.
        return Seen(error=f"{type(error).__name__}: {error}", copy=copy)


def seen(known: points.Listing, now: datetime, copy: bool = False) -> Seen:
    """What a repository holds, put into observations."""
    usable = points.of_the_past(known.points, now)
    newest = points.newest(usable, now)
    verified = points.newest((p for p in usable if p.verified), now)
    judged = points.newest((p for p in usable if p.verdict), now)
    failed = ""
    if judged and judged.verdict and not judged.verdict.ok:
        failed = f"{judged.id} ({'; '.join(judged.verdict.reasons) or 'no reason is recorded'})"
    return Seen(
        points=len(known.points),
        newest=newest.as_of if newest else None,
        newest_id=newest.id if newest else "",
        verified=verified.as_of if verified else None,
        verified_id=verified.id if verified else "",
        failed_verification=failed,
        future=tuple(point.id for point in known.points if point not in usable),
        leftovers=len(known.leftovers),
        broken=tuple(broken.reason for broken in known.broken),
        unreadable=len(known.unreadable),
        copy=copy,
    )


def status(backups: Backups, now: datetime | None = None) -> dict[str, Any]:
    """The backups as this host sees them: ``state``, ``reasons`` and each repository's figures.

    Only the repositories are looked at whose credentials this host has.
    """
    present = now or datetime.now(timezone.utc)
    limits = Limits(
        float(backups.entry.get("max_age_seconds", Limits.max_age)),
        float(backups.entry.get("max_unverified_seconds", Limits.max_unverified)),
    )
    judged = {
        name: judge_repository(look(backups, name, present), limits, present.timestamp())
        for name in backups.visible
    }
    judged |= _start_bundles(backups, present)
    whole = judge(judged)
    found = {
        "stack": backups.stack.name,
        "host": backups.host,
        "at": present.isoformat(timespec="seconds"),
        "state": whole.state,
        "reasons": whole.reasons,
        "repositories": {name: asdict(found) for name, found in judged.items()},
    }
    return with_oplog(found, health.look(backups, present)) if has_oplog(backups) else found


def _start_bundles(backups: Backups, now: datetime) -> dict[str, Judgement]:
    """The start bundle in each of its repositories, on a host that stores it."""
    if not bundle.stored_here(backups):
        return {}
    found = {}
    for name in bundle.repositories(backups):
        try:
            stored = bundle.listing(backups, name)
            found[f"start bundle in {name}"] = judge_bundles(
                stored, bundle.max_age(backups), backups.epoch, now
            )
        except OpenHIMError as error:
            found[f"start bundle in {name}"] = Judgement(UNKNOWN, [str(error)])
    return found


def judge_bundles(
    stored: Sequence[bundle.Bundle], max_age: float, epoch: int, now: datetime
) -> Judgement:
    """How one repository of the start bundle is; stored: the oldest first. Pure.

    It is stored when the newest is ``max_age`` seconds old, so one of twice that age was not.
    """
    known = [one for one in stored if (one.time - now).total_seconds() <= _TOLERANCE]
    figures: dict[str, Any] = {"restore_points": len(stored)}
    if not known:
        return Judgement(FAILING, ["it holds no start bundle"], figures)
    age = (now - known[-1].time).total_seconds()
    figures["newest_age_seconds"] = round(age, 1)
    reasons = []
    if age > 2 * max_age:
        reasons.append(f"the newest is {in_words(age)} old, allowed are {in_words(2 * max_age)}")
    if known[-1].epoch < epoch:
        reasons.append(f"the newest is of epoch {known[-1].epoch}, and it is now {epoch}")
    return Judgement(DEGRADED if reasons else OK, reasons, figures)


def has_oplog(backups: Backups) -> bool:
    """Whether this host archives the oplog, or can look at what is archived."""
    return declared.archived_here(backups) or bool(declared.visible(backups))


def with_oplog(found: Mapping[str, Any], seen: health.Seen) -> dict[str, Any]:
    """The judgement with that of the oplog archive: one that is not well makes the state no ok."""
    state = UNKNOWN if seen.silent else DEGRADED if seen.reasons else OK
    return {
        **found,
        "state": worst([str(found["state"]), state]),
        "reasons": [*found["reasons"], *(f"oplog archive: {reason}" for reason in seen.reasons)],
        "oplog": {"state": state, "reasons": list(seen.reasons), "sets": dict(seen.sets)},
    }


def keep(found: Mapping[str, Any], path: str = FILE) -> None:
    """Remember a judgement for who must not look for himself."""
    files.make_directory(str(Path(path).parent))
    files.write(path, json.dumps(found, sort_keys=True).encode(), 0o600)


def kept(max_age: float, now: datetime | None = None, path: str = FILE) -> dict[str, Any]:
    """The last judgement of this host; unknown when there is none, when it is older than
    ``max_age`` seconds, or of the future.
    """
    present = now or datetime.now(timezone.utc)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        age = (present - datetime.fromisoformat(found["at"])).total_seconds()
    except FileNotFoundError:
        return {"state": UNKNOWN, "reasons": ["nobody has looked at the backups yet"]}
    except (ValueError, KeyError, TypeError) as error:
        return {"state": UNKNOWN, "reasons": [f"the last judgement cannot be read: {error}"]}
    if age < -_TOLERANCE:
        reason = f"the last judgement is of {found['at']}, which is in the future: set the clock"
        return {**found, "state": UNKNOWN, "reasons": [reason]}
    if age > max_age:
        reason = f"nobody has looked at the backups for {in_words(age)}; then they were"
        return {**found, "state": UNKNOWN, "reasons": [f"{reason} {found['state']}"]}
    return dict(found)


def metrics(found: Mapping[str, Any]) -> str:
    """A judgement as Prometheus reads it from a text file.

    https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
    """
    stack = found.get("stack", "")
    lines = [
        "# HELP openhim_backup_state 1 for the state that the backups are in, 0 for the others.",
        "# TYPE openhim_backup_state gauge",
        *(
            f'openhim_backup_state{{stack="{stack}",state="{each}"}} {int(found["state"] == each)}'
            for each in STATES
        ),
    ]
    for key, words in (
        ("newest_age_seconds", "Age of the newest restore point when it was looked at."),
        ("verified_age_seconds", "Age of the newest verified restore point."),
        ("restore_points", "Committed restore points."),
        ("broken", "Restore points that cannot be used."),
        ("leftovers", "Backups that did not come to their end."),
    ):
        samples = [
            f'openhim_backup_{key}{{stack="{stack}",repository="{name}"}} {value:g}'
            for name, one in found.get("repositories", {}).items()
            if (value := one["figures"].get(key)) is not None
        ]
        if samples:
            lines += [f"# HELP openhim_backup_{key} {words}", f"# TYPE openhim_backup_{key} gauge"]
            lines += samples
    lines += _oplog_metrics(stack, (found.get("oplog") or {}).get("sets") or {})
    if "at" in found:
        seconds = datetime.fromisoformat(found["at"]).timestamp()
        lines += [
            "# HELP openhim_backup_looked_at_seconds When the backups were looked at (Unix time).",
            "# TYPE openhim_backup_looked_at_seconds gauge",
            f'openhim_backup_looked_at_seconds{{stack="{stack}"}} {seconds:.0f}',
        ]
    return "\n".join(lines) + "\n"


def _oplog_metrics(stack: str, sets: Mapping[str, Any]) -> list[str]:
    lines = []
    for figure, words in (
        ("behind_seconds", "Since the last archived entry of the oplog"),
        ("copy_behind_seconds", "Since the last entry in the copy of the oplog archive"),
    ):
        name = f"openhim_backup_oplog_{figure}"
        samples = [
            f'{name}{{stack="{stack}",set="{each}"}} {one[figure]:g}'
            for each, one in sets.items()
            if one.get(figure) is not None
        ]
        if samples:
            lines += [f"# HELP {name} {words}, when it was looked at."]
            lines += [f"# TYPE {name} gauge", *samples]
    return lines


def _age(time: float | None, now: float) -> float | None:
    return None if time is None else round(now - time, 1)


def in_words(seconds: float) -> str:
    """A duration as a person says it: in days, hours, minutes or seconds."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
