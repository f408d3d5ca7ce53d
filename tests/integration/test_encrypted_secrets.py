"""The commands of docs/topics/secrets.md make a pillar that is allowed, and hide what they made."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "topics" / "secrets.md"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """A folder in the place of ``/``, in which the page's commands have been run."""
    root = Path(tempfile.mkdtemp(prefix="gpg-"))
    (root / "etc" / "salt").mkdir(parents=True)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    script = "set -euo pipefail\n" + "".join(blocks)
    script = script.replace("/etc/salt/", f"{root}/etc/salt/").replace("/srv/", f"{root}/srv/")
    keys = root / "etc" / "salt" / "gpgkeys"
    try:
        subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
        yield root
    finally:
        subprocess.run(["gpgconf", "--homedir", keys, "--kill", "all"], check=False)
        shutil.rmtree(root)


def pillar_check(root: Path, host: str) -> subprocess.CompletedProcess[str]:
    """What ``salt-call openhim.pillar_check`` says on a host, without a master."""
    config = root / host
    config.mkdir(exist_ok=True)
    settings = {
        "id": host,
        "root_dir": str(config),
        "pki_dir": str(config / "pki"),
        "cachedir": str(config / "cache"),
        "log_file": str(config / "log"),
        "file_client": "local",
        "file_roots": {"base": [str(root / "nothing")]},
        "pillar_roots": {
            "base": [str(REPOSITORY / "pillar"), str(root / "srv" / "pillar-secrets")]
        },
        "gpg_keydir": str(root / "etc" / "salt" / "gpgkeys"),
        "enable_fqdns_grains": False,
    }
    (config / "minion").write_text(json.dumps(settings))
    command = [Path(sys.executable).with_name("salt-call"), "--local", "--config-dir", config]
    command += ["--out", "json", "openhim.pillar_check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("host", ["north-db1", "south-core", "south-db1", "west-backup", "master"])
def test_every_host_can_read_its_secrets(root: Path, host: str) -> None:
    """Decrypted by Salt's GPG renderer, and found sufficient."""
    done = pillar_check(root, host)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["local"]["stack"] == "example"


def test_no_host_can_without_the_key(root: Path) -> None:
    """What is in the files is encrypted: else the test above would prove nothing."""
    keys, away = root / "etc" / "salt" / "gpgkeys", root / "away"
    keys.rename(away)
    try:
        done = pillar_check(root, "north-db1")
    finally:
        away.rename(keys)
    assert done.returncode != 0
    assert "openhim:secrets:mongodb_keyfile: found" in done.stdout + done.stderr


def test_the_files_are_for_root_only(root: Path) -> None:
    """The encrypted ones too."""
    for file in (root / "srv" / "pillar-secrets" / "secrets").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file.name
