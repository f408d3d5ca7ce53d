"""The manifest: read back as it was written, and refused in words when it is anything else."""

import hashlib
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from bson import Int64, ObjectId, Timestamp
from bson.json_util import loads
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim.backup import manifest as manifests
from saltext.openhim.backup.manifest import (
    DamagedManifest,
    File,
    Manifest,
    ManifestError,
    Namespace,
    NewerFormat,
    OlderFormat,
    Part,
    ReplicaSet,
    WrongStack,
    from_json,
)
from saltext.openhim.backup.verification import Verification

NAMESPACE = Namespace("openhim", "channels", "collection", 3, 3000, "ab" * 32)
MANIFEST = Manifest(
    stack="demo",
    point="20261122T073405Z-3f09ab",
    epoch=4,
    epoch_id=None,
    replica_sets=(
        ReplicaSet("openhim", (1_800_000_000, 7), "6.0.5", "6.0", "openhim.archive", (NAMESPACE,)),
    ),
    files=(File("/etc/openhim/core.json", 2, "cd" * 32, "0600", "openhim", "openhim"),),
    parts=(
        Part("openhim.archive", "openhim.archive", "1" * 64, "2" * 64, 5000, "3" * 64),
        Part("files", "files.tar", "4" * 64, "5" * 64, 10240, "6" * 64),
    ),
    by="operator",
    host="south-db1",
    why="schedule",
    started="2026-11-22T07:34:05.000Z",
    finished="2026-11-22T07:35:05.000Z",
    milliseconds=60000,
    software={"restic": "0.14.0"},
)

#: What format 1 looks like for ever: a change of this line is a change of the format.
GOLDEN = (
    b'{"manifest":{"by":"operator","copied_from":null,"epoch":4,"epoch_id":null,"files":[{"group":'
    b'"openhim","mode":"0600","path":"/etc/openhim/core.json","sha256":"' + b"cd" * 32 + b'","size":2,'
    b'"user":"openhim"}],"finished":"2026-11-22T07:35:05.000Z","format":1,"host":"south-db1",'
    b'"milliseconds":60000,"parts":[{"filename":"openhim.archive","name":"openhim.archive","sha256":"'
    + b"3" * 64 + b'","size":5000,"snapshot":"' + b"1" * 64 + b'","tree":"' + b"2" * 64 + b'"},'
    b'{"filename":"files.tar","name":"files","sha256":"' + b"6" * 64 + b'","size":10240,"snapshot":"'
    + b"4" * 64 + b'","tree":"' + b"5" * 64 + b'"}],"point":"20261122T073405Z-3f09ab","replica_sets":'
    b'[{"at":[1800000000,7],"fcv":"6.0","left_out":[],"name":"openhim","namespaces":[{"bytes":3000,'
    b'"collection":"channels","count":3,"db":"openhim","digest":"' + b"ab" * 32 + b'","indexes":"[]",'
    b'"options":"{}","snapshot":true,"type":"collection","uuid":null}],"part":"openhim.archive",'
    b'"server_version":"6.0.5"}],"software":{"restic":"0.14.0"},"stack":"demo","started":'
    b'"2026-11-22T07:34:05.000Z","why":"schedule"},"sha256":"'
)  # fmt: skip


def rewritten(**changes):
    """A manifest with other contents and a hash that fits them."""
    content = json.loads(MANIFEST.to_json())["manifest"] | changes
    return json.dumps({"manifest": content, "sha256": manifests.digest(content)}).encode()


def test_format_1_stays_as_it_is():
    data = MANIFEST.to_json()
    assert data[: len(GOLDEN)] == GOLDEN
    assert data[len(GOLDEN) :] == MANIFEST.sha256().encode() + b'"}'
    assert from_json(data, stack="demo") == MANIFEST


text = st.text(st.characters(), max_size=40)


@given(text, text, st.integers(0, 2**63), st.lists(text, max_size=3))
def test_whatever_text_is_in_it_it_is_read_back(why, path, size, names):
    file = File(path, size, "00", "0600", why, "g")
    parts = tuple(Part(name, name, "1", "2", 3, "4") for name in dict.fromkeys(names))
    manifest = replace(MANIFEST, why=why, files=(file,), parts=parts, replica_sets=())
    assert from_json(manifest.to_json()) == manifest


@given(st.data())
def test_no_changed_byte_passes(data):
    whole = bytearray(MANIFEST.to_json())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ManifestError):
        from_json(bytes(whole), stack="demo")


@given(st.integers(0, len(MANIFEST.to_json()) - 1))
def test_no_truncated_manifest_passes(length):
    with pytest.raises(DamagedManifest, match=f"the manifest is damaged: {length} bytes"):
        from_json(MANIFEST.to_json()[:length])


def test_another_stack_is_refused():
    with pytest.raises(WrongStack, match="belongs to the stack 'demo', and this is 'other'"):
        from_json(MANIFEST.to_json(), stack="other")
    assert from_json(MANIFEST.to_json()).stack == "demo"


@pytest.mark.parametrize("found", [2, 99])
def test_a_newer_format_is_refused_whatever_is_in_it(found):
    data = json.dumps({"manifest": {"format": found, "all": "new"}, "sha256": "made otherwise"})
    with pytest.raises(NewerFormat, match=rf"has format {found}; .* reads up to 1. Upgrade"):
        from_json(data.encode())


@pytest.mark.parametrize("found", [0, -1])
def test_an_older_format_that_never_was_is_refused(found):
    with pytest.raises(OlderFormat, match=f"has format {found}, which no released version wrote"):
        from_json(rewritten(format=found))


