"""A page as PDF, by Chromium where it is installed: Debian's package ``chromium``."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from saltext.openhim.errors import OpenHIMError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

#: Seconds that it may take.
TIMEOUT = 120

#: It loads a local file and shall ask nobody for anything. Its sandbox refuses to run as root.
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


def browser() -> str | None:
    """Where Chromium is, or None."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def printed(page: str, target: Path) -> str:
    """Prints a page to a file, in one step, and returns its path.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when there is no Chromium, or it fails.
    """
    program = browser()
    if program is None:
        raise OpenHIMError(
            "a PDF is made by Chromium, which is not installed on this host; install the package "
            "chromium, or use the HTML page, which prints well"
        )
    with tempfile.TemporaryDirectory(prefix="openhim-pdf-") as folder:
        source, made = Path(folder, "page.html"), Path(folder, "page.pdf")
        source.write_text(page, encoding="utf-8")
        command = [
            program, *OPTIONS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}",
            source.as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise OpenHIMError(f"{program} made no PDF within {TIMEOUT} s") from error
        if done.returncode or not made.exists() or not made.read_bytes().startswith(b"%PDF"):
            raise OpenHIMError(f"{program} made no PDF: {done.stderr.strip()[-500:]}")
        partial = target.with_name(f".{target.name}.partial")
        partial.touch(mode=0o600)
        partial.write_bytes(made.read_bytes())
        partial.replace(target)
    return str(target)
