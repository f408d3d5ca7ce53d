"""Ports for the servers of the tests, none of them given out twice.

The kernel's own choice (port 0) may be taken by some client's connection before the server of the
test listens there; these are below the range that clients get. Every process counts from a place of
its own, so that workers and other runs on the machine do not meet.
"""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 20000, 32000
#: How far apart two processes begin.
STRIDE = 211

_count = itertools.count(os.getpid() * STRIDE)


def free() -> int:
    """A port of this machine's loopback that nobody listens on, and that nobody is given again."""
    for number in itertools.islice(_count, LAST - FIRST):
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"every port from {FIRST} to {LAST} of this machine is in use")
