"""The objects inside OpenHIM that a stack declares: read, compared, written and read back.

Each ``…_plan`` function returns a :class:`Plan`: what would change, with every secret hidden, and
how to do it. States show the plan in test mode and carry it out otherwise.

How a password is checked without being shown: a **client**'s hash and salt come with the client
through the API, and the declared password is hashed and compared; a **user**'s password is tried by
authenticating with it; the **keystore**'s key is never returned, but OpenHIM says whether it
belongs to the certificate; a **mediator**'s passwords are masked by the API and therefore compared
in the database.
"""

from __future__ import annotations

import hashlib
import secrets as random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from saltext.openhim.core import compare, config, versions
from saltext.openhim.core.api import Api
from saltext.openhim.core.host import CoreHost, require_secret_name
from saltext.openhim.emergency import memory, respect
from saltext.openhim.errors import OpenHIMError, PillarError, Unauthorized, Unreachable

_HIDDEN = {"old": config.MASK, "new": f"{config.MASK} (the declared one)"}

#: Client IDs are the clients' names in the API; the pillar's key is the ID.
_CLIENT_PASSWORD = ("passwordAlgorithm", "passwordSalt", "passwordHash")


@dataclass
class Plan:
    """What one object lacks. ``changes`` is empty when it is as declared."""

    what: str
    changes: dict[str, Any] = field(default_factory=dict)
    act: Callable[[], None] = lambda: None
    #: Whether OpenHIM uses the change only after a restart.
    restart: bool = False
    #: TCP ports that must listen when it is done.
    listens: tuple[int, ...] = ()
    #: Whether it was written, if only in part: what fails afterwards does not undo that.
    written: bool = False
    #: What else a person must know of it.
    note: str = ""

    def carry_out(self, again: Callable[[], Plan]) -> None:
        """Write, then compare anew with ``again``; raise when something still differs."""
        try:
            self.act()
        except OpenHIMError:
            self.written = self._was_written_in_part(again)
            raise
        self.written = True
        left = again().changes
        if left:
            raise OpenHIMError(
                f"OpenHIM accepted the {self.what}, but reads back differently: {left}. "
                "Perhaps this version of OpenHIM does not know these keys; correct the declaration."
            )

    def _was_written_in_part(self, again: Callable[[], Plan]) -> bool:
        """After a failure: whether something differs now that did not before; yes, if unknown."""
        try:
            return again().changes != self.changes
        except OpenHIMError:
            return True


# Channels


