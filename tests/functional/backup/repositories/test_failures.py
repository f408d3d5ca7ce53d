"""Every way in which a repository fails has its own words, soon, and nothing half is left."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from saltext.openhim.backup import restic
from saltext.openhim.backup.repository import (
    AccessDenied,
    Damaged,
    Full,
    Locked,
    NoRepository,
    NotStored,
    ReadOnly,
    RepositoryUnreachable,
    ResticMissing,
    WrongPassword,
)

from tests import ports

DATA = os.urandom(8_000_000)
#: restic alone retries for 44 s and more.
SOON = 30


@pytest.fixture
def soon():
    """The test is over before restic would have been, left to itself."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < SOON


def test_a_wrong_password(local, make):
    with pytest.raises(WrongPassword, match="wrong password: no key of the repository opens"):
        make(password="another").snapshots()
    with pytest.raises(WrongPassword):
        make(password="another").store_stream(lambda out: out.write(DATA), "a")
    with pytest.raises(WrongPassword):
        make(password="another").initialise()
    assert make(password="another").exists()


@pytest.mark.parametrize("store", ["folder", "rest", "sftp", "s3"])
def test_no_repository(store, request, make):
    found = make() if store == "folder" else request.getfixturevalue(store)
    repository = make(found.url()) if store == "rest" else found
    with pytest.raises(NoRepository, match="there is no repository here"):
        repository.snapshots()
    with pytest.raises(NoRepository):
        repository.store_stream(lambda out: out.write(DATA), "a")
    assert not repository.exists()


def test_a_read_only_store_can_still_be_read(local, make, mount, soon):
    stored = local.store_stream(lambda out: out.write(DATA), "a")
    place = mount("--bind", local.url)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
    frozen = make(place)
    with pytest.raises(ReadOnly, match="read-only: nothing can be stored"):
        frozen.store_stream(lambda out: out.write(b"x"), "b")
    assert [one.id for one in frozen.snapshots()] == [stored.snapshot]
    with frozen.read(stored.snapshot, "a") as stream:
        assert stream.read() == DATA


def test_a_full_store_can_still_be_read(make, mount):
    repository = make(mount("-t", "tmpfs", "-o", "size=6m", "none") / "r")
    repository.initialise()
    stored = repository.store_stream(lambda out: out.write(b"small"), "small")
    started = time.monotonic()
    with pytest.raises(Full, match="the storage is full"):
        repository.store_stream(
            lambda out: [out.write(os.urandom(1 << 20)) for _ in range(40)], "a"
        )
    assert time.monotonic() - started < SOON
    assert [one.id for one in repository.snapshots()] == [stored.snapshot]
    with repository.read(stored.snapshot, "small") as stream:
        assert stream.read() == b"small"


def test_restic_that_stops_reading_may_say_why_before_it_is_stopped(local, make, tmp_path):
    """Stands for restic on a full disk, which says so a moment after it closed its input."""
    slow = tmp_path / "slow"
    slow.write_text(
        """#!/bin/sh
        [ "$1" = backup ] || exec restic "$@"
        echo '{"message_type":"status"}'
        exec <&-
        trap 'echo "signal interrupt received, cleaning up" >&2; exit 130' INT
        for tenth in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done
        echo "Fatal: unable to save snapshot: no space left on device" >&2
        exit 1
        """
    )
    slow.chmod(0o755)
    with pytest.raises(Full, match="the storage is full"):
        make(program=str(slow)).store_stream(lambda out: out.write(DATA), "a")


