"""Installation and configuration: whole or not at all, private, honest in test mode."""

from __future__ import annotations

import grp
import hashlib
import io
import json
import tarfile

import pytest
from saltext.openhim.core import release
from saltext.openhim.errors import OpenHIMError

from tests.functional.openhim.processes import MINION, Loaded

VERSION = "8.5.0"


def packed(path, version=VERSION, top="openhim-core/", server=True):
    """A small archive that looks like a release of OpenHIM."""
    files = {"package.json": json.dumps({"name": "openhim-core", "version": version})}
    if server:
        files["lib/server.js"] = "// server\n"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{top}{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def stack(tmp_path):
    """A pillar that installs from an archive on the file server, and the file server's folder."""
    served = tmp_path / "served"
    served.mkdir()
    digest = packed(served / "core.tar.gz")
    pillar = {
        "openhim": {
            "stack": "example",
            "active_site": "north",
            "sites": {"north": {}},
            "hosts": {
                MINION: {"site": "north", "address": "127.0.0.1", "roles": ["core", "mongodb"]}
            },
            "mongodb": {
                "replica_sets": {"rs": {"members": {MINION: {}}}},
                "databases": {
                    "main": {"name": "him", "replica_set": "rs"},
                    "audit": {"name": "him", "replica_set": "rs"},
                },
                "users": {"openhim": {"secret": "mongodb_openhim"}},
            },
            "core": {
                "version": VERSION,
                "install": {
                    "method": "archive",
                    "source": "salt://core.tar.gz",
                    "source_hash": f"sha256={digest}",
                },
            },
            "secrets": {
                "mongodb_openhim": "CANARY-database",
                "openhim_session_key": "CANARY-session-key-of-thirty-two",
            },
        }
    }
    return pillar, served


@pytest.fixture
def states(tmp_path, stack):
    """``states(test=…)``: the states with the stack's pillar as it is now."""
    pillar, served = stack
    return lambda test=False: Loaded(tmp_path, pillar, test=test, file_roots=[served]).states


@pytest.mark.parametrize("top", ["openhim-core/", "./", ""])
def test_an_archive_is_installed_once_and_made_current(states, stack, tmp_path, top):
    pillar, served = stack
    digest = packed(served / "core.tar.gz", top=top)
    pillar["openhim"]["core"]["install"]["source_hash"] = f"sha256={digest}"
    root = tmp_path / "opt"

    shown = states(test=True)["openhim.installed"]("core", root=str(root))
    assert shown["result"] is None
    assert not root.exists()

    made = states()["openhim.installed"]("core", root=str(root))
    assert made["result"] is True, made["comment"]
    assert made["changes"] == shown["changes"]
    assert (root / "current/lib/server.js").is_file()
    assert names(root / "releases") == [VERSION]
    for test in (True, False):
        again = states(test)["openhim.installed"]("core", root=str(root))
        assert (again["result"], again["changes"]) == (True, {})


def link(name, to, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def device(name):
    member = tarfile.TarInfo(name)
    member.type = tarfile.CHRTYPE
    return member


@pytest.mark.parametrize(
    "members",
    [
        [tarfile.TarInfo("../evil")],
        [tarfile.TarInfo("openhim-core/../../evil")],
        [tarfile.TarInfo("{outside}/evil")],
        [link("out", "{outside}"), tarfile.TarInfo("out/evil")],
        [link("out", ".."), tarfile.TarInfo("out/evil")],
        [link("a/b/up", "../.."), link("out", "a/b/up/.."), tarfile.TarInfo("out/evil")],
        [link("evil", "{outside}/secret", tarfile.LNKTYPE)],
        [device("evil")],
    ],
    ids=lambda members: " ".join(member.name for member in members),
)
def test_nothing_of_an_archive_gets_out_of_its_folder(members, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    archive = tmp_path / "core.tar.gz"
    packed(archive)
    with tarfile.open(tmp_path / "hostile.tar", "w") as hostile:
        for member in members:
            member.name = member.name.format(outside=outside)
            member.linkname = member.linkname.format(outside=outside)
            hostile.addfile(member)
    target = tmp_path / "deep" / "releases" / VERSION
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OpenHIMError, match="cannot be unpacked"):
        release.unpack(tmp_path / "hostile.tar", {"version": VERSION}, target)
    made = set(tmp_path.rglob("*")) - set(before)
    assert made <= {target.parent.parent, target.parent}


def test_what_an_interrupted_installation_left_is_not_taken_for_a_release(states, tmp_path):
    root = tmp_path / "opt"
    half = root / "releases" / f"{VERSION}.partial"
    half.mkdir(parents=True)
    (half / "rubbish").touch()
    broken = root / "releases" / VERSION
    broken.mkdir()
    (broken / "package.json").write_text('{"name": "openhim-core", "version": "8.5.0"}')

    made = states()["openhim.installed"]("core", root=str(root))
    assert made["result"] is True, made["comment"]
    assert names(root / "releases") == [VERSION]
    assert (broken / "lib/server.js").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda served: packed(served / "core.tar.gz", version="8.4.0"), "8.5.0 is declared"),
        (lambda served: packed(served / "core.tar.gz", server=False), "no lib/server.js"),
        (lambda served: (served / "core.tar.gz").write_bytes(b"no archive"), "cannot be unpacked"),
    ],
)
def test_an_archive_of_something_else_leaves_nothing_behind(states, stack, tmp_path, change, words):
    pillar, served = stack
    change(served)
    digest = hashlib.sha256((served / "core.tar.gz").read_bytes()).hexdigest()
    pillar["openhim"]["core"]["install"]["source_hash"] = f"sha256={digest}"
    root = tmp_path / "opt"
    refused = states()["openhim.installed"]("core", root=str(root))
    assert refused["result"] is False
    assert words in refused["comment"]
    assert names(root / "releases") == []
    assert not (root / "current").exists()


