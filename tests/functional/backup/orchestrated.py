"""``orch.restore`` without a master: its real file, runner, modules and states, with real servers.

Salt's master is played here: who is asked answers through Salt's loader in this process. OpenHIM is
a file that says whether it runs, and one document that it writes at each start. A run is a process
of its own, which stops at every step until it is told to go on: or is killed there, and restic with
it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback

import jinja2
import salt.config
import salt.loader
import salt.utils.json
import yaml
from bson import ObjectId
from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, gate, record, told
from saltext.openhim.backup import load, points, work
from saltext.openhim.core import database
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError

from tests.functional.conftest import REPOSITORY, Minion

TREE = REPOSITORY / "salt"
HOST, CORE = "north-db1", "north-core"
STACK = "test"
#: After so many bytes of a restore's stream, it is half-way.
HALF = 1 << 20

_context = multiprocessing.get_context("fork")


class Run:
    """One run of the orchestration, stopped at each step."""

    def __init__(self, stack, request, test=False):
        self._pipe, child = _context.Pipe()
        self._process = _context.Process(target=_main, args=(child, stack, request, test))
        self._process.start()
        child.close()
        self.steps = []
        self._waits = False

    def until(self, step):
        """Goes on until a step; False when it ended before."""
        if self._waits:
            self._pipe.send("go")
        for said in self._said():
            if said == step:
                self._waits = True
                return True
            self._pipe.send("go")
        return False

    def end(self):
        """Goes on to the end; step → whether it succeeded, and what it said."""
        assert not self.until("never")
        self._process.join()
        return self.result

    def kill(self):
        """Kills it, and all that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()

    def _said(self):
        while True:
            kind, said = self._pipe.recv()
            if kind == "end":
                self.result = said
                return
            assert kind == "step", said
            self.steps.append(said)
            yield said


def restored(stack, test=False, **request):
    """A run to its end."""
    request = {"confirm": STACK, "reason": "a bad script", "declared_by": "a test", **request}
    return Run(stack, request, test).end()


def failed(result):
    """The steps that failed, with what they said."""
    return {name: said for name, (good, said) in result.items() if good is False}


def running(stack):
    """Whether OpenHIM runs."""
    return (stack.folder / "openhim").exists()


def _main(pipe, stack, request, test):
    os.setpgid(0, 0)

    def stop_at(step):
        pipe.send(("step", step))
        pipe.recv()

    try:
        pipe.send(("end", _Master(stack, test, stop_at).orchestrate(request)))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
    os._exit(0)


