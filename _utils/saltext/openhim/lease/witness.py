"""The witness of the lease: a server that answers hosts which ask for it. A program.

It runs in a unit of its own, so that neither a busy nor a restarted Salt master costs the active
site its lease, and needs nothing but Python and this package's own pure modules.

A lease is written down *before* the recovery record is read for the last time. So whoever puts a
new epoch on record and then reads the book sees every lease that was granted without knowing of it.
"""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from saltext.openhim import gate
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.lease import book as books
from saltext.openhim.lease import words
from saltext.openhim.lease.book import Given
from saltext.openhim.lease.witnessing import Told, decide, stranger
from saltext.openhim.lease.words import Answer, Request
from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.epochs import Epoch

#: Seconds for one connection to say what it wants; a host that asks needs milliseconds.
PATIENCE = 5.0


class Witness:
    """Answers requests, one at a time."""

    def __init__(self, config: Mapping[str, Any], path: str = books.FILE):
        self._config = config
        self._told = Told.read(config)
        self._path = path
        self._turn = threading.Lock()
        self._said: dict[str, str] = {}
        self._book, problem = books.begun(float(config["seconds"]), path)
        books.write(self._book, path)
        if problem:
            gate.tell(f"{problem}; for {config['seconds']:g} s nobody is granted one")

    def answer(self, request: Request, names: list[str], arrived: float) -> Answer:
        """The answer to a request.

        names: of the certificate with which it was sent. arrived: when, in seconds since 1970.

        Raises :class:`~saltext.openhim.errors.OpenHIMError` for a sender who is not who it says,
        and when the records cannot be read.
        """
        problem = stranger(self._told, request, names)
        if problem:
            raise OpenHIMError(problem)
        with self._turn:
            if request.verb == words.GIVE_BACK:
                self._write(Given(request.host, self._site(request), books.now(), 0.0))
                return self._decide(request, arrived)
            answer = self._decide(request, arrived)
            if answer.granted:
                lease = Given(request.host, self._site(request), books.now(), answer.seconds)
                self._write(lease)
                answer = self._decide(request, arrived)
            self._tell(request.host, answer)
            return answer

    def _decide(self, request: Request, arrived: float) -> Answer:
        return decide(
            self._told,
            request,
            known_here(self._config),
            self._book,
            vouches=_vouches(),
            now=books.now(),
            wall=arrived,
        )

    def _site(self, request: Request) -> str:
        return self._told.holders[request.host][0]

    def _write(self, given: Given) -> None:
        book = self._book.granted(given)
        books.write(book, self._path)
        self._book = book

    def _tell(self, host: str, answer: Answer) -> None:
        """Says what is new, not each renewal."""
        kind = "granted" if answer.granted else "refused"
        if self._said.get(host) != kind:
            self._said[host] = kind
            why = f": {'; '.join(answer.reasons)}" if answer.reasons else ""
            gate.tell(f"{host}: {kind}{why}")


def known_here(config: Mapping[str, Any]) -> list[Epoch]:
    """All epochs that this host has on record: the master's, and those that it was told of.

    config: with ``records``, paths. Raises :class:`~saltext.openhim.errors.OpenHIMError` when one
    is there and cannot be read.
    """
    found: list[Epoch] = []
    for path in config["records"]:
        try:
            found += epochs.parsed(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise OpenHIMError(f"the recovery record {path} cannot be read: {error}") from error
    return epochs.merged(found)


def _vouches() -> bool:
    """Whether what this host knows is the newest: a fenced one, or one behind its gate, may not."""
    try:
        closed = gate.fenced() is not None
        gated = Path(gate.CONFIG).exists()
        return not closed and not (gated and gate.refusal() is not None)
    except gate.Closed:
        return False


class _Handler(BaseHTTPRequestHandler):
    """One connection: TLS, one request, one answer."""

    witness: Witness
    config: Mapping[str, Any]
    timeout = PATIENCE

    def setup(self) -> None:
        self.request.settimeout(PATIENCE)
        # Here, in the thread of this connection: one that says nothing holds up nobody else.
        self.request = words.context(self.config, server=True).wrap_socket(
            self.request, server_side=True
        )
        super().setup()

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if self.path != words.PATH or not 0 < length <= words.LIMIT:
                raise OpenHIMError("this is no request for a lease")
            body, arrived = self.rfile.read(length), time.time()
            request = words.request(json.loads(body))
            found = self.request.getpeercert() or {}
            names = [name for kind, name in found.get("subjectAltName", ()) if kind == "DNS"]
            self._send(200, self.witness.answer(request, names, arrived).plain())
        except (OpenHIMError, ValueError, TypeError, AttributeError) as error:
            gate.tell(f"{self.client_address[0]}: {error}")
            self._send(400, {"error": str(error)})

    def _send(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing for each request: the witness says what is new."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks a name server for a name that nobody needs.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)
            return
        print(f"{client_address[0]}: {error}", file=sys.stderr, flush=True)


def serve(config: Mapping[str, Any], path: str = books.FILE) -> None:
    """Answers for ever."""
    handler = type("Handler", (_Handler,), {"config": config})
    _Server.address_family = socket.AF_INET6 if ":" in config["address"] else socket.AF_INET
    # All addresses: the declared one may come up later than this. The firewall says who reaches it.
    with _Server(("", int(config["port"])), handler) as server:
        # Only who has the port has the book.
        handler.witness = Witness(config, path)  # type: ignore[attr-defined]
        gate.tell(f"witnesses the lease of {config['stack']} on port {config['port']}")
        server.serve_forever()


def main(arguments: list[str]) -> int:
    """The program. Arguments: the path of its configuration."""
    serve(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    return 0