def test_an_archive_with_another_hash_is_not_unpacked(states, stack, tmp_path):
    stack[0]["openhim"]["core"]["install"]["source_hash"] = f"sha256={'0' * 64}"
    refused = states()["openhim.installed"]("core", root=str(tmp_path / "opt"))
    assert refused["result"] is False
    assert not (tmp_path / "opt/releases" / VERSION).exists()


def test_a_member_of_the_archive_cannot_escape(states, stack, tmp_path):
    pillar, served = stack
    digest = packed(served / "core.tar.gz", top="../../escaped-")
    pillar["openhim"]["core"]["install"]["source_hash"] = f"sha256={digest}"
    refused = states()["openhim.installed"]("core", root=str(tmp_path / "opt"))
    assert refused["result"] is False
    assert not list(tmp_path.rglob("escaped-*"))


def test_another_version_becomes_current_and_the_former_one_stays(states, stack, tmp_path):
    pillar, served = stack
    root = tmp_path / "opt"
    states()["openhim.installed"]("core", root=str(root))
    digest = packed(served / "core.tar.gz", version="8.6.0")
    pillar["openhim"]["core"]["version"] = "8.6.0"
    pillar["openhim"]["core"]["install"]["source_hash"] = f"sha256={digest}"
    made = states()["openhim.installed"]("core", root=str(root))
    assert made["result"] is True, made["comment"]
    assert names(root / "releases") == [VERSION, "8.6.0"]
    assert release.is_current(root / "current", root / "releases/8.6.0")


def test_the_configuration_is_private_and_its_secrets_are_not_shown(states, stack, tmp_path):
    pillar, _ = stack
    path, responder = tmp_path / "etc/core.json", tmp_path / "etc/responder.js"
    arguments = {
        "config_file": str(path),
        "responder": str(responder),
        "user": "root",
        "group": grp.getgrgid(0).gr_name,
    }
    shown = states(test=True)["openhim.configured"]("core", **arguments)
    assert shown["result"] is None
    assert not path.exists()
    assert "CANARY" not in json.dumps(shown)

    made = states()["openhim.configured"]("core", **arguments)
    assert made["result"] is True, made["comment"]
    assert "CANARY" not in json.dumps(made)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "CANARY-database" in path.read_text()
    assert "7789" in responder.read_text()
    for test in (True, False):
        again = states(test)["openhim.configured"]("core", **arguments)
        assert (again["result"], again["changes"]) == (True, {})

    path.chmod(0o644)
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "CANARY-changed"
    changed = states()["openhim.configured"]("core", **arguments)
    assert "CANARY" not in json.dumps(changed)
    assert "another secret" in json.dumps(changed["changes"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert "CANARY-changed" in path.read_text()


def test_a_missing_secret_is_named_and_nothing_is_written(states, stack, tmp_path):
    del stack[0]["openhim"]["secrets"]["mongodb_openhim"]
    path = tmp_path / "core.json"
    refused = states()["openhim.configured"]("core", config_file=str(path), user="root")
    assert refused["result"] is False
    assert "openhim:secrets:mongodb_openhim" in refused["comment"]
    assert not path.exists()


def test_the_configuration_as_it_is_shown_has_no_secret(stack, tmp_path):
    shown = Loaded(tmp_path, stack[0]).modules["openhim.config"]()
    assert "CANARY" not in json.dumps(shown)
    assert shown["mongo"]["openHIMApiWriteConcern"] == "majority"
