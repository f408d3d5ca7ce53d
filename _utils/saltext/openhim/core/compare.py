"""Compare a declared object with what OpenHIM has. Pure.

OpenHIM adds IDs and defaults to what it stores. Only declared keys are compared, at every depth; a
key that is not declared is not managed. Lists are compared whole: they have as many entries as
declared, and lists of named entries (a channel's routes) are matched by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltext.openhim.core.config import MASK, masked


def differs(declared: Any, actual: Any) -> bool:
    """Whether ``actual`` is not what is declared, as far as it is declared."""
    if isinstance(declared, Mapping):
        if not isinstance(actual, Mapping):
            return True
        return any(differs(value, actual.get(key)) for key, value in declared.items())
    if isinstance(declared, list | tuple):
        if not isinstance(actual, list) or len(declared) != len(actual):
            return bool(declared) or bool(actual)
        return any(
            differs(entry, _counterpart(entry, actual, index))
            for index, entry in enumerate(declared)
        )
    if declared is None and actual == "":
        return False
    return declared != actual


def overlaid(declared: Any, actual: Any) -> Any:
    """What to send so that declared keys win and what is not declared stays as it is."""
    if isinstance(declared, Mapping):
        base = dict(actual) if isinstance(actual, Mapping) else {}
        return {**base, **{k: overlaid(v, base.get(k)) for k, v in declared.items()}}
    if isinstance(declared, list | tuple):
        have = actual if isinstance(actual, list) else []
        return [overlaid(e, _counterpart(e, have, i)) for i, e in enumerate(declared)]
    return declared


def changes(declared: Mapping[str, Any], actual: Mapping[str, Any] | None) -> dict[str, Any]:
    """``{key: {"old", "new"}}`` of the declared keys that differ, with every secret hidden."""
    actual = actual or {}
    found = {}
    for key, value in declared.items():
        if not differs(value, actual.get(key)):
            continue
        shown = {"old": _shown(actual.get(key), value, key), "new": masked(value, key)}
        if shown["old"] == shown["new"]:
            shown["new"] = f"{MASK} (another secret)"
        found[key] = shown
    return found


def _counterpart(entry: Any, actual: list[Any], index: int) -> Any:
    """The entry of ``actual`` that an entry means: the one of its name, or at its place."""
    if isinstance(entry, Mapping) and "name" in entry:
        named = [e for e in actual if isinstance(e, Mapping) and e.get("name") == entry["name"]]
        return named[0] if named else None
    return actual[index] if index < len(actual) else None


def _shown(actual: Any, declared: Any, key: str) -> Any:
    """The old value without what OpenHIM added, so that old and new can be read side by side."""
    if isinstance(actual, Mapping) and isinstance(declared, Mapping):
        return {k: _shown(v, declared[k], k) for k, v in actual.items() if k in declared}
    if isinstance(actual, list) and isinstance(declared, list | tuple):
        return [
            _shown(entry, _counterpart(entry, list(declared), index), key)
            for index, entry in enumerate(actual)
        ]
    return masked(actual, key)
