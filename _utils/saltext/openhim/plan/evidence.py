"""The chain of evidence on the master's disk: a file per stack, to which is only ever appended.

It lies beside the recovery record, so the start bundle holds it too.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import record as recoveries
from saltext.openhim.backup.manifest import MALFORMED, utc
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.plan import chain
from saltext.openhim.plan.chain import Anchor, Judgement, Record

#: Below the folder of the recovery records.
FOLDER = "evidence"

#: Bytes of the file's end in which the last record is looked for first.
_TAIL = 1 << 16

#: What a record says, before it is one: its kind and its content.
News = tuple[str, Mapping[str, Any]]


def path(stack: str, directory: str | Path = recoveries.DIRECTORY) -> Path:
    """Where the chain of a stack is."""
    return _path(stack, directory, "jsonl")


def read(stack: str, directory: str | Path = recoveries.DIRECTORY) -> bytes:
    """The stored chain; empty where nothing was ever recorded."""
    file = path(stack, directory)
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise OpenHIMError(f"the evidence {file} cannot be read: {error}") from error


def judged(stack: str, directory: str | Path = recoveries.DIRECTORY) -> Judgement:
    """The chain against the anchors that are kept beside it; nobody is asked."""
    return chain.judge(read(stack, directory), stack, kept_anchors(stack, directory))


def append(
    stack: str,
    news: Sequence[News],
    directory: str | Path = recoveries.DIRECTORY,
    now: datetime | None = None,
) -> list[Record]:
    """Records what is new, after the last record, and returns the records.

    They are on the disk when this returns. A record of which only a part came to the disk was
    never acknowledged, and is replaced. A last record that is damaged is refused: the evidence is
    to be looked at before anything is added to it.
    """
    at = utc(now or datetime.now(timezone.utc))
    file = path(stack, directory)
    with _locked(stack, directory):
        before, end = _last(file, stack)
        added = []
        for kind, content in news:
            before = chain.following(before, stack, kind, content, at)
            added.append(before)
        if added:
            _write(file, end, b"".join(one.line() for one in added))
    return added


def head(stack: str, directory: str | Path = recoveries.DIRECTORY) -> Anchor | None:
    """The newest record, as it is to be anchored; None where nothing was recorded."""
    last, _ = _last(path(stack, directory), stack)
    if last is None:
        return None
    return Anchor(stack, last.number, last.sha256, utc(datetime.now(timezone.utc)))


def kept_anchors(stack: str, directory: str | Path = recoveries.DIRECTORY) -> list[Anchor]:
    """What is known here of the anchors in the repositories."""
    file = _path(stack, directory, "anchors.json")
    try:
        return [Anchor(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, *MALFORMED) as error:
        raise OpenHIMError(
            f"the list of anchors {file} cannot be read ({error}); remove it, and run "
            "openhim_dr.evidence_check with live=True, which fetches them again"
        ) from error


def keep_anchors(
    stack: str, anchors: Iterable[Anchor], directory: str | Path = recoveries.DIRECTORY
) -> None:
    """Remembers anchors beside those that are known, so that they need not be asked for."""
    file = _path(stack, directory, "anchors.json")
    with _locked(stack, directory):
        known = {(one.repository, one.snapshot): one for one in kept_anchors(stack, directory)}
        known |= {(one.repository, one.snapshot): one for one in anchors}
        ordered = sorted(known.values(), key=lambda one: (one.at, one.repository))
        text = json.dumps([asdict(one) for one in ordered], indent=1)
        partial = file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)


def _path(stack: str, directory: str | Path, ending: str) -> Path:
    if not recoveries.STACK_NAME.fullmatch(stack or ""):
        raise OpenHIMError(
            f"{stack!r} is no name of a stack; letters, digits, '.', '_' and '-' are allowed"
        )
    return Path(directory) / FOLDER / f"{stack}.{ending}"


@contextmanager
def _locked(stack: str, directory: str | Path) -> Iterator[None]:
    file = _path(stack, directory, "lock")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = file.open("w")
    except OSError as error:
        user = pwd.getpwuid(os.geteuid()).pw_name
        raise OpenHIMError(
            f"the evidence cannot be written: {error}. Make its folder for the user of the master: "
            f"install -d -o {user} -m 700 {file.parent}"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last(file: Path, stack: str) -> tuple[Record | None, int]:
    """The last whole record, and where it ends in the file (bytes)."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            start = max(0, size - _TAIL)
            stream.seek(start)
            tail = stream.read()
            if start and tail.count(b"\n") < 2:
                stream.seek(start := 0)
                tail = stream.read()
    except FileNotFoundError:
        return None, 0
    whole, newline, _ = tail.rpartition(b"\n")
    if not newline:
        return None, 0
    end = start + len(whole) + 1
    try:
        record, _, right = chain.parsed(whole.rpartition(b"\n")[2])
    except ValueError:
        right = False
    if not right:
        raise OpenHIMError(
            f"the last record in {file} is damaged, and nothing was added after it. Look what "
            "happened to it (salt-run openhim_dr.evidence_check), and bring the file back from the "
            "start bundle"
        )
    if record.stack != stack:
        raise chain.WrongStack(
            f"{file} holds evidence of the stack {record.stack!r}; expected {stack!r}. Nothing was "
            "added"
        )
    return record, end


def _write(file: Path, end: int, data: bytes) -> None:
    new = not file.exists()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
        stream.truncate(end)
        stream.seek(end)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
