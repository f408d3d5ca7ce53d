"""Somebody outside who is called: an HTTP server that keeps what it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests import ports


class Listener:
    """``calls``: (method, path, body), in their order. ``status``: what it answers from now on."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.status = 200
        self.port = ports.free()

    def url(self, path: str) -> str:
        """The address of one of its paths."""
        return f"http://127.0.0.1:{self.port}/{path}"


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener, for as long as the context lasts."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            listener.calls.append((self.command, self.path, body))
            self.send_response(listener.status)
            self.end_headers()

        do_POST = do_GET  # noqa: N815  http.server's word

        def log_message(self, *_: object) -> None:
            """The calls are kept; nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", listener.port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
