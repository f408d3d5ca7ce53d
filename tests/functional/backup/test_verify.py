"""Verification: real restore points, a real repository, and a real scratch mongod."""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from bson.datetime_ms import DatetimeMS
from salt.exceptions import CommandExecutionError
from saltext.openhim.backup import declaration, dump, points, scratch, status, verify, work
from saltext.openhim.backup import repository as repositories
from saltext.openhim.errors import OpenHIMError, Refused

HOST = "west-backup"
PASSWORD = "near-key"
DATABASES = ["openhim", "openhim_audit"]


@dataclass
class Shelf:
    """A repository that every test gets a copy of, and the IDs of what is in it."""

    folder: Path
    good: str
    wrong: str
    pillar: dict


@pytest.fixture(scope="module")
def shelf(single, mongod_binary, tmp_path_factory):
    """Two restore points: an older good one, and one whose manifest is wrong in many ways."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "core.json").write_text('{"api": {}}')
    opened = repositories.Repository(str(folder / "near"), PASSWORD, cache_dir=None)
    opened.initialise()
    single.primary()
    with single.members["north-db1"].client() as client:
        for name in DATABASES:
            client.drop_database(name)
        _fill(client)
        good = _taken(opened, client, folder / "core.json", lambda dumped: dumped)
        wrong = _taken(opened, client, folder / "core.json", _falsified)
        for name in DATABASES:
            client.drop_database(name)
    pillar = copy.deepcopy(single.pillar)
    openhim = pillar["openhim"]
    openhim["hosts"][HOST] = {"site": "north", "address": "127.0.0.2", "roles": ["backup"]}
    openhim["mongodb"]["install"]["binary"] = str(mongod_binary)
    openhim["backup"] = {
        "taken_by": "north-db1",
        "verified_by": HOST,
        "user": "operator",
        "repositories": {"near": {"url": "to be replaced", "secret": "near"}},
        "assertions": [
            {"collection": "openhim.channels", "at_least": 5},
            {
                "collection": "openhim.transactions",
                "newest": {"field": "request.timestamp", "within_seconds": 3600},
            },
        ],
    }
    openhim["secrets"]["near"] = PASSWORD
    return Shelf(folder, good, wrong, pillar)


def _fill(client):
    now = datetime.now(timezone.utc)
    database = client.openhim
    database.channels.insert_many([{"_id": n, "name": f"channel {n}"} for n in range(5)])
    database.channels.create_index("name", unique=True)
    database.transactions.insert_many(
        [
            {"_id": n, "request": {"timestamp": now - timedelta(seconds=n)}, "text": "x" * 200}
            for n in range(500)
        ]
    )
    # Most are to be expired, and must not be where they are restored to.
    database.transactions.create_index("request.timestamp", expireAfterSeconds=100)
    database.create_collection("capped", capped=True, size=4096).insert_one({"_id": 1})
    database.create_collection("[odd]*", collation={"locale": "fr"}).insert_one({"_id": 1})
    database.create_collection("view", viewOn="channels", pipeline=[])
    database.create_collection("empty")
    client.openhim_audit.audits.insert_one({"_id": 1, "at": "no date"})


def _taken(opened, client, file, told):
    """A restore point; told: what the manifest is told of a dump that is as it should be."""
    with points.Taking(opened, "test", by="a test", why="to be verified") as taking:
        taking.store_dump("openhim", lambda out: told(dump.dump(client, DATABASES, out)))
        taking.store_files([file])
        return taking.commit().id


def _falsified(dumped):
    false = []
    for one in dumped.namespaces:
        if one.collection == "channels":
            one = replace(one, count=6, indexes=list(one.indexes)[:1])
        if one.collection == "capped":
            one = replace(one, options={**one.options, "size": 8192})
        if one.collection == "audits":
            one = replace(one, digest="0" * 64)
        if one.collection == "empty":
            one = replace(one, collection="lost")
        false.append(one)
    return replace(dumped, namespaces=false)


@pytest.fixture
def near(shelf, monkeypatch, tmp_path):
    """The pillar of this test, whose repository is a copy of its own."""
    monkeypatch.setattr(work, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(repositories, "CACHE", str(tmp_path / "cache"))
    shutil.copytree(shelf.folder / "near", tmp_path / "near")
    pillar = copy.deepcopy(shelf.pillar)
    pillar["openhim"]["backup"]["repositories"]["near"]["url"] = str(tmp_path / "near")
    return pillar


@pytest.fixture
def memory():
    """A folder in memory that is this test's; nothing may be left in it."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(subprocess.check_output(["mktemp", "-d", "-p", base or "/tmp"], text=True)[:-1])
    yield folder
    left = list(folder.iterdir())
    shutil.rmtree(folder)
    assert left == []


