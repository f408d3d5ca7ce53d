"""A slow link: a process that holds every packet back for a while, and loses some.

Kernels built for virtual machines often lack the queueing discipline ``netem``. So the network's
router hands the packets of a slow site to this process through a TUN device, and gets them back
from it later. One way only: a delay of 80 ms makes a round trip 160 ms longer.

``python -m lab.slow_link DEVICE DELAY_MS LOSS_PERCENT`` runs inside the router's network namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LONGEST_PACKET = 65535
BACKLOG = 20_000  # packets; a router's queue is not endless either


def open_device(name: str) -> int:
    """Create the TUN device and return its file descriptor; it goes away with the process."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def forward(device: int, delay: float, loss: float) -> None:
    """Give every packet back ``delay`` seconds after it came, except the share that is lost."""
    waiting: deque[tuple[float, bytes]] = deque()
    poll = select.poll()
    poll.register(device, select.POLLIN)
    while True:
        pause = None if not waiting else max(0.0, waiting[0][0] - time.monotonic()) * 1000
        ready = poll.poll(pause)
        now = time.monotonic()
        while ready and len(waiting) < BACKLOG:
            try:
                packet = os.read(device, LONGEST_PACKET)
            except BlockingIOError:
                break
            if random.random() >= loss:  # noqa: S311  chance, no secret
                waiting.append((now + delay, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            # A packet that the device does not take is lost on the way, as happens on a full link.
            with contextlib.suppress(OSError):
                os.write(device, waiting.popleft()[1])


def main() -> None:
    """Open the device, say "ready" on standard output, and forward until killed."""
    name, delay, loss = sys.argv[1], float(sys.argv[2]) / 1000, float(sys.argv[3]) / 100
    device = open_device(name)
    print("ready", flush=True)
    forward(device, delay, loss)


if __name__ == "__main__":
    main()
