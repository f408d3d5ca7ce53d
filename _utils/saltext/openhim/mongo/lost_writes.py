"""A host's part of the ledger: what its member wrote past the fork, read, and kept aside.

Three places have it. The member's own oplog, as long as it has not joined the new history: the only
one that is complete. What was kept of that before it joined. And the rollback files.

What is kept is patients' data: a folder that only root enters, below :data:`DIRECTORY`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from saltext.openhim import files
from saltext.openhim.backup.oplog.slices import Position
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.mongo import config, rollback, stopped, tail
from saltext.openhim.mongo.connection import KEYFILE, Vantage
from saltext.openhim.recovery import ledger
from saltext.openhim.recovery.ledger import Lost, Member, Write
from saltext.openhim.settings import STATE_DIRECTORY

DIRECTORY = f"{STATE_DIRECTORY}/ledger"

_OPLOG, _DOCUMENTS, _NAMES, _KEPT = "oplog.bson", "documents.bson", "collections.json", "kept.json"


@dataclass(frozen=True)
class Fork:
    """Where two histories part. last: the last entry that both have. new: the new one's first."""

    last: Position
    new: Position

    @classmethod
    def parse(cls, last: str, new: str) -> Fork:
        """From the texts of the two positions."""
        return cls(Position.parse(last), Position.parse(new))