@pytest.mark.parametrize("found", [None, "1", True, 1.0, [1]])
def test_a_format_that_is_no_number_is_damage(found):
    with pytest.raises(DamagedManifest, match=r"its format is .*, expected a whole number"):
        from_json(rewritten(format=found))


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": None},
        {"files": [{}]},
        {"replica_sets": [{"name": "x"}]},
        {"parts": json.loads(MANIFEST.to_json())["manifest"]["parts"][:1] * 2},
        {"parts": []},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(changes):
    with pytest.raises(DamagedManifest, match="is not a manifest of format 1"):
        from_json(rewritten(**changes))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b'{"manifest": 1, "sha256": ""}', b"\xff" * 100, b"[" * 100000],
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(DamagedManifest, match=re.escape(f"{len(data)} bytes that are no manifest")):
        from_json(data)


def test_what_a_later_release_adds_is_ignored():
    assert from_json(rewritten(new_member={"a": 1})) == MANIFEST


def test_a_part_is_found_by_its_name():
    assert MANIFEST.part("files").filename == "files.tar"
    known = re.escape("no part 'audit.archive'; it has openhim.archive, files")
    with pytest.raises(ManifestError, match=known):
        MANIFEST.part("audit.archive")


def test_a_dump_becomes_a_replica_set_with_the_order_of_its_keys():
    index = {"key": {"z": 1, "a": -1}, "expireAfterSeconds": Int64(60)}
    found = SimpleNamespace(
        db="openhim", collection="c", type="collection", count=1, bytes=2, digest="ff",
        options={"validator": {"x": ObjectId("0" * 24)}}, indexes=(index,), uuid="", snapshot=False,
    )  # fmt: skip
    dumped = SimpleNamespace(
        at=Timestamp(5, 6), server_version="6.0.5", fcv=None, namespaces=[found], left_out=["a.b"]
    )
    made = ReplicaSet.of("openhim", "openhim.archive", dumped)
    whole = from_json(replace(MANIFEST, replica_sets=(made,)).to_json()).replica_sets[0]
    assert whole == made
    assert (whole.at, whole.fcv, whole.left_out) == ((5, 6), None, ("a.b",))
    (namespace,) = whole.namespaces
    (read,) = loads(namespace.indexes)
    assert list(read["key"].items()) == [("z", 1), ("a", -1)]
    assert loads(namespace.options) == found.options
    assert (namespace.uuid, namespace.snapshot) == (None, False)


def test_a_verification_is_read_back_and_a_damaged_one_refused():
    record = Verification(
        "p", "demo", "ab", True, "2026-11-22T09:00:00Z", "schedule", "south", 12, True, ("x",),
        {"compared": 3},
    )  # fmt: skip
    assert Verification.from_json(record.to_json()) == record
    failed = record.to_json().replace(b'"ok":true', b'"ok":false')
    with pytest.raises(DamagedManifest, match="verification record is damaged"):
        Verification.from_json(failed)
    with pytest.raises(DamagedManifest):
        Verification.from_json(record.to_json()[:-5])
    with pytest.raises(NewerFormat, match="has format 2"):
        Verification.from_json(replace(record, format=2).to_json())


def _content():
    return json.loads(MANIFEST.to_json())["manifest"]


def _inside(key, **changes):
    content = _content()
    content[key][0] = {**content[key][0], **changes}
    return content


@pytest.mark.parametrize(
    "content",
    [
        _content() | {"milliseconds": float("nan")},
        _content() | {"milliseconds": "1"},
        _content() | {"epoch": True},
        _content() | {"stack": ["demo"]},
        _content() | {"replica_sets": ["openhim"]},
        _content() | {"replica_sets": None},
        _content() | {"files": [[]]},
        _content() | {"parts": 5},
        _inside("parts", snapshot=["1" * 64]),
        _inside("parts", size=None),
        _inside("replica_sets", at=[float("inf"), 1]),
        _inside("replica_sets", at=5),
        _inside("replica_sets", namespaces=[None]),
        _inside("replica_sets", left_out=5),
        _inside("files", path=None),
    ],
)
def test_a_manifest_of_another_form_is_damaged_and_no_error_of_ours(content):
    """Who holds the repository's key can write a hash that fits, and anything beside it."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    whole = {"manifest": content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with pytest.raises(DamagedManifest):
        from_json(json.dumps(whole).encode())


RECORD = Verification("p", "demo", "ab", True, "2026-11-22T09:00:00Z", "schedule", "south")


@pytest.mark.parametrize(
    ("left_out", "changes"),
    [
        ("ok", {}),
        ("at", {}),
        (None, {"ok": 1}),
        (None, {"ok": "false"}),
        (None, {"sampled": None}),
        (None, {"at": "yesterday"}),
        (None, {"at": 5}),
        (None, {"at": "2026-11-22T09:00:00"}),
        (None, {"reasons": 5}),
        (None, {"milliseconds": float("nan")}),
        (None, {"manifest_sha256": None}),
    ],
)
def test_a_verification_of_another_form_is_damaged_and_no_error_of_ours(left_out, changes):
    content = json.loads(RECORD.to_json())["verification"] | changes
    content.pop(left_out, None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    whole = {"verification": content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with pytest.raises(DamagedManifest, match="verification record is damaged"):
        Verification.from_json(json.dumps(whole).encode())


@pytest.mark.parametrize("data", [b"[]", b"5", b'{"verification": 5, "sha256": 5}', b"[" * 10**5])
def test_what_is_no_verification_is_refused(data):
    with pytest.raises(DamagedManifest):
        Verification.from_json(data)
