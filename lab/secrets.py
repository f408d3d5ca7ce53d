"""Makes the secrets of one lab: random, new for every lab, and outside the repository.

The folder that it fills is a second pillar root beside ``pillar/``, whose ``top.sls`` names the
files. Where certificates come from the pillar, this is the authority that issues them, and every
host has a file of its own, ``secrets/hosts/<minion ID>.sls``.
"""

from __future__ import annotations

import base64
import json
import os
import secrets as random
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError


def write(pillar: Mapping[str, Any], directory: Path) -> None:
    """Write ``secrets/*.sls`` with a value for every secret that the pillar's hosts need.

    pillar: the declaration, with the key ``openhim``. directory: a pillar root; made if missing.

    With the certificates' method ``x509`` the authority's key is in ``secrets/authority.sls``; with
    ``pillar`` it is in no file, and each host has its certificate and key in a file of its own.
    """
    from saltext.openhim.schema import needs

    declared = pillar["openhim"]
    names: dict[str, set[str]] = {}
    for host_id in declared["hosts"]:
        for file, needed in needs.by_file(declared, host_id).items():
            names.setdefault(file, set()).update(needed)
    # A user's password is needed by the database's hosts and by the core's: it is one value.
    values = {name: _value(name, needs.KEYFILE) for name in sorted(set().union(*names.values()))}
    files = {file: {name: values[name] for name in sorted(names[file])} for file in names}
    with tempfile.TemporaryDirectory() as scratch:
        authority = _authority(declared["stack"], Path(scratch))
        files["public"] = {needs.AUTHORITY: authority.certificate}
        if declared.get("certificates", {}).get("method", "x509") == "x509":
            files["authority"] = {needs.AUTHORITY_KEY: authority.key}
        else:
            for host_id in declared["hosts"]:
                files[f"hosts/{host_id}"] = _own(pillar, host_id, authority, Path(scratch))
    folder = Path(directory) / "secrets"
    for file, content in files.items():
        path = folder / f"{file}.sls"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, content)


def _value(name: str, keyfile: str) -> str:
    if name == keyfile:
        return base64.b64encode(random.token_bytes(756)).decode()
    # No characters that mean something to YAML, Jinja, URLs or a shell; base64, for a TSIG key.
    return random.token_hex(32)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key: their texts as PEM, and the files that openssl reads."""

    certificate_file: Path
    key_file: Path

    @property
    def certificate(self) -> str:
        """The certificate as PEM."""
        return self.certificate_file.read_text(encoding="ascii")

    @property
    def key(self) -> str:
        """The private key as PEM."""
        return self.key_file.read_text(encoding="ascii")


def _authority(stack: str, folder: Path) -> Pair:
    """A certificate authority of the stack's own."""
    extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    return _issued(folder / "ca", f"{stack} authority", extensions)


def _own(pillar: Mapping[str, Any], host_id: str, authority: Pair, folder: Path) -> dict[str, str]:
    """The secrets of one host: its certificate and key, good for its names and nobody else's."""
    from saltext.openhim import certificates, settings
    from saltext.openhim.schema import needs

    names = certificates.wanted_names(settings.from_pillar(pillar), host_id)
    extensions = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature,keyEncipherment",
        "extendedKeyUsage=serverAuth,clientAuth",
        f"subjectAltName={','.join(names)}",
    ]
    pair = _issued(folder / host_id, host_id, extensions, authority)
    return dict(zip(needs.OWN_CERTIFICATE, (pair.certificate, pair.key), strict=True))


def _issued(path: Path, name: str, extensions: Sequence[str], above: Pair | None = None) -> Pair:
    """A new key at ``path`` with its certificate, signed by ``above`` or by itself."""
    pair = Pair(path.with_name(f"{path.name}.crt"), path.with_name(f"{path.name}.key"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "825"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}"]
    command += [word for extension in extensions for word in ("-addext", extension)]
    command += ["-keyout", str(pair.key_file), "-out", str(pair.certificate_file)]
    if above:
        command += ["-CA", str(above.certificate_file), "-CAkey", str(above.key_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"openssl made no certificate for {name}: {done.stderr.strip()}")
    return pair


def _write(path: Path, values: Mapping[str, str]) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        # JSON is YAML, and quotes whatever a secret contains.
        json.dump({"openhim": {"secrets": dict(values)}}, file, indent=2)
        file.write("\n")
    unfinished.rename(path)
