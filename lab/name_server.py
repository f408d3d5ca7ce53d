"""The name server of clients' public name, at a third place: Knot DNS, which takes signed updates.

Its key may change the addresses of that one name, as docs/topics/cut-over.md asks for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.lab import Lab

_CONFIGURATION = """\
server:
    rundir: "{folder}"
    listen: "{address}@53"
database:
    storage: "{folder}"
log:
  - target: stderr
    any: warning
key:
  - id: {key}
    algorithm: {algorithm}
    secret: "{secret}"
acl:
  - id: cut-over
    key: {key}
    action: update
    update-type: [A, AAAA]
    update-owner: name
    update-owner-match: equal
    update-owner-name: ["{name}."]
zone:
  - domain: {zone}
    storage: "{folder}"
    acl: cut-over
"""

_ZONE = """\
$ORIGIN {zone}.
$TTL 3600
@ SOA ns hostmaster 1 3600 600 86400 5
@ NS ns
ns A {address}
"""


def start(lab: Lab, folder: Path, dns: Mapping[str, Any], secret: str) -> None:
    """Serve the zone that ``openhim:cut_over:dns`` names, with no address for the name yet.

    folder: where its files are, which is made. secret: of the key, in base64.
    """
    program = shutil.which("knotd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        raise LabError("knotd is missing: .ci/packages installs it")
    folder.mkdir(mode=0o700)
    values = {
        "folder": folder,
        "address": dns["server"],
        "key": dns["key"]["name"],
        "algorithm": dns["key"]["algorithm"],
        "secret": secret,
        "name": dns["name"],
        "zone": dns["zone"],
    }
    (folder / f"{dns['zone']}.zone").write_text(_ZONE.format(**values))
    configuration = folder / "knot.conf"
    descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(_CONFIGURATION.format(**values))
    lab.process("name-server", dns["server"], "west", [program, "-c", str(configuration)])
