"""Makes the secrets of one lab: random, new for every lab, and outside the repository.

The folder that it fills is a second pillar root beside ``pillar/``, whose ``top.sls`` names the
files.
"""

from __future__ import annotations

import base64
import json
import os
import secrets as random
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import LabError

#: File → the role whose hosts get it.
ROLE_OF = {"mongodb": "mongodb", "core": "core"}


def write(pillar: Mapping[str, Any], directory: Path) -> None:
    """Write ``secrets/*.sls`` with a value for every secret that the pillar's hosts need.

    pillar: the declaration, with the key ``openhim``. directory: a pillar root; made if missing.

    Raises :class:`~lab.errors.LabError` when certificates are not issued by Salt: those of the
    method ``pillar`` belong to one host each and come from elsewhere.
    """
    from saltext.openhim.schema import needs

    declared = pillar["openhim"]
    if declared.get("certificates", {}).get("method", "x509") != "x509":
        raise LabError("the lab makes secrets only for openhim:certificates:method x509")
    names = {
        file: {
            name
            for host_id, host in declared["hosts"].items()
            if role in host["roles"]
            for name in needs.needed(declared, host_id)
        }
        - {needs.AUTHORITY, needs.AUTHORITY_KEY}
        for file, role in ROLE_OF.items()
    }
    # A user's password is needed by the database's hosts and by the core's: it is one value.
    values = {name: _value(name, needs.KEYFILE) for name in sorted(set().union(*names.values()))}
    files = {file: {name: values[name] for name in sorted(names[file])} for file in names}
    certificate, key = _authority(declared["stack"])
    files["public"] = {needs.AUTHORITY: certificate}
    files["authority"] = {needs.AUTHORITY_KEY: key}
    folder = Path(directory) / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file, content in files.items():
        _write(folder / f"{file}.sls", content)


def _value(name: str, keyfile: str) -> str:
    if name == keyfile:
        return base64.b64encode(random.token_bytes(756)).decode()
    # No characters that mean something to YAML, Jinja, URLs or a shell.
    return random.token_urlsafe(32)


def _authority(stack: str) -> tuple[str, str]:
    """A certificate authority of the stack's own: its certificate and its key, as PEM."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "ca.crt", Path(folder) / "ca.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "3650"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={stack} authority"]
        command += ["-addext", "basicConstraints=critical,CA:TRUE"]
        command += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"openssl made no certificate authority: {done.stderr.strip()}")
        return certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii")


def _write(path: Path, values: Mapping[str, str]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # JSON is YAML, and quotes whatever a secret contains.
        json.dump({"openhim": {"secrets": dict(values)}}, file, indent=2)
        file.write("\n")
    unfinished.rename(path)
