"""What feeds restic: a stream to write to that never ends by accident.

restic takes the end of its input for the end of the data. The stream is therefore only closed when
the producer is known to have ended well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from saltext.openhim.backup.failures import RepositoryError
from saltext.openhim.backup.restic import Run
from saltext.openhim.errors import OpenHIMError

_CHUNK = 1 << 20


class ProducerFailed(OpenHIMError):
    """The command whose output was to be stored failed; nothing was stored."""


class Sink(io.BufferedIOBase, BinaryIO):  # type: ignore[misc]
    """The stream that a producer writes to; counts and hashes what passes."""

    def __init__(self, run: Run):
        super().__init__()
        if run.process.stdin is None:
            raise RepositoryError("restic was started without an input")
        self._pipe = run.process.stdin
        # A larger pipe, where the kernel grants it: fewer switches between the two.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe.fileno(), fcntl.F_SETPIPE_SZ, _CHUNK)
        self._digest = hashlib.sha256()
        self._gathered = bytearray()
        self.size = 0
        #: restic stopped reading.
        self.broken = False
        #: It is restic's turn: bytes wait for it, or all were given to it.
        self.pending = False

    def writable(self) -> bool:
        """It can be written."""
        return True

    def write(self, data: Any) -> int:
        """All of the data, gathered into large pieces."""
        view = memoryview(data).cast("B")
        self.size += len(view)
        if len(view) + len(self._gathered) < _CHUNK:
            self._gathered += view
            return len(view)
        self.flush()
        if len(view) >= _CHUNK:
            self._give(view)
        else:
            self._gathered += view
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Give restic what was gathered."""
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._give(memoryview(gathered))

    def finish(self) -> None:
        """The producer ended well: let restic see the end."""
        self.flush()
        self.pending = True
        try:
            self._pipe.close()
        except BrokenPipeError:
            self.broken = True
            raise

    def close(self) -> None:
        """A producer may close it, and yet fail afterwards; the end is told in :meth:`finish`."""

    def sha256(self) -> str:
        """The hash of all that was written."""
        return self._digest.hexdigest()

    def _give(self, view: memoryview) -> None:
        self._digest.update(view)
        self.pending = True
        try:
            while view:
                view = view[self._pipe.write(view) :]
        except (BrokenPipeError, ValueError):
            self.broken = True
            raise BrokenPipeError("restic stopped reading") from None
        self.pending = False


def command_output(arguments: Sequence[str]) -> Callable[[BinaryIO], object]:
    """A producer that stores a command's output; where the command fails, the backup does."""

    def produce(out: BinaryIO) -> None:
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(list(arguments), stdout=subprocess.PIPE, stderr=errors)
            try:
                while chunk := process.stdout.read(_CHUNK):  # type: ignore[union-attr]
                    out.write(chunk)
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                process.stdout.close()  # type: ignore[union-attr]
            if code:
                errors.seek(0)
                said = errors.read(2000).decode("utf-8", "replace").strip()
                raise ProducerFailed(
                    f"{arguments[0]} ended with code {code}; expected 0. Nothing was stored "
                    f"({said})"
                )

    return produce
