"""The two programs of the lease as one file that any Python runs (zipapp), without Salt.

The same modules that decide elsewhere, and so the same rules; nothing is written twice. The file is
the same, byte for byte, for the same modules.
"""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

from saltext.openhim.errors import OpenHIMError

PROGRAM = "/usr/local/lib/saltext-openhim/lease.pyz"

#: All that the programs import of this package; none of it needs more than Python itself.
MODULES = (
    "errors",
    "files",
    "firewall",
    "clock",
    "gate",
    "nftables",
    "settings",
    "systemd",
    "told",
    "lease.agent",
    "lease.book",
    "lease.declared",
    "lease.table",
    "lease.witness",
    "lease.witnessing",
    "lease.words",
    "recovery.answers",
    "recovery.epochs",
    "recovery.layout",
    "recovery.leases",
    "recovery.observations",
)

_PACKAGES = (
    "saltext",
    "saltext/openhim",
    "saltext/openhim/lease",
    "saltext/openhim/recovery",
)

_MAIN = """\
import sys

from saltext.openhim.lease import agent, witness

sys.exit({"agent": agent, "witness": witness}[sys.argv[1]].main(sys.argv[2:]))
"""

#: Before it there is no time in a zip file.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


def content() -> bytes:
    """The file.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when a module of this package is missing.
    """
    members = {f"{package}/__init__.py": "" for package in _PACKAGES}
    members |= {f"saltext/openhim/{name.replace('.', '/')}.py": _source(name) for name in MODULES}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, text in {"__main__.py": _MAIN, **members}.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), text)
    return made.getvalue()


def _source(name: str) -> str:
    spec = find_spec(f"saltext.openhim.{name}")
    if spec is None or spec.origin is None:
        raise OpenHIMError(f"saltext.openhim.{name} is missing here; synchronise the modules again")
    return Path(spec.origin).read_text(encoding="utf-8")