@pytest.mark.parametrize(
    "url", ["rest:http://127.0.0.1:{}/", "s3:http://127.0.0.1:{}/bucket", "rest:http://no.invalid/"]
)
def test_nobody_there(url, make, soon):
    repository = make(
        url.format(ports.free()),
        environment={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
    )
    with pytest.raises(RepositoryUnreachable, match="cannot be reached; check the network"):
        repository.store_stream(lambda out: out.write(DATA), "a")


def test_nobody_there_by_ssh(make, soon):
    ssh = f"ssh -p {ports.free()} -o BatchMode=yes 127.0.0.1 -s sftp"
    repository = make("sftp:root@127.0.0.1:/r", options=[f"sftp.command={ssh}"])
    with pytest.raises(RepositoryUnreachable, match="Connection refused"):
        repository.snapshots()


def test_a_server_that_never_answers(make, rest, wire):
    repository = make(rest.url(wire(rest.port, 0, silent=True).port), timeout=3)
    with pytest.raises(RepositoryUnreachable, match="no answer for 3 s, and 'snapshots' was ended"):
        repository.snapshots()
    with pytest.raises(RepositoryUnreachable, match="no answer for 3 s, and 'backup' was ended"):
        repository.store_stream(lambda out: out.write(DATA), "a")


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "cut"])
def test_a_line_that_breaks_half_way(silent, make, rest, wire):
    direct = make(rest.url())
    direct.initialise()
    broken = make(rest.url(wire(rest.port, 6_000_000, silent).port), stall=4)
    started = time.monotonic()
    with pytest.raises(RepositoryUnreachable):
        broken.store_stream(lambda out: [out.write(os.urandom(1 << 20)) for _ in range(60)], "a")
    assert time.monotonic() - started < SOON
    assert direct.snapshots() == []


def test_a_line_that_goes_silent_while_reading(make, rest, wire):
    direct = make(rest.url())
    direct.initialise()
    stored = direct.store_stream(lambda out: out.write(DATA), "a")
    line = wire(rest.port, 1 << 40, silent=True)
    slow = make(rest.url(line.port), stall=4)
    slow.snapshots()
    line.after = line.carried + 1200
    with pytest.raises(RepositoryUnreachable, match="no answer for 4 s"):
        read_through(slow, stored)


def test_wrong_credentials_of_the_store(make, rest, sftp):
    with pytest.raises(AccessDenied, match="does not accept this host's credentials"):
        make(rest.url().replace(rest.password, "wrong")).snapshots()
    command = sftp.options[0].replace("/client ", "/host ")
    with pytest.raises(AccessDenied, match="Permission denied"):
        make(sftp.url, options=[command]).snapshots()
    command = sftp.options[0].replace("/known ", "/nobody-known ")
    with pytest.raises(AccessDenied, match="Host key verification failed"):
        make(sftp.url, options=[command]).snapshots()


def test_a_stale_lock_is_told_and_removed_on_request(local, stale_lock):
    pid = stale_lock(local)
    (lock,) = local.locks()
    assert (lock.pid, lock.exclusive) == (pid, True)
    with pytest.raises(Locked, match=f"if that process died, remove its stale lock.*PID {pid} "):
        local.store_stream(lambda out: out.write(b"x"), "a")
    assert local.unlock_stale() == [lock]
    local.store_stream(lambda out: out.write(b"x"), "a")


#: Is restic; the first time, another's lock is there when restic looks, and gone when it reads it.
STUMBLES = """#!{python}
import os, sys
locks, lock, began, late = {locks!r}, {lock!r}, {began!r}, {late}

def restic():
    os.execvp("restic", ["restic", *sys.argv[1:]])

try:
    sys.argv[1] == "version" or os.mkdir(began)
except FileExistsError:
    restic()
if sys.argv[1] == "version":
    restic()
said, says = os.pipe()
real = os.dup(2)
late or os.symlink("/nowhere", lock)
if os.fork():  # who was started becomes restic, for it gets the signals
    os.dup2(says, 2)
    restic()
os.close(says)
os.closerange(0, 3)
while late and not os.listdir(locks):
    pass
late and os.symlink("/nowhere", lock)
for line in open(said):
    if "Load(<lock/" in line and os.path.lexists(lock):
        os.unlink(lock)
    os.write(real, line.encode())
"""


def ask_for_snapshots(repository):
    assert repository.snapshots() == []


def store(repository):
    repository.store_stream(lambda out: out.write(b"x"), "a")


@pytest.mark.parametrize("late", [False, True], ids=["before its own lock", "after its own lock"])
@pytest.mark.parametrize("action", [ask_for_snapshots, store])
def test_a_lock_that_goes_while_it_is_read_costs_a_second_try(local, tmp_path, late, action, soon):
    locks = Path(local.url, "locks")
    began, program = tmp_path / "began", tmp_path / "stumbling"
    program.write_text(
        STUMBLES.format(
            python=sys.executable,
            locks=str(locks),
            lock=str(locks / ("ab" * 32)),
            began=str(began),
            late=late,
        )
    )
    program.chmod(0o755)
    local.program = str(program)
    action(local)
    assert began.exists()
    assert list(locks.iterdir()) == []


