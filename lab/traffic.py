"""Clinics that send laboratory orders through OpenHIM, and write down which were acknowledged.

``python -m lab.traffic LOG WRITERS PER_SECOND CORE [CORE…]`` with the client's ``name:password`` in
the environment variable ``CLINIC``. Each line of LOG is one order: its number, when it was sent and
answered (seconds since 1970), the core and its address, and the HTTP status, or the error. A writer
whose core does not answer goes to the next one, as clinics do that know two addresses; the address
of ``NAME@SERVER`` tells that name server, and it is kept for as long as it says. Runs until it is
told to stop (SIGTERM). A log that has orders is continued, with the numbers after theirs; an empty
one begins with the number in the environment variable ``FIRST``.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import dns.exception
import dns.resolver

PORT = 5001
TIMEOUT = 5
PATH = "/laboratory/orders/"


class Names:
    """Where cores are, as clients find out."""

    def __init__(self) -> None:
        self._resolvers: dict[str, dns.resolver.Resolver] = {}

    def address(self, core: str) -> str:
        """What to connect to. Raises OSError where the name server tells no address."""
        name, _, server = core.partition("@")
        if not server:
            return core
        if server not in self._resolvers:
            resolver = dns.resolver.Resolver(configure=False)
            resolver.nameservers = [server]
            resolver.lifetime = TIMEOUT
            resolver.cache = dns.resolver.LRUCache()
            self._resolvers[server] = resolver
        try:
            return str(self._resolvers[server].resolve(f"{name}.", "A")[0])
        except dns.exception.DNSException as error:
            raise OSError(f"{name}: {type(error).__name__}") from error


class Clinics:
    """A few writers that share a numbering and a log."""

    def __init__(
        self, log: TextIO, cores: Sequence[str], authorization: str, per_second: float, first: int
    ):
        self._log = log
        self._cores = cores
        self._headers = {"Authorization": authorization, "Content-Type": "application/json"}
        self._pause = 1 / per_second
        self._numbers = itertools.count(first)
        self._lock = threading.Lock()
        self._names = Names()
        self.stop = threading.Event()

    def write(self, writer: int) -> None:
        """Send one order after the other until told to stop."""
        core = 0
        connection = None
        while not self.stop.wait(self._pause):
            number = next(self._numbers)
            name = self._cores[core % len(self._cores)]
            entry: dict[str, object] = {"number": number, "core": name, "sent": time.time()}
            try:
                if connection is None:
                    address = self._names.address(name)
                    connection = http.client.HTTPConnection(address, PORT, timeout=TIMEOUT)
                entry["address"] = connection.host
                body = json.dumps({"order": number, "writer": writer})
                connection.request("POST", f"{PATH}{number}", body, self._headers)
                response = connection.getresponse()
                response.read()
                entry["status"] = response.status
            except (OSError, http.client.HTTPException) as error:
                entry["error"] = f"{type(error).__name__}: {error}"
                if connection:
                    connection.close()
                connection = None
                core += 1
            entry["answered"] = time.time()
            with self._lock:
                self._log.write(json.dumps(entry) + "\n")
                self._log.flush()


def read(log: Path) -> list[dict]:
    """The orders in a log, in the order in which they were answered."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


def acknowledged(orders: list[dict]) -> list[dict]:
    """The orders that a client was told were taken."""
    return [order for order in orders if order.get("status") in (200, 201)]


def main(arguments: Sequence[str]) -> None:
    """Run until SIGTERM."""
    log, writers, per_second, *cores = arguments
    authorization = "Basic " + base64.b64encode(os.environ["CLINIC"].encode()).decode()
    before = int(os.environ.get("FIRST", "1")) - 1
    first = 1 + max((order["number"] for order in read(Path(log))), default=before)
    with Path(log).open("a") as file:
        clinics = Clinics(file, cores, authorization, float(per_second) / int(writers), first)
        signal.signal(signal.SIGTERM, lambda *_: clinics.stop.set())
        threads = [
            threading.Thread(target=clinics.write, args=(number,)) for number in range(int(writers))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
