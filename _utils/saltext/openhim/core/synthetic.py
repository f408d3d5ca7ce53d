"""The synthetic transaction: the proof that OpenHIM serves.

A request is posted to OpenHIM's router as a client of our own, through a channel of our own, to the
*responder*, and is then looked for in MongoDB, read with majority. So one answer proves the whole
way: authentication, authorisation, routing over HTTP, and a write that survives a failover.

The responder is a few lines of JavaScript that OpenHIM's process loads at its start
(``node --require``) and that answer on the loopback interface. OpenHIM itself has nothing to route
to: its internal servers have no address that answers 200, and version 4 offers upstreams nothing
newer than TLS 1.0, which its own API does not accept.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pymongo
from pymongo.errors import PyMongoError
from saltext.openhim.core import config
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError, Unreachable

CHANNEL = "OpenHIM synthetic"
PATH = "/openhim-synthetic/"
ROLE = "openhim-synthetic-role"

#: Seconds in which OpenHIM learns of a channel that was just made (its cache lasts one).
SETTLE = 3.0
PAUSE = 0.1

_FINAL = {"Successful", "Completed", "Completed with error(s)", "Failed"}

_RESPONDER = """\
// Loaded before OpenHIM (node --require). Answers the synthetic transaction on the loopback
// interface, in OpenHIM's first process only, and never keeps OpenHIM from running or stopping.
'use strict'
const cluster = require('cluster')
const http = require('http')

if (cluster.isMaster) {
  const server = http.createServer((request, response) => {
    request.resume()
    response.writeHead(200, {'content-type': 'text/plain'})
    response.end('ok')
  })
  server.on('error', error => console.error(`The responder does not listen: ${error.message}`))
  server.listen(%(port)d, '127.0.0.1')
  server.unref()
}
"""


def responder(port: int) -> str:
    """The responder's text. port: where it listens on 127.0.0.1."""
    return _RESPONDER % {"port": port}


def client_id(core: CoreHost) -> str:
    """The declared ID of the synthetic client."""
    return (core.declared.get("synthetic") or {}).get("client", "openhim-synthetic")


def secret_name(core: CoreHost) -> str:
    """The name of the synthetic client's secret."""
    return (core.declared.get("synthetic") or {}).get("secret", "openhim_synthetic")


def client(core: CoreHost) -> dict[str, Any]:
    """The client's definition, as :mod:`.objects` takes it."""
    return {
        "name": "Synthetic transactions",
        "roles": [ROLE],
        "secret": secret_name(core),
    }


def channel(core: CoreHost) -> dict[str, Any]:
    """The channel's definition: for our client alone, kept small, neither retried nor alerting."""
    return {
        "description": "Proves that OpenHIM serves. Managed by Salt.",
        "urlPattern": f"^{PATH}[0-9a-f-]+$",
        "priority": 1,
        "type": "http",
        "methods": ["POST"],
        "authType": "private",
        "allow": [ROLE],
        "status": "enabled",
        "timeout": 10000,
        "requestBody": False,
        "responseBody": False,
        "autoRetryEnabled": False,
        "alerts": [],
        "routes": [
            {
                "name": "responder",
                "type": "http",
                "host": "127.0.0.1",
                "port": core.responder_port,
                "secured": False,
                "primary": True,
                "status": "enabled",
                "forwardAuthHeader": False,
            }
        ],
    }


