"""A real name server of a test: Knot DNS, unprivileged in a folder, that takes signed updates."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests import ports

ZONE, CHILD = "example.test", "child.example.test"
#: Seconds for which this zone's absences are kept.
NEGATIVE_TTL = 300

CONFIGURATION = """\
server:
    rundir: "{folder}"
    listen: "127.0.0.1@{port}"
    tcp-workers: 1
    udp-workers: 1
    background-workers: 1
database:
    storage: "{folder}"
log:
  - target: stderr
    any: warning
key:
  - id: mover
    algorithm: hmac-sha256
    secret: "{mover}"
  - id: other
    algorithm: hmac-sha256
    secret: "{other}"
acl:
  - id: may-update
    key: mover
    action: update
  - id: may-update-text
    key: other
    action: update
    update-type: TXT
template:
  - id: default
    storage: "{folder}"
    acl: [may-update, may-update-text]
zone:
  - domain: {zone}
  - domain: {child}
"""

ZONE_FILE = """\
$ORIGIN {zone}.
$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 {negative_ttl}
@ NS ns
ns A 127.0.0.1
alias CNAME him
*.any A 10.0.0.1
"""


class Knot:
    """``mover`` and ``other``: the secrets of the key that may update, and of one that may not."""

    def __init__(self, folder: Path, secrets_of: Knot | None = None) -> None:
        self.folder = folder
        self.port = ports.free()
        self.mover = secrets_of.mover if secrets_of else _key()
        self.other = secrets_of.other if secrets_of else _key()
        for zone in (ZONE, CHILD):
            text = ZONE_FILE.format(zone=zone, negative_ttl=NEGATIVE_TTL)
            (folder / f"{zone}.zone").write_text(text)
        self.configuration = folder / "knot.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder, port=self.port, mover=self.mover, other=self.other,
                zone=ZONE, child=CHILD,
            )
        )  # fmt: skip
        self.configuration.chmod(0o600)

    @contextmanager
    def running(self) -> Iterator[Knot]:
        """The server answers, for as long as the context lasts."""
        program = shutil.which("knotd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert program, "knotd is missing: .ci/packages installs it"
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen([program, "-c", str(self.configuration)], stderr=log)
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            process.wait(10)

    def asked(self, name: str, kind: str, timeout: float = 5) -> list[str]:
        """What anybody is told: the server's answer, without our code."""
        query = dns.message.make_query(f"{name}.", kind)
        answer = dns.query.udp(query, "127.0.0.1", timeout, self.port)
        return sorted(f"{one.ttl} {data.to_text()}" for one in answer.answer for data in one)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if all(self.asked(zone, "SOA", timeout=0.1) for zone in (ZONE, CHILD)):
                    return
            except (OSError, dns.exception.DNSException):
                pass
            time.sleep(0.02)
        raise AssertionError(f"knotd does not answer: {(self.folder / 'log').read_text()}")


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
