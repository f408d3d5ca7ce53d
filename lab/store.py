"""A storage provider for backups: restic's REST protocol, served by rclone at addresses of its own.

Producers may add and read at one address; whoever keeps the store may also remove, at another one
with another password.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from lab.lab import Lab

PRODUCER = ("west-store", "10.20.0.40", "producer", "backup_store_producer")
KEEPER = ("west-store-keeper", "10.20.0.41", "keeper", "backup_store_keeper")
PORT = 8000


def start(lab: Lab, folder: Path, secret: Callable[[str], str]) -> None:
    """Serve ``folder``, which is made, to the two users with the passwords of the pillar."""
    (folder / "data").mkdir(parents=True, mode=0o700)
    for name, address, user, secret_name in (PRODUCER, KEEPER):
        passwords = folder / f"{user}.htpasswd"
        _write(passwords, f"{user}:{_hashed(secret(secret_name))}\n")
        command = ["rclone", "serve", "restic", str(folder / "data"), "--config", "/dev/null"]
        command += ["--addr", f"{address}:{PORT}", "--htpasswd", str(passwords)]
        command += ["--append-only"] if user == "producer" else []
        lab.process(name, address, "west", command)


def _hashed(password: str) -> str:
    # The oldest form of htpasswd that needs no other library; random passwords need no better one.
    digest = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "{SHA}" + base64.b64encode(digest).decode()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
