"""Where slices are kept: what the archive needs, a folder, and a restic repository."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from saltext.openhim.backup.oplog import slices
from saltext.openhim.backup.oplog.slices import DamagedSlice, Header
from saltext.openhim.backup.repository import NotStored, Repository
from saltext.openhim.errors import OpenHIMError

#: What tells a slice's snapshot from those of restore points.
PART = "part=oplog"
#: Slices that one call of restic copies: what was copied before an interruption is there.
_TOGETHER = 500


class SliceStore(Protocol):
    """What the archive asks of the place where its slices are.

    Every method raises OpenHIMError, in words, when the place is away or says no.
    """

    def headers(self) -> list[Header]:
        """The headers of all that is there, of whichever stack and set."""

    def put(self, header: Header, chunks: Iterable[bytes]) -> None:
        """Keeps a slice under ``header.name``: whole and for good when this returns.

        When this raises, or its process dies, it may be there whole, or not at all. The same name
        twice is one slice.
        """

    def get(self, name: str) -> BinaryIO:
        """The slice's bytes; the caller closes it. Reading raises when the end is missing."""

    def remove(self, names: Iterable[str]) -> None:
        """Forgets slices; those that are not there are no error."""


class LocalSlices:
    """Slices in a folder of this machine: for tests, and for a repository that needs no restic."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def headers(self) -> list[Header]:
        """See :class:`SliceStore`."""
        found = []
        try:
            for path in sorted(self.folder.iterdir()):
                if path.suffix.lstrip(".") in (slices.SLICE, slices.GAP, slices.VOID):
                    with path.open("rb") as stream:
                        found.append(self._checked(path, slices.read_header(stream)))
        except OSError as error:
            raise self._away(error) from error
        return found

    @staticmethod
    def _checked(path: Path, header: Header) -> Header:
        if header.name != path.name:
            raise DamagedSlice(f"{path} holds another slice than its name says, {header.name}")
        return header

    def put(self, header: Header, chunks: Iterable[bytes]) -> None:
        """See :class:`SliceStore`."""
        partial = self.folder / f".{header.name}.{os.getpid()}"
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self.folder / header.name)
            self._sync()
        except OSError as error:
            raise self._away(error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    def get(self, name: str) -> BinaryIO:
        """See :class:`SliceStore`."""
        try:
            return (self.folder / name).open("rb")
        except OSError as error:
            raise self._away(error) from error

    def remove(self, names: Iterable[str]) -> None:
        """See :class:`SliceStore`."""
        try:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise self._away(error) from error

    def _sync(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _away(self, error: OSError) -> OpenHIMError:
        return OpenHIMError(
            f"the folder of the oplog archive, {self.folder}, can't be used: {error.strerror}"
        )


class ResticSlices:
    """Slices in a restic repository, best one of their own: a snapshot each.

    The header is in the snapshot's tags too, so that the list alone tells what is there.
    """

    def __init__(self, repository: Repository, stack: str):
        self.repository = repository
        self.stack = stack
        self._snapshots: dict[str, list[str]] = {}

    def headers(self) -> list[Header]:
        """See :class:`SliceStore`; only those of the stack."""
        known: dict[str, list[str]] = {}
        found = []
        for snapshot in self.repository.snapshots([f"stack={self.stack}", PART]):
            header = _from_tag(snapshot.tag("header"), snapshot.id)
            known.setdefault(header.name, []).append(snapshot.id)
            if len(known[header.name]) == 1:
                found.append(header)
        self._snapshots = known
        return sorted(found, key=lambda header: header.name)

    def put(self, header: Header, chunks: Iterable[bytes]) -> None:
        """See :class:`SliceStore`."""

        def write(out: BinaryIO) -> None:
            for chunk in chunks:
                out.write(chunk)

        tag = base64.urlsafe_b64encode(header.encode()).decode()
        tags = [f"stack={self.stack}", PART, f"set={header.replica_set}", f"header={tag}"]
        stored = self.repository.store_stream(write, header.name, tags)
        self._snapshots.setdefault(header.name, []).append(stored.snapshot)

    def get(self, name: str) -> BinaryIO:
        """See :class:`SliceStore`."""
        if name not in self._snapshots:
            self.headers()
        if name not in self._snapshots:
            raise NotStored(f"{self.repository.location} holds no oplog slice {name}")
        return cast(BinaryIO, self.repository.read(self._snapshots[name][-1], name))

    def copy_to(self, other: ResticSlices, names: Iterable[str]) -> None:
        """Copies slices as they are to another repository, from where that one's password is."""
        self.headers()
        wanted = [self._snapshots[name][-1] for name in names]
        for first in range(0, len(wanted), _TOGETHER):
            self.repository.copy_to(other.repository, wanted[first : first + _TOGETHER])

    def remove(self, names: Iterable[str]) -> None:
        """See :class:`SliceStore`; a prune frees the space later."""
        self.headers()
        wanted = [name for name in names if name in self._snapshots]
        self.repository.forget(one for name in wanted for one in self._snapshots[name])
        for name in wanted:
            del self._snapshots[name]


def _from_tag(text: str | None, snapshot: str) -> Header:
    try:
        return Header.decode(base64.urlsafe_b64decode(text or ""))
    except ValueError as error:
        raise DamagedSlice(f"snapshot {snapshot} does not tell its slice: {error}") from error


def compact(store: SliceStore, run: list[Header], *, remove: bool = True) -> Header:
    """Makes one slice of several adjacent ones; returns its header.

    run: as :func:`saltext.openhim.backup.oplog.chain.compactable` groups them. remove: the sources
    are forgotten after the new slice was read back whole; otherwise they stay beside it, which does
    no harm.

    Raises OpenHIMError when they are not adjacent, or one of them is damaged; then nothing changes.
    """
    for one, two in itertools.pairwise(run):
        if one.last != two.previous or one.timeline != two.timeline or one.kind != slices.SLICE:
            raise OpenHIMError(f"{two.name} does not follow {one.name}; only neighbours are joined")
    if len(run) < 2 or run[-1].kind != slices.SLICE:
        raise OpenHIMError("there is nothing to join: it takes two slices or more")
    joined = slices.under_a_free_name(slices.joined(run), store.headers())
    store.put(joined, _contents(store, joined, run))
    with contextlib.closing(store.get(joined.name)) as stream:
        slices.verify(stream, joined)
    if remove:
        store.remove(header.name for header in run)
    return joined


def _contents(store: SliceStore, joined: Header, run: list[Header]) -> Iterable[bytes]:
    yield joined.encode()
    for header in run:
        with contextlib.closing(store.get(header.name)) as stream:
            yield from slices.read(stream, header)
