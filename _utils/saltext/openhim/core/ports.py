"""The TCP ports of live channels, asked from OpenHIM and remembered for when it is silent."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saltext.openhim import settings
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError

FILE = "tcp_ports.json"


def of_channels(channels: Iterable[Mapping[str, Any]]) -> list[int]:
    """The ports that enabled TCP and TLS channels listen on, in order."""
    return sorted(
        {
            int(channel["tcpPort"])
            for channel in channels
            if channel.get("type") in ("tcp", "tls")
            and channel.get("status", "enabled") == "enabled"
            and channel.get("tcpPort")
        }
    )


def known(
    core: CoreHost, directory: str | None = None, timeout: float = 10.0, remember: bool = True
) -> dict[str, Any]:
    """The TCP ports of live channels, and how they are known.

    directory: where to remember them; :data:`saltext.openhim.settings.STATE_DIRECTORY` by default.
    timeout: seconds for OpenHIM to answer. remember: False leaves the file as it is.

    Returns ``{"ports": [int], "source", "time", "reason"}``. source: ``live`` (OpenHIM said so
    now), ``last known`` (it said so at ``time``; ``reason`` says why it cannot be asked),
    ``declared`` (it was never asked; these are the declared channels').
    """
    path = Path(directory or settings.STATE_DIRECTORY) / FILE
    if not core.active:
        return _remembered(core, path, "OpenHIM is not active on this host")
    try:
        ports = of_channels(core.api(timeout).get("channels") or [])
    except OpenHIMError as error:
        return _remembered(core, path, str(error))
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    if remember:
        _remember(path, ports, now)
    return {"ports": ports, "source": "live", "time": now, "reason": None}


def _remember(path: Path, ports: list[int], now: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump({"ports": ports, "time": now}, stream)
    fresh.replace(path)


def _remembered(core: CoreHost, path: Path, reason: str) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        ports, when = [int(port) for port in kept["ports"]], str(kept["time"])
    except (OSError, ValueError, KeyError, TypeError):
        declared = (core.stack.declared.get("objects") or {}).get("channels") or {}
        return {
            "ports": of_channels(declared.values()),
            "source": "declared",
            "time": None,
            "reason": reason,
        }
    return {"ports": ports, "source": "last known", "time": when, "reason": reason}
