"""Words to those outside: a notification to people, a sign of life to who watches the watcher.

The addresses are as good as passwords, for whoever has one can speak in our name; so no message,
log or event holds more of them than the host.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from saltext.openhim.errors import OpenHIMError, Unreachable

#: Seconds for one call.
TIMEOUT = 15


def call(url: str, message: Mapping[str, Any] | None = None) -> None:
    """GET an address, or POST a message to it as JSON.

    Raises OpenHIMError for what is no http(s) address, Unreachable when nobody answers or the
    answer is not a success.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OpenHIMError("an address was given that is no URL; expected https://host/…")
    body = None if message is None else json.dumps(message).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310  checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        raise Unreachable(f"{parts.hostname} answered {error.code}; expected a success") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise Unreachable(f"{parts.hostname} was not reached: {reason}") from None


def words(minion: str, event: Mapping[str, Any]) -> str:
    """A minion's event, as a person reads it: its own text, or one about its backups or drills."""
    if event.get("text"):
        return f"{event['text']} ({minion} says so)"
    stack, state = event.get("stack") or "a stack", event.get("state") or "unknown"
    reasons = "; ".join(event.get("reasons") or ())
    told = f"The {event.get('what') or 'backups'} of {stack} are {state}, says {minion}"
    return f"{told}: {reasons}" if reasons else f"{told}."
