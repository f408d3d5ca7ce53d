"""Disasters out of ``disasters/``, played on real hosts: what they answer beside what is expected.

``python -m lab disaster CASE …`` provisions the stack that the cases are about, lets each happen,
asks ``openhim_dr.preflight`` until its answer is the expected one, and makes all well again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from saltext.openhim.disasters import case, judged
from saltext.openhim.disasters.case import Case, WayForward
from saltext.openhim.disasters.vocabulary import Happening
from saltext.openhim.disasters.world import World

from lab import cache, stack
from lab.errors import LabError

FOLDER = stack.REPOSITORY / "disasters"

#: Seconds that hosts have to come to rest: to elect, to be missed, to boot and to catch up.
REST_SECONDS = 480

#: So many answers, one after the other, must be the expected one: an election passes by.
IN_A_ROW = 2

Undo = Callable[[], object]


class Play:
    """Lets things happen to a running stack, and undoes them."""

    def __init__(self, running: stack.Stack):
        self._running = running
        self._lab = running.lab
        self._undo: list[Undo] = []

    def happen(self, happening: Happening) -> None:
        """Let one thing happen.

        Raises LabError for what cannot be played here.
        """
        act = getattr(self, f"_{happening.word}", None)
        if act is None:
            raise LabError(f"{happening.words}: the lab cannot play that; it is judged on paper")
        if "master" in happening.values.values() or happening.values.get("site") == self._place:
            raise LabError(f"{happening.words}: the master stands there, and nobody could ask")
        undo = act(**happening.values)
        if undo:
            self._undo.append(undo)

    def undo(self) -> None:
        """Undo all that has happened, the last first."""
        while self._undo:
            self._undo.pop()()

    @property
    def _place(self) -> str:
        return self._lab.host("master").site

    def _power_lost(self, site: str = "", host: str = "") -> Undo:
        if site:
            self._lab.kill_site(site)
        else:
            self._lab.host(host).kill()
        return lambda: self._power_back(site, host)

    def _power_back(self, site: str = "", host: str = "") -> None:
        if site:
            self._lab.boot_site(site)
        elif not self._lab.host(host).running:
            self._lab.host(host).boot()

    def _isolated(self, site: str = "", host: str = "") -> Undo:
        if site:
            self._lab.isolate_site(site)
        else:
            self._lab.isolate_host(host)
        return lambda: self._network_back(site, host)

    def _partitioned(self, one: str, other: str) -> Undo:
        self._lab.partition(one, other)
        return lambda: self._lab.rejoin_site(one)

    def _network_back(self, site: str = "", host: str = "") -> None:
        if site:
            self._lab.rejoin_site(site)
        else:
            self._lab.rejoin_host(host)

    def _frozen(self, site: str = "", host: str = "") -> Undo:
        for one in self._hosts(site, host):
            one.freeze()
        return lambda: self._thawed(site, host)

    def _thawed(self, site: str = "", host: str = "") -> None:
        for one in self._hosts(site, host):
            one.thaw()

    def _minion_stopped(self, site: str = "", host: str = "") -> Undo:
        return self._systemctl(site, host, "salt-minion")

    def _minion_started(self, site: str = "", host: str = "") -> None:
        self._systemctl(site, host, "salt-minion", "start")

    def _mongod_stopped(self, host: str) -> Undo:
        return self._systemctl("", host, "mongod-*")

    def _mongod_started(self, host: str) -> None:
        for name in self._sets_on(host):
            self._systemctl("", host, f"mongod-{name}", "start")

    def _mongod_hangs(self, host: str) -> Undo:
        self._lab.host(host).run(["systemctl", "kill", "--signal=STOP", "mongod-*"])
        return lambda: self._lab.host(host).run(["systemctl", "kill", "--signal=CONT", "mongod-*"])

    def _core_stopped(self, host: str) -> Undo:
        return self._systemctl("", host, "openhim-core")

    def _core_started(self, host: str) -> Undo:
        self._systemctl("", host, "openhim-core", "start")
        return lambda: self._systemctl("", host, "openhim-core")

    def _repository_unreachable(self, repository: str) -> Undo:
        host = self._store(repository)
        self._lab.isolate_host(host)
        return lambda: self._lab.rejoin_host(host)

    def _repository_back(self, repository: str) -> None:
        self._lab.rejoin_host(self._store(repository))

    def _store(self, repository: str) -> str:
        """The process that serves a repository."""
        url = self._running.declared["backup"]["repositories"][repository]["url"]
        for node in self._lab.network.nodes():
            if f"@{node.address}:" in url:
                return node.name
        raise LabError(f"the repository {repository} is served by no process of the lab")

    def _hosts(self, site: str, host: str) -> list[Any]:
        return self._lab.site(site) if site else [self._lab.host(host)]

    def _sets_on(self, host: str) -> list[str]:
        sets = self._running.declared["mongodb"]["replica_sets"]
        return [name for name, entry in sets.items() if host in entry["members"]]

    def _systemctl(self, site: str, host: str, unit: str, verb: str = "stop") -> Undo:
        for one in self._hosts(site, host):
            one.run(["systemctl", verb, unit])
        sets = self._sets_on(host) if unit == "mongod-*" else []
        units = [f"mongod-{name}" for name in sets] or [unit]
        return lambda: [one.run(["systemctl", "start", *units]) for one in self._hosts(site, host)]


@contextmanager
def provisioned(one: Case) -> Iterator[stack.Stack]:
    """A lab with the stack that a case is about, made by one highstate and at rest."""
    with tempfile.TemporaryDirectory(prefix="pillar-", dir=cache.directory()) as folder:
        pillar = Path(folder)
        # The master's user reads it, and it holds no secret.
        pillar.chmod(0o755)
        for source in stack.EXAMPLE.rglob("*.sls"):
            target = pillar / source.relative_to(stack.EXAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text())
        (pillar / "openhim" / "production.sls").write_text(yaml.safe_dump(dict(one.pillar)))
        # Nobody sends orders here, and a site that boots again has no process that does not.
        with stack.started(pillar, upstreams=False) as running:
            highstate(running)
            rest(running, one)
            yield running


def highstate(running: stack.Stack) -> None:
    """Make every host so; raises LabError with the states that failed."""
    results = running.master.salt("*", "state.highstate", timeout=900)
    failed = [
        f"{host}: {state.get('comment', state) if isinstance(state, Mapping) else state}"
        for host, states in results.items()
        for state in (states.values() if isinstance(states, Mapping) else [states])
        if not (isinstance(state, Mapping) and state["result"] is True)
    ]
    if failed:
        raise LabError("the highstate failed:\n" + "\n".join(failed))


def preflight(running: stack.Stack) -> dict[str, Any]:
    """What real hosts answer now."""
    found = running.master.run("openhim_dr.preflight", stack=running.declared["stack"])
    if not isinstance(found, dict) or running.master.retcodes["run"]:
        raise LabError(f"openhim_dr.preflight: {found}")
    return found


def rest(running: stack.Stack, one: Case) -> None:
    """Wait until the stack is as it is on paper when nothing has happened."""
    paper = judged.found(World(one.stack).evidence())
    _until(lambda: unlike(paper, preflight(running)), "all is well")


def unlike(paper: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Where real hosts are not as on paper: what counts as what, and what is allowed."""
    told = [f"silent: {host}" for host in set(paper["silent"]) ^ set(found["silent"])]
    for kind in ("members", "cores"):
        for name, one in paper[kind].items():
            other = found[kind][name]
            if (one["status"], one["state"]) != (other["status"], other["state"]):
                told.append(f"{name}: on paper {one['words']}; really {other['words']}")
    real = {case.verdict_name(one): one for one in found["verdicts"]}
    for one in paper["verdicts"]:
        name = case.verdict_name(one)
        if one["allowed"] != real[name]["allowed"]:
            why = "; ".join((*one["reasons"], *real[name]["reasons"]))
            told.append(f"{name}: allowed on paper {one['allowed']}; really not so: {why}")
    return told