def _backups(pillar, host=HOST):
    return declaration.from_pillar(pillar, host)


def _verify(pillar, point, **options):
    return verify.verify(_backups(pillar), point, by="a test", **options)


def _record(pillar, point):
    """The newest verification of a restore point, as the repository has it; or None."""
    backups = _backups(pillar)
    found = points.listing(backups.repository("near"), "test").point(point)
    return found.verifications[-1] if found.verifications else None


def test_a_bad_point_is_recorded_and_an_older_good_one_makes_the_state_ok(shelf, near, loaders):
    modules = loaders(HOST, near).modules
    with pytest.raises(CommandExecutionError, match=f"{shelf.wrong} in near did not verify"):
        modules["openhim_backup.verify"]()
    record = _record(near, shelf.wrong)
    assert record.ok is False
    assert sorted(record.reasons) == [
        "openhim.capped: its option size is another one than the manifest says",
        "openhim.channels: documents 5, the manifest says 6",
        "openhim.channels: the index name_1 is not in the manifest",
        "openhim.empty was restored and is not in the manifest",
        "openhim.lost is in the manifest and was not restored",
        "openhim_audit.audits: as many documents and bytes as the manifest says, of other contents",
    ]
    said = status.status(_backups(near))
    assert said["state"] == "failing", said
    done = modules["openhim_backup.verify"]()
    assert done["nothing_to_do"] == {}
    told = done["verified"]["near"]
    assert (told["id"], told["ok"], told["sampled"], told["files"]) == (shelf.good, True, False, 1)
    assert told["replica_sets"]["openhim"]["documents"] == 508
    assert [one["held"] for one in told["assertions"]] == [True, True]
    again = modules["openhim_backup.verify"]()
    assert again["verified"] == {}
    assert shelf.good in again["nothing_to_do"]["near"]
    # Without the bad one the state is ok, and was not before the verification.
    backups = _backups(near)
    opened = backups.repository("near")
    bad = points.listing(opened, "test").point(shelf.wrong)
    opened.forget(bad.snapshots)
    assert status.status(backups)["state"] == "ok"
    record = _record(near, shelf.good)
    assert (record.by, record.host, record.ok) == ("Salt", HOST, True)


def test_an_assertion_that_does_not_hold_is_bad_and_one_of_nothing_too(shelf, near, memory):
    near["openhim"]["backup"]["assertions"] = [
        {"collection": "openhim.channels", "at_least": 6},
        {"collection": "openhim.gone", "at_least": 1},
        {
            "collection": "openhim_audit.audits",
            "newest": {"field": "at", "within_seconds": 60},
        },
    ]
    with pytest.raises(verify.NotVerified) as caught:
        _verify(near, shelf.good, folder=memory)
    assert caught.value.reasons == [
        "openhim.channels has 5 documents, asserted are 6 or more",
        "no document of openhim_audit.audits has a date in at",
        "openhim.gone has 0 documents, asserted are 1 or more",
    ]
    assert _record(near, shelf.good).ok is False


@pytest.mark.parametrize(
    ("dates", "newest"),
    [
        ([100, 10**9], 100),
        ([100, [50, 200]], 200),
        # Beyond the years that Python knows.
        ([100, 253402300800000], 100),
        ([-(10**15)], datetime.min.replace(tzinfo=timezone.utc)),
        ([10**9], None),
        (["later"], None),
    ],
)
def test_the_newest_date_is_one_that_a_document_can_have(client, dates, newest):
    def value(found):
        if isinstance(found, list):
            return [value(each) for each in found]
        return DatetimeMS(found) if isinstance(found, int) else found

    client.openhim.transactions.insert_many([{"at": value(each)} for each in dates])
    found = verify._newest(
        client.openhim.transactions, {"field": "at"}, datetime.fromtimestamp(1, timezone.utc)
    )
    if isinstance(newest, int):
        newest = datetime.fromtimestamp(newest / 1000, timezone.utc)
    assert found == newest


