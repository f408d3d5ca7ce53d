"""CRC-64 as mongodump's archives use it: ECMA-182's polynomial, reflected (also called CRC-64/XZ).

liblzma has it in machine code, thousands of times faster than Python; systemd, dpkg and Python
itself bring that library to practically every host. Where it is missing, a table in pure Python
answers the same and :data:`IMPLEMENTATION` says so.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable

_POLYNOMIAL = 0xC96C5795D7870F42
_ALL = 0xFFFFFFFFFFFFFFFF


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def in_python(data: bytes, crc: int = 0) -> int:
    """The same as :func:`crc64`, about 6 MB a second."""
    crc ^= _ALL
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ _ALL


def _from_liblzma() -> Callable[[bytes, int], int] | None:
    for name in ("liblzma.so.5", ctypes.util.find_library("lzma")):
        try:
            function = ctypes.CDLL(name).lzma_crc64 if name else None
        except (OSError, AttributeError):
            continue
        if function is None:
            continue
        function.restype = ctypes.c_uint64
        function.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64)

        def crc64(data: bytes, crc: int = 0, _function: Callable[..., int] = function) -> int:
            return _function(data, len(data), crc)

        return crc64
    return None


_FAST = _from_liblzma()

#: Which one is in use, for a status or a log: ``liblzma`` or ``python (slow)``.
IMPLEMENTATION = "liblzma" if _FAST else "python (slow)"


def crc64(data: bytes, crc: int = 0) -> int:
    """The checksum of ``data``, going on from the checksum ``crc`` of what came before it."""
    return (_FAST or in_python)(data, crc)
