"""Makes a password and hands it over: to whoever holds a key, or to root of this host.

It is never an argument, an event or a change. Encrypted, it lies beside the account; else in a file
of root's on ``/run``, which is memory and never a disk.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from saltext.openhim import files, settings
from saltext.openhim.errors import OpenHIMError

FOLDER = f"{settings.STATE_DIRECTORY}/break-glass"
MEMORY = "/run/saltext-openhim/break-glass"

_TIMEOUT = 60


def password() -> str:
    """A password that nobody guesses: 192 bits."""
    return secrets.token_urlsafe(24)


def path(slug: str, recipient: str) -> str:
    """Where the password of an account is handed over."""
    return f"{FOLDER}/{slug}.asc" if recipient else f"{MEMORY}/{slug}"


def fingerprint(key: str) -> str:
    """The fingerprint of a public key (armoured text), after encrypting a word to it.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when nothing can be encrypted to it.
    """
    if "PRIVATE KEY" in key:
        raise OpenHIMError("recipient_key: found a private key; give the public one alone")
    listed = _gpg(["--with-colons", "--import-options", "show-only", "--import"], key)
    prints = [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:")]
    if not prints:
        raise OpenHIMError(
            "recipient_key: found no OpenPGP public key in it; give what "
            "`gpg --armor --export <who>` prints"
        )
    encrypted(key, "a word")
    return prints[0]


def encrypted(key: str, text: str) -> str:
    """A text, encrypted to a public key."""
    with tempfile.TemporaryDirectory(prefix="openhim-gpg-") as folder:
        recipient = Path(folder) / "key.asc"
        recipient.write_text(key, encoding="utf-8")
        command = ["--armor", "--trust-model", "always", "--encrypt", "--recipient-file"]
        return _gpg([*command, str(recipient)], text)


def write(target: str, text: str, key: str | None) -> None:
    """Writes what is handed over, for root alone. key: the recipient's, None for plain text."""
    content = encrypted(key, text) if key else text
    files.make_directory(str(Path(target).parent))
    files.write(target, content.encode(), 0o600)


def _gpg(arguments: Sequence[str], text: str) -> str:
    program = shutil.which("gpg")
    if program is None:
        raise OpenHIMError(
            "recipient_key: there is no gpg on this host; install gnupg, or leave the key out, and "
            "the password goes into a file of root's"
        )
    with tempfile.TemporaryDirectory(prefix="openhim-gpg-") as home:
        done = subprocess.run(
            [program, "--homedir", home, "--batch", "--no-tty", *arguments],
            input=text, capture_output=True, text=True, check=False, timeout=_TIMEOUT,
        )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it says nothing"]
        raise OpenHIMError(f"recipient_key: gpg cannot use it: {said[-1]}")
    return done.stdout
