"""The primary gives way to the member that the declaration prefers now: nothing is lost by it.

Before it does, its host notes how far its oplog reaches. Afterwards anybody can ask the new primary
whether it has that very entry, so that "nothing was lost" is seen and not assumed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bson import Timestamp
from pymongo import MongoClient
from saltext.openhim import files
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable
from saltext.openhim.mongo import change
from saltext.openhim.mongo.connection import MongoError, NotPrimary, Vantage, explained
from saltext.openhim.mongo.status import POLL_SECONDS
from saltext.openhim.settings import STATE_DIRECTORY

NOTES_DIRECTORY = f"{STATE_DIRECTORY}/handovers"

#: Seconds for which the old primary may not be elected again, and for the others to catch up.
STEP_DOWN_SECONDS = 30
CATCH_UP_SECONDS = 20


def hand_over(vantage: Vantage, timeout: float = 300) -> list[str]:
    """The set is configured as declared, and its preferred member is primary; returns what this
    host did. On every other host than the primary's it waits for that.

    timeout: seconds. Raises :class:`~saltext.openhim.errors.Refused` when it did not come to that.
    """
    deadline = time.monotonic() + timeout
    preferred = vantage.replica_set.initiator
    done: list[str] = []
    if preferred == vantage.member:
        _may_be_elected(vantage)
    elif _is_primary(vantage):
        note(vantage)
    done += change.configure(vantage, timeout)
    last = ""
    while (now := primary(vantage)) != preferred.name:
        if time.monotonic() >= deadline:
            raise Refused(
                f"{preferred.name} is not the primary of {vantage.replica_set.name} after "
                f"{timeout:g} s; that is {now or 'nobody'}{last}. See that it has no lag "
                "(mongodb_replset.status), then run this again"
            )
        if vantage.member and now == vantage.member.name:
            try:
                _step_down(vantage)
                done.append(f"{now} handed over to {preferred.name}")
            except MongoError as error:  # it refuses as long as nobody has all of its writes
                last = f" ({error})"
        time.sleep(POLL_SECONDS)
    return done


def foresee(vantage: Vantage) -> tuple[list[str], bool]:
    """What :func:`hand_over` would do, in words, and whether this host would."""
    changes, ours = change.foresee(vantage, change.target)
    preferred = vantage.replica_set.initiator
    if primary(vantage) != preferred.name:
        changes = [*changes, f"the primary hands over to {preferred.name}"]
    return changes, ours


def primary(vantage: Vantage) -> str | None:
    """Who is primary in the eyes of this host's member; None when it knows nobody."""
    with suppress(Unreachable), vantage.own() as client:
        found: str | None = client.admin.command("hello").get("primary")
        return found
    return None


def note(vantage: Vantage) -> dict[str, Any]:
    """Writes down, on this host, how far the primary's oplog reaches before it gives way."""
    with vantage.own() as client:
        newest = _newest(client)
    epoch = (vantage.stack.declared.get("recovery") or {}).get("id")
    found = {"epoch": epoch, "set": vantage.replica_set.name, **newest}
    files.make_directory(NOTES_DIRECTORY)
    files.write(_note_file(vantage), json.dumps(found).encode(), 0o600)
    return found


def noted(vantage: Vantage) -> dict[str, Any] | None:
    """What this host noted last: ``epoch``, ``set``, ``ts`` (seconds, increment), ``term``, ``at``
    (ISO 8601, of that entry); None where it never did."""
    try:
        found: dict[str, Any] = json.loads(Path(_note_file(vantage)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def position(vantage: Vantage) -> dict[str, Any]:
    """The newest entry of the oplog of this host's member: ``ts``, ``term``, ``at``."""
    with vantage.own() as client:
        return _newest(client)


def has(vantage: Vantage, positions: Mapping[str, Mapping[str, Any]]) -> dict[str, bool | None]:
    """Which entries this host's member has in its oplog, and so in its history; None for one that
    is older than the oplog reaches back.

    positions: by any name, each with ``ts`` and ``term``, as :func:`position` returns them.
    """
    with vantage.own() as client:
        oplog = client.local["oplog.rs"]
        first = oplog.find_one(sort=[("$natural", 1)], projection={"ts": 1})
        found: dict[str, bool | None] = {}
        for name, where in positions.items():
            ts = Timestamp(*where["ts"])
            there = oplog.find_one({"ts": ts, "t": where["term"]}) is not None
            found[name] = there or (None if not first or first["ts"] > ts else False)
        return found


def _newest(client: MongoClient) -> dict[str, Any]:
    last = client.local["oplog.rs"].find_one(sort=[("$natural", -1)])
    if not last:
        raise OpenHIMError("the oplog of this host's member is empty")
    return plain_position(last)


def plain_position(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Where an entry stands in the history, in plain values."""
    written = entry["wall"].replace(tzinfo=timezone.utc)
    return {
        "ts": [entry["ts"].time, entry["ts"].inc],
        "term": entry["t"],
        "at": datetime.isoformat(written, timespec="milliseconds"),
    }


def _may_be_elected(vantage: Vantage) -> None:
    """Ends the time for which this host's member stays out of elections, if it gave way lately."""
    with suppress(MongoError, Unreachable):  # the primary refuses: it is elected already
        change.freeze(vantage, 0)


def _is_primary(vantage: Vantage) -> bool:
    return change.observe_own(vantage).is_primary


def _step_down(vantage: Vantage) -> None:
    # An older server closes the connection instead of answering.
    with suppress(NotPrimary, Unreachable), vantage.own() as client, explained(vantage.local):
        client.admin.command(
            "replSetStepDown", STEP_DOWN_SECONDS, secondaryCatchUpPeriodSecs=CATCH_UP_SECONDS
        )


def _note_file(vantage: Vantage) -> str:
    name, port = vantage.replica_set.name, vantage.member.port if vantage.member else 0
    return f"{NOTES_DIRECTORY}/{name}-{port}.json"
