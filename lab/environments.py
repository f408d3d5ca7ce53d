"""The Python environments that development and tests run in, each made once and kept in the cache.

``python -m lab.environments NAME`` makes one and prints its folder. Only the standard library is
used: this runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import cache
from lab.errors import LabError

REPOSITORY = Path(__file__).resolve().parent.parent

#: Which Salt the tests run with; anything that pip takes.
SALT = os.environ.get("SALTEXT_OPENHIM_SALT") or "salt~=3008.0"

#: What one has to install beside Salt to use the package without installing it.
PLAIN = (SALT, "pymongo")


def development() -> Path:
    """Everything that a contributor needs, and this repository as an editable install."""
    return _environment("development", (SALT, "-e", f"{REPOSITORY}[tests,development]"))


def synced() -> Path:
    """Salt and PyMongo alone: the package comes from file_roots."""
    return _environment("synced", PLAIN)


def installed() -> Path:
    """Salt, PyMongo and this package as it is now, as ``pip install .`` makes it.

    The environment is shared: hold :func:`cache.lock` on its name while you use it.
    """
    path = _environment("installed", PLAIN)
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        _copy_sources(sources)
        command = [path / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps"]
        cache.call([*command, "--force-reinstall", sources])
    return path


def _environment(name: str, requirements: tuple[str, ...]) -> Path:
    """A virtual environment; made anew when what it is made from has changed."""
    made_from = [(REPOSITORY / "setup.cfg").read_text(encoding="utf-8"), sys.version, *requirements]
    digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:12]
    path = cache.directory() / "environments" / f"{name}-{digest}"
    # It cannot be renamed into place when it is done: its programs name its folder.
    complete = path / "complete"
    if complete.exists():
        return path
    with cache.lock(f"environment-{name}"):
        if complete.exists():
            return path
        started = time.monotonic()
        cache.progress(f"the Python environment {name!r}: building")
        cache.remove(path)
        cache.call([sys.executable, "-m", "venv", path])
        cache.call([path / "bin" / "python", "-m", "pip", "install", "-q", *requirements])
        complete.touch()
        cache.progress(
            f"the Python environment {name!r}: ready in {time.monotonic() - started:.0f} s"
        )
    return path


def _copy_sources(target: Path) -> None:
    """The files of the repository, so that a build leaves nothing behind in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        # No git here, as in an unpacked release: all of it, but what builds leave behind.
        ignored = shutil.ignore_patterns("*.egg-info", "build", "dist", "__pycache__", ".*")
        shutil.copytree(REPOSITORY, target, symlinks=True, ignore=ignored)
        return
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file() and not source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


MAKERS = {"development": development, "synced": synced, "installed": installed}


def main() -> None:
    """Make the environment that the command line names, and print its folder."""
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if name not in MAKERS:
        raise SystemExit(f"say which environment: one of {', '.join(MAKERS)}")
    try:
        print(MAKERS[name]())
    except LabError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