def run(core: CoreHost, timeout: float = 30.0) -> dict[str, Any]:
    """Send one synthetic transaction and find it in the database.

    timeout: seconds for the whole of it.

    Returns ``{"id", "transaction", "status", "time", "respond_seconds", "found_seconds"}``: our ID,
    OpenHIM's ``_id``, its status, when it was sent (UTC), and seconds until the answer and until it
    was found with a final status.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when any of it fails, with what came
    instead.
    """
    unique = str(uuid.uuid4())
    sent_at = datetime.datetime.now(datetime.timezone.utc)
    begin = time.monotonic()
    _post_until_settled(core, unique, timeout)
    answered = time.monotonic() - begin
    found = _find(core, unique, sent_at, max(1.0, timeout - answered))
    return {
        "id": unique,
        "transaction": str(found["_id"]),
        "status": found["status"],
        "time": sent_at.isoformat(timespec="milliseconds"),
        "respond_seconds": round(answered, 3),
        "found_seconds": round(time.monotonic() - begin, 3),
    }


def _post_until_settled(core: CoreHost, unique: str, timeout: float) -> None:
    """Post; a channel that was made a moment ago is not known to the router yet, and gives 401."""
    begin = time.monotonic()
    while True:
        status, text = _post(core, unique, timeout)
        if status == 200:
            return
        if status not in (401, 404) or time.monotonic() - begin > min(SETTLE, timeout):
            raise OpenHIMError(_refusal(core, status, text))
        time.sleep(PAUSE * 5)


def _refusal(core: CoreHost, status: int, text: str) -> str:
    hint = {
        401: f"The client {client_id(core)} or the channel {CHANNEL!r} is missing or another "
        "one, or the client has another password: apply openhim.synthetic_present.",
        500: f"The responder on port {core.responder_port} did not answer, or MongoDB did not take "
        "the write: look at OpenHIM's log.",
    }.get(status, "Look at OpenHIM's log.")
    shown = " ".join(text.split())[:200]
    got = f"status {status} ({shown or 'no text'})"
    return f"The synthetic transaction got {got}; expected 200. {hint}"


def _post(core: CoreHost, unique: str, timeout: float) -> tuple[int, str]:
    host, port = config.router_address(core.stack)
    pair = f"{client_id(core)}:{core.secret(secret_name(core))}".encode()
    headers = {
        "Authorization": f"Basic {base64.b64encode(pair).decode()}",
        "Content-Type": "text/plain",
    }
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("POST", f"{PATH}{unique}", "synthetic", headers)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(
            f"OpenHIM's router at {host}:{port} did not answer the synthetic transaction: "
            f"{error or repr(error)}. It must run on this host; look at the service and its log."
        ) from None
    finally:
        connection.close()


def _find(
    core: CoreHost, unique: str, sent_at: datetime.datetime, timeout: float
) -> Mapping[str, Any]:
    """The transaction in the main database with its final status, which OpenHIM sets afterwards."""
    url = core.config["mongo"]["url"]
    query = {
        # OpenHIM's clock is this host's; the time lets the index find the document.
        "request.timestamp": {"$gte": sent_at - datetime.timedelta(seconds=5)},
        "request.path": f"{PATH}{unique}",
    }
    deadline = time.monotonic() + timeout
    found: Mapping[str, Any] | None = None
    try:
        with pymongo.MongoClient(
            url,
            readConcernLevel="majority",
            readPreference="primary",
            serverSelectionTimeoutMS=int(timeout * 1000),
            appname="saltext-openhim",
        ) as connection:
            transactions = connection.get_default_database()["transactions"]
            while time.monotonic() < deadline:
                found = transactions.find_one(query, {"status": 1})
                if found and found["status"] in _FINAL:
                    break
                time.sleep(PAUSE / 2)
    except PyMongoError as error:
        raise Unreachable(
            "The synthetic transaction was answered, but the database could not be asked for it: "
            f"{config.masked(str(error))}"
        ) from None
    if not found:
        raise OpenHIMError(
            f"The synthetic transaction {unique} was answered with 200, but it is not in the "
            "database "
            f"after {timeout:g} s (read with majority). What OpenHIM accepts may not survive."
        )
    if found["status"] != "Successful":
        raise OpenHIMError(
            f"The synthetic transaction {unique} is in the database with the status "
            f"{found['status']!r}; expected 'Successful'."
        )
    return found
