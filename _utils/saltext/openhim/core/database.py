"""OpenHIM's databases as OpenHIM's own user sees them: are they there, and do they take writes."""

from __future__ import annotations

import time

import pymongo
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from saltext.openhim.backup import present
from saltext.openhim.core import config
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import Unauthorized, Unreachable

PAUSE = 0.5

_REFUSED = (18, 13)  # AuthenticationFailed, Unauthorized


def wait_writable(core: CoreHost, timeout: float = 60.0) -> float:
    """Wait until both databases have a primary that reaches a majority; the seconds that it took.

    The proof is a linearizable read: the primary answers it only after a majority has acknowledged
    an empty entry in the oplog. So a write is proven possible and none is left behind.
    Where a write must be on every site, a deletion of nothing is added: it waits until the newest
    entry of the oplog is where the write concern wants it.

    Data that a restore has left half replaced is refused at once: OpenHIM would act on it.

    timeout: seconds for both. Raises :class:`~saltext.openhim.backup.present.HalfReplaced` then,
    :class:`~saltext.openhim.errors.Unauthorized` when OpenHIM's
    user is not accepted by then (its user may still be on its way), or
    :class:`~saltext.openhim.errors.Unreachable`.
    """
    begin = time.monotonic()
    for kind in ("main", "audit"):
        while True:
            left = timeout - (time.monotonic() - begin)
            problem = _problem(core, kind, max(1.0, min(left, 10.0)))
            if problem is None:
                break
            if time.monotonic() - begin + PAUSE > timeout:
                raise problem
            time.sleep(PAUSE)
    return time.monotonic() - begin


def _problem(core: CoreHost, kind: str, seconds: float) -> Unauthorized | Unreachable | None:
    database = core.stack.databases[kind]
    where = f"the {kind} database {database.name} on the replica set {database.replica_set.name}"
    url = config.database_url(core.stack, core.pillar, kind)
    try:
        with pymongo.MongoClient(
            url, serverSelectionTimeoutMS=int(seconds * 1000), appname="saltext-openhim"
        ) as client:
            collection = client.get_default_database().get_collection(
                "transactions", read_concern=ReadConcern("linearizable")
            )
            collection.find_one({"_id": None}, max_time_ms=int(seconds * 1000))
            if kind == "main":
                present.refuse_service(client, database.name)
            if database.replica_set.write_modes:
                # A majority may be there while a site is not.
                collection.delete_one({"_id": {"$in": []}})
    except OperationFailure as error:
        if error.code in _REFUSED:
            user = core.declared.get("database_user", "openhim")
            return Unauthorized(
                f"{where} does not accept the user {user} with the declared password, or the "
                "user may "
                "not read and write there. Declare the user in openhim:mongodb:users with "
                "readWrite."
            )
        return Unreachable(f"{where} cannot take a write now: {_said(error)}")
    except FileNotFoundError as error:
        return Unreachable(
            f"{where} cannot be asked: there is no {error.filename} to check its certificate with"
        )
    except PyMongoError as error:
        return Unreachable(
            f"{where} has no primary that can be reached from here: {_said(error)}. "
            "Look at the replica set with mongodb_replset.status."
        )
    return None


def _said(error: PyMongoError) -> str:
    return str(config.masked(str(error).split(", Timeout:")[0].split(", full error:")[0]))
