"""Hosts that are reached by SSH and nothing else become minions, by salt-cloud's driver saltify."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import salt.cloud
from salt.exceptions import SaltException
from saltext.openhim import fleet
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.mongo.status import until

#: Seconds for a new minion to answer.
PATIENCE = 180.0

#: So many hosts are given a minion at the same time.
AT_ONCE = 8

#: What salt-cloud says when it looked at a command in the very moment of its end, and so missed how
#: it ended (salt.utils.vt: all is read, and nobody has waited for the process). It is run again.
MISSED = "Exit code: None"

#: And what it says then of a host whose minion answers, because that command was the last one.
THERE = "already exists under"


def reach(opts: Mapping[str, Any], hosts: Mapping[str, str], profile: str) -> dict[str, str]:
    """Makes a minion of every host that does not answer as one; what was done, by host.

    opts: the master's configuration. hosts: minion ID → the address for SSH. profile: salt-cloud's,
    with the driver saltify.

    Raises OpenHIMError when one of them has no minion that answers afterwards.
    """
    silent = sorted(set(hosts) - fleet.present(opts, list(hosts)))
    done = {host: "has a minion" for host in hosts if host not in silent}
    if silent:
        _deploy_all(opts, {host: hosts[host] for host in silent}, profile)
        done |= dict.fromkeys(silent, "was given a minion")
    missing = set(silent)

    def nobody_missing() -> bool:
        missing.difference_update(fleet.present(opts, sorted(missing)))
        return not missing

    if silent and not until(nobody_missing, PATIENCE, poll=1):
        raise OpenHIMError(
            f"{', '.join(sorted(missing))} was given a minion, and does not answer within "
            f"{PATIENCE:.0f} s; see there: journalctl -u salt-minion"
        )
    # New minions have no modules of this package where those are synced.
    fleet.ask(opts, sorted(hosts), "saltutil.sync_all", timeout=fleet.ANSWER_TIMEOUT * 4)
    return done


def _deploy_all(opts: Mapping[str, Any], hosts: Mapping[str, str], profile: str) -> None:
    """All at the same time, each in a process of its own: salt-cloud is not made for threads.

    Raises OpenHIMError, naming every host that failed, after all had their turn.
    """
    path = str(Path(opts["conf_file"]).with_name("cloud"))
    forked = multiprocessing.get_context("fork")
    keep_tmp = _prepared(path, profile)
    failed = []
    with ProcessPoolExecutor(min(AT_ONCE, len(hosts)), mp_context=forked) as pool:
        waiting = {
            one: pool.submit(_deploy, path, one, hosts[one], profile, keep_tmp) for one in hosts
        }
        for host, each in waiting.items():
            try:
                each.result()
            except OpenHIMError as error:
                failed.append(str(error))
            except Exception as error:  # of a process that died, or of salt-cloud
                failed.append(_failed(host, hosts[host], profile, repr(error)))
    if failed:
        raise OpenHIMError("; ".join(failed))


def _prepared(path: str, profile: str) -> bool:
    """Make salt-cloud's cache once, before several need it: of two that make it at the same time,
    one ends its process. Returns what the profile says of ``keep_tmp``, which salt-cloud itself
    takes from its command line only.
    """
    try:
        known = _client(path).opts["profiles"]
    except (SaltException, SystemExit, OSError) as error:
        raise OpenHIMError(
            f"salt-cloud does not start with {path} and the files beside it: {error!r}. "
            "See what salt-cloud --list-profiles says on the master"
        ) from error
    return bool((known.get(profile) or {}).get("keep_tmp"))


def _client(path: str) -> Any:
    # mypy takes the state tree's folder of the same name for the package.
    return salt.cloud.CloudClient(path=path)  # type: ignore[attr-defined]


def _deploy(path: str, host: str, address: str, profile: str, keep_tmp: bool) -> None:
    problem = _problem(path, host, address, profile, keep_tmp)
    if MISSED in problem:
        problem = _problem(path, host, address, profile, keep_tmp)
        problem = "" if THERE in problem else problem
    if problem:
        raise OpenHIMError(_failed(host, address, profile, problem))


def _problem(path: str, host: str, address: str, profile: str, keep_tmp: bool) -> str:
    """Why the host has no minion after this; empty when it has one."""
    # By host as salt-cloud documents it; Salt 3006 takes all of it for one host's.
    overrides = {host: {"ssh_host": address}, "ssh_host": address}
    try:
        # What salt-cloud prints would stand in a runner's answer.
        with contextlib.redirect_stdout(sys.stderr):
            found = _client(path).profile(profile, [host], overrides, keep_tmp=keep_tmp)
    except SystemExit as error:
        return repr(error)  # its text is a number
    except (SaltException, OSError) as error:
        return str(error) or repr(error)
    answer = found.get(host) if isinstance(found, Mapping) else found
    told = found.get("Error") if isinstance(found, Mapping) else None
    told = told or (answer.get("Error") if isinstance(answer, Mapping) else None)
    deployed = isinstance(answer, Mapping) and bool(answer.get("deployed"))
    return "" if deployed and not told else str(told or answer)


def _failed(host: str, address: str, profile: str, reason: str) -> str:
    return (
        f"{host} ({address}) was given no minion by salt-cloud's profile {profile!r}: {reason}. "
        "See that the host is up and takes the profile's SSH key, and the master's cloud log"
    )