def play(running: stack.Stack, one: Case, say: Callable[[str], None] = print) -> list[str]:
    """Let a disaster happen, compare what real hosts answer, and make all well again.

    Returns where they answer otherwise than expected; empty when they do not.
    """
    playing = Play(running)
    try:
        for happening in one.happens:
            say(f"{one.name}: {happening.words}")
            playing.happen(happening)
        told = _settled(lambda: judged.compared(one, preflight(running)))
        if not told:
            told = _forward(running, playing, one.expected.way_forward, say)
    finally:
        playing.undo()
    rest(running, one)
    return told


def _forward(
    running: stack.Stack, playing: Play, way: WayForward, say: Callable[[str], None]
) -> list[str]:
    """The way forward, as far as it is one that the lab can go."""
    said = [each for each in way.happens if not hasattr(playing, f"_{each.word}")]
    if said or not way.then:
        say(f"the way forward is judged on paper alone: {way.words}")
        return []
    for happening in way.happens:
        say(f"the way forward: {happening.words}")
        playing.happen(happening)
    return _settled(lambda: _refused(preflight(running), way.then))


def _refused(found: Mapping[str, Any], name: str) -> list[str]:
    (judged_so,) = [one for one in found["verdicts"] if case.verdict_name(one) == name]
    return [f"{name}: expected allowed at the end: {text}" for text in judged_so["reasons"]]


def _settled(differences: Callable[[], list[str]]) -> list[str]:
    """What is left of differences once nothing changes any more, or the time is over."""
    deadline = time.monotonic() + REST_SECONDS
    good = 0
    while True:
        told = differences()
        good = 0 if told else good + 1
        if good == IN_A_ROW or (told and time.monotonic() > deadline):
            return told
        time.sleep(1)


def _until(differences: Callable[[], list[str]], what: str) -> None:
    told = _settled(differences)
    if told:
        raise LabError(f"not within {REST_SECONDS} s: {what}\n" + "\n".join(told))


def main(names: list[str], folder: Path = FOLDER) -> int:
    """Play cases, one after the other; 1 when any came out otherwise than expected."""
    bad = 0
    read = [case.read(folder / name) for name in names]
    for pillar in {yaml.safe_dump(dict(one.pillar)): one.pillar for one in read}.values():
        same = [one for one in read if one.pillar == pillar]
        print(f"provisioning the stack of {', '.join(one.name for one in same)}", flush=True)
        with provisioned(same[0]) as running:
            for one in same:
                told = play(running, one)
                print("\n".join([f"{one.name}: {'NOT ' if told else ''}as expected", *told]))
                bad += bool(told)
    return int(bad > 0)
