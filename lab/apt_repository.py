"""The lab's apt repository as MongoDB has it: signed, so that apt takes nothing else for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import artifacts
from lab.errors import LabError

SIGNER = "The laboratory of saltext-openhim"


def signed(folder: Path, key: Path) -> None:
    """Make ``folder`` a repository that a new key has signed.

    folder: is made, in the cache's file system. key: where the public key is written, armored.
    """
    folder.mkdir(parents=True)
    for file in artifacts.mongodb_deb_repository().iterdir():
        os.link(file, folder / file.name)
    # gpg's agent has its socket there, and a socket's path is limited.
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        try:
            new = ["--passphrase", "", "--quick-generate-key", SIGNER, "ed25519", "sign", "never"]
            _gpg(home, new)
            release, inline = str(folder / "Release"), str(folder / "InRelease")
            _gpg(home, ["--output", inline, "--clearsign", release])
            _gpg(home, ["--output", str(key), "--armor", "--export"])
        finally:
            command = ["gpgconf", "--homedir", home, "--kill", "all"]
            subprocess.run(command, capture_output=True, check=False)


def _gpg(home: str, arguments: Sequence[str]) -> None:
    command = ["gpg", "--homedir", home, "--batch", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"gpg could not sign the lab's apt repository: {done.stderr.strip()}")
