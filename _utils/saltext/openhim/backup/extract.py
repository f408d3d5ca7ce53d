"""Restores single collections of a restore point, beside what is there or in its place.

For the one collection that a script has spoilt, or to look at what was there: the rest of the
database stays as it is. So no marker is left: the database is not that of the restore point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from saltext.openhim.backup import load, points, work
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.dump import selected
from saltext.openhim.backup.manifest import Namespace, ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.backup.work import LATEST, Target, Tell
from saltext.openhim.errors import Refused


def extract(
    backups: Backups,
    only: Sequence[str],
    *,
    point: str = LATEST,
    repository: str | None = None,
    rename: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Tell = None,
) -> dict[str, Any]:
    """Restores the namespaces that fit ``only``, such as ``openhim.channels`` or ``openhim.*``.

    point, repository: as :func:`saltext.openhim.backup.work.find` takes them. rename:
    ``{"openhim.users": "rescue.people"}`` for one namespace, ``{"openhim": "rescue"}`` for a
    database. overwrite: collections of the new names are dropped first; otherwise they are a reason
    to refuse, before anything is touched.

    Returns ``point``, ``repository`` and ``restored``: the documents of each collection, by the
    name that it has now. Raises Refused where nothing fits.
    """
    with work.alone("restoring collections"), ExitStack() as stack:
        chosen, name = work.find(backups, point, repository)
        wanted = _wanted(chosen, list(only), dict(rename or {}))
        targets: list[tuple[Target, list[Namespace]]] = [
            ((one, stack.enter_context(work.primary(backups, one.name))), namespaces)
            for one, namespaces in wanted
        ]
        if not overwrite:
            _refuse_overwriting(targets)
        opened = backups.repository(name)
        for (one, client), namespaces in targets:
            with points.open_part(opened, chosen, one.part) as stream:
                loaded = load.load(
                    stream,  # type: ignore[arg-type]
                    client,
                    rename=rename,
                    selection=list(only),
                    overwrite=overwrite,
                    progress=progress,
                )
            work.compare(one.name, namespaces, loaded)
            work.read_back(one.name, namespaces, client)
    return {
        "point": chosen.id,
        "repository": name,
        "restored": {
            f"{each.db}.{each.collection}": each.count
            for _, namespaces in wanted
            for each in namespaces
        },
    }


def _wanted(
    chosen: RestorePoint, only: Sequence[str], rename: Mapping[str, str]
) -> list[tuple[ReplicaSet, list[Namespace]]]:
    """What fits, by the names that it gets, set by set."""
    found = []
    for one in chosen.manifest.replica_sets:
        namespaces = [
            _renamed(each, rename)
            for each in one.namespaces
            if selected(only, f"{each.db}.{each.collection}")
        ]
        if namespaces:
            found.append((one, namespaces))
    if not found:
        there = sorted(
            f"{each.db}.{each.collection}"
            for one in chosen.manifest.replica_sets
            for each in one.namespaces
        )
        raise Refused(
            f"nothing in the restore point {chosen.id} fits {', '.join(only) or 'nothing'}; it has "
            f"{', '.join(there)}. Nothing was touched"
        )
    return found


def _renamed(namespace: Namespace, rename: Mapping[str, str]) -> Namespace:
    db, collection = load.renamed(namespace.db, namespace.collection, rename)
    return replace(namespace, db=db, collection=collection)


def _refuse_overwriting(targets: Sequence[tuple[Target, list[Namespace]]]) -> None:
    """Whatever one set has against it is said before another one is touched."""
    for (one, client), namespaces in targets:
        there = [
            f"{each.db}.{each.collection}"
            for each in namespaces
            if each.collection in client[each.db].list_collection_names()
        ]
        if there:
            raise Refused(
                f"{one.name} has {', '.join(there[:5])} already; nothing was restored. Give them "
                "other names (rename), or say overwrite=True if they may be replaced"
            )
