"""A laboratory's order service, as far as OpenHIM can tell: it answers every request.

``python -m lab.upstream ADDRESS PORT``
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Orders(BaseHTTPRequestHandler):
    """Acknowledges every order with 201, and every question with 200."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take an order."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(201, {"accepted": self.path})

    def do_GET(self) -> None:
        """Answer a question."""
        self._answer(200, {"found": self.path})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a demo sends thousands."""


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Orders).serve_forever()
