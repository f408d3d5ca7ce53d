"""Hosts that no write concerns and that a recovery tells of it all the same, when it is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from saltext.openhim import fleet
from saltext.openhim.settings import Stack


def there(
    opts: Mapping[str, Any], stack: Stack, lost_sites: Collection[str], served: Collection[str]
) -> list[str]:
    """The hosts beside ``served``, of sites that are not lost, which answer; parameters as in
    :func:`afterwards`."""
    others = [
        host.id
        for host in stack.hosts.values()
        if host.site not in lost_sites and host.id not in served
    ]
    return sorted(fleet.present(opts, others))


def afterwards(
    opts: Mapping[str, Any],
    stack: Stack,
    lost_sites: Collection[str],
    served: Collection[str],
    answering: list[str] | None = None,
) -> dict[str, list[str]]:
    """Which hosts hold something that a recovery makes out of date.

    opts: the master's configuration. lost_sites: those that are given up. served: hosts to which
    the recovery applies a highstate anyway. answering: those that are :func:`there`, who knows it.

    Returns ``bundled_by``, whose start bundle must know of it, and ``runbook_at``, which hold the
    runbook and are there; both empty where the pillar declares no such thing.
    """
    bundled = (stack.declared.get("backup") or {}).get("bundle")
    if not stack.declared.get("plan"):
        answering = []
    elif answering is None:
        answering = there(opts, stack, lost_sites, served)
    return {
        "bundled_by": [
            host.id
            for host in stack.hosts_with("master")
            if bundled and host.site not in lost_sites
        ],
        "runbook_at": answering,
    }
