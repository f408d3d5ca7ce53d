"""OpenHIM core's releases on disk: whole ones only, and one of them current.

A release is made in a directory that ends in ``.partial`` and renamed when it is whole, so that an
installation that was interrupted leaves nothing that looks like a release. ``current`` is a link
that is replaced in one step.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saltext.openhim.core import versions
from saltext.openhim.errors import OpenHIMError

ROOT = "/opt/openhim"


def directory(core: Mapping[str, Any], root: str | Path = ROOT) -> Path:
    """Where the declared release is. core: the declaration ``openhim:core``."""
    return Path(root) / "releases" / versions.parse(core["version"]).text


def current(root: str | Path = ROOT) -> Path:
    """The link to the release that runs."""
    return Path(root) / "current"


def method(core: Mapping[str, Any]) -> str:
    """How the release is installed: ``npm`` or ``archive``."""
    found = (core.get("install") or {}).get("method", "archive")
    if found not in ("npm", "archive"):
        raise OpenHIMError(
            f"openhim:core:install:method: found {found!r}; allowed are npm, archive."
        )
    return found


def program(core: Mapping[str, Any], base: Path | None = None) -> Path:
    """The directory with OpenHIM's own ``package.json`` and ``lib``, below the release's directory.

    base: the release's directory; the current one when it is left out.
    """
    base = base or current()
    return base / "node_modules" / "openhim-core" if method(core) == "npm" else base


def problem(core: Mapping[str, Any], base: Path) -> str | None:
    """Why ``base`` is not a whole release of the declared version; None when it is."""
    wanted = versions.parse(core["version"]).text
    found_in = program(core, base)
    description = found_in / "package.json"
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{description} is missing or cannot be read"
    if found.get("name") != "openhim-core" or found.get("version") != wanted:
        return (
            f"{description} describes {found.get('name')} {found.get('version')}; "
            f"openhim-core {wanted} is declared"
        )
    if not (found_in / "lib" / "server.js").is_file():
        return f"{found_in} has no lib/server.js; it is not a built release"
    return None


def clean(target: Path) -> Path:
    """An empty directory beside ``target`` to make a release in; a former try's is removed."""
    partial = target.with_name(f"{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o755)
    for path in (partial, partial.parent, partial.parent.parent):
        path.chmod(0o755)
    return partial


def unpack(archive: str | Path, core: Mapping[str, Any], target: Path) -> None:
    """Make the release ``target`` from an archive, with or without one folder at its top.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the archive is broken or holds another
    version; then nothing is left behind.
    """
    partial = clean(target)
    try:
        _extract(archive, partial)
        inside = list(partial.iterdir())
        only = inside[0] if len(inside) == 1 and inside[0].is_dir() else partial
        finish(only, core, target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OpenHIMError(f"the release archive {archive} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _extract(archive: str | Path, folder: Path) -> None:
    """Unpack without letting a member out of the folder.

    Python looks at every member, and tar writes them: five times as fast for the ten thousand
    small files of a release. tar makes links that lead elsewhere only when all else is written.
    """
    with tarfile.open(archive) as packed:
        for member in packed:
            _refuse(member)
    command = ["tar", "--extract", "--no-same-owner", "--no-same-permissions"]
    done = subprocess.run(
        [*command, f"--file={archive}", f"--directory={folder}"],
        capture_output=True,
        text=True,
        umask=0o022,
        check=False,
    )
    if done.returncode:
        raise tarfile.TarError(done.stderr.strip()[-1000:])


def _refuse(member: tarfile.TarInfo) -> None:
    """Raises TarError for what does not stay inside, or is neither file, folder nor link."""
    places = [member.name]
    if member.issym():
        places.append(os.path.join(os.path.dirname(member.name), member.linkname))  # noqa: PTH118, PTH120
    elif member.islnk():
        places.append(member.linkname)
    # An absolute path stays one, and one that leads out begins with "..".
    if any(f"{os.path.normpath(place)}/".startswith(("/", "../")) for place in places):
        raise tarfile.TarError(f"{member.name} would be written outside of the release")
    if not (member.isreg() or member.isdir() or len(places) > 1):
        raise tarfile.TarError(f"{member.name} is a device or a pipe")


def npm_project(core: Mapping[str, Any], partial: Path) -> None:
    """Write the ``package.json`` from which npm installs the declared version, with overrides."""
    description = {
        "name": "openhim-release",
        "private": True,
        "dependencies": {"openhim-core": versions.parse(core["version"]).text},
        "overrides": (core.get("install") or {}).get("overrides") or {},
    }
    text = json.dumps(description, indent=2) + "\n"
    (partial / "package.json").write_text(text, encoding="utf-8")


def npm_files(core: Mapping[str, Any], partial: Path) -> None:
    """Write what the version needs beside npm's packages (see :mod:`.versions`)."""
    for name, text in versions.parse(core["version"]).npm_files.items():
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def finish(made: Path, core: Mapping[str, Any], target: Path) -> None:
    """Check the release that was made in ``made`` and give it its name, in one step."""
    why_not = problem(core, made)
    if why_not:
        raise OpenHIMError(f"what was installed is not the declared release: {why_not}.")
    made.chmod(0o755)
    if target.exists():
        shutil.rmtree(target)
    made.rename(target)


def is_current(link: Path, target: Path) -> bool:
    """Whether the link points to the release."""
    return link.is_symlink() and link.readlink() == target


def switch(link: Path, target: Path) -> None:
    """Point the link to the release, in one step."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
