"""The hosts of a stack as the Salt master reaches them: asked live, and silence is an answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import salt.client
import salt.pillar
import salt.utils.minions
from saltext.openhim import record, schema
from saltext.openhim.errors import OpenHIMError, Refused

#: Seconds that a host has to answer at all; silence after it is "no answer", never "all is well".
PING_TIMEOUT = 4

#: Seconds after which it is seen anew whether anybody is still worth waiting for.
LOOK_AGAIN = 0.5

#: Seconds that a host which is there has for its answer; it may itself wait for others.
ANSWER_TIMEOUT = 30


@dataclass(frozen=True)
class Answers:
    """What hosts answered. present: those that are there. returned: host → ``ret``, ``retcode`` and
    ``at`` (seconds since 1970, by this clock, when it arrived)."""

    present: frozenset[str]
    returned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def directory(opts: Mapping[str, Any]) -> str:
    """Where the external pillar reads the recovery records, and so where they are written.

    opts: the master's configuration.
    """
    for entry in opts.get("ext_pillar") or []:
        if "openhim_recovery" in entry:
            return str(entry["openhim_recovery"] or record.DIRECTORY)
    raise Refused(
        "the master's ext_pillar has no openhim_recovery, so its hosts would never learn of a "
        f"recovery; configure ext_pillar: [{{openhim_recovery: {record.DIRECTORY}}}]"
    )


def declaration(opts: Mapping[str, Any], stack: str, parameter: str = "confirm") -> dict[str, Any]:
    """The pillar that declares a stack, as its hosts get it, without their secrets' use.

    parameter: as which the person gave the stack's name.
    """
    for minion_id in sorted(salt.utils.minions.CkMinions(opts).check_minions("*")["minions"]):
        _, grains, _ = salt.utils.minions.get_minion_data(minion_id, opts)
        pillar = salt.pillar.Pillar(opts, grains or {"id": minion_id}, minion_id, "base")
        found: dict[str, Any] = pillar.compile_pillar()
        if (found.get("openhim") or {}).get("stack") == stack:
            schema.require(found)
            return found
    raise Refused(
        f"{parameter}: found {stack!r}; no accepted minion's pillar declares a stack of that name. "
        "Type the stack's name (openhim:stack)."
    )


def with_overlay(pillar: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A pillar as it is after a recovery; with an empty overlay, as it is declared."""
    return {**pillar, "openhim": {**pillar["openhim"], "recovery": dict(overlay)}}


def present(opts: Mapping[str, Any], hosts: Sequence[str]) -> set[str]:
    """Those of ``hosts`` that are there: they answer within :data:`PING_TIMEOUT`."""
    return set(cmd(opts, hosts, "test.ping", [], PING_TIMEOUT))


def asked(
    opts: Mapping[str, Any],
    hosts: Sequence[str],
    function: str,
    arguments: Sequence[Any] = (),
    timeout: float = ANSWER_TIMEOUT,
    silent: Collection[str] = (),
    gone: Callable[[Mapping[str, Mapping[str, Any]]], Collection[str]] = lambda _: (),
) -> Answers:
    """Who of ``hosts`` is there, and what those answer to a function within ``timeout`` seconds.

    Both are asked at once: a disaster costs :data:`PING_TIMEOUT`, and not more for each host that
    is gone. A host whose key the master has not accepted cannot be asked, and is not there.

    silent: hosts that were silent a moment ago. They are asked too, but nobody waits for them
    unless they say meanwhile that they are there. gone: those of which that is known by what all
    others have returned; the same holds for them.
    """
    returned: dict[str, dict[str, Any]] = {}
    present: set[str] = set()
    hosts = _accepted(opts, hosts)
    if not hosts:  # Salt would print a sentence, which is no answer of ours.
        return Answers(frozenset())
    with salt.client.get_local_client(mopts=opts) as client:
        pings = client.run_job(hosts, "test.ping", [], tgt_type="list", listen=True)
        job = client.run_job(hosts, function, list(arguments), tgt_type="list", listen=True)
        begun = time.monotonic()
        expected = set(hosts) - set(silent)
        while pings and job:
            waiting = bool(present - set(returned))
            nothing_there = set(gone(returned)) if returned else set()
            if not waiting and not expected - set(returned) - nothing_there:
                break
            left = begun + (timeout if waiting else PING_TIMEOUT) - time.monotonic()
            if left <= 0:
                break
            event = client.event.get_event(
                wait=min(left, LOOK_AGAIN), tag="salt/job/", match_type="startswith"
            )
            if event and event.get("jid") in (pings["jid"], job["jid"]) and "return" in event:
                present.add(event["id"])
                if event["jid"] == job["jid"]:
                    returned[event["id"]] = {
                        "ret": event["return"],
                        "retcode": event["retcode"],
                        "at": time.time(),
                    }
    return Answers(frozenset(present), returned)


def cmd(
    opts: Mapping[str, Any],
    hosts: Sequence[str],
    function: str,
    arguments: Sequence[Any],
    timeout: float,
) -> dict[str, dict[str, Any]]:
    """What each host answers within ``timeout`` seconds; those that do not are left out, as are
    those whose key the master has not accepted.

    Returns as soon as all have answered. ``LocalClient.cmd`` would look for the jobs of the silent
    ones again and again, which costs as long as the disaster has hosts.
    """
    answers: dict[str, dict[str, Any]] = {}
    hosts = _accepted(opts, hosts)
    if not hosts:
        return answers
    with salt.client.get_local_client(mopts=opts) as client:
        job = client.run_job(hosts, function, list(arguments), tgt_type="list", listen=True)
        deadline = time.monotonic() + timeout
        while job and len(answers) < len(hosts) and (left := deadline - time.monotonic()) > 0:
            event = client.event.get_event(
                wait=left, tag=f"salt/job/{job['jid']}/ret/", match_type="startswith"
            )
            if event:
                answers[event["id"]] = {
                    "ret": event["return"],
                    "retcode": event["retcode"],
                    "at": time.time(),
                }
    return answers


def ask(
    opts: Mapping[str, Any],
    hosts: Sequence[str],
    function: str,
    arguments: Sequence[Any] = (),
    timeout: float = ANSWER_TIMEOUT,
) -> dict[str, Any]:
    """What every one of ``hosts`` answers; raises when one does not, or answers an error."""
    answers = cmd(opts, hosts, function, arguments, timeout)
    for host in hosts:
        if host not in answers:
            if not _accepted(opts, [host]):
                raise OpenHIMError(f"{host}: {function}: the master has not accepted its key")
            raise OpenHIMError(f"{host} gave no answer to {function} within {timeout} s")
        if answers[host]["retcode"]:
            raise OpenHIMError(f"{host}: {function}: {answers[host]['ret']}")
    return {host: answers[host]["ret"] for host in hosts}


def _accepted(opts: Mapping[str, Any], hosts: Sequence[str]) -> list[str]:
    """Those of ``hosts`` that can be asked at all."""
    known = salt.utils.minions.CkMinions(opts).check_minions("*")["minions"]
    return [host for host in hosts if host in known]
