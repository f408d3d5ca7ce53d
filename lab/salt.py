"""Salt on the hosts of a lab: a master, a minion on every host, and the commands of a person."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lab.errors import LabError
from lab.lab import Lab

#: A busy machine needs minutes until its master listens; only a failure waits to the end.
START_SECONDS = 420

# Without DNS and with everything on one machine, what Salt waits for by default is only time lost.
MASTER = {
    "interface": "0.0.0.0",  # noqa: S104  the lab has no outside
    "auto_accept": True,
    "timeout": 10,
    "gather_job_timeout": 60,
    "worker_threads": 4,
    "keysize": 2048,
    "enable_fqdns_grains": False,
    "fileserver_update_interval": 60,
    "top_file_merging_strategy": "same",
}
MINION = {
    "enable_fqdns_grains": False,
    "enable_gpu_grains": False,
    "grains_cache": False,
    "keysize": 2048,
    "autoload_dynamic_modules": False,
    "acceptance_wait_time": 1,
    "random_startup_delay": 0,
    "random_reauth_delay": 1,
    "recon_default": 300,
    "recon_max": 2000,
    "recon_randomize": True,
    "auth_timeout": 5,
    "auth_tries": 1000,
    "master_tries": -1,
    # A site that was cut off is heard again soon; with the kernel's own it takes minutes.
    "tcp_keepalive_idle": 15,
    "tcp_keepalive_intvl": 5,
    "tcp_keepalive_cnt": 3,
    "mine_enabled": False,
    "log_level": "warning",
}


class SaltMaster:
    """A salt-master on one host of a lab, and minions on hosts of it.

    :param lab: the lab
    :param host: name of the host that runs the master
    :param file_roots: folders on that host which hold the states (environment ``base``)
    :param pillar_roots: folders on that host which hold the pillar
    :param minions: names of the hosts that get a minion; all hosts when None
    :param config: further settings of the master (``peer``, ``ext_pillar``, ``gitfs_remotes``, …)
    :param minion_config: further settings of every minion
    """

    def __init__(
        self,
        lab: Lab,
        host: str,
        *,
        file_roots: Sequence[str] = ("/srv/salt",),
        pillar_roots: Sequence[str] = ("/srv/pillar",),
        minions: Iterable[str] | None = None,
        config: Mapping[str, object] | None = None,
        minion_config: Mapping[str, object] | None = None,
    ) -> None:
        self.lab = lab
        self.host = lab.host(host)
        self.minions = list(lab.hosts if minions is None else minions)
        self.retcodes: dict[str, int] = {}
        self.missing: list[str] = []
        self._minion_config = dict(minion_config or {})
        self._config = {
            **MASTER,
            "file_roots": {"base": list(file_roots)},
            "pillar_roots": {"base": list(pillar_roots)},
            **(config or {}),
        }

    def start(self) -> None:
        """Start the master and all minions at the same time; return when all minions answer."""
        self.configure_master()
        with ThreadPoolExecutor(len(self.minions) + 1) as pool:
            starting = [pool.submit(self.host.run, ["systemctl", "enable", "--now", "salt-master"])]
            starting += [pool.submit(self.start_minion, name) for name in self.minions]
            for done in starting:
                done.result()
        self.wait_for(self.minions)

    def configure_master(self) -> None:
        """Write the master's configuration; a running master reads it when restarted."""
        # JSON is YAML, and needs no library here.
        self.host.write("/etc/salt/master", json.dumps(self._config, indent=1) + "\n")

    def start_minion(self, name: str) -> None:
        """Configure and start the minion of one host, for example one that was made anew."""
        host = self.lab.host(name)
        host.write("/etc/salt/minion", json.dumps(self.minion_settings(name), indent=1) + "\n")
        host.run(["systemctl", "enable", "--now", "salt-minion"])

    def minion_settings(self, name: str) -> dict[str, object]:
        """Return the configuration of a minion."""
        return {**MINION, "master": self.host.name, "id": name, **self._minion_config}

    def wait_for(self, minions: Iterable[str], timeout: float = START_SECONDS) -> None:
        """Wait until minions answer.

        They are asked when the master's events say that one has connected, and every few seconds,
        for one whose network was away for a while may have kept its connection.

        :raises LabError: naming those that do not answer after ``timeout`` seconds
        """
        wanted = set(minions)
        deadline = time.monotonic() + timeout
        script = WAIT_FOR_MINIONS
        process = self.host.popen(
            ["/opt/salt/bin/python", "-c", script, str(timeout), *sorted(wanted)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            output, errors = process.communicate(timeout=deadline - time.monotonic() + 15)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
        if process.returncode:
            raise LabError(
                f"no answer within {timeout:.0f} s from {output.strip() or sorted(wanted)}; "
                f"look at journalctl -u salt-minion there\n{errors.strip()[-2000:]}"
            )

    def salt(
        self,
        target: str | Sequence[str],
        function: str | Sequence[str],
        *args: object,
        timeout: float = 600,
        patience: int = 20,
        alive: int = 60,
        check: bool = True,
        **kwargs: object,
    ) -> dict[str, object]:
        """Run a function on minions, as ``salt TARGET FUNCTION …`` does; return minion → result.

        The minions' exit codes are in ``self.retcodes`` afterwards, and the minions that did not
        answer in ``self.missing``. Arguments do not appear in any process list.

        :param target: a glob, or a list of minions
        :param function: its name, or those of several without arguments, which run in that order
        :param timeout: seconds for everything
        :param patience: seconds without a result after which Salt asks minions whether they still
            work on it
        :param alive: seconds in which a minion has to say so: one that is busy with its highstate
            may take many, and is not missing. One that is dead costs both
        :param check: raise when a minion does not answer
        :raises LabError: when ``check`` and a minion is missing, or the master refused
        """
        request = {
            "tgt": target if isinstance(target, str) else list(target),
            "tgt_type": "glob" if isinstance(target, str) else "list",
            "fun": function if isinstance(function, str) else list(function),
            "arg": args if isinstance(function, str) else [[] for _ in function],
            "kwarg": kwargs,
            "timeout": patience,
        }
        done = self.host.run(
            ["/opt/salt/bin/python", "-c", PUBLISH, str(alive)],
            input=json.dumps(request),
            check=False,
            timeout=timeout,
        )
        answer = _json(done, ["salt", str(target), function])
        self.retcodes = {name: entry["retcode"] for name, entry in answer["returns"].items()}
        self.missing = answer["missing"]
        if check and (self.missing or not answer["returns"]):
            silent = ", ".join(self.missing) or f"any minion that matches {target}"
            raise LabError(f"salt {target} {function}: no answer from {silent}")
        return {name: entry["ret"] for name, entry in answer["returns"].items()}

    def run(self, function: str, *args: object, timeout: float = 600, **kwargs: object) -> object:
        """Run a runner on the master, as ``salt-run FUNCTION …`` does; return its result.

        The exit code is in ``self.retcodes["run"]``; an orchestration that failed has one above 0.
        """
        command = ["salt-run", "--out=json", "--no-color", function, *_arguments(args, kwargs)]
        done = self.host.run(command, check=False, timeout=timeout)
        self.retcodes = {"run": done.returncode}
        return _json(done, command)

    def orchestrate(
        self,
        name: str,
        pillar: Mapping[str, object] | None = None,
        *,
        test: bool = False,
        check: bool = True,
        timeout: float = 900,
    ) -> dict:
        """Run an orchestration, as ``salt-run state.orchestrate NAME`` does; return its steps.

        :param pillar: what is laid over the master's pillar
        :param test: preview only
        :param check: raise when a step failed
        :raises LabError: naming the steps that failed
        """
        options = {"test": True} if test else {}
        result = self.run(
            "state.orchestrate", name, pillar=dict(pillar or {}), timeout=timeout, **options
        )
        if check and self.retcodes["run"]:
            raise LabError(
                f"the orchestration {name} failed:\n"
                f"{json.dumps(list(_failed(result)), indent=1)[-6000:]}"
            )
        return result

    @contextmanager
    def progress(self, show: Callable[[str], None]) -> Iterator[None]:
        """While the block runs, tell which hosts have done their states and which are at work.

        :param show: called with one line of text
        """
        listener = self.host.popen(
            ["/opt/salt/bin/python", "-c", TELL_PROGRESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        teller = threading.Thread(target=lambda: [show(line.rstrip()) for line in listener.stdout])
        teller.start()
        try:
            yield
        finally:
            # It runs in the host, where a signal to its parent out here does not reach it.
            listener.stdin.close()
            listener.wait()
            teller.join()

    def call(self, minion: str, function: str, *args: object, timeout: float = 300,
             local: bool = False, **kwargs: object) -> object:  # fmt: skip
        """Run a function on one host without the master's help, as ``salt-call`` does there."""
        command = ["salt-call", "--out=json", "--no-color", *(["--local"] if local else []),
                   function, *_arguments(args, kwargs)]  # fmt: skip
        done = self.lab.host(minion).run(command, check=False, timeout=timeout)
        self.retcodes = {minion: done.returncode}
        return _json(done, command)["local"]

    def keys(self) -> dict[str, list[str]]:
        """Return the minions' keys by their status: minions, minions_pre, minions_rejected."""
        command = ["salt-key", "--out=json", "--list=all"]
        return _json(self.host.run(command), command)

    def delete_key(self, minion: str) -> None:
        """Forget a minion's key: a host that was made anew has a new one."""
        self.host.run(["salt-key", "--yes", f"--delete={minion}"])


# Runs on the master with Salt's Python. A minion says by an event that it has connected; those that
# connected before anybody listened are found by asking, seldom, because each answer costs time.
WAIT_FOR_MINIONS = """
import sys, time
import salt.client, salt.config, salt.exceptions
deadline = time.monotonic() + float(sys.argv[1])
missing = set(sys.argv[2:])
options = salt.config.client_config("/etc/salt/master")
ask_at = 0.0
with salt.client.get_local_client(mopts=options) as client:
    while missing and time.monotonic() < deadline:
        if time.monotonic() >= ask_at:
            ask_at = time.monotonic() + 4
            try:
                client.run_job(sorted(missing), "test.ping", tgt_type="list", listen=True)
            except salt.exceptions.SaltException:
                pass  # the master is still busy with its own start
        event = client.event.get_event(wait=0.5, tag="salt/", match_type="startswith", full=True)
        if not event:
            time.sleep(0.1)
        elif "return" in event["data"]:
            missing.discard(event["data"].get("id"))
        elif event["tag"].startswith("salt/minion/") and event["data"].get("id") in missing:
            ask_at = 0.0
if missing:
    print(*sorted(missing), sep=", ")
    sys.exit(1)
"""

# What the command "salt" does, with every minion's exit code; the job comes on standard input.
PUBLISH = """
import json, sys
import salt.client
request = json.load(sys.stdin)
timeout = request.pop("timeout")
returns, missing = {}, []
with salt.client.get_local_client("/etc/salt/master") as client:
    job = client.run_job(**request, timeout=timeout, listen=True)
    if job:
        for answer in client.get_iter_returns(
            job["jid"], job["minions"], timeout=timeout, tgt=request["tgt"],
            tgt_type=request["tgt_type"], expect_minions=True, gather_job_timeout=int(sys.argv[1]),
        ):
            for minion, entry in (answer or {}).items():
                if "ret" in entry and not entry.get("failed"):
                    returns[minion] = {"ret": entry["ret"], "retcode": entry.get("retcode", 0)}
        missing = sorted(set(job["minions"]) - set(returns))
print(json.dumps({"returns": returns, "missing": missing}))
"""


# Runs on the master with Salt's Python, until its standard input is closed: which hosts have done
# their states. Salt could tell of every single state (``state_events``); but for each of these
# events a minion loads its private key anew, which costs more CPU than the states themselves.
TELL_PROGRESS = """
import select, sys, time
import salt.config, salt.utils.event
options = salt.config.client_config("/etc/salt/master")
jobs, shown, told = {}, "", 0
with salt.utils.event.get_event("master", opts=options, listen=True) as bus:
    while not select.select([sys.stdin], [], [], 0)[0]:
        event = bus.get_event(wait=1, full=True) or {"tag": "", "data": {}}
        tag, data = event["tag"].split("/"), event["data"]
        if tag[:2] == ["salt", "job"] and len(tag) > 3:
            if tag[3] == "new" and data.get("fun", "").startswith("state."):
                jobs[tag[2]] = (data["fun"], set(data["minions"]), set(data["minions"]))
            elif tag[3] == "ret" and tag[2] in jobs:
                jobs[tag[2]][2].discard(tag[4])
        line = "; ".join(
            f"{fun}: {len(hosts) - len(left)} of {len(hosts)} hosts are done"
            + (f", at work are {', '.join(sorted(left))}" if left else "")
            for fun, hosts, left in jobs.values()
        )
        if line and (line != shown or time.monotonic() - told >= 15):
            print(line, flush=True)
            shown, told = line, time.monotonic()
        jobs = {jid: job for jid, job in jobs.items() if job[2]}
"""


def _arguments(args: Iterable[object], kwargs: Mapping[str, object]) -> list[str]:
    """Write arguments as Salt's command line reads them: YAML, which JSON is."""
    words = [arg if isinstance(arg, str) else json.dumps(arg) for arg in args]
    for key, value in kwargs.items():
        words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _failed(found: object) -> Iterator[dict]:
    """The steps and states that failed, without those in which others failed."""
    inside = [one for part in _parts(found) for one in _failed(part)]
    if inside:
        yield from inside
    elif isinstance(found, dict) and found.get("result") is False:
        told = {key: found.get(key) for key in ("__id__", "name", "comment")}
        # What a runner raised stands there, and its comment is only that it failed.
        returned = (found.get("changes") or {}).get("return")
        yield {**told, "return": returned} if isinstance(returned, str) else told


def _parts(found: object) -> Iterable[object]:
    if isinstance(found, dict):
        return found.values()
    return found if isinstance(found, list) else ()


def _json(done: subprocess.CompletedProcess[str], command: Sequence[str]) -> dict:
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        begin, end = done.stdout[:500], (done.stdout + done.stderr).strip()[-2000:]
        raise LabError(
            f"{' '.join(command[:4])} … printed no JSON and ended with {done.returncode}:\n"
            f"{begin}\n…\n{end}"
        ) from error
