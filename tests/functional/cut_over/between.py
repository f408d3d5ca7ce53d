"""Something between us and a name server: it loses updates, or their answers, or asks another."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What becomes of one message: it goes to a port and its answer comes back; its answer is lost; it
#: is lost itself.
PASSED, ANSWER_LOST, LOST = "passed", "answer lost", "lost"

UPDATE = 5


@contextmanager
def between(fate: Callable[[bool], tuple[str, int]]) -> Iterator[int]:
    """Listens as a name server does over TCP; yields the port.

    fate: called with whether a message is an update; returns what becomes of it, and the port of
    the server that it goes to.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                held.append(client)  # what is not answered stays open, as with a silent server
                _pass_on(client, fate)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for client in held:
                client.close()


def _pass_on(client: socket.socket, fate: Callable[[bool], tuple[str, int]]) -> None:
    message = _read(client)
    if not message:
        return
    # The opcode: https://www.rfc-editor.org/rfc/rfc1035#section-4.1.1
    what, port = fate((message[4] >> 3) & 0xF == UPDATE)
    if what == LOST:
        return
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(message)
        answer = _read(server)
    if what == PASSED:
        client.sendall(answer)


def _read(connection: socket.socket) -> bytes:
    """One message with its length in front, as it goes over TCP."""
    file = connection.makefile("rb")
    length = file.read(2)
    return length + file.read(int.from_bytes(length, "big"))