def resolved_channel(core: CoreHost, name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """A channel as OpenHIM takes it: hosts of the active site, passwords instead of their names.

    Raises :class:`~saltext.openhim.errors.PillarError` when a route has no host at the active site.
    """
    routes = []
    for number, declared in enumerate(definition.get("routes") or []):
        route = dict(declared)
        where = f"openhim:objects:channels:{name}:routes:{number}"
        if isinstance(route.get("host"), Mapping):
            hosts = route["host"]
            if core.stack.active_site not in hosts:
                raise PillarError(
                    [
                        f"{where}:host: found hosts for the sites {', '.join(sorted(hosts))}; "
                        "one for "
                        f"the active site {core.stack.active_site} is needed."
                    ]
                )
            route["host"] = hosts[core.stack.active_site]
        if "secret" in route:
            name_of_secret = require_secret_name(route, where)
            del route["secret"]
            route["password"] = core.secret(name_of_secret)
        routes.append(route)
    return {**definition, "name": name, **({"routes": routes} if routes else {})}


def channel_plan(core: CoreHost, api: Api, name: str, definition: Mapping[str, Any]) -> Plan:
    """What a declared channel lacks. definition: OpenHIM's own channel keys; routes may have
    ``host`` by site and ``secret`` (a secret's name) for the password.

    While emergency mode lasts, what it keeps off is not put on, and that is noted.
    """
    wanted = resolved_channel(core, name, definition)
    actual = _named(api.get("channels"), "name", name)
    if actual and actual.get("status") == "deleted":
        wanted.setdefault("status", "enabled")
    plan = Plan(f"channel {name!r}", _changes(wanted, actual))
    if plan.changes:
        # Only now: where nothing is to be written, nothing can be undone.
        wanted, plan.note = respect.kept_off(memory.current(core), wanted, actual)
        plan.changes = _changes(wanted, actual)
    status = wanted.get("status") or (actual or {}).get("status") or "enabled"
    if wanted.get("type") in ("tcp", "tls") and status == "enabled":
        plan.listens = (int(wanted.get("tcpPort") or 0),)

    def act() -> None:
        if plan.note and "status" in plan.changes:
            respect.hold_new(core, name)
        with respect.ours(core, api):
            if actual:
                api.put("channels", actual["_id"], body=compare.overlaid(wanted, _writable(actual)))
            else:
                api.post("channels", body=wanted)

    plan.act = act
    return plan


def channel_absent_plan(api: Api, name: str) -> Plan:
    """What removes a channel. OpenHIM keeps one that has transactions, with the status deleted."""
    actual = _named(api.get("channels"), "name", name)
    plan = Plan(f"channel {name!r}")
    if actual and actual.get("status") != "deleted":
        plan.changes = {"channel": {"old": name, "new": None}}
        plan.act = lambda: api.delete("channels", actual["_id"])
    return plan


# Clients


def client_plan(core: CoreHost, api: Api, client_id: str, definition: Mapping[str, Any]) -> Plan:
    """What a declared client lacks. definition: OpenHIM's client keys, and ``secret`` for the
    name of its password's secret; without it, the password is not managed.
    """
    wanted = {"roles": [], "name": client_id, **definition, "clientID": client_id}
    wanted.pop("secret", None)
    actual = _named(api.get("clients"), "clientID", client_id)
    changes = _changes(wanted, actual)
    password = None
    if "secret" in definition:
        password = core.secret(
            require_secret_name(definition, f"openhim:objects:clients:{client_id}")
        )
        if not client_password_matches(actual or {}, password):
            changes["password"] = dict(_HIDDEN)
    sent = {**wanted, **(hashed_for_client(password) if "password" in changes else {})}

    def act() -> None:
        if actual:
            api.put("clients", actual["_id"], body=sent)
        else:
            api.post("clients", body=sent)

    return Plan(f"client {client_id!r}", changes, act)


def client_password_matches(client: Mapping[str, Any], password: str) -> bool:
    """Whether a client's stored hash is of this password; False for a kind of hash we don't make.

    https://github.com/jembi/openhim-core-js/blob/v8.5.0/src/middleware/basicAuthentication.js
    """
    algorithm, salt, stored = (client.get(key) for key in _CLIENT_PASSWORD)
    if not (stored and algorithm) or algorithm not in hashlib.algorithms_available:
        return False
    return hashlib.new(algorithm, f"{password}{salt}".encode()).hexdigest() == stored


def hashed_for_client(password: str | None) -> dict[str, str]:
    """A client's password as OpenHIM's database holds it."""
    salt = random.token_hex(16)
    hashed = hashlib.sha512(f"{password}{salt}".encode()).hexdigest()
    return dict(zip(_CLIENT_PASSWORD, ("sha512", salt, hashed), strict=True))


def client_absent_plan(api: Api, client_id: str) -> Plan:
    """What removes a client."""
    actual = _named(api.get("clients"), "clientID", client_id)
    plan = Plan(f"client {client_id!r}")
    if actual:
        plan.changes = {"client": {"old": client_id, "new": None}}
        plan.act = lambda: api.delete("clients", actual["_id"])
    return plan


# Users


def user_plan(core: CoreHost, api: Api, email: str, definition: Mapping[str, Any]) -> Plan:
    """What a declared user of the API and the console lacks. definition: OpenHIM's user keys
    (``firstname``, ``surname``, ``groups`` …), and ``secret`` for the name of the password's
    secret.
    """
    email = email.lower()
    wanted = {**definition, "email": email}
    wanted.pop("secret", None)
    password = core.secret(require_secret_name(definition, f"openhim:objects:users:{email}"))
    actual = api.get("users", email)
    changes = _changes(wanted, actual)
    if not _has_password(core, actual) or not api.as_user(email, password).authenticates():
        changes["password"] = dict(_HIDDEN)

    def act() -> None:
        if not actual:
            # OpenHIM locks a new user and stores a first password as it is; the real one follows.
            api.post("users", body={"surname": "-", "firstname": email, **wanted, **_junk(core)})
        fields = wanted if "password" not in changes else {**wanted, **_password(core, password)}
        api.put("users", email, body=fields)

    return Plan(f"user {email!r}", changes, act)


def _has_password(core: CoreHost, actual: Mapping[str, Any] | None) -> bool:
    """Whether there is a user with any password: OpenHIM 4 fails (500) at one without it."""
    return bool(actual) and (core.version.has_passports or "passwordHash" in (actual or {}))


def _junk(core: CoreHost) -> dict[str, str]:
    return {"password": random.token_urlsafe(24)} if core.version.has_passports else {}


def _password(core: CoreHost, password: str) -> dict[str, str]:
    """A user's password as the version's API takes it."""
    if core.version.has_passports:
        return {"password": password}
    salt = random.token_hex(16)
    hashed = hashlib.sha512(f"{salt}{password}".encode()).hexdigest()
    return {"passwordAlgorithm": "sha512", "passwordSalt": salt, "passwordHash": hashed}


def user_absent_plan(api: Api, email: str) -> Plan:
    """What removes a user."""
    email = email.lower()
    plan = Plan(f"user {email!r}")
    if api.get("users", email):
        plan.changes = {"user": {"old": email, "new": None}}
        plan.act = lambda: api.delete("users", email)
    return plan


def administrator_plan(core: CoreHost) -> Plan:
    """What the administrator lacks: the declared password instead of the one that everybody knows.

    OpenHIM makes root@openhim.org with a known password whenever it finds none. That user gets the
    declared secret too when another address is declared, and the declared one is made.

    Raises :class:`~saltext.openhim.errors.Unauthorized` when neither the declared nor the shipped
    password is accepted.
    """
    email, secret = core.administrator
    password = core.secret(secret)
    declared = core.api()
    root = declared.as_user(versions.SHIPPED_ADMINISTRATOR, password)
    plan = Plan("administrator")
    steps: list[Callable[[], None]] = []
    if not root.authenticates():
        shipped = root.as_user(versions.SHIPPED_ADMINISTRATOR, versions.SHIPPED_PASSWORD)
        if not shipped.authenticates():
            raise Unauthorized(
                f"{versions.SHIPPED_ADMINISTRATOR} has neither the declared password (secret "
                f"{secret}) "
                "nor the one that OpenHIM ships. Declare the password that it has, or set it "
                "to the "
                "declared one in OpenHIM's console."
            )
        plan.changes[versions.SHIPPED_ADMINISTRATOR] = {
            "old": "the password that OpenHIM ships",
            "new": "the declared password",
        }
        fields = {"email": versions.SHIPPED_ADMINISTRATOR, **_password(core, password)}
        steps.append(lambda: shipped.put("users", versions.SHIPPED_ADMINISTRATOR, body=fields))
    if email.lower() != versions.SHIPPED_ADMINISTRATOR and not declared.authenticates():
        plan.changes[email] = {"old": None, "new": "an administrator with the declared password"}
        definition = {"firstname": "OpenHIM", "surname": "Administrator", "groups": ["admin"]}
        made = {**definition, "secret": secret}
        steps.append(lambda: user_plan(core, root, email, made).act())

    def act() -> None:
        for step in steps:
            step()

    plan.act = act
    return plan


# Mediators


def mediator_plan(core: CoreHost, api: Api, urn: str, definition: Mapping[str, Any]) -> Plan:
    """What a mediator's configuration lacks. definition: ``config`` (parameter -> value) and
    ``secrets`` (parameter -> secret's name). Mediators register themselves; one that has not yet
    cannot be configured.
    """
    actual = api.get("mediators", urn)
    if actual is None:
        raise OpenHIMError(
            f"the mediator {urn} has not registered with OpenHIM; a mediator does so when it "
            "starts. "
            "Start it, or correct the URN."
        )
    hidden = {k: core.secret(v) for k, v in (definition.get("secrets") or {}).items()}
    wanted = {**(definition.get("config") or {}), **hidden}
    stored = (_stored_mediator(core, urn) if hidden else actual).get("config") or {}
    changes = _changes(wanted, stored)
    for parameter in set(hidden) & set(changes):
        changes[parameter] = dict(_HIDDEN)
    # What is not declared stays; OpenHIM puts masked passwords back by itself.
    body = {**(actual.get("config") or {}), **wanted}
    return Plan(
        f"mediator {urn!r}", changes, lambda: api.put("mediators", urn, "config", body=body)
    )


def _stored_mediator(core: CoreHost, urn: str) -> Mapping[str, Any]:
    url = config.database_url(core.stack, core.pillar, "main")
    try:
        with pymongo.MongoClient(
            url, readConcernLevel="majority", serverSelectionTimeoutMS=10000
        ) as connection:
            return connection.get_default_database()["mediators"].find_one({"urn": urn}) or {}
    except PyMongoError as error:
        raise Unreachable(
            f"The mediator {urn} has passwords, which only the database shows, and it cannot be "
            f"asked: {config.masked(str(error))}"
        ) from None


# Roles


def role_plan(core: CoreHost, api: Api, name: str, channels: list[str], clients: list[str]) -> Plan:
    """What a role lacks. OpenHIM has no document for a role: it is the text that channels allow
    and that clients have, and is written there (version 4's own call for roles fails on current
    servers). channels: names. clients: client IDs. Both are exact.
    """
    holders = {
        "channels": ("name", "allow", set(channels), api.get("channels")),
        "clients": ("clientID", "roles", set(clients), api.get("clients")),
    }
    changes: dict[str, Any] = {}
    writes: list[tuple[str, str, dict[str, Any]]] = []
    for path, (key, field_name, wanted, entries) in holders.items():
        unknown = wanted - {entry[key] for entry in entries}
        if unknown:
            raise OpenHIMError(f"{path} that are not in OpenHIM: {', '.join(sorted(unknown))}")
        have = {entry[key] for entry in entries if name in (entry.get(field_name) or [])}
        if have != wanted:
            changes[path] = {"old": sorted(have), "new": sorted(wanted)}
        for entry in entries:
            if (entry[key] in wanted) != (entry[key] in have):
                others = [role for role in entry.get(field_name) or [] if role != name]
                roles = [*others, name] if entry[key] in wanted else others
                writes.append((path, entry["_id"], {field_name: roles}))

    def act() -> None:
        with respect.ours(core, api):
            for path, identity, body in writes:
                api.put(path, identity, body=body)

    return Plan(f"role {name!r}", changes, act)


# The keystore


def keystore_plan(core: CoreHost, api: Api, definition: Mapping[str, Any]) -> Plan:
    """What OpenHIM's keystore lacks. definition: ``certificate`` (PEM) or ``certificate_file``;
    ``secret`` (name of the key's secret) or ``key_file``; ``passphrase_secret``; ``trusted`` (list
    of PEM texts or of paths), the certificates of clients and upstreams that OpenHIM trusts.
    """
    plan = Plan("keystore", restart=True)
    steps: list[Callable[[], None]] = []
    if definition.get("certificate") or definition.get("certificate_file"):
        certificate = _pem(definition, "certificate")
        stored = (api.get("keystore", "cert") or {}).get("data")
        valid = _keystore_is_valid(api)
        if _text(stored) != _text(certificate) or not valid:
            plan.changes["certificate"] = {
                "old": _fingerprint(stored),
                "new": _fingerprint(certificate),
            }
            if not valid:
                plan.changes["key"] = {"old": "not of the certificate", "new": config.MASK}
            steps.append(lambda: _write_pair(core, api, definition, certificate))
    trusted = {_text(_text_or_file(entry)) for entry in definition.get("trusted") or []}
    have = {_text(entry.get("data")) for entry in api.get("keystore", "ca") or []}
    missing = sorted(trusted - have)
    if missing:
        plan.changes["trusted"] = {"old": None, "new": [_fingerprint(pem) for pem in missing]}
        steps.extend(
            partial(api.post, "keystore", "ca", "cert", body={"cert": pem}) for pem in missing
        )

    def act() -> None:
        for step in steps:
            step()

    plan.act = act
    return plan


def _write_pair(core: CoreHost, api: Api, definition: Mapping[str, Any], certificate: str) -> None:
    if definition.get("key_file"):
        key = Path(definition["key_file"]).read_text(encoding="utf-8")
    else:
        key = core.secret(require_secret_name(definition, "openhim:objects:keystore"))
    phrase = definition.get("passphrase_secret")
    extra = {"passphrase": core.secret(phrase)} if phrase else {}
    api.post("keystore", "cert", body={"cert": certificate, **extra})
    api.post("keystore", "key", body={"key": key, **extra})
    if not _keystore_is_valid(api):
        raise OpenHIMError(
            "OpenHIM says that the key in its keystore does not belong to the certificate; it "
            "keeps "
            "serving with the former ones until it is restarted. Declare the pair that belongs "
            "together."
        )


def _keystore_is_valid(api: Api) -> bool:
    try:
        return bool((api.get("keystore", "validity") or {}).get("valid"))
    except OpenHIMError as error:
        if getattr(error, "status", None) == 400:  # a key that OpenSSL cannot read
            return False
        raise


def _pem(definition: Mapping[str, Any], key: str) -> str:
    if definition.get(key):
        return definition[key]
    return Path(definition[f"{key}_file"]).read_text(encoding="utf-8")


def _text_or_file(entry: str) -> str:
    return entry if "-----BEGIN" in entry else Path(entry).read_text(encoding="utf-8")


def _text(pem: str | None) -> str:
    return "\n".join(line.strip() for line in (pem or "").strip().splitlines()) + "\n"


def _fingerprint(pem: str | None) -> str | None:
    """A text that names a certificate: the hash of its PEM text."""
    return f"sha256 of PEM {hashlib.sha256(_text(pem).encode()).hexdigest()[:16]}" if pem else None


# What all share


def _named(entries: Any, key: str, name: str) -> dict[str, Any] | None:
    return next((entry for entry in entries or [] if entry.get(key) == name), None)


def _writable(actual: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenHIM returned, without what only OpenHIM writes."""
    return {
        k: v for k, v in actual.items() if k not in ("_id", "__v", "updatedBy", "lastBodyCleared")
    }


def _changes(wanted: Mapping[str, Any], actual: Mapping[str, Any] | None) -> dict[str, Any]:
    return compare.changes(wanted, actual)
