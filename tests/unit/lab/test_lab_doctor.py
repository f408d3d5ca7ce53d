"""What a person is told on a machine where the lab cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import doctor, kernel
from lab.errors import LabError


def test_a_machine_that_can_run_it_has_no_problems() -> None:
    assert doctor.problems() == []


def test_another_user_is_told_to_be_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # the real one is root wherever this runs
    (sentence,) = doctor.problems()
    assert "only root may; run it as root." in sentence


def test_missing_packages_are_named_in_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    have = doctor.shutil.which
    gone = {"systemd-nspawn", "nft"}
    monkeypatch.setattr(
        "shutil.which", lambda name, **options: None if name in gone else have(name, **options)
    )
    assert "apt-get install nftables systemd-container" in " ".join(doctor.problems())
    with pytest.raises(LabError, match="Packages are missing"):
        doctor.check()


def test_control_groups_that_cannot_be_made_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.controllers").touch()  # looks like a hierarchy, and is an empty folder
    monkeypatch.setattr(kernel, "CGROUP", tmp_path)
    assert "Control groups cannot be made" in " ".join(doctor.problems())


def test_a_cache_that_cannot_hold_an_overlay_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALTEXT_OPENHIM_CACHE", "/sys/kernel/cache")
    with pytest.raises((LabError, OSError)):
        doctor.check()