def test_databases_that_are_not_there_are_no_backup(shelf, near, client):
    client.openhim.channels.insert_one({})
    with pytest.raises(Refused, match="no collection in openhim_audit, so there is nothing"):
        work.take(_backups(near, "north-db1"), by="a test", why="to be verified")
    assert len(points.listing(_backups(near).repository("near"), "test").points) == 2


def _largest_pack(pillar):
    folder = Path(pillar["openhim"]["backup"]["repositories"]["near"]["url"]) / "data"
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_a_byte_that_changed_in_the_repository_is_found_though_a_cache_may_have_it(shelf, near):
    points.listing(_backups(near).repository("near"), "test")
    pack = _largest_pack(near)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(verify.NotVerified, match="damaged"):
        _verify(near, shelf.good)
    assert _record(near, shelf.good).ok is False


def test_an_archive_that_was_changed_before_it_was_stored_is_bad(single, near, tmp_path):
    opened = _backups(near).repository("near")

    def tampered(out):
        with single.members["north-db1"].client() as client:
            client.openhim.channels.insert_many([{"name": f"channel {n}"} for n in range(9)])
            whole = io.BytesIO()
            dumped = dump.dump(client, ["openhim"], whole)
            client.drop_database("openhim")
        out.write(whole.getvalue().replace(b"channel 7", b"channel X"))
        return dumped

    with points.Taking(opened, "test", by="a test", why="to be verified") as taking:
        taking.store_dump("openhim", tampered)
        point = taking.commit()
    near["openhim"]["backup"]["assertions"] = []
    with pytest.raises(verify.NotVerified, match=r"checksum|damaged"):
        _verify(near, "latest")
    assert _record(near, point.id).ok is False


def test_a_sample_restores_the_smallest_and_says_what_it_left_out(shelf, near, memory):
    point = _verify(near, shelf.good, sample=2000, folder=memory)
    record = point.verifications[-1]
    assert (record.ok, record.sampled) == (True, True)
    assert record.details["not_restored"] == ["openhim.transactions"]
    assert record.details["replica_sets"]["openhim"]["documents"] == 8
    held = {one["collection"]: one["held"] for one in record.details["assertions"]}
    assert held == {"openhim.channels": True, "openhim.transactions": None}


def test_no_room_no_mongod_and_no_repository_are_raised_and_not_recorded(
    shelf, near, memory, monkeypatch
):
    broken = copy.deepcopy(near)
    broken["openhim"]["mongodb"]["install"]["binary"] = str(memory / "mongod")
    with pytest.raises(scratch.ScratchError, match=r"mongod is no program.*Install it"):
        _verify(broken, shelf.good, folder=memory)
    with pytest.raises(scratch.ScratchError, match="did not start"):
        _verify(near, shelf.good, folder=memory, binary="/bin/false")
    with monkeypatch.context() as patch:
        # No host of the tests can be given too little memory without being root on it.
        patch.setattr(scratch, "_EMPTY_BYTES", 1 << 60)
        with pytest.raises(scratch.NoRoom, match=r"free, and .* need"):
            _verify(near, shelf.good, folder=memory)
    assert _record(near, shelf.good) is None
    shutil.rmtree(near["openhim"]["backup"]["repositories"]["near"]["url"])
    with pytest.raises(OpenHIMError, match="there is no repository here"):
        _verify(near, shelf.good)


def test_a_mongod_that_ends_meanwhile_is_no_verdict(shelf, near, memory):
    def kill(progress):
        os.kill(_mongod_in(memory), signal.SIGKILL)

    with pytest.raises(scratch.ScratchError, match="ended while it was in use"):
        _verify(near, shelf.good, folder=memory, progress=kill)
    assert _record(near, shelf.good) is None


def test_a_restore_point_that_is_removed_meanwhile_gets_no_record(shelf, near):
    opened = _backups(near).repository("near")
    gone = points.listing(opened, "test").point(shelf.good)

    def remove(progress):
        # The last word of a restore: until then restic's lock forbids it.
        if not progress.namespace:
            opened.forget(gone.snapshots)

    with pytest.raises(points.NotCommitted, match=r"was removed .* while it"):
        _verify(near, shelf.good, progress=remove)
    assert opened.snapshots([f"point={shelf.good}"]) == []


