"""OpenHIM core's configuration file, from the declaration. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saltext.openhim import secrets, settings
from saltext.openhim.core import versions
from saltext.openhim.errors import OpenHIMError, PillarError

#: Where the configuration is on a core host.
CONFIG_FILE = "/etc/openhim/core.json"

MASK = "**********"

_SECRET_KEYS = re.compile(
    r"pass(word|phrase|wd)?|secret|.*secret|.*secretorpublickey|sessionkey|apiid|apikey|.*token|customtokenid|key",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")


def build(stack: settings.Stack, pillar: Mapping[str, Any]) -> dict[str, Any]:
    """The whole configuration of OpenHIM core for this stack.

    stack: the declaration. pillar: the minion's whole pillar, for the secrets.

    Raises :class:`~saltext.openhim.errors.PillarError` when a secret is missing or not allowed.
    """
    core = stack.declared["core"]
    version = versions.parse(core["version"])
    ports = stack.core_ports
    own = {
        "mongo": {
            "url": database_url(stack, pillar, "main"),
            "atnaUrl": database_url(stack, pillar, "audit"),
            # This one key overrides the URL's write concern for everything that the API writes.
            "openHIMApiWriteConcern": stack.databases["main"].replica_set.write_concern["w"],
        },
        "router": {"httpPort": ports["http"], "httpsPort": ports["https"]},
        "api": {version.api_port_key: ports["api"]},
    }
    if version.has_session_key:
        own["api"]["sessionKey"] = session_key(pillar)
    return settings.merged(settings.merged(version.default_config, own), core.get("config") or {})


def session_key(pillar: Mapping[str, Any]) -> str:
    """The declared key that signs the API's sessions.

    Raises :class:`~saltext.openhim.errors.PillarError` when it is missing, short, or the shipped
    one.
    """
    key = secrets.lookup(pillar, "openhim_session_key")
    if key == versions.SHIPPED_SESSION_KEY or len(key) < 32:
        found = (
            "the key that OpenHIM ships, which everybody knows"
            if len(key) >= 30
            else "a short text"
        )
        raise PillarError(
            [
                f"openhim:secrets:openhim_session_key: found {found}; 32 random characters are "
                "needed."
            ]
        )
    return key


def database_url(stack: settings.Stack, pillar: Mapping[str, Any], kind: str) -> str:
    """The connection string of the database ``main`` or ``audit``, as OpenHIM's user, with
    password.

    The TLS options are those that all of OpenHIM's drivers (3.7 and 4.x) and PyMongo understand.
    """
    mongodb = stack.declared["mongodb"]
    user = stack.declared["core"].get("database_user", "openhim")
    declared = (mongodb.get("users") or {}).get(user)
    if declared is None:
        raise PillarError(
            [
                f"openhim:core:database_user: found {user!r}, which is not in "
                "openhim:mongodb:users; "
                f"declared are {', '.join(sorted(mongodb.get('users') or {})) or 'none'}."
            ]
        )
    password = secrets.lookup(pillar, declared["secret"])
    return stack.database_url(kind, user, password, tls_options(stack))


def tls_options(stack: settings.Stack) -> dict[str, str]:
    """The URL options that make a client of the databases use TLS; none when it is off."""
    mongodb = stack.declared["mongodb"]
    if not mongodb.get("tls"):
        return {}
    authority = mongodb.get("tls_ca_file") or f"{settings.TLS_DIRECTORY}/ca.crt"
    return {"tls": "true", "tlsCAFile": authority}


def masked(value: Any, key: str = "") -> Any:
    """``value`` as it may be shown: what a key's name calls a secret, and URLs' passwords, are
    hidden.

    value: any JSON-able value. key: the name under which it stands.
    """
    if isinstance(value, Mapping):
        return {name: masked(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, key) for inner in value]
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEYS.fullmatch(key):
        return MASK
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value


def difference(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """What differs, as ``{"a:b": {"old": …, "new": …}}``, with every secret hidden.

    A secret that changed is shown as changed, and never as what it was or is.
    """
    changes: dict[str, Any] = {}
    for key in sorted({*old, *new}):
        where = f"{path}:{key}" if path else str(key)
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes.update(difference(before, after, where))
            continue
        shown = {"old": masked(before, str(key)), "new": masked(after, str(key))}
        if shown["old"] == shown["new"]:
            shown = {"old": f"{shown['old']}", "new": f"{shown['new']} (another secret)"}
        changes[where] = shown
    return changes


def api_address(stack: settings.Stack) -> tuple[str, str, int]:
    """Protocol, host and port where OpenHIM's API answers on its own host."""
    core = stack.declared["core"]
    version = versions.parse(core["version"])
    api = (core.get("config") or {}).get("api") or {}
    if api.get("enabled") is False:
        raise OpenHIMError(
            "openhim:core:config:api:enabled is false; this package manages OpenHIM through its "
            "API. Remove the key, and close the API's port in the firewall instead."
        )
    protocol = api.get("protocol", "https") if version.has_api_protocol else "https"
    return protocol, local_address(stack), stack.core_ports["api"]


def router_address(stack: settings.Stack) -> tuple[str, int]:
    """Host and port where OpenHIM's HTTP router answers on its own host."""
    return local_address(stack), stack.core_ports["http"]


def local_address(stack: settings.Stack) -> str:
    """The address at which this host reaches its own OpenHIM."""
    bound = (stack.declared["core"].get("config") or {}).get("bindAddress", "0.0.0.0")  # noqa: S104
    return "127.0.0.1" if bound in ("0.0.0.0", "::", "") else bound  # noqa: S104
