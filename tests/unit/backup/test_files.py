"""Which files a restore point holds of the folders that are declared."""

import pytest
from saltext.openhim.backup import points
from saltext.openhim.errors import OpenHIMError


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "etc"
    (found / "deep" / "er").mkdir(parents=True)
    (found / "core.json").touch()
    (found / "deep" / "er" / "key").touch()
    return found


def names(folder):
    return [str(path.relative_to(folder)) for path in points._walked([folder])]


def test_all_regular_files_in_a_stable_order(folder):
    assert names(folder) == ["core.json", "deep/er/key"]
    assert points._walked([folder / "core.json", folder]) == points._walked([folder])


def test_links_are_followed_to_files_and_to_folders(folder, tmp_path):
    elsewhere = tmp_path / "live" / "certificates"
    elsewhere.mkdir(parents=True)
    (elsewhere / "tls.key").touch()
    (folder / "certs").symlink_to(elsewhere)
    (folder / "one.key").symlink_to(elsewhere / "tls.key")
    (folder / "same").symlink_to(folder / "deep")
    assert names(folder) == [
        "certs/tls.key", "core.json", "deep/er/key", "one.key", "same/er/key"
    ]  # fmt: skip


def test_a_link_that_leads_round_is_walked_once(folder):
    (folder / "deep" / "up").symlink_to(folder)
    assert names(folder) == ["core.json", "deep/er/key"]


def test_a_link_to_nothing_is_told(folder):
    (folder / "deep" / "tls.key").symlink_to("../../gone")
    with pytest.raises(OpenHIMError, match=r"tls.key .* a link to ../../gone, which is not there"):
        names(folder)
    (folder / "deep" / "tls.key").unlink()
    (folder / "itself").symlink_to("itself")
    with pytest.raises(OpenHIMError, match="leads round"):
        names(folder)
