"""Secrets by name.

States and rendered SLS files carry the *name* of a secret; the value is looked up in the pillar at
the last moment. So no secret is in a rendered state, in an argument, in a log or in a return.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.openhim.errors import PillarError


def lookup(pillar: Mapping[str, Any], name: str) -> str:
    """The value of ``openhim:secrets:<name>``.

    pillar: the minion's whole pillar. name: the secret's name.

    Raises :class:`~saltext.openhim.errors.PillarError` when there is no such secret or it is empty.
    """
    secrets = (pillar.get("openhim") or {}).get("secrets") or {}
    value = secrets.get(name)
    if not isinstance(value, str) or not value:
        found = "nothing" if value is None else f"a {type(value).__name__}, or an empty text"
        raise PillarError(
            [
                f"openhim:secrets:{name}: found {found}; a text is needed. "
                "Give this host the pillar file that holds it."
            ]
        )
    return value
