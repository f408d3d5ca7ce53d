"""Database users: whether they are as declared, and making them so.

A password is compared by trying to log in with it; hashes are never read. The first user comes in
through MongoDB's localhost exception, which ends with it.
https://www.mongodb.com/docs/manual/core/localhost-exception/
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized, Unreachable
from saltext.openhim.mongo.connection import (
    KEYFILE,
    NOBODY,
    OPERATOR,
    NotPrimary,
    Vantage,
    connected,
)
from saltext.openhim.mongo.status import POLL_SECONDS

Roles = list[dict[str, str]]


@dataclass(frozen=True)
class User:
    """One user as found: ``any`` says whether the server has users at all."""

    any: bool
    exists: bool
    password_fits: bool
    roles: tuple[tuple[str, str], ...]


def normalized(
    roles: Iterable[str | Mapping[str, str]], database: str
) -> tuple[tuple[str, str], ...]:
    """Roles as sorted pairs of role and database; a bare name means the user's own database."""
    pairs = {
        (role, database) if isinstance(role, str) else (role["role"], role.get("db", database))
        for role in roles
    }
    return tuple(sorted(pairs))


def _plain(roles: Iterable[tuple[str, str]]) -> Roles:
    return [{"role": role, "db": database} for role, database in roles]


def look(vantage: Vantage, name: str, password: str, database: str = "admin") -> User:
    """A user as this host's own member has it."""
    with vantage.own(KEYFILE if vantage.access.keyfile else OPERATOR) as client:
        users = client.admin.command({"usersInfo": {"forAllDBs": True}})["users"]
    found = next((u for u in users if u["user"] == name and u["db"] == database), None)
    return User(
        any=bool(users),
        exists=found is not None,
        # After the look: a user who arrives in between must not seem to have another password.
        password_fits=found is not None and logs_in(vantage, name, password, database),
        roles=normalized(found["roles"], database) if found else (),
    )


def logs_in(vantage: Vantage, name: str, password: str, database: str = "admin") -> bool:
    """Whether this host's own member accepts the password."""
    access = replace(vantage.access, operator_user=name, operator_password=password)
    try:
        with connected(vantage.local, access, NOBODY) as client:
            client.admin.command("ping")  # so that "unreachable" is told before "unauthorized"
        with connected(vantage.local, access, OPERATOR, authSource=database) as client:
            client.admin.command("ping")
    except Unauthorized:
        return False
    return True


def differences(found: User, wanted: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What is not as declared, for Salt's ``changes``: never the password itself."""
    if not found.exists:
        return {
            "user": {"old": None, "new": "created"},
            "roles": {"old": [], "new": _plain(wanted)},
        }
    changes: dict[str, Any] = {}
    if not found.password_fits:
        changes["password"] = {"old": "another one", "new": "as in the pillar"}
    if found.roles != wanted:
        changes["roles"] = {"old": _plain(found.roles), "new": _plain(wanted)}
    return changes


def foresee(
    vantage: Vantage,
    name: str,
    password: str,
    roles: Iterable[str | Mapping[str, str]],
    database: str = "admin",
    reset: bool = False,
) -> tuple[dict[str, Any], bool]:
    """What :func:`ensure` would change, and whether this host would do it; nothing is written."""
    found = look(vantage, name, password, database)
    changes = differences(found, normalized(roles, database))
    if changes:
        _identity(vantage, name, found, reset)
    with vantage.own(NOBODY) as client:
        return changes, bool(client.admin.command("hello").get("isWritablePrimary"))


def ensure(
    vantage: Vantage,
    name: str,
    password: str,
    roles: Iterable[str | Mapping[str, str]],
    database: str = "admin",
    reset: bool = False,
    timeout: float = 300,
) -> dict[str, Any]:
    """Sees to it that a user exists with this password and these roles; returns what this host did.

    The host whose member is primary writes, and the others wait until the user has reached them.
    roles: names, or mappings with ``role`` and ``db``. reset: set the operator's own password by
    means of the keyfile where the pillar's does not fit. timeout: seconds.
    """
    wanted = normalized(roles, database)
    deadline = time.monotonic() + timeout
    done: dict[str, Any] = {}
    while True:
        try:
            found = look(vantage, name, password, database)
            changes = differences(found, wanted)
            if not changes:
                return done
            if done and _still_primary(vantage):
                raise OpenHIMError(
                    f"the user {name} was written and reads back with {sorted(changes)} wrong"
                )
            identity = _identity(vantage, name, found, reset)
            if _still_primary(vantage):
                _write(vantage, identity, name, password, wanted, database, found)
                done = changes
                continue
            waiting = f"the primary's host has still to write its {' and '.join(sorted(changes))}"
        except (Unreachable, NotPrimary) as error:
            waiting = str(error)
        if time.monotonic() >= deadline:
            raise Refused(f"the user {name} is not as declared after {timeout:g} s: {waiting}")
        time.sleep(POLL_SECONDS)


def _still_primary(vantage: Vantage) -> bool:
    with vantage.own(NOBODY) as client:
        return bool(client.admin.command("hello").get("isWritablePrimary"))


def _identity(vantage: Vantage, name: str, found: User, reset: bool) -> str:
    """As whom this user can be written; raises when there is no way."""
    access = vantage.access
    if not found.any:
        if name != access.operator_user:
            raise Refused(
                f"there are no users yet, and the first must be the operator, not {name}: the "
                "localhost exception ends with the first user. Declare one with `operator: true` "
                "and put it first."
            )
        return NOBODY
    if access.operator_user and access.operator_password:
        if name == access.operator_user and not found.password_fits:
            return _reset_identity(name, found, reset)
        if logs_in(vantage, access.operator_user, access.operator_password):
            return OPERATOR
    raise Unauthorized(
        f"users exist on {vantage.local}, and the operator "
        f"{access.operator_user or '(none declared)'} of "
        "the pillar cannot log in: its password differs or it does not exist. Nothing was changed."
    )


def _reset_identity(name: str, found: User, reset: bool) -> str:
    if reset:
        return KEYFILE
    what = "its password differs from the pillar's" if found.exists else "it is not among them"
    raise Unauthorized(
        f"users exist, and the operator {name} cannot log in: {what}. Nothing was changed. "
        "Correct the secret, or give `reset: true` to set it by means of the keyfile."
    )


def _write(
    vantage: Vantage,
    identity: str,
    name: str,
    password: str,
    roles: tuple[tuple[str, str], ...],
    database: str,
    found: User,
) -> None:
    with vantage.own(identity) as client:
        command = "updateUser" if found.exists else "createUser"
        options: dict[str, Any] = {"roles": _plain(roles), "writeConcern": {"w": "majority"}}
        if not found.exists or not found.password_fits:
            options["pwd"] = password
        client[database].command(command, name, **options)
