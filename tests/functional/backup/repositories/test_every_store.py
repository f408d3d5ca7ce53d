"""What a repository does, on every kind of store: a folder, SFTP, REST and S3."""

import hashlib
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from saltext.openhim.backup import repository as module
from saltext.openhim.backup.producers import ProducerFailed
from saltext.openhim.backup.repository import Locked, RepositoryError

DATA = os.urandom(3_000_000)


@pytest.fixture(params=["folder", "sftp", "rest", "s3"])
def repository(request, make):
    """A repository that does not exist yet."""
    if request.param == "folder":
        return make()
    found = request.getfixturevalue(request.param)
    return make(found.url()) if request.param == "rest" else found


def test_what_was_stored_is_read_back_and_nothing_of_a_failed_producer_is_there(repository):
    assert not repository.exists()
    assert repository.initialise()
    assert repository.exists()
    assert not repository.initialise(), "it was made a second time"
    assert repository.snapshots() == []
    stored = repository.store_stream(
        lambda out: out.write(DATA), "openhim.archive", ["stack=demo", "part=main"], host="db1"
    )
    assert (stored.size, stored.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())

    def dies(out):
        out.write(DATA[:2_500_000])
        raise OSError("the database went away")

    with pytest.raises(OSError, match="the database went away"):
        repository.store_stream(dies, "openhim.archive", ["stack=demo"])
    (snapshot,) = repository.snapshots(["stack=demo"])
    assert (snapshot.id, snapshot.tree, snapshot.host) == (stored.snapshot, stored.tree, "db1")
    assert (snapshot.tag("part"), snapshot.tag("nothing")) == ("main", None)
    assert repository.snapshots(["stack=demo", "part=other"]) == []
    with repository.uncached().read(stored.snapshot, "openhim.archive") as stream:
        assert stream.read() == DATA
    assert "no errors were found" in repository.check(read_data=True)
    assert repository.stats()["total_size"] > len(DATA) // 2
    assert repository.locks() == []


def test_a_command_that_fails_leaves_no_snapshot_and_its_words(local):
    command = ["sh", "-c", "echo most of it; echo connection lost >&2; exit 3"]
    with pytest.raises(ProducerFailed, match=r"sh ended with code 3.*connection lost"):
        local.store_stream(command, "x.archive")
    assert local.snapshots() == []
    stored = local.store_stream(["printf", "all of it"], "x.archive")
    with local.read(stored.snapshot, "x.archive") as stream:
        assert stream.read() == b"all of it"


def test_a_time_that_is_given_is_the_snapshots(local):
    time_given = datetime(2026, 3, 29, 1, 30, 5, tzinfo=timezone.utc)
    local.store_stream(lambda out: out.write(b"x"), "x", time=time_given)
    assert [snapshot.time for snapshot in local.snapshots()] == [time_given]


