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
from collections.abc import Callable
from pathlib import Path

from lab import cache
from lab.errors import LabError

REPOSITORY = Path(__file__).resolve().parent.parent

#: A file that says that an environment is whole.
COMPLETE = "complete"

#: Which Salt the tests run with; anything that pip takes.
SALT = os.environ.get("SALTEXT_OPENHIM_SALT") or "salt~=3008.0"

#: What one has to install beside Salt to use the package without installing it.
PLAIN = (SALT, "pymongo")


def plain() -> Path:
    """Salt and PyMongo alone: the package comes from file_roots."""
    return _environment("plain", (sys.version, *PLAIN), _make_plain)


def development() -> Path:
    """Everything that a contributor needs, and this repository as an editable install."""
    made_from = (str(plain()), str(REPOSITORY), (REPOSITORY / "setup.cfg").read_text("utf-8"))
    return _environment("development", made_from, _make_development)


def install(target: Path) -> None:
    """Make an environment with Salt, PyMongo and this package, as ``pip install .`` makes it.

    target: a folder that does not exist yet; it is not kept in the cache, for the package changes.
    """
    _copy(plain(), target)
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "sources"
        _copy_sources(sources)
        _pip(target, "--no-deps", str(sources))


def _make_plain(path: Path) -> None:
    cache.call([sys.executable, "-m", "venv", path])
    _pip(path, *PLAIN)


def _make_development(path: Path) -> None:
    _copy(plain(), path)
    _pip(path, SALT, "-e", f"{REPOSITORY}[tests,development]")


def _environment(name: str, made_from: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """A virtual environment of the cache; made anew when what it is made from has changed."""
    digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:12]
    path = cache.directory() / "environments" / f"{name}-{digest}"
    # It cannot be renamed into place when it is done: its programs name its folder.
    complete = path / COMPLETE
    if complete.exists():
        return path
    with cache.lock(f"environment-{name}"):
        if complete.exists():
            return path
        started = time.monotonic()
        cache.progress(f"the Python environment {name!r}: building")
        cache.remove(path)
        make(path)
        complete.touch()
        cache.progress(
            f"the Python environment {name!r}: ready in {time.monotonic() - started:.0f} s"
        )
    return path


def _copy(source: Path, target: Path) -> None:
    """A copy of an environment that works at its new place; installing Salt anew takes minutes."""
    shutil.copytree(source, target, symlinks=True)
    (target / COMPLETE).unlink()
    for program in (target / "bin").iterdir():
        if program.is_symlink() or not program.is_file():
            continue
        content = program.read_bytes()
        program.write_bytes(content.replace(bytes(source), bytes(target)))


def _pip(path: Path, *arguments: str) -> None:
    cache.call([path / "bin" / "python", "-m", "pip", "install", "-q", *arguments])


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


MAKERS = {"development": development, "plain": plain}


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
