"""Backups that are killed at random moments, or run where the clock is wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from saltext.openhim.backup import declaration, points, work

HOST = "north-db1"
#: In the suite, and in the nightly run.
FEW, MANY = 5, 50

TAKE = """
import json, sys
from saltext.openhim.backup import declaration, work
asked = json.load(sys.stdin)
work.LOCK, declaration.CACHE = asked["lock"], asked["cache"]
print(work.take(declaration.from_pillar(asked["pillar"], asked["host"]), "a test", "a test").id)
"""


@pytest.fixture(scope="module")
def stack(replica_set, tmp_path_factory):
    """A set with some data, and a declared backup of it."""
    cluster = replica_set({HOST: {"site": "north"}})
    folder = tmp_path_factory.mktemp("killed")
    openhim = cluster.pillar["openhim"]
    openhim["backup"] = {
        "taken_by": HOST,
        "user": "operator",
        "repositories": {"near": {"url": str(folder / "near"), "secret": "near"}},
    }
    openhim["secrets"]["near"] = "near-key"
    cluster.folder = folder
    cluster.primary()
    with cluster.members[HOST].client() as client:
        documents = [{"_id": n, "text": os.urandom(2000)} for n in range(4000)]
        client.openhim.transactions.insert_many(documents)
        client.openhim.channels.insert_one({"_id": 1})
        client.openhim_audit.audits.insert_one({"_id": 1})
    yield cluster
    cluster.stop()


@pytest.fixture
def backups(stack, monkeypatch):
    """The declared backups; restic's cache and our lock are in a folder of the test's own."""
    monkeypatch.setattr(work, "LOCK", str(stack.folder / "lock"))
    monkeypatch.setattr(declaration, "CACHE", str(stack.folder / "cache"))
    found = declaration.from_pillar(stack.pillar, HOST)
    found.repository("near").initialise()
    return found


def begun(stack, *before):
    """A process that takes a restore point, in a group of its own; ``before`` its command."""
    asked = {
        "pillar": stack.pillar,
        "host": HOST,
        "lock": str(stack.folder / "lock"),
        "cache": str(stack.folder / "cache"),
    }
    process = subprocess.Popen(
        [*before, sys.executable, "-c", TAKE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if before else subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    process.stdin.write(json.dumps(asked))
    process.stdin.close()
    return process


def children(pid):
    """The processes below one, which may be in other groups."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for one in found:
        found += [child for child, parent in pairs if parent == one]
    return found[1:]


def kill(process, with_restic):
    """As a lost machine does it, or as a crash of the minion does, which leaves restic running."""
    doomed = [process.pid, *(children(process.pid) if with_restic else [])]
    left = [] if with_restic else children(process.pid)
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline, "restic outlives the one who fed it"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "rounds", [FEW, pytest.param(MANY, marks=pytest.mark.nightly)], ids=["few", "many"]
)
def test_what_is_committed_restores_wherever_backups_were_killed(stack, backups, rounds):
    began = time.monotonic()
    whole = begun(stack)
    whole.wait(120)
    duration = time.monotonic() - began
    assert whole.returncode == 0
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)  # noqa: S311  no cryptography
    for number in range(rounds):
        process = begun(stack)
        # One in each part of the way, so that no part is left out by chance.
        time.sleep(duration * (number + chance.random()) / rounds)
        kill(process, with_restic=chance.random() < 0.5)
    known = points.listing(backups.repository("near"), "test")
    assert known.broken == (), f"seed {seed}"
    assert known.unreadable == (), f"seed {seed}"
    assert known.points, f"seed {seed}"
    assert len(known.points) + len(known.leftovers) <= rounds + 1
    for point in known.points[-3:]:
        work.restore(backups, point.id, by="a test", why="a test", overwrite=True)
        with stack.members[HOST].client() as client:
            assert client.openhim.transactions.count_documents({}) == 4000, f"seed {seed}"
            assert client.openhim.channels.count_documents({}) == 1, f"seed {seed}"
    # The next one needs nobody's help.
    made = work.take(backups, "a test", "after the kills")
    known = points.listing(backups.repository("near"), "test")
    assert made.id in {point.id for point in known.points}


@pytest.mark.parametrize("wrong", ["-1 day", "+1 day"])
def test_where_the_clock_is_wrong_by_a_day_no_restore_point_is_taken(stack, backups, wrong):
    before = points.listing(backups.repository("near"), "test")
    process = begun(stack, "faketime", "-f", wrong.replace(" day", "d"))
    said = process.stderr.read()
    process.wait(120)
    assert process.returncode != 0
    assert "Refused: this host's clock says " in said
    assert "set the clocks" in said
    assert points.listing(backups.repository("near"), "test") == before
