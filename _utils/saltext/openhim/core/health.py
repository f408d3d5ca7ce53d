"""Whether OpenHIM on this host is up and can write."""

from __future__ import annotations

import time
import uuid
from typing import Any

from saltext.openhim.core import synthetic
from saltext.openhim.core.api import Api
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError


def check(core: CoreHost, timeout: float = 30.0) -> dict[str, Any]:
    """Ask OpenHIM's API and let OpenHIM write to MongoDB.

    timeout: seconds per request.

    Returns ``{"version", "uptime_seconds", "write_seconds"}``. Raises
    :class:`~saltext.openhim.errors.OpenHIMError` with what is wrong.
    """
    api = core.api(timeout)
    uptime = api.heartbeat().get("master")
    version = (api.get("about") or {}).get("currentCoreVersion")
    if version != core.version.text:
        raise OpenHIMError(
            f"OpenHIM {version} runs on this host; {core.version.text} is declared. Restart the "
            "service."
        )
    return {
        "version": version,
        "uptime_seconds": round(float(uptime or 0), 1),
        "write_seconds": prove_write(core, api),
    }


def prove_write(core: CoreHost, api: Api) -> float:
    """Let OpenHIM write to its main database and read it back; the seconds that the write took.

    The write is the text in the field ``location`` of the synthetic client: OpenHIM answers only
    when MongoDB has acknowledged it with the declared write concern, and it means nothing to
    anyone.
    """
    client_id = synthetic.client_id(core)
    found = _client(api, client_id)
    if found is None:
        raise OpenHIMError(
            f"the client {client_id}, in which a write is proven, is not in OpenHIM; apply "
            "openhim.synthetic_present."
        )
    mark = f"write proven, {uuid.uuid4()}"
    begin = time.monotonic()
    api.put("clients", found["_id"], body={"location": mark})
    seconds = round(time.monotonic() - begin, 3)
    if (_client(api, client_id) or {}).get("location") != mark:
        raise OpenHIMError(
            "OpenHIM acknowledged a write and does not return what was written. Look at "
            "OpenHIM's log "
            "and at the replica set's status."
        )
    return seconds


def _client(api: Api, client_id: str) -> dict[str, Any] | None:
    return next((c for c in api.get("clients") or [] if c.get("clientID") == client_id), None)
