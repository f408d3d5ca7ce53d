"""The ledger: the writes of the history that was given up, and what became of each. Pure.

A write comes from the oplog of a member of the lost site past the fork, from a rollback file, or
from an archived slice. What the new history has of its document decides its fate. *Nothing was
lost* is said only when every member was read from the fork to its end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: What became of a write. The new history has its result; it has a later version of the document,
#: without it; it has nothing of it.
SURVIVED, SUPERSEDED, LOST = "survived", "superseded", "lost"

#: What the ledger as a whole says.
NOTHING_LOST, SOME_LOST, NOT_KNOWN = "nothing was lost", "writes were lost", "not known"

#: A document that the given-up history had removed in the end.
REMOVED = "removed"

#: A write of which only the document is known, from a rollback file.
WRITTEN = "insert or update"

#: How a member of the given-up history was read.
COMPLETE, ROLLED_BACK, UNREAD = "complete", "rolled back", "unread"

#: Rerun through OpenHIM: by its ID; after its document, which is kept, is put back; not at all.
BY_ID, AFTER_PUTTING_BACK, IMPOSSIBLE = "by its ID", "after its document is put back", "impossible"


@dataclass(frozen=True)
class Write:
    """One write of the given-up history.

    id: the document's ``_id`` as extended JSON; empty for a command. operation: ``insert``,
    ``update``, ``delete``, :data:`WRITTEN` or a command's name. position: of its oplog entry, empty
    when only a rollback file has it. at: the server's clock (ISO 8601). transaction: the position
    of the entry that committed it with others. detail: of a command, what it was about.
    """

    collection: str
    id: str
    operation: str
    position: str = ""
    at: str = ""
    transaction: str = ""
    detail: str = ""

    @property
    def document(self) -> tuple[str, str]:
        """Which document it wrote."""
        return (self.collection, self.id)


@dataclass(frozen=True)
class Member:
    """How one member of the given-up history was read.

    state: one of the constants of this module. because: why it is not complete. rollback_files: how
    many were read.
    """

    name: str
    state: str
    because: str = ""
    rollback_files: int = 0


@dataclass(frozen=True)
class Lost:
    """What a document was at the end of the given-up history.

    version: its digest, :data:`REMOVED`, or None where it is not known. facts: of one of OpenHIM's
    transactions: who sent what, and whether OpenHIM lets it be rerun.
    """

    version: str | None = None
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Now:
    """What the new history has of a document, or of what a command was about.

    version: its digest; None when it is not there. written: whether the new history wrote it since
    the fork; None when that is not known. facts: as in :class:`Lost`.
    """

    version: str | None = None
    written: bool | None = None
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. rerun: for OpenHIM's transactions, whether and how."""

    write: Write
    fate: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    rerun: str = ""

    def told(self) -> dict[str, Any]:
        """As people and other programs read it."""
        told = {key: value for key, value in asdict(self.write).items() if value}
        if self.write.id:
            told["id"] = json.loads(self.write.id)
        told |= {"fate": self.fate, **self.facts}
        return {**told, "rerun": self.rerun} if self.rerun else told


def fate(lost: Lost, now: Now) -> str:
    """What became of a document's writes. In doubt they are lost."""
    if lost.version == REMOVED:
        same = now.version is None
    else:
        same = lost.version is not None and lost.version == now.version
    if same:
        return SURVIVED
    return SUPERSEDED if now.written else LOST


def rerun(entry_fate: str, lost: Lost, now: Now) -> str:
    """Whether OpenHIM can rerun a transaction that did not survive, and how."""
    facts = now.facts or lost.facts
    if entry_fate == SURVIVED or facts is None:
        return ""
    if not facts.get("can_rerun"):
        return IMPOSSIBLE
    return BY_ID if now.version is not None else AFTER_PUTTING_BACK


def entries(
    writes: Iterable[Write],
    lost: Mapping[tuple[str, str], Lost],
    now: Mapping[tuple[str, str], Now],
    commands: Mapping[Write, bool],
) -> list[Entry]:
    """Each write with its fate, in the order in which they were written.

    lost, now: what the two histories have of each document, by collection and ``_id``. commands:
    whether what each command did is so in the new history too.
    """
    found = []
    for write in merged(writes):
        if not write.id:
            found.append(Entry(write, SURVIVED if commands.get(write) else LOST))
            continue
        then, here = lost.get(write.document, Lost()), now.get(write.document, Now())
        became = fate(then, here)
        facts = then.facts or here.facts or {}
        shown = {key: facts[key] for key in sorted(facts) if key != "can_rerun"}
        found.append(Entry(write, became, shown, rerun(became, then, here)))
    return found


def merged(writes: Iterable[Write]) -> list[Write]:
    """Writes that several members or sources have, once each.

    What a rollback file tells of a document that an oplog tells of too is nothing more.
    """
    unique = dict.fromkeys(writes)
    known = {write.document for write in unique if write.position}
    kept = [write for write in unique if write.position or write.document not in known]
    # Of one entry's operations the order is that in which they were read.
    return sorted(kept, key=lambda write: (not write.position, write.position))


def versions(
    parts: Iterable[tuple[Sequence[Write], Mapping[tuple[str, str], Lost]]],
) -> dict[tuple[str, str], Lost]:
    """Each document as the given-up history had it last, of what its members tell.

    Of two members the one counts that went on longer: the other one is behind on the same history.
    """
    found: dict[tuple[str, str], Lost] = {}
    for _, known in sorted(parts, key=lambda part: max((w.position for w in part[0]), default="")):
        found |= known
    return found


