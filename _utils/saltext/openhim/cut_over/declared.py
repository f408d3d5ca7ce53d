"""The way that a pillar declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.openhim import secrets
from saltext.openhim.cut_over.command import Command
from saltext.openhim.cut_over.decision import Way
from saltext.openhim.errors import OpenHIMError, Refused

#: Seconds for one answer of a name server, and for a command.
NAME_SERVER_TIMEOUT, COMMAND_TIMEOUT = 5, 60

DEFAULT_PORT = 53
DEFAULT_TTL = 60
DEFAULT_ALGORITHM = "hmac-sha256"


def is_declared(pillar: Mapping[str, Any]) -> bool:
    """Whether a pillar says how clients are led to another site."""
    return bool(pillar["openhim"].get("cut_over"))


def way(pillar: Mapping[str, Any]) -> Way:
    """How clients are led to another site.

    pillar: the whole pillar, checked, of a host with the role ``master``: only theirs holds the
    key's secret.

    Raises Refused when nothing is declared, PillarError without the secret, OpenHIMError when
    dnspython is not installed.
    """
    declared = pillar["openhim"].get("cut_over") or {}
    if "command" in declared:
        entry = declared["command"]
        return Command(
            pillar["openhim"]["stack"],
            entry["run"],
            entry.get("points_to", ()),
            entry.get("timeout_seconds", COMMAND_TIMEOUT),
        )
    if "dns" in declared:
        return _name_server(pillar, declared["dns"])
    raise Refused(
        "openhim:cut_over: found nothing; nobody can tell here where clients find OpenHIM. Declare "
        "their public name, or a command (docs/topics/cut-over.md)"
    )


def _name_server(pillar: Mapping[str, Any], entry: Mapping[str, Any]) -> Way:
    try:
        from saltext.openhim.cut_over import name_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "dns":
            raise
        raise OpenHIMError(
            "openhim:cut_over:dns needs the Python package dnspython on the Salt master, and it is "
            "not installed: salt-pip install dnspython"
        ) from error
    key = entry["key"]
    return name_server.NameServer(
        name=entry["name"].rstrip("."),
        zone=entry["zone"].rstrip("."),
        address=entry["server"],
        port=entry.get("port", DEFAULT_PORT),
        ttl=entry.get("ttl", DEFAULT_TTL),
        key=name_server.Key(
            key["name"],
            key.get("algorithm", DEFAULT_ALGORITHM),
            secrets.lookup(pillar, key["secret"]),
        ),
        sites={site: tuple(addresses) for site, addresses in entry["addresses"].items()},
        timeout=entry.get("timeout_seconds", NAME_SERVER_TIMEOUT),
    )
