"""An emergency account as a user of OpenHIM.

It is made through OpenHIM's API. It is removed in OpenHIM's database, with the URL from OpenHIM's
own configuration file: that needs neither a pillar nor a running OpenHIM, and only there can be
removed what the API leaves behind: the user's sessions, and from version 7.2 on the password
(``passports``), with which a later user of the same name could log in.
https://github.com/jembi/openhim-core-js/blob/v8.5.0/src/api/users.js
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern
from saltext.openhim import settings
from saltext.openhim.break_glass.account import Account
from saltext.openhim.core import config, objects
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError, Refused, Unreachable

#: Where the accounts are remembered beside their users, so that another host can remove them.
COLLECTION = "saltext_openhim_break_glass"

_SECRET = "saltext_openhim_break_glass"  # noqa: S105 - a name, and of nothing that is stored


def where(core: CoreHost, config_file: str | None = None) -> dict[str, Any]:
    """With what this host removes a user of OpenHIM: a path and a name, no secret.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it could not.
    """
    if not core.active:
        raise Refused(
            f"OpenHIM is not active on this host, which is at {core.host.site}; open an account of "
            f"OpenHIM on a core host of the active site {core.stack.active_site}"
        )
    way = {
        "config": config_file or config.CONFIG_FILE,
        "database": core.stack.databases["main"].name,
    }
    with opened(way) as database:
        database.list_collection_names()
    return way


def make(core: CoreHost, account: Account, password: str) -> None:
    """Makes the user through OpenHIM's API, or gives the one that was begun its password."""
    injected = {"openhim": {"secrets": {_SECRET: password}}}
    with_password = CoreHost(settings.merged(core.pillar, injected), core.host.id)
    definition = {
        "firstname": "Emergency",
        "surname": account.by,
        "groups": list(account.groups),
        "secret": _SECRET,
    }
    api = core.api()

    def plan() -> objects.Plan:
        return objects.user_plan(with_password, api, account.name, definition)

    plan().carry_out(plan)


def remember(account: Account) -> None:
    """Keeps the account beside its user, acknowledged by a majority."""
    with opened(account.openhim) as database:
        query = {"_id": account.name}
        database[COLLECTION].replace_one(query, {**query, **account.plain()}, upsert=True)


def remembered(way: Mapping[str, Any]) -> list[Account]:
    """The accounts that the database remembers."""
    with opened(way) as database:
        return [Account.of(one) for one in database[COLLECTION].find()]


def exists(account: Account) -> bool:
    """Whether OpenHIM has a user of this name."""
    with opened(account.openhim) as database:
        return database["users"].find_one({"email": _same(account.name)}) is not None


def remove(account: Account) -> None:
    """Removes the user, its sessions and its password, and reads back that they are gone."""
    named = {
        "users": {"email": _same(account.name)},
        "sessions": {"data.passport.user": _same(account.name)},
        "passports": {"email": _same(account.name)},
    }
    with opened(account.openhim) as database:
        for collection, query in named.items():
            database[collection].delete_many(query)
        left = [name for name, query in named.items() if database[name].find_one(query)]
        if left:
            raise OpenHIMError(
                f"{account.name} was removed from OpenHIM, and is still in {', '.join(left)}"
            )
        database[COLLECTION].delete_one({"_id": account.name})


@contextmanager
def opened(way: Mapping[str, Any]) -> Iterator[Any]:
    """OpenHIM's main database, as OpenHIM's own configuration file says.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the file says nothing, and
    :class:`~saltext.openhim.errors.Unreachable` when the database does not answer.
    """
    try:
        url = json.loads(Path(way["config"]).read_text(encoding="utf-8"))["mongo"]["url"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenHIMError(
            f"OpenHIM's configuration {way['config']} does not say where its database is: "
            f"{type(error).__name__}. It is needed to remove the account"
        ) from None
    try:
        with pymongo.MongoClient(
            url, serverSelectionTimeoutMS=10_000, appname="saltext-openhim"
        ) as client:
            yield client.get_database(
                way["database"],
                read_concern=ReadConcern("majority"),
                write_concern=WriteConcern("majority", wtimeout=30_000),
            )
    except (PyMongoError, FileNotFoundError) as error:
        said = config.masked(str(error).split(", Timeout:")[0])
        raise Unreachable(f"OpenHIM's database {way['database']}: {said}") from None


def _same(name: str) -> re.Pattern[str]:
    """OpenHIM does not tell capitals in addresses apart."""
    return re.compile(f"^{re.escape(name)}$", re.IGNORECASE)