class _Master:
    def __init__(self, stack, test, stop_at):
        self.stack, self.test, self.stop_at = stack, test, stop_at
        self.records = stack.folder / "records"
        self.minions = {}
        self.runners = salt.loader.runner(
            {
                **salt.config.DEFAULT_MASTER_OPTS,
                "test": test,
                "ext_pillar": [{"openhim_recovery": str(self.records)}],
                "runner_dirs": [str(REPOSITORY / "_runners")],
                "extension_modules": str(stack.folder / "extmods"),
                "cachedir": str(stack.folder / "cache"),
            }
        )
        for name in ("declaration", "cmd", "asked"):
            setattr(fleet, name, getattr(self, name))
        told.FILE = str(stack.folder / "record.json")
        for name in ("STATE", "HIGHEST"):
            setattr(gate, name, str(stack.folder / name.lower()))
        self._gate_a_restore()

    def _gate_a_restore(self):
        """It stops half-way in the stream, and when the data is in and its marker is not."""
        read, compare = points.PartReader.readinto, work.compare
        said = set()

        def readinto(reader, buffer):
            if reader.size > HALF and "half" not in said:
                said.add("half")
                self.stop_at("half replaced")
            return read(reader, buffer)

        def compared(*arguments):
            self.stop_at("all replaced")
            compare(*arguments)

        points.PartReader.readinto = readinto
        work.compare = compared
        load.BATCH_BYTES = 1 << 16

    # --- what stands for Salt ---

    def declaration(self, opts, stack, parameter="confirm"):
        if stack != STACK:
            raise OpenHIMError(f"{parameter}: found {stack!r}")
        return self.pillar()

    def pillar(self):
        newest = record.current(STACK, self.records)
        return fleet.with_overlay(self.stack.pillar, newest.overlay() if newest else {})

    def minion(self, host):
        pillar = self.pillar()
        known = (host, pillar["openhim"]["recovery"].get("id"))
        if known not in self.minions:
            self.minions[known] = Minion(host, pillar, self.stack.folder, self.test)
        return self.minions[known]

    def cmd(self, opts, hosts, function, arguments, timeout):
        return {host: self._answer(host, function, arguments) for host in hosts}

    def asked(self, opts, hosts, function, arguments=(), timeout=30, silent=(), gone=None):
        return fleet.Answers(frozenset(hosts), self.cmd(opts, hosts, function, arguments, timeout))

    def _answer(self, host, function, arguments):
        ours = {
            "test.ping": lambda: True,
            "saltutil.refresh_pillar": lambda *_: True,
            "openhim.synthetic": self._synthetic,
        }
        try:
            called = ours.get(function) or self.minion(host).modules[function]
            found = salt.utils.json.loads(salt.utils.json.dumps(called(*arguments)))
            return {"ret": found, "retcode": 0, "at": 0.0}
        except CommandExecutionError as error:
            return {"ret": str(error), "retcode": 1, "at": 0.0}

    def _synthetic(self):
        if not running(self.stack):
            raise CommandExecutionError("OpenHIM does not answer")
        return {"status": "Successful"}

    # --- the orchestration ---

    def orchestrate(self, request):
        def saltutil_runner(function, kwarg):
            return self.runners[function](**kwarg)

        steps = _rendered(
            TREE / "orch" / "restore.sls",
            pillar={"restore": request},
            salt={"saltutil.runner": saltutil_runner},
        )
        results = {}
        for name, (kind, step) in steps.items():
            self.stop_at(f"before: {name}")
            results[name] = self._step(kind, step, results)
            self.stop_at(f"after: {name}")
            if results[name][0] is False and step.get("failhard"):
                break
        return results

    def _step(self, kind, step, results):
        names = [value for one in step.get("require", ()) for value in one.values()]
        if any(results[name][0] is False for name in names):
            return False, "One or more requisite failed"
        names = [value for one in step.get("onfail", ()) for value in one.values()]
        if names and not any(results[name][0] is False for name in names):
            return True, "onfail requisite was not met"
        if kind == "test.show_notification":
            return True, step["text"]
        if kind == "test.fail_without_changes":
            return False, ""
        if kind == "salt.runner":
            return self._runner(step)
        return self._state(step)

    def _runner(self, step):
        if self.test:
            return None, "would run"
        try:
            return True, self.runners[step["name"]](**step["kwarg"])
        except CommandExecutionError as error:
            return False, str(error)

    def _state(self, step):
        if step.get("highstate"):
            return True, "highstate"
        if step["sls"] == "backup.archiving":
            return True, "the test's own archiver"
        if step["sls"].startswith("openhim."):
            return getattr(self, step["sls"].replace(".", "_"))()
        host = self.minion(step["tgt"])
        states = _rendered(
            TREE / f"{step['sls'].replace('.', '/')}.sls",
            pillar={**self.pillar(), **step["pillar"]},
            salt=host.modules,
        )
        states.pop("include", None)
        ((name, (function, arguments)),) = states.items()
        arguments = {key: value for key, value in arguments.items() if key != "require"}
        done = host.states[function](**{"name": name, **arguments})
        return done["result"], done["comment"]

    def openhim_stopped(self):
        if (self.stack.folder / "openhim-does-not-stop").exists():
            return False, "The service failed to be killed"
        if self.test:
            return None, "would stop"
        (self.stack.folder / "openhim").unlink(missing_ok=True)
        return True, ""

    def openhim_serving(self):
        if self.test:
            return None, "would start"
        try:
            database.wait_writable(CoreHost(self.pillar(), CORE), 60)
        except OpenHIMError as error:
            return False, str(error)
        with self.stack.members[HOST].client() as client:
            client.openhim_audit.audits.insert_one({"_id": ObjectId(), "text": "it started"})
        (self.stack.folder / "openhim").touch()
        return True, ""


def _rendered(path, **names):
    """Step or state → its kind and arguments, as Salt would have them."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TREE))  # noqa: S701
    environment.filters["json"] = salt.utils.json.dumps
    text = environment.from_string(path.read_text()).render(**names)
    found = {}
    for name, step in yaml.safe_load(text).items():
        if isinstance(step, list):  # include
            continue
        ((kind, arguments),) = step.items()
        found[name] = (kind, {key: v for each in arguments for key, v in each.items()})
    return found


@contextlib.contextmanager
def moved(path, to):
    """A repository that is away for a while."""
    path.rename(to)
    try:
        yield
    finally:
        to.rename(path)
