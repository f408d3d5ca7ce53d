"""Encryption at rest as the kernel shows it; the kernels here are folders, but for the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from saltext.openhim import settings
from saltext.openhim.plan import at_rest

from tests.unit.test_schema import EXAMPLE

MOUNTS = """\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
23 22 253:3 / /var/lib/mongodb rw shared:1 - xfs /dev/mapper/data rw
24 22 0:24 / /dev/shm rw - tmpfs tmpfs rw
25 22 0:25 / /var/lib/lower rw - overlay overlay rw
26 22 253:4 / /var/lib/half rw - ext4 /dev/mapper/half rw
"""


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    """A disk, and LVM over dm-crypt over a disk, and LVM over one crypted and one plain disk."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "mountinfo").write_text(MOUNTS)
    devices = tmp_path / "sys" / "devices"
    for name, uuid in (
        ("vda1", ""), ("vdb1", ""), ("dm-1", "CRYPT-LUKS2-5bf9-data"), ("dm-2", "LVM-x"),
        ("dm-3", "LVM-y"), ("vdc", ""),
    ):  # fmt: skip
        (devices / name / "slaves").mkdir(parents=True)
        if uuid:
            (devices / name / "dm").mkdir()
            (devices / name / "dm" / "uuid").write_text(f"{uuid}\n")
    for above, below in (("dm-1", "vdb1"), ("dm-2", "dm-1"), ("dm-3", "dm-1"), ("dm-3", "vdc")):
        (devices / above / "slaves" / below).symlink_to(devices / below)
    blocks = tmp_path / "sys" / "dev" / "block"
    blocks.mkdir(parents=True)
    for numbers, name in (("254:1", "vda1"), ("253:3", "dm-2"), ("253:4", "dm-3")):
        (blocks / numbers).symlink_to(devices / name)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("path", "state", "why"),
    [
        ("/var/lib/mongodb/openhim", at_rest.ENCRYPTED, "dm-crypt: dm-1"),
        ("/var/lib/mongodbs", at_rest.PLAIN, "it is on vda1 without dm-crypt"),
        ("/srv/backup", at_rest.PLAIN, "it is on vda1 without dm-crypt"),
        ("/var/lib/half/x", at_rest.PLAIN, "it is on vdc without dm-crypt"),
        ("/dev/shm/x", at_rest.MEMORY, "it is in memory (tmpfs) and on no disk"),
        ("/var/lib/lower/x", at_rest.UNKNOWN, "whose disk the kernel does not show here"),
    ],
)
def test_a_folder_is_followed_down_to_its_disks(
    kernel: str, path: str, state: str, why: str
) -> None:
    found = at_rest.look(path, kernel)
    assert found.state == state
    assert why in found.why


def test_the_real_kernel_is_understood(tmp_path: Path) -> None:
    assert at_rest.look("/dev/shm").state == at_rest.MEMORY
    assert at_rest.look(str(tmp_path)).state in (
        at_rest.PLAIN, at_rest.ENCRYPTED, at_rest.UNKNOWN, at_rest.MEMORY,
    )  # fmt: skip


def test_the_folders_with_data_are_known_by_the_pillar() -> None:
    stack = settings.from_pillar(yaml.safe_load(EXAMPLE.read_text()))
    assert at_rest.folders(stack, "north-db1") == ["/var/lib/mongodb/openhim"]
    assert at_rest.folders(stack, "west-backup") == [
        "/var/lib/openhim-backup/copy", "/var/lib/openhim-backup/oplog",
    ]  # fmt: skip
    assert at_rest.folders(stack, "north-core") == []
