"""A repository in memory, for what a real one cannot be made to do at the right moment.

It has the snapshots' semantics of restic and nothing else: what is stored, copied and forgotten is
real in ``tests/functional/backup/repositories``.
"""

import hashlib
import io
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone

from saltext.openhim.backup.repository import NotStored, Repository, Snapshot, Streamed


class Memory(Repository):
    """Snapshots with their one file; ``before`` is called with each verb, and may raise."""

    def __init__(self, name):
        super().__init__(name, f"the password of {name}", cache_dir=None)
        self.held = {}
        self.streams = 0
        self.before = lambda verb, about: None

    def repository_id(self):
        return self.url

    def stream(self, producer, filename, tags=(), host=None, time=None):
        self.before("store", tuple(tags))
        self.streams += 1
        token = f"store={self.streams}-{self.url}"
        out = io.BytesIO()
        producer(out)
        data = out.getvalue()
        tree = hashlib.sha256(filename.encode() + data).hexdigest()
        snapshot = Snapshot(
            hashlib.sha256(f"{self.url} {len(self.held)} {tree}".encode()).hexdigest(),
            time or datetime.now(timezone.utc), tree, (*tags, token), host or "here",
        )  # fmt: skip
        self.held[snapshot.id] = (snapshot, filename, data)
        return Streamed(token, len(data), hashlib.sha256(data).hexdigest())

    def read(self, snapshot, filename):
        self.before("read", filename)
        if snapshot not in self.held or self.held[snapshot][1] != filename:
            raise NotStored("the repository does not hold that snapshot, or not that file in it")
        return closing(io.BytesIO(self.held[snapshot][2])).__enter__()

    def read_streamed(self, streamed, filename):
        found = [one for one, *_ in self.held.values() if streamed.token in one.tags]
        return self.read(found[0].id, filename)

    def snapshots(self, tags=(), damaged=None):
        self.before("snapshots", tuple(tags))
        found = [one for one, *_ in self.held.values() if set(tags) <= set(one.tags)]
        return sorted(found, key=lambda one: (one.time, one.id))

    def forget(self, ids, prune=False, dry_run=False):
        found = [one for one in ids if one in self.held]
        if found:
            self.before("forget", tuple(found))
        for one in found:
            del self.held[one]
        return found

    def prune(self, max_unused="5%"):
        return ""

    def copy_to(self, other, ids):
        copies = {}
        for one in ids:
            self.before("copy", one)
            snapshot, *rest = self.held[one]
            copy = replace(
                snapshot, id=hashlib.sha256(f"{other.url} {one}".encode()).hexdigest(), original=one
            )
            other.held[copy.id] = (copy, *rest)
            copies[one] = copy.id
        return copies

    def parts(self, part):
        """The IDs of the snapshots of that part."""
        return [one.id for one, *_ in self.held.values() if one.tag("part") == part]
