"""Makes the keys of a test's repository cheap to derive, right after restic made them.

restic lets the derivation of a key take half a second, so that passwords are hard to guess; the
tests open repositories thousands of times with passwords that nobody guesses. restic's own tests
lower the parameters in the same way (``TestUseLowSecurityKDFParameters``), but its command has no
option for it. A key is a file: the repository's master key, encrypted with the derived one
(restic's design document, "Keys, Encryption and MAC"). Here it is encrypted anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

CHEAP = {"N": 128, "r": 1, "p": 1}
_IV = 16
_MAC = 16


def main(program: str, arguments: list[str]) -> int:
    """Run restic, then see to the keys that it added, and return its exit code."""
    repository = _told(os.environ["RESTIC_REPOSITORY_FILE"])
    variable = "RESTIC_PASSWORD_FILE"
    password = _told(os.environ[variable])
    new = password
    pipes = [_pipe(password)]
    environment = {**os.environ, variable: _path(pipes[0])}
    environment["RESTIC_REPOSITORY_FILE"] = _path(_kept(pipes, repository))
    if "--new-password-file" in arguments:
        at = arguments.index("--new-password-file") + 1
        new = _told(arguments[at])
        arguments[at] = _path(_kept(pipes, new))
    before = set(_keys(repository))
    code = subprocess.run([program, *arguments], env=environment, close_fds=False).returncode
    for key in set(_keys(repository)) - before:
        _cheapen(key, new)
    return code


def _cheapen(key: Path, password: str) -> None:
    entry = json.loads(key.read_bytes())
    master = _opened(base64.b64decode(entry["data"]), _derived(password, entry))
    entry.update(CHEAP)
    entry["data"] = base64.b64encode(_sealed(master, _derived(password, entry))).decode()
    data = json.dumps(entry).encode()
    # A file's name is the hash of what is in it.
    fresh = key.with_name(hashlib.sha256(data).hexdigest())
    fresh.write_bytes(data)
    fresh.chmod(key.stat().st_mode)
    key.unlink()


def _derived(password: str, entry: dict) -> tuple[bytes, bytes, bytes]:
    """The encryption key, and both halves of the key of the message authentication code."""
    material = hashlib.scrypt(
        password.encode(),
        salt=base64.b64decode(entry["salt"]),
        n=entry["N"],
        r=entry["r"],
        p=entry["p"],
        maxmem=1 << 30,
        dklen=64,
    )
    return material[:32], material[32:48], material[48:]


def _opened(sealed: bytes, key: tuple[bytes, bytes, bytes]) -> bytes:
    iv, text, mac = sealed[:_IV], sealed[_IV:-_MAC], sealed[-_MAC:]
    assert mac == _mac(text, iv, key), "restic's format of keys is not the one known here"
    return Cipher(algorithms.AES(key[0]), modes.CTR(iv)).decryptor().update(text)


def _sealed(text: bytes, key: tuple[bytes, bytes, bytes]) -> bytes:
    iv = secrets.token_bytes(_IV)
    text = Cipher(algorithms.AES(key[0]), modes.CTR(iv)).encryptor().update(text)
    return iv + text + _mac(text, iv, key)


def _mac(text: bytes, nonce: bytes, key: tuple[bytes, bytes, bytes]) -> bytes:
    """Poly1305-AES: the one-time key is r, then the nonce as AES encrypts it."""
    once = Cipher(algorithms.AES(key[1]), modes.ECB()).encryptor().update(nonce)  # noqa: S305 - one block
    return Poly1305.generate_tag(key[2] + once, text)


def _keys(repository: str) -> list[Path]:
    """The keys of a repository in a folder; one elsewhere keeps those that restic made."""
    return list(Path(repository, "keys").glob("*"))


def _told(path: str) -> str:
    return Path(path).read_text().rstrip("\n")


def _kept(pipes: list[int], text: str) -> int:
    pipes.append(_pipe(text))
    return pipes[-1]


def _pipe(text: str) -> int:
    ours, theirs = os.pipe()
    os.write(theirs, text.encode())
    os.close(theirs)
    os.set_inheritable(ours, True)
    return ours


def _path(pipe: int) -> str:
    return f"/proc/self/fd/{pipe}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