def test_folders_are_stored_whole_or_not_at_all(local, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_text("aaa")
    stored = local.store_paths([folder], ["part=files"])
    with local.read(stored.snapshot, f"{folder}/a") as stream:
        assert stream.read() == b"aaa"
    with pytest.raises(RepositoryError, match=r"not there: .*nowhere"):
        local.store_paths([folder, tmp_path / "nowhere"])
    assert len(local.snapshots()) == 1


def test_keys_are_added_proved_and_removed(local):
    (first,) = local.key_list()
    key = local.key_add("the recovery key", user="recovery", host="escrow")
    assert local.opens_with("the recovery key")
    assert not local.opens_with("another key")
    assert {(k["userName"], k["hostName"]) for k in local.key_list()} >= {("recovery", "escrow")}
    with pytest.raises(RepositoryError, match="is the one in use"):
        local.key_remove(first["id"])
    local.key_remove(key)
    assert not local.opens_with("the recovery key")


def test_only_full_ids_are_forgotten_and_a_dry_run_forgets_nothing(local):
    kept = local.store_stream(lambda out: out.write(b"kept"), "a")
    gone = local.store_stream(lambda out: out.write(b"gone"), "b")
    for wrong in (gone.snapshot[:8], "latest", ""):
        with pytest.raises(RepositoryError, match="no full ID"):
            local.forget([kept.snapshot, wrong])
    assert local.forget([gone.snapshot], dry_run=True) == [gone.snapshot]
    assert len(local.snapshots()) == 2
    assert local.forget([gone.snapshot, "0" * 64], prune=True) == [gone.snapshot]
    assert [snapshot.id for snapshot in local.snapshots()] == [kept.snapshot]
    with local.uncached().read(kept.snapshot, "a") as stream:
        assert stream.read() == b"kept"


def test_copies_are_deduplicated_and_not_made_twice(local, make, tmp_path):
    second = make(tmp_path / "second", password="the password of the second")
    second.initialise(copy_chunker_from=local)
    stored = local.store_stream(lambda out: out.write(DATA), "a", ["part=a"])
    copies = local.copy_to(second, [stored.snapshot])
    assert local.copy_to(second, [stored.snapshot]) == copies
    (copied,) = second.snapshots()
    assert (copied.id, copied.tree) == (copies[stored.snapshot], stored.tree)
    size = second.stats()["total_size"]
    second.store_stream(lambda out: out.write(DATA), "a")
    assert second.stats()["total_size"] - size < len(DATA) / 100, "chunks were cut differently"
    with second.read(copied.id, "a") as stream:
        assert stream.read() == DATA


def test_a_reader_that_is_left_early_leaves_no_process_and_no_lock(local):
    stored = local.store_stream(lambda out: out.write(DATA * 10), "a")
    with local.read(stored.snapshot, "a") as stream:
        process = stream._process.process
        assert len(stream.read(1000)) == 1000
    assert process.returncode is not None
    # It was killed: what is left is a stale lock, which is told apart from a living one.
    local.unlock_stale()
    assert local.locks() == []


def test_no_secret_is_in_an_argument_an_environment_or_an_error(rest, make, monkeypatch):
    repository = make(rest.url())
    repository.initialise()
    seen = []

    def look(out):
        out.write(DATA)
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    line = (process / "cmdline").read_bytes()
                    if b"restic\0" in line and b"backup" in line:
                        seen.append(line + (process / "environ").read_bytes())
                        assert (process / "environ").stat().st_mode & 0o077 == 0
                except OSError:
                    continue

    repository.store_stream(look, "a")
    assert any(b"RESTIC_PASSWORD_FILE=/proc/self/fd/" in one for one in seen)
    for secret in (repository.password, rest.password):
        assert not any(secret.encode() in one for one in seen)
        assert secret not in repr(repository)
    wrong = make(rest.url().replace(rest.password, "not-the-password"))
    with pytest.raises(RepositoryError) as caught:
        wrong.snapshots()
    assert "not-the-password" not in str(caught.value)


def test_two_backups_at_once_disturb_each_other_in_nothing(local):
    def both(out):
        inner.append(local.store_stream(lambda within: within.write(b"inner"), "inner"))
        out.write(b"outer")

    inner = []
    outer = local.store_stream(both, "outer")
    for stored, text in ((outer, b"outer"), (inner[0], b"inner")):
        name = text.decode()
        with local.read(stored.snapshot, name) as stream:
            assert stream.read() == text


def test_a_living_lock_is_named_and_kept(local):
    def meanwhile(out):
        out.write(b"x")
        (lock,) = local.locks()
        assert not lock.exclusive
        with pytest.raises(Locked, match=f"locked by another process.*PID {lock.pid} "):
            local.check()
        assert local.unlock_stale() == []
        assert local.locks() == [lock]

    local.store_stream(meanwhile, "a")
    local.check()


def test_a_lock_is_waited_for(local, make, stale_lock, monkeypatch):
    stale_lock(local)
    waited = []

    def released(seconds):
        waited.append(seconds)
        for lock in (Path(local.url) / "locks").iterdir():
            lock.unlink()

    monkeypatch.setattr(module, "clock", SimpleNamespace(monotonic=time.monotonic, sleep=released))
    make(lock_wait=60).store_stream(lambda out: out.write(b"y"), "b")
    assert len(waited) == 1
    assert len(local.snapshots()) == 1
