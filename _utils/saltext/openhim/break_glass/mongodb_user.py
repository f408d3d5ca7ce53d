"""An emergency account as a user of MongoDB.

This host's own keyfile makes and removes it: that needs no pillar. Until when it is, the user
itself says (``customData``), so that any host with a member can end it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pymongo import MongoClient
from saltext.openhim.break_glass.account import Account
from saltext.openhim.errors import OpenHIMError, Unreachable
from saltext.openhim.mongo import config
from saltext.openhim.mongo.connection import (
    KEYFILE,
    Access,
    NotPrimary,
    Vantage,
    connected,
    explained,
)

#: Under this key of ``customData`` the account is kept.
MARK = "saltext_openhim_break_glass"

#: Seconds in which the primary may hand over: a set's members may be restarted in turn.
_PATIENCE = 60
_Answer = TypeVar("_Answer")


def where(vantage: Vantage, keyfile: str | None = None) -> dict[str, Any]:
    """With what this host removes a user of a replica set: names and paths, no secret.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it could not.
    """
    vantage.local  # noqa: B018 - raises where this host has no member
    way = {
        "set": vantage.replica_set.name,
        "members": [member.name for member in vantage.replica_set.members],
        "keyfile": keyfile or config.KEYFILE_PATH,
        "tls_ca_file": vantage.access.tls_ca_file,
    }
    _done(way, lambda client: client.admin.command("usersInfo", "nobody"))
    return way


def make(account: Account, password: str) -> None:
    """Makes the user, or gives the one that was begun its password, and reads it back."""
    roles = [{"role": role, "db": database} for role, database in account.roles]
    options = {
        "pwd": password,
        "roles": roles,
        "customData": {MARK: account.plain()},
        "writeConcern": {"w": "majority"},
    }

    def written(client: Any) -> None:
        command = "updateUser" if _found(client, account.name) else "createUser"
        client.admin.command(command, account.name, **options)
        if not _found(client, account.name):
            raise OpenHIMError(f"the user {account.name} was made, and is not there")

    _done(account.mongodb, written)


def remembered(way: Mapping[str, Any]) -> list[Account]:
    """The accounts that are users of the set."""
    asked = {"usersInfo": 1, "showCustomData": True}
    found = _done(way, lambda client: client.admin.command(asked))["users"]
    marks = [one["customData"][MARK] for one in found if MARK in (one.get("customData") or {})]
    return [Account.of({**mark, "mongodb": dict(way)}) for mark in marks]


def exists(account: Account) -> bool:
    """Whether the set has a user of this name."""
    return _done(account.mongodb, lambda client: _found(client, account.name))


def remove(account: Account) -> None:
    """Shuts the user out, ends what it runs on every member that answers, and removes it.

    In this order, for a user's operations can be ended only while it is known.
    """

    def removed(client: Any) -> None:
        if _found(client, account.name):
            shut = {"pwd": secrets.token_urlsafe(24), "roles": []}
            majority = {"w": "majority"}
            client.admin.command("updateUser", account.name, **shut, writeConcern=majority)
            for member in account.mongodb["members"]:
                _end_sessions(member, account)
            client.admin.command("dropUser", account.name, writeConcern=majority)
        if _found(client, account.name):
            raise OpenHIMError(f"the user {account.name} was dropped, and is still there")

    _done(account.mongodb, removed)


def _end_sessions(member: str, account: Account) -> None:
    pattern = [{"user": account.name, "db": "admin"}]
    try:
        with connected(member, _access(account.mongodb), KEYFILE) as client:
            client.admin.command({"killAllSessions": pattern})
    except Unreachable:
        # A member that is away learns that the user is gone before it has newer data to show.
        return


def _done(way: Mapping[str, Any], action: Callable[[Any], _Answer]) -> _Answer:
    """What is done with the set's primary. Where it hands over meanwhile, it is done again with the
    next one: all of it can be done twice."""
    deadline, cut = time.monotonic() + _PATIENCE, 0
    while True:
        try:
            with primary(way) as client:
                return action(client)
        except NotPrimary:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        except Unreachable:
            # A member that is restarted cuts its connections; a set without a primary is no better
            # a second time.
            cut += 1
            if cut > 1:
                raise


@contextmanager
def primary(way: Mapping[str, Any]) -> Iterator[Any]:
    """The set's primary, as who holds the keyfile."""
    access = _access(way)
    with explained(f"the replica set {way['set']}"):
        client = MongoClient(
            list(way["members"]),
            replicaSet=way["set"],
            **{**access.options(KEYFILE), "serverSelectionTimeoutMS": 10_000},
        )
        try:
            yield client
        finally:
            client.close()


def _access(way: Mapping[str, Any]) -> Access:
    try:
        text = Path(way["keyfile"]).read_text(encoding="utf-8")
    except OSError as error:
        raise OpenHIMError(
            f"the keyfile {way['keyfile']} cannot be read ({error.strerror}); it is needed to "
            "remove the account"
        ) from None
    return Access(keyfile="".join(text.split()), tls_ca_file=way.get("tls_ca_file"))


def _found(client: Any, name: str) -> bool:
    return bool(client.admin.command("usersInfo", {"user": name, "db": "admin"})["users"])
