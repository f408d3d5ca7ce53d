"""Whether OpenHIM's audit trail and TLS are on: what an emergency must not put off.

45 CFR 164.308(a)(7)(ii)(C) asks for procedures that protect health information *while* operating in
emergency mode. So nothing here is assumed from a configuration that can be tried.
"""

from __future__ import annotations

import socket
import ssl
import time
from datetime import datetime, timezone
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from saltext.openhim.core import config
from saltext.openhim.core.api import Api
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import Refused

#: Seconds in which OpenHIM has written an audit record, and for a TLS handshake.
AUDIT_SECONDS = 15.0
HANDSHAKE_SECONDS = 10.0
_PAUSE = 0.1

#: How OpenHIM can send audit records elsewhere; where they arrive, nobody here can look.
_ELSEWHERE = ("udp", "tcp", "tls")


def look(core: CoreHost, api: Api) -> tuple[dict[str, str], list[str]]:
    """How audit and TLS are, in words, and what is wrong with them.

    Asks OpenHIM something as the administrator, which it must record, and looks for the record in
    the audit database.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for name, looked in (("audit", _audit), ("api", _api_tls), ("router", _router_tls)):
        said, problem = looked(core, api)
        found[name] = said
        problems += [problem] if problem else []
    found["mongodb"] = "TLS" if core.stack.declared["mongodb"].get("tls") else "no TLS, as declared"
    return found, problems


def require(core: CoreHost, api: Api) -> None:
    """Raises :class:`~saltext.openhim.errors.Refused` unless audit and TLS are on."""
    _, problems = look(core, api)
    if problems:
        raise Refused(
            "emergency mode must not begin without audit and TLS; nothing was changed:\n"
            + "\n".join(problems)
        )


def _audit(core: CoreHost, api: Api) -> tuple[str, str]:
    settings: dict[str, Any] = (core.config.get("auditing") or {}).get("auditEvents") or {}
    way = settings.get("interface", "internal")
    if way in _ELSEWHERE:
        # Not a problem: it is how the stack audits at all times. But nobody looked.
        where = f"{settings.get('host', 'localhost')}:{settings.get('port', 5051)}"
        return f"sent to {where} by {way}, as declared; not looked for there", ""
    if way != "internal":
        return "off", (
            f"openhim:core:config:auditing:auditEvents:interface: found {way!r}, with which "
            "OpenHIM records nothing; allowed are internal, tls, tcp and udp"
        )
    begun = datetime.now(timezone.utc)
    api.get("about")
    try:
        if _is_recorded(core, api.user, begun):
            return "recorded in the audit database", ""
        reason = f"no record of it came within {AUDIT_SECONDS:g} s"
    except (PyMongoError, FileNotFoundError) as error:
        reason = str(config.masked(str(error).split(", Timeout:")[0]))
    return "not recorded", (
        f"OpenHIM's audit: {api.user} asked OpenHIM something, and the audit database "
        f"{core.stack.databases['audit'].name} does not show it: {reason}. Look at OpenHIM's log "
        "and at the audit database"
    )


def _is_recorded(core: CoreHost, user: str, begun: datetime) -> bool:
    url = config.database_url(core.stack, core.pillar, "audit")
    query = {
        "eventIdentification.eventDateTime": {"$gte": begun},
        "activeParticipant.userID": user,
    }
    deadline = time.monotonic() + AUDIT_SECONDS
    with pymongo.MongoClient(
        url, serverSelectionTimeoutMS=10_000, appname="saltext-openhim"
    ) as client:
        audits = client.get_default_database()["audits"]
        while audits.find_one(query, projection=["_id"]) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
    return True


def _api_tls(core: CoreHost, api: Api) -> tuple[str, str]:
    if api.protocol == "https":
        return "TLS", ""
    return "no TLS", (
        f"OpenHIM's API speaks {api.protocol}; it must speak https (openhim:core:config:api)"
    )


def _router_tls(core: CoreHost, api: Api) -> tuple[str, str]:
    """The router's HTTPS port answers a handshake; whose certificate it is, clients judge."""
    address, port = config.local_address(core.stack), core.stack.core_ports["https"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), HANDSHAKE_SECONDS) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return str(secured.version()), ""
    except OSError as error:
        return "no TLS", (
            f"OpenHIM's router does not answer with TLS at {address}:{port}: {error}. Clients "
            "could only come by plain HTTP"
        )