@dataclass(frozen=True)
class Part:
    """What one host has to say. versions: each document as it was in the end."""

    member: Member
    writes: tuple[Write, ...] = ()
    versions: Mapping[tuple[str, str], Lost] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """One member of a replica set, and the fork. folder: where what is kept is."""

    here: Vantage
    fork: Fork
    folder: Path

    @property
    def name(self) -> str:
        """The member's name in the set."""
        return self.here.member.name if self.here.member else "?"

    @property
    def transactions(self) -> str:
        """The collection of OpenHIM's transactions; empty where it is in another set."""
        database = self.here.stack.databases["main"]
        own = database.replica_set.name == self.here.replica_set.name
        return f"{database.name}.transactions" if own else ""

    @property
    def kept(self) -> Path:
        """Where this fork's documents are kept."""
        return self.folder / self.here.replica_set.name / str(self.fork.last)

    def part(self) -> Part:
        """What this member wrote past the fork, of all places that have it. Writes nothing."""
        problem = ""
        live: Part | None = None
        try:
            if not self._is_as_kept:
                with self._member() as client:
                    live = self._read(client)
        except OpenHIMError as error:
            problem = str(error)
        undone = self._undone()
        aside = self._read_kept()
        parts = [one for one in (live, aside) if one is not None]
        member = Member(self.name, ledger.UNREAD, problem)
        for one in parts:
            member = ledger.better(one.member, member)
        if aside is not None and not undone.versions.items() <= aside.versions.items():
            because = "its rollback files hold more than its oplog did when it was kept"
            member = Member(self.name, ledger.ROLLED_BACK, because)
        member = replace(member, rollback_files=len(self._rollback_files()))
        writes = [write for one in (*parts, undone) for write in one.writes]
        versions = {**undone.versions}
        for one in parts:
            versions |= one.versions
        return Part(member, tuple(ledger.merged(writes)), versions)

    def keep(self) -> dict[str, Any]:
        """Keep aside what would be gone when this member joins the new history; again, nothing new.

        The file that says what is kept is written last: without it, the next run begins again.
        """
        self._folder(self.kept)
        for file in self._rollback_files():
            target = self.kept / rollback.FOLDER / file.folder / file.path.name
            if not target.exists():
                self._folder(target.parent)
                _write(target, file.path.read_bytes())
        if not self._is_as_kept:
            stamp = self._stamp
            with self._member() as client:
                stand = tail.where(client, self.fork.last, self.fork.new)
                if stand.history == tail.DIVERGED:
                    self._keep_tail(client, stand, stamp)
        return self.status()

    def status(self) -> dict[str, Any]:
        """What is kept of this fork."""
        undone = sorted(path.name for path in (self.kept / rollback.FOLDER).rglob("*.bson"))
        return {
            "set": self.here.replica_set.name,
            "folder": str(self.kept),
            "oplog_until": self._newest_kept(),
            "rollback_files": undone,
        }

    @contextlib.contextmanager
    def _member(self) -> Iterator[MongoClient]:
        """The member itself, or a copy of its data while it does not run."""
        if self._data.is_dir() and not stopped.is_used_on(self._data):
            binary = config.binary(self.here.stack)
            with stopped.opened(binary, self._data, self._storage) as client:
                yield client
        else:
            # Only a member may ask for the count of rollbacks, and read every collection.
            with self.here.own(KEYFILE) as client:
                yield client

    @property
    def _stamp(self) -> int:
        """Changes whenever a mongod begins to use the data: it writes its lock then. 0 without."""
        lock = self._data / "mongod.lock"
        return lock.stat().st_mtime_ns if lock.exists() else 0

    @property
    def _is_as_kept(self) -> bool:
        """Whether nothing ran here since its oplog was kept: it need not be copied again."""
        return self._told_of_kept().get("stamp") == self._stamp != 0 and not stopped.is_used(
            self._data
        )

    @property
    def _storage(self) -> dict[str, Any]:
        if self.here.member is None:
            raise OpenHIMError(f"no member of {self.here.replica_set.name} is on this host")
        host, name = self.here.member.host.id, self.here.replica_set.name
        found: dict[str, Any] = config.mongod_config(self.here.stack, host, name)["storage"]
        return found

    @property
    def _data(self) -> Path:
        return Path(self._storage["dbPath"])

    def _read(self, client: MongoClient) -> Part:
        stand = tail.where(client, self.fork.last, self.fork.new)
        if stand.history == tail.BEFORE:
            return Part(Member(self.name, ledger.COMPLETE))
        if stand.history == tail.UNKNOWN:
            return Part(Member(self.name, ledger.UNREAD, stand.because))
        if stand.history == tail.NEW:
            return Part(self._joined(client))
        found = list(
            tail.operations(tail.raw(client, self.fork.last), tail.before(client, self.fork.last))
        )
        writes = tuple(one.write for one in found)
        documents = (write.document for write in writes)
        versions = tail.last_versions(client, documents, self.transactions)
        if "setName" in client.admin.command("hello"):  # it is no copy
            because = (
                "it runs and is not on the new history, so it may write more; fence it, or let it "
                "come back, and ask again"
            )
            return Part(Member(self.name, ledger.UNREAD, because), writes, versions)
        return Part(Member(self.name, ledger.COMPLETE), writes, versions)

    def _joined(self, client: MongoClient) -> Member:
        """A member that is on the new history: either it never left it, or it has undone writes."""
        if tail.never_rolled_back(client):
            return Member(self.name, ledger.COMPLETE)
        because = (
            "it is on the new history and has undone its writes; its rollback files tell what it "
            "inserted and updated, and not what it deleted"
        )
        return Member(self.name, ledger.ROLLED_BACK, because)

    def _rollback_files(self) -> list[rollback.RollbackFile]:
        """Those of the data folder, and those that were kept of it; each once."""
        since = self.fork.last.ts.as_datetime()
        found = {}
        for place in (self.kept, self._data):
            for file in rollback.files(place, since):
                found[(file.folder, file.path.name)] = file
        return list(found.values())

    def _undone(self) -> Part:
        writes: list[Write] = []
        versions: dict[tuple[str, str], Lost] = {}
        by_uuid = self._names()
        for file in self._rollback_files():
            collection = rollback.collection(file, by_uuid)
            if tail.is_housekeeping(collection):
                continue
            for data in rollback.documents(file):
                text = tail.id_text(RawBSONDocument(data)["_id"])
                writes.append(Write(collection, text, ledger.WRITTEN))
                versions[(collection, text)] = tail.version(collection, data, self.transactions)
        return Part(Member(self.name, ledger.ROLLED_BACK), tuple(writes), versions)

    def _names(self) -> dict[str, str]:
        """Collections by their UUID: those that there are, and those that the kept oplog names."""
        kept = self.kept / _NAMES
        found: dict[str, str] = json.loads(kept.read_text()) if kept.is_file() else {}
        if self._rollback_files():
            with contextlib.suppress(OpenHIMError), self._member() as client:
                found |= rollback.names(client)
        return found

    def _newest_kept(self) -> str | None:
        newest: str | None = self._told_of_kept().get("newest")
        return newest

    def _told_of_kept(self) -> dict[str, Any]:
        file = self.kept / _KEPT
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return found

    def _keep_tail(self, client: MongoClient, stand: tail.Where, stamp: int) -> None:
        (self.kept / _KEPT).unlink(missing_ok=True)
        entries = list(tail.raw(client, self.fork.last))
        found = list(tail.operations(entries, tail.before(client, self.fork.last)))
        documents = [
            bson.encode({"collection": key[0], "document": RawBSONDocument(data)})
            for key, data in tail.fetched(client, dict.fromkeys(o.write.document for o in found))
        ]
        names = {one.uuid: one.write.collection for one in found if one.uuid}
        _write(self.kept / _OPLOG, b"".join(entries))
        _write(self.kept / _DOCUMENTS, b"".join(documents))
        _write(self.kept / _NAMES, json.dumps(names, indent=1).encode())
        told = {
            "stack": self.here.stack.name,
            "set": self.here.replica_set.name,
            "member": self.name,
            "fork": str(self.fork.last),
            "newest": str(stand.newest),
            "stamp": stamp,
            "stopped": "setName" not in client.admin.command("hello"),
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "writes": [vars(one.write) for one in found],
        }
        _write(self.kept / _KEPT, json.dumps(told, indent=1).encode())

    def _read_kept(self) -> Part | None:
        """What was kept of the oplog before this member joined the new history; None if nothing."""
        told = self._told_of_kept()
        if not told:
            return None
        writes = tuple(Write(**one) for one in told["writes"])
        versions = {write.document: Lost(ledger.REMOVED) for write in writes if write.id}
        with (self.kept / _DOCUMENTS).open("rb") as stream:
            for one in bson.decode_file_iter(stream, bson.CodecOptions(RawBSONDocument)):
                data = bytes(one["document"].raw)
                key = (one["collection"], tail.id_text(one["document"]["_id"]))
                versions[key] = tail.version(key[0], data, self.transactions)
        state, because = ledger.COMPLETE, ""
        if not told["stopped"]:
            state, because = ledger.ROLLED_BACK, "its oplog was kept while it still could write"
        return Part(Member(told["member"], state, because), writes, versions)

    def _folder(self, wanted: Path) -> None:
        """A folder below the top one; each on the way to it is entered by root alone."""
        above = [path for path in (wanted, *wanted.parents) if self.folder in path.parents]
        for path in (self.folder, *reversed(above)):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(target: Path, content: bytes) -> None:
    files.write(str(target), content, 0o600)
