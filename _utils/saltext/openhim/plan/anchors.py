"""The head of the chain of evidence, remembered by the repositories of the restore points.

They are append-only for those who write there, so nobody who takes over the master or production
can make them forget it. Each anchor is a tiny snapshot without a restore point's tags: listings,
copies and removals of restore points do not see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.manifest import canonical, utc
from saltext.openhim.backup.repository import Repository, Snapshot
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.plan.chain import Anchor

FILENAME = "evidence-head.json"

PART = "part=evidence-head"


def writable(backups: Backups) -> list[str]:
    """The repositories in which this host may store: as who takes restore points, or pulls."""
    takes = backups.entry.get("taken_by") == backups.host
    return (backups.first if takes else []) + backups.pulled_here


def writers(backup: Mapping[str, Any]) -> dict[str, list[str]]:
    """By host, the repositories in which it anchors. backup: ``openhim:backup`` of a pillar."""
    found: dict[str, list[str]] = {}
    for name, entry in (backup.get("repositories") or {}).items():
        host = entry.get("pulled_by") if "copy_of" in entry else backup.get("taken_by")
        if host:
            found.setdefault(host, []).append(name)
    return found


def store(
    repository: Repository, name: str, stack: str, number: int, sha256: str, host: str
) -> Anchor:
    """Remembers the head of a chain, and reads it back; the newest one is not stored twice.

    name: what the pillar calls the repository. number, sha256: of the newest record.
    """
    known = listing(repository, name, stack)
    if known and (known[-1].number, known[-1].sha256) == (number, sha256):
        return known[-1]
    content = canonical({"stack": stack, "number": number, "sha256": sha256})

    def produce(out: BinaryIO) -> None:
        out.write(content + b"\n")

    tags = [f"stack={stack}", PART, f"number={number}", f"sha256={sha256}"]
    stored = repository.store_stream(produce, FILENAME, tags, host)
    for anchor in listing(repository, name, stack):
        if anchor.snapshot == stored.snapshot:
            return anchor
    raise OpenHIMError(
        f"{repository.location}: the anchor was stored and is not listed; check the repository"
    )


def listing(repository: Repository, name: str, stack: str) -> list[Anchor]:
    """The anchors of a stack in a repository, the oldest first: one question, however many."""
    found = [_anchor(one, name, stack) for one in repository.snapshots([f"stack={stack}", PART])]
    return sorted(found, key=lambda one: one.at)


def _anchor(snapshot: Snapshot, name: str, stack: str) -> Anchor:
    number, sha256 = snapshot.tag("number"), snapshot.tag("sha256")
    if not number or not number.isdigit() or not sha256:
        raise OpenHIMError(
            f"the snapshot {snapshot.id} in {name} has the tags of an anchor and does not say of "
            "which record; somebody made it by hand. Find out who, and remove it where restore "
            "points are pruned"
        )
    return Anchor(stack, int(number), sha256, utc(snapshot.time), name, snapshot.id)


def anchored(backups: Backups, number: int, sha256: str) -> list[Anchor]:
    """Remembers a head in every repository in which this host may store."""
    names = writable(backups)
    if not names:
        raise Refused(
            f"{backups.host} stores in no repository, so it can anchor nothing; "
            f"{', '.join(sorted(writers(backups.entry))) or 'no host'} can"
        )
    return [
        store(backups.repository(name), name, backups.stack.name, number, sha256, backups.host)
        for name in names
    ]


def visible(backups: Backups) -> list[Anchor]:
    """The anchors in every repository that this host can open."""
    return [
        anchor
        for name in backups.visible
        for anchor in listing(backups.repository(name), name, backups.stack.name)
    ]
