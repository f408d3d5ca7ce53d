"""A whole OpenHIM stack in the lab: the hosts that a pillar declares, with Salt on each.

The tests and the demo use the same state tree and the same example pillar that a user gets; only
secrets are made here, because a repository holds none.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import apt_repository, artifacts, cache, secrets, store
from lab.host import HostSpec
from lab.lab import Lab
from lab.salt import SaltMaster

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "pillar"

#: Where the hosts find the repository, the artifacts and the secrets.
SHARED = "/srv/saltext-openhim"
ARTIFACTS = "/srv/artifacts"
SECRETS = "/srv/secrets"
APT = "/srv/apt"

#: What minions get from the file server.
SYNCHRONISED = ("utils", "modules", "states", "beacons")

#: Each site's laboratory, to which OpenHIM forwards orders: site → address (the pillar's routes).
UPSTREAMS = {"north": "10.20.1.31", "south": "10.20.2.31"}
UPSTREAM_PORT = 8090
CLINICS = "10.20.9.10"


@dataclass
class Stack:
    """A booted lab with Salt: ``lab``, ``master``, and the pillar that it was made from."""

    lab: Lab
    master: SaltMaster
    pillar: Mapping[str, Any]
    folder: Path

    @property
    def declared(self) -> Mapping[str, Any]:
        """The declaration, ``openhim:``."""
        return self.pillar["openhim"]

    def managed(self) -> list[str]:
        """The declared hosts but those that stand by, in the order of the declaration."""
        return _taking_part(self.declared)

    def secret(self, name: str) -> str:
        """The value of a secret that was made for this lab."""
        return secret(self.folder, name)


def secret(folder: Path, name: str) -> str:
    """The value of a secret that was made for the lab whose things are in ``folder``."""
    for file in sorted((folder / "secrets" / "secrets").glob("*.sls")):
        known = yaml.safe_load(file.read_text())["openhim"]["secrets"]
        if name in known:
            return str(known[name])
    raise KeyError(name)


def declaration(folder: Path) -> dict[str, Any]:
    """The declaration in a pillar folder, as the lab needs it before there is a master."""
    return yaml.safe_load((folder / "openhim" / "production.sls").read_text())


@contextmanager
def started(
    pillar_folder: Path = EXAMPLE,
    upstreams: bool = True,
    share: Mapping[str, Path] | None = None,
) -> Iterator[Stack]:
    """Boot the hosts that a pillar declares, start Salt on them, and clean up afterwards.

    Hosts that stand by boot too, and get no minion. share: further folders that every host sees.
    """
    pillar = declaration(pillar_folder)
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir=cache.directory()))
    try:
        _artifacts(folder / "artifacts")
        apt_repository.signed(folder / "apt", folder / "artifacts" / "artifacts" / "mongodb.asc")
        secrets.write(pillar, folder / "secrets")
        hosts = [
            HostSpec(name, site=host["site"], address=host["address"])
            for name, host in pillar["openhim"]["hosts"].items()
        ]
        shares = {
            SHARED: REPOSITORY,
            ARTIFACTS: folder / "artifacts",
            SECRETS: folder / "secrets",
            "/srv/pillar": pillar_folder,
            APT: folder / "apt",
            **(share or {}),
        }
        with Lab.start(hosts=hosts, share=shares, belongings=[folder]) as lab:
            if upstreams:
                for site, address in UPSTREAMS.items():
                    start_upstream(lab, site, address)
            if "backup" in pillar["openhim"]:
                store.start(lab, folder / "store", lambda name: secret(folder, name))
            yield Stack(lab, _start_salt(lab, _taking_part(pillar["openhim"])), pillar, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _taking_part(openhim: Mapping[str, Any]) -> list[str]:
    return [name for name, host in openhim["hosts"].items() if not host.get("standby")]


def _start_salt(lab: Lab, minions: list[str]) -> SaltMaster:
    master = SaltMaster(
        lab,
        "master",
        minions=minions,
        file_roots=[f"{SHARED}/salt", ARTIFACTS],
        pillar_roots=["/srv/pillar", SECRETS],
        config={
            # Every host that asks for its certificate holds one until the CA's minion has answered,
            # and that needs one itself: with fewer than hosts, all wait for each other's time-out.
            "worker_threads": len(lab.hosts) + 5,
            "ext_pillar": [{"openhim_recovery": "/var/lib/openhim-recovery"}],
            "peer": {".*": ["x509.sign_remote_certificate"]},
        },
    )
    master.start()
    master.run("saltutil.sync_all")
    # As saltutil.sync_all does, without the dozen kinds of modules that are not here: it asks the
    # master for each of them, and for each a minion loads its private key anew.
    master.salt("*", [f"saltutil.sync_{kind}" for kind in SYNCHRONISED])
    return master


def start_upstream(lab: Lab, site: str, address: str) -> None:
    """Start a site's laboratory."""
    lab.process(
        f"{site}-laboratory",
        address,
        site,
        [sys.executable, "-m", "lab.upstream", address, UPSTREAM_PORT],
        env={"PYTHONPATH": str(REPOSITORY)},
    )


def _artifacts(folder: Path) -> None:
    """The release archives under the names that the example pillar uses, with their hashes."""
    target = folder / "artifacts"
    target.mkdir(parents=True)
    for name, source in (
        ("mongodb.tgz", artifacts.mongodb_archive()),
        ("openhim-core.tar.gz", artifacts.openhim_release()),
    ):
        shutil.copy2(source, target / name)
        (target / f"{name}.sha256").write_text(f"{cache.sha256(source)}  {name}\n")