def doubts(members: Sequence[Member], expected: Iterable[str]) -> list[str]:
    """Why it is not known whether the list is complete; empty when it is."""
    by_name = {member.name: member for member in members}
    reasons = []
    for name in expected:
        member = by_name.get(name, Member(name, UNREAD, "nobody has read it"))
        if member.state != COMPLETE:
            reasons.append(f"{name}: {member.because}")
    return reasons


def verdict(found: Sequence[Entry], reasons: Sequence[str]) -> str:
    """What the ledger says as a whole."""
    if reasons:
        return NOT_KNOWN
    return SOME_LOST if any(entry.fate != SURVIVED for entry in found) else NOTHING_LOST


def better(one: Member, other: Member) -> Member:
    """Of two readings of a member the one that knows more: what was kept before it rolled back."""
    order = (UNREAD, ROLLED_BACK, COMPLETE)
    best = max(one, other, key=lambda member: order.index(member.state))
    return replace(best, rollback_files=max(one.rollback_files, other.rollback_files))


def summary(found: Iterable[Entry]) -> dict[str, int]:
    """How many writes there are of each fate."""
    counts = Counter(entry.fate for entry in found)
    return {name: counts[name] for name in (LOST, SUPERSEDED, SURVIVED)}


def of_set(
    fork: Mapping[str, str],
    found: Sequence[Entry],
    members: Sequence[Member],
    reasons: Sequence[str],
) -> dict[str, Any]:
    """The ledger of one replica set, as it is stored."""
    return {
        "state": verdict(found, reasons),
        "doubts": list(reasons),
        **fork,
        "members": [asdict(member) for member in members],
        "counts": summary(found),
        "writes": [entry.told() for entry in found],
    }


def of_stack(
    stack: str, epoch: int, at: str, sets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The ledger of all sets: nothing was lost only if that is so of each."""
    states = [one["state"] for one in sets.values()]
    state = next((one for one in (NOT_KNOWN, SOME_LOST) if one in states), NOTHING_LOST)
    return {"stack": stack, "epoch": epoch, "at": at, "state": state, "sets": dict(sets)}


def to_rerun(told: Mapping[str, Any]) -> list[Any]:
    """The IDs of the transactions that did not survive and that OpenHIM can rerun by their ID."""
    found = [
        entry["id"]
        for one in told["sets"].values()
        for entry in one["writes"]
        if entry.get("rerun") == BY_ID
    ]
    return [one for number, one in enumerate(found) if one not in found[:number]]


def with_earlier(told: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """A ledger with what one of the same epoch knew and this one can see no more.

    A member that was read whole then, and is gone or was resynchronised now, was read all the same.
    """
    for name, one in told["sets"].items():
        before = (earlier or {}).get("sets", {}).get(name)
        if not before or (one.get("fork") and one["fork"] != before.get("fork")):
            continue
        known = {_key(entry) for entry in one["writes"]}
        documents = {(entry["collection"], str(entry.get("id"))) for entry in one["writes"]}
        missing = [
            entry
            for entry in before["writes"]
            if _key(entry) not in known
            and (entry.get("position") or _key(entry)[:2] not in documents)
        ]
        one["writes"] = sorted(
            [*one["writes"], *missing], key=lambda e: (not e.get("position"), e.get("position", ""))
        )
        gone = {member["name"] for member in one["members"] if member["state"] == UNREAD}
        read = gone & {b["name"] for b in before["members"] if b["state"] == COMPLETE}
        one["doubts"] = [r for r in one["doubts"] if r.partition(": ")[0] not in read]
        one["members"] = [
            next((b for b in before["members"] if b["name"] == m["name"] in read), m)
            for m in one["members"]
        ]
        counts = Counter(entry["fate"] for entry in one["writes"])
        one["counts"] = {fate: counts[fate] for fate in (LOST, SUPERSEDED, SURVIVED)}
        one["fork"], one["new"] = before["fork"], before["new"]
        lost = any(entry["fate"] != SURVIVED for entry in one["writes"])
        one["state"] = NOT_KNOWN if one["doubts"] else (SOME_LOST if lost else NOTHING_LOST)
    return of_stack(told["stack"], told["epoch"], told["at"], told["sets"])


def _key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("collection", "id", "operation", "position", "detail")
    return tuple(str(entry.get(name)) for name in names)


#: The columns of the table that a person sees.
_COLUMNS = ("set", "collection", "id", "at", "operation", "fate", "rerun")


def table(told: Mapping[str, Any]) -> str:
    """A ledger as :mod:`saltext.openhim.ledgers` stores it, for a person."""
    lines = [f"Ledger of {told['stack']}, epoch {told['epoch']}: {told['state']}"]
    for name, one in sorted(told["sets"].items()):
        counts = ", ".join(f"{count} {fate}" for fate, count in one["counts"].items())
        lines.append(f"{name}: {one['state']}; {counts}; forked at {one['fork']}")
        lines += [f"  not known, because {reason}" for reason in one["doubts"]]
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for name, one in sorted(told["sets"].items()):
        for entry in one["writes"]:
            shown = {**entry, "set": name, "id": _short(entry.get("id", ""))}
            rows.append(tuple(str(shown.get(column, "")) for column in _COLUMNS))
    if len(rows) > 1:
        widths = [max(len(row[number]) for row in rows) for number in range(len(_COLUMNS))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
    return "\n".join(lines)


def _short(found: Any) -> str:
    """An ``_id`` without the words of extended JSON around an ObjectId."""
    if isinstance(found, Mapping) and len(found) == 1:
        return str(next(iter(found.values())))
    return str(found)
