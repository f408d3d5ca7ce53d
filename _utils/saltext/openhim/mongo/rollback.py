"""The files in which a mongod keeps what it undid to join the new history.

It writes the last version of each document that the undone writes inserted or updated. What they
deleted is in no file, and neither is when anything was written.
https://www.mongodb.com/docs/manual/core/replica-set-rollbacks/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from saltext.openhim.errors import OpenHIMError

FOLDER = "rollback"
_FILE = re.compile(r"removed\.(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)\.\d+\.bson")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class RollbackFile:
    """One file. folder: the collection's UUID, or its name with older servers."""

    path: Path
    folder: str
    at: datetime

    @property
    def uuid(self) -> str:
        """The collection's UUID as hexadecimal digits; empty where the folder is a name."""
        return self.folder.replace("-", "") if _UUID.fullmatch(self.folder) else ""


def files(data: Path, since: datetime) -> list[RollbackFile]:
    """The files that a mongod with this data folder wrote since a time, the oldest first.

    Raises OpenHIMError for what is there and is none: unread is not "nothing".
    """
    found = []
    top = data / FOLDER
    try:
        folders = sorted(top.iterdir()) if top.is_dir() else []
        for path in (path for folder in folders for path in sorted(folder.iterdir())):
            match = _FILE.fullmatch(path.name)
            if not match:
                raise OpenHIMError(
                    f"{path} is no rollback file of a kind that is known here; expected "
                    "removed.<time>.<number>.bson. Look at it, and move it away"
                )
            at = datetime.strptime(match[1], "%Y-%m-%dT%H-%M-%S").replace(tzinfo=timezone.utc)
            if at >= since.replace(microsecond=0):
                found.append(RollbackFile(path, path.parent.name, at))
    except OSError as error:
        raise OpenHIMError(f"the rollback files in {top} cannot be read: {error}") from error
    return sorted(found, key=lambda one: (one.at, str(one.path)))


def documents(file: RollbackFile) -> Iterator[bytes]:
    """The documents of one file, as bytes."""
    try:
        with file.path.open("rb") as stream:
            for found in bson.decode_file_iter(stream, bson.CodecOptions(RawBSONDocument)):
                yield bytes(found.raw)
    except (BSONError, OSError) as error:
        raise OpenHIMError(f"the rollback file {file.path} cannot be read: {error}") from error


def names(client: MongoClient) -> dict[str, str]:
    """The collections that a server has: UUID as hexadecimal digits → ``database.collection``."""
    found = {}
    for database in client.list_database_names():
        for one in client[database].list_collections():
            if "uuid" in one["info"]:
                found[bytes(one["info"]["uuid"]).hex()] = f"{database}.{one['name']}"
    return found


def collection(file: RollbackFile, by_uuid: Mapping[str, str]) -> str:
    """Whose documents a file holds; the UUID where nobody knows the name any more."""
    return by_uuid.get(file.uuid, file.folder) if file.uuid else file.folder