def test_who_stops_reading_half_way_leaves_no_lock(local):
    stored = local.store_stream(lambda out: out.write(DATA), "a")
    with local.read(stored.snapshot, "a") as stream:
        stream.read(1000)
        assert len(local.locks()) == 1, "restic was over before we were"
    assert local.locks() == []
    local.forget([stored.snapshot], prune=True)


def test_a_lock_of_the_future_is_no_stale_lock(local, stale_lock, monkeypatch):
    stale_lock(local)
    from saltext.openhim.backup import repository as module

    real = module.datetime

    class Yesterday(real):
        @classmethod
        def now(cls, zone=None):
            return real.now(zone) - module.timedelta(days=1)

    monkeypatch.setattr(module, "datetime", Yesterday)
    with pytest.raises(Locked, match="in the future: a clock is wrong"):
        local.unlock_stale()
    assert len(local.locks()) == 1


def packs(repository):
    found = [path for path in Path(repository.url, "data").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_size, reverse=True)


def read_through(repository, stored):
    with repository.read(stored.snapshot, "a") as stream:
        while stream.read(1 << 20):
            pass


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.01, 0.5])
def test_a_flipped_bit_in_a_pack_is_never_read_as_data(local, place):
    stored = local.store_stream(lambda out: out.write(DATA), "a")
    flip(packs(local)[0], int(packs(local)[0].stat().st_size * place))
    with pytest.raises(Damaged, match="what it holds is not what was stored"):
        read_through(local, stored)
    with pytest.raises(Damaged, match="ID does not match"):
        local.check(read_data=True)


def test_a_missing_pack_is_told_at_once(local, soon):
    stored = local.store_stream(lambda out: out.write(DATA), "a")
    packs(local)[0].unlink()
    with pytest.raises(Damaged):
        read_through(local, stored)
    with pytest.raises(Damaged):
        local.check()


def test_a_truncated_pack_is_never_read_as_data(local, soon):
    stored = local.store_stream(lambda out: out.write(DATA), "a")
    pack = packs(local)[0]
    pack.chmod(0o600)
    os.truncate(pack, pack.stat().st_size // 2)
    with pytest.raises(Damaged):
        read_through(local, stored)
    with pytest.raises(Damaged):
        local.check(read_data=True)


def test_a_damaged_snapshot_does_not_just_miss_in_the_list(local):
    kept = local.store_stream(lambda out: out.write(b"kept"), "a")
    lost = local.store_stream(lambda out: out.write(b"lost"), "b")
    flip(Path(local.url, "snapshots", lost.snapshot), 20)
    fresh = local.uncached()
    with pytest.raises(Damaged, match="could not load"):
        fresh.snapshots()
    damaged = []
    assert [one.id for one in fresh.snapshots(damaged=damaged)] == [kept.snapshot]
    assert lost.snapshot[:8] in damaged[0]


@pytest.mark.parametrize("content", [b"", b"no config"])
def test_a_damaged_config_is_no_missing_repository(local, content):
    config = Path(local.url, "config")
    config.chmod(0o600)
    config.write_bytes(content)
    with pytest.raises(Damaged):
        local.uncached().snapshots()


def test_no_such_snapshot_and_no_such_file(local):
    stored = local.store_stream(lambda out: out.write(b"x"), "a")
    with pytest.raises(NotStored):
        local.read(stored.snapshot, "b")
    with pytest.raises(NotStored):
        local.read("0" * 64, "a")


def test_without_restic_the_package_to_install_is_named(make, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    restic.binary.cache_clear()
    restic.version.cache_clear()
    with pytest.raises(ResticMissing, match="install the package restic"):
        make().snapshots()
    restic.binary.cache_clear()
    restic.version.cache_clear()


def test_nothing_runs_on_after_a_failure(make, sftp, tmp_path):
    """What restic starts is in a process group of its own, so ending restic's would leave it."""
    sftp.initialise()
    script = tmp_path / "hangs-on"
    script.write_text(f"#!/bin/sh\n{sftp.options[0].partition('=')[2]}\nsleep 300\n")
    script.chmod(0o700)
    hanging = make(sftp.url, options=[f"sftp.command={script}"], timeout=5)

    def fails(out):
        out.write(DATA)
        raise KeyError

    with pytest.raises(KeyError):
        hanging.store_stream(fails, "a")
    left = subprocess.run(["pgrep", "-f", str(script)], capture_output=True, check=False)
    assert left.stdout == b""
