"""The oplog archive as a host keeps it going: through the module that its unit runs."""

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone

import pytest
import yaml
from salt.state import HighState
from saltext.openhim.backup import declaration, points, work
from saltext.openhim.backup.oplog import archiving, chain, declared, slices, tidy
from saltext.openhim.backup.oplog.health import look
from saltext.openhim.backup.oplog.slices import Position, Timeline

from tests.functional.backup.conftest import HOST, archived
from tests.functional.backup.oplog.conftest import majority_time, write
from tests.functional.conftest import REPOSITORY, eventually

SET = "openhim"

#: What the unit's salt-call does: the module through Salt's loader, with a pillar and nobody to tell.
_UNIT = """
import json, sys, pathlib
known = json.loads(sys.stdin.readline())
sys.path.insert(0, known["repository"])
from saltext.openhim.backup import declaration
from saltext.openhim.backup.oplog import archiving
from tests.functional.conftest import Minion
declaration.CACHE, archiving.FILE = known["cache"], known["file"]
archiving.serve.__defaults__ = (known["file"],)
told = open(known["told"], "a")
minion = Minion(known["host"], known["pillar"], pathlib.Path(known["root"]))
minion.modules["event.fire_master"] = lambda data, tag: print(
    json.dumps([tag, data]), file=told, flush=True
)
minion.modules["openhim_backup.archive"]()
"""


@pytest.fixture(scope="module")
def stack(replica_set, tmp_path_factory):
    """A set whose oplog a host archives, as a user that may only read."""
    folder = tmp_path_factory.mktemp("archive")
    cluster = archived(replica_set, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(work, "LOCK", str(folder / "lock"))
        patched.setattr(declaration, "CACHE", str(folder / "cache"))
        file = str(folder / "said.json")
        patched.setattr(archiving, "FILE", file)
        for function in (
            archiving.kept,
            archiving.why_not_running,
            archiving.is_archiving,
            archiving.errors,
            archiving.forget,
        ):
            patched.setattr(function, "__defaults__", (file,))
        yield cluster
    cluster.stop()


class Unit:
    """In the place of systemd, which is not in charge where these tests run: starts and kills."""

    def __init__(self, cluster, root):
        self.cluster = cluster
        self.root = root
        self.told = cluster.folder / "told"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _UNIT], stdin=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        known = {
            "repository": str(REPOSITORY),
            "cache": str(self.cluster.folder / "cache"),
            "file": str(self.cluster.folder / "said.json"),
            "told": str(self.told),
            "host": HOST,
            "pillar": self.cluster.pillar,
            "root": str(self.root),
        }
        self.process.stdin.write(json.dumps(known) + "\n")
        self.process.stdin.flush()

    def restart(self, *_):
        self.end(signal.SIGTERM)
        self.start()
        return True

    def end(self, number):
        if self.process:
            self.process.send_signal(number)
            self.process.wait(60)

    def events(self):
        return [json.loads(line) for line in self.told.read_text().splitlines()]


@pytest.fixture
def unit(stack, tmp_path):
    unit = Unit(stack, tmp_path)
    yield unit
    if unit.process:
        unit.process.kill()
        unit.process.wait()


def _state(loaders, stack, unit, test=False, pillar=None, patience=120):
    minion = loaders(HOST, pillar or stack.pillar, test=test)
    # The one thing that is not real: no systemd is in charge where this runs.
    minion.modules["service.restart"] = unit.restart
    state = minion.states["openhim_backup.archive_running"]
    return state(name="the oplog is archived", patience=patience)


def _archived(stack):
    headers = declared.store(stack.backups).headers()
    lines = chain.timelines(headers, SET)
    return chain.reachable(headers, SET, lines[-1]) if lines else []


def _until_archived(stack, ts):
    eventually(lambda: (found := _archived(stack)) and found[-1].end.ts >= ts, what="the archive")


def _until_later(client, second):
    def later():
        return write(client.openhim.numbers, {}).time > second

    eventually(later, what="the next second")


def _look(stack):
    return look(stack.backups, datetime.now(timezone.utc))


def test_it_is_started_survives_a_kill_and_a_store_that_is_away_and_tells_each(
    stack, loaders, unit, monkeypatch
):
    with stack.members[HOST].client() as client:
        for name in ("openhim", "openhim_audit"):
            client[name].numbers.insert_one({"_id": "base"})
        work.take(stack.backups, "a test", "a test")
        begin = majority_time(client)
        assert _look(stack).silent
        foreseen = _state(loaders, stack, unit, test=True)
        assert (foreseen["result"], set(foreseen["changes"])) == (None, {"repository", "archive"})
        assert not (stack.folder / "slices").exists() and unit.process is None
        done = _state(loaders, stack, unit)
        assert (done["result"], set(done["changes"])) == (True, {"repository", "archive"}), done
        for test in (True, False):
            again = _state(loaders, stack, unit, test=test)
            assert (again["result"], again["changes"]) == (True, {}), again

        # Killed, and the store is away as it is started again: that is told, and made up for.
        write(client.openhim.numbers, {"_id": 1})
        unit.end(signal.SIGKILL)
        (stack.folder / "slices").rename(stack.folder / "away")
        last = write(client.openhim.numbers, {"_id": 2})
        unit.start()
        eventually(
            lambda: any("no repository" in each for each in archiving.errors()), what="error"
        )
        (stack.folder / "away").rename(stack.folder / "slices")
        _until_archived(stack, last)
        eventually(lambda: not any(archiving.errors()), what="no error")
        _until_archived(stack, write(client.openhim.numbers, {"_id": 3}))
        assert [each.start.ts <= begin for each in _archived(stack)] == [True]
        seen = _look(stack)
        assert (seen.reasons, seen.silent) == ([], False)
        assert seen.sets[SET]["behind_seconds"] < 180

        # Declared otherwise, it is started anew; told to stop, it says that it did.
        pillar = json.loads(json.dumps(stack.pillar))
        pillar["openhim"]["backup"]["oplog"]["interval_seconds"] = 2
        foreseen = _state(loaders, stack, unit, test=True, pillar=pillar)
        assert (foreseen["result"], set(foreseen["changes"])) == (None, {"archive"})
        unit.end(signal.SIGTERM)
        assert unit.process.returncode == 0
        assert _look(stack).reasons == [f"nobody archives {SET}"]
        _made_smaller(stack, loaders, monkeypatch, client)
    told = [(tag, said["state"]) for tag, said in unit.events()]
    assert {tag for tag, _ in told} == {f"openhim/backup/oplog/{SET}"}
    states = [state for _, state in told]
    assert states.index("archiving") < states.index("behind") < len(states) - 1
    assert states[-1] == "stopped"