def test_only_its_host_verifies(shelf, near):
    with pytest.raises(Refused, match="is the task of west-backup"):
        verify.verify(_backups(near, "north-db1"), by="a test")


VICTIM = """
import json, sys
from pathlib import Path
from saltext.openhim.backup import declaration, repository, verify, work

pillar, point, folder, own = json.loads(sys.stdin.readline())
work.LOCK, repository.CACHE = own + "/lock", own + "/cache"

def wait(progress):
    print("restoring", flush=True)
    sys.stdin.readline()

backups = declaration.from_pillar(pillar, "west-backup")
verify.verify(backups, point, by="a test", folder=folder, progress=wait)
"""


def test_kill_9_during_a_verification_leaves_no_mongod_and_no_folder(
    shelf, near, memory, tmp_path, single
):
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    print(json.dumps([near, shelf.good, str(memory), str(tmp_path)]), file=victim.stdin, flush=True)
    try:
        assert victim.stdout.readline() == "restoring\n"
        mongod = _mongod_in(memory)
        assert _runs(mongod)
    finally:
        victim.kill()
        victim.communicate()
    single.eventually(lambda: not _runs(mongod), what="the end of mongod")
    single.eventually(lambda: not list(memory.iterdir()), what="the end of its folder")
    assert _record(near, shelf.good) is None


def _runs(process):
    return Path(f"/proc/{process}").exists()


def _mongod_in(folder):
    """The process ID of the scratch mongod whose files are below a folder."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"mongod") and any(str(folder).encode() in word for word in words):
            return int(entry.parent.name)
    pytest.fail("no scratch mongod runs")


def test_a_scratch_mongod_listens_on_no_port_and_in_a_folder_of_its_own(mongod_binary, memory):
    with scratch.mongod(str(mongod_binary), folder=memory) as server:
        mongod = _mongod_in(memory)
        links = [str(link.readlink()) for link in Path(f"/proc/{mongod}/fd").iterdir()]
        open_sockets = {link[8:-1] for link in links if link.startswith("socket:")}
        tables = [Path(f"/proc/{mongod}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        inodes = {line.split()[9] for table in tables for line in table.splitlines()[1:]}
        assert open_sockets and not open_sockets & inodes
        assert server.folder.stat().st_mode & 0o777 == 0o700
        assert os.getpriority(os.PRIO_PROCESS, mongod) == 10
        parameters = server.client.admin.command(
            "getParameter", 1, ttlMonitorEnabled=1, diagnosticDataCollectionEnabled=1
        )
        assert parameters["ttlMonitorEnabled"] is False
        assert parameters["diagnosticDataCollectionEnabled"] is False
        server.check()
    assert not _runs(mongod)


def test_a_keeper_that_is_killed_takes_mongod_along_and_the_next_one_cleans_up(
    mongod_binary, memory, single
):
    victim = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from saltext.openhim.backup import scratch\n"
            "with scratch.mongod(sys.argv[1], folder=sys.argv[2]) as server:\n"
            "    print(server.keeper.pid, flush=True)\n"
            "    sys.stdin.readline()\n",
            str(mongod_binary),
            str(memory),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    keeper = int(victim.stdout.readline())
    mongod = _mongod_in(memory)
    assert scratch.remove_abandoned(memory) == []
    # Both at the same moment, as when a control group is killed.
    os.kill(victim.pid, signal.SIGSTOP)
    os.kill(keeper, signal.SIGKILL)
    victim.kill()
    victim.communicate()
    single.eventually(lambda: not _runs(mongod), what="the end of mongod")
    (left,) = memory.iterdir()
    assert scratch.remove_abandoned(memory) == [left]


def test_a_folder_whose_path_is_too_long_for_a_socket_is_told(mongod_binary, memory):
    deep = memory / ("x" * 90)
    deep.mkdir()
    with pytest.raises(scratch.ScratchError, match=r"too long for a socket .* at most \d+ char"):
        scratch.mongod(str(mongod_binary), folder=deep).__enter__()
    assert list(deep.iterdir()) == []
    deep.rmdir()
