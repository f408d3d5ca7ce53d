"""Puts transactions together again: in the oplog they are one entry, a chain, or prepared first.

A transaction counts from the entry that commits it. What it did before is in that entry, or in
entries before it that point to each other; some of them may be older than the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bson import Timestamp
from saltext.openhim.backup.oplog.slices import words
from saltext.openhim.errors import Refused

_NONE = Timestamp(0, 0)
_Key = tuple[bytes, int]
Operation = Mapping[str, Any]


class Transactions:
    """Holds what is not committed yet.

    earlier: gives the oplog before what is replayed, in pieces, the newest piece first; it is asked
    only for a transaction that began there.
    """

    def __init__(self, earlier: Callable[[], Iterable[Iterable[Operation]]]):
        self._earlier = earlier
        self._open: dict[_Key, list[Operation]] = {}

    def feed(self, entry: Operation, wanted: bool) -> list[Operation] | None:
        """Takes a command of the oplog.

        Returns the operations that it makes true, in order; None when the command is none of a
        transaction. wanted: False for what the base has already; then there are none.
        """
        command = entry["o"]
        name = next(iter(command))
        if name == "abortTransaction":
            self._open.pop(_key(entry), None)
            return []
        if name == "commitTransaction":
            pieces = self._open.pop(_key(entry), [])
            return self._operations(entry, pieces) if wanted else []
        if name != "applyOps":
            return None
        if "txnNumber" not in entry or "multiOpType" in entry:
            # A person's applyOps, or several retryable writes in one entry.
            return list(command["applyOps"]) if wanted else []
        if command.get("partialTxn") or command.get("prepare"):
            self._open.setdefault(_key(entry), []).append(entry)
            return []
        pieces = self._open.pop(_key(entry), [])
        return [*self._operations(entry, pieces), *command["applyOps"]] if wanted else []

    def unfinished(self) -> int:
        """How many transactions were not committed by the end."""
        return len(self._open)

    def _operations(self, last: Operation, pieces: list[Operation]) -> list[Operation]:
        """Of the pieces before ``last``, which must be all."""
        begun = _link(pieces[0]) if pieces else _link(last)
        if begun != _NONE:
            pieces = [*self._older(_key(last), begun), *pieces]
        links = [*map(_link, pieces), _link(last)]
        if links != [_NONE, *(piece["ts"] for piece in pieces)]:
            raise _incomplete(last)
        return [operation for piece in pieces for operation in piece["o"]["applyOps"]]

    def _older(self, key: _Key, newest: Timestamp) -> list[Operation]:
        found: list[Operation] = []
        for entries in self._earlier():
            found = [each for each in entries if _is_piece(each, key, newest)] + found
            if found and _link(found[0]) == _NONE:
                break
        return found


def outline(entry: Operation) -> Operation | None:
    """A command without what it did: enough to see where its transaction began.

    None for what is no part of a transaction, and for a transaction in one entry.
    """
    command = entry["o"]
    name = next(iter(command))
    if name in ("abortTransaction", "commitTransaction"):
        kept: dict[str, Any] = {name: 1}
    elif name != "applyOps" or "txnNumber" not in entry or "multiOpType" in entry:
        return None
    elif command.get("partialTxn") or command.get("prepare") or _link(entry) != _NONE:
        flags = {flag: True for flag in ("partialTxn", "prepare") if command.get(flag)}
        kept = {name: [], **flags}
    else:
        return None
    names = ("op", "ts", "lsid", "txnNumber", "prevOpTime")
    return {"o": kept, **{key: entry[key] for key in names if key in entry}}


def _is_piece(entry: Operation, key: _Key, newest: Timestamp) -> bool:
    return (
        entry["op"] == "c"
        and "txnNumber" in entry
        and "applyOps" in entry["o"]
        and entry["ts"] <= newest
        and _key(entry) == key
    )


def _key(entry: Operation) -> _Key:
    return (bytes(entry["lsid"].raw), int(entry["txnNumber"]))


def _link(entry: Operation) -> Timestamp:
    """The entry of the same transaction that precedes this one."""
    link: Timestamp = (entry.get("prevOpTime") or {"ts": _NONE})["ts"]
    return link


def _incomplete(last: Operation) -> Refused:
    return Refused(
        f"a transaction that was committed at {words(last['ts'])} began before what the archive "
        "has; it can't be replayed whole. Take an earlier restore point, or a time before it"
    )