def _made_smaller(stack, loaders, monkeypatch, client):
    """By another host, as soon as a restore point covers it; what can be reached stays."""
    _until_later(client, _archived(stack)[-1].end.time)
    newest = work.take(stack.backups, "a test", "a test")
    # So long an hour that all slices are in one, which is over as the restore point is taken.
    monkeypatch.setattr(tidy, "HOUR", newest.manifest.times()[SET][0])
    pillar = json.loads(json.dumps(stack.pillar))
    pillar["openhim"]["hosts"]["west-backup"] = {
        "site": "north",
        "address": "127.0.0.2",
        "roles": ["backup"],
    }
    pillar["openhim"]["backup"]["oplog"]["repository"]["pruned_by"] = "west-backup"
    modules = loaders("west-backup", pillar).modules
    before = _archived(stack), len(declared.store(stack.backups).headers())
    would = modules["openhim_backup.prune_oplog"]()
    assert (would["done"], would["removed"], would["slices"]) == (False, 0, before[1])
    assert would["joined"] == before[1] >= 2
    assert len(declared.store(stack.backups).headers()) == before[1]
    assert modules["openhim_backup.prune_oplog"](confirm=True) == {**would, "done": True}
    assert _archived(stack) == before[0]
    assert len(declared.store(stack.backups).headers()) == 1


def test_where_it_cannot_begin_the_state_says_why(stack, loaders, unit):
    pillar = json.loads(json.dumps(stack.pillar))
    pillar["openhim"]["secrets"]["mongodb_openhim"] = "another-password"
    unit.cluster = type("Other", (), {"folder": stack.folder, "pillar": pillar})
    with contextlib.suppress(FileNotFoundError):
        archiving.forget()
    begun = _state(loaders, stack, unit, pillar=pillar, patience=0)
    assert (begun["result"], set(begun["changes"]) - {"repository"}) == (False, {"archive"})
    eventually(lambda: any("credentials" in each for each in archiving.errors()), what="error")
    ret = _state(loaders, stack, unit, pillar=pillar)
    assert (ret["result"], ret["changes"]) == (True, {})
    assert "The archiver runs, and does not archive: openhim: " in ret["comment"]
    assert "does not accept the credentials" in ret["comment"]
    assert "another-password" not in ret["comment"]


def test_after_a_gap_a_restore_point_is_taken_by_whose_task_it_is(stack):
    now = Position(1_800_000_000, 1, 1)
    gap = slices.gap("test", SET, Timeline(0, 1), now, now, datetime.now(timezone.utc), "a test")
    with stack.members[HOST].client() as client:
        for name in ("openhim", "openhim_audit"):
            client[name].numbers.replace_one({"_id": "base"}, {}, upsert=True)
    other = replace(stack.backups, host="another")
    archiving.take_after(other, gap)
    repository = stack.backups.repository()
    before = points.listing(repository, "test").points
    archiving.take_after(stack.backups, gap)
    *others, made = points.listing(repository, "test").points
    assert len(others) == len(before)
    assert (made.manifest.by, made.manifest.why) == (
        "the oplog archive",
        f"a gap in the oplog archive of {SET} that ends with {now.words}",
    )


def test_the_states_of_the_host_that_archives_and_of_no_other(tmp_path, loaders):
    """The example, as Salt renders it."""
    example = yaml.safe_load((REPOSITORY / "pillar" / "openhim" / "production.sls").read_text())
    for host, archives in (("south-db1", True), ("west-backup", False)):
        minion = loaders(host, example)
        minion.opts["file_roots"] = {"base": [str(REPOSITORY / "salt")]}
        with HighState(minion.opts) as highstate:
            shown, errors = highstate.render_highstate({"base": ["backup"]})
        assert not errors
        assert ("the oplog is archived" in shown) is archives, shown
        assert "backups are scheduled" in shown
    assert "prune_oplog" in str(minion.modules["openhim_backup.tasks"]()["schedule"])


def test_only_the_declared_host_archives(stack, loaders):
    pillar = json.loads(json.dumps(stack.pillar))
    pillar["openhim"]["backup"]["oplog"]["archived_by"] = "south-db1"
    ret = loaders(HOST, pillar).states["openhim_backup.archive_running"](name="x")
    assert (ret["result"], ret["comment"]) == (
        False,
        "Archiving the oplog is not the task of north-db1.",
    )
