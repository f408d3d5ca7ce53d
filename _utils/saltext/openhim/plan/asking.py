"""Asks the hosts for what a report shows; whoever does not answer is told as unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from saltext.openhim import fleet, record, settings
from saltext.openhim.plan import anchors, at_rest, declared, evidence
from saltext.openhim.plan.chain import Anchor, judge
from saltext.openhim.plan.facts import Facts, Said, Unknown
from saltext.openhim.settings import Stack

#: Seconds for what a host reads from its own disk.
QUICK = 30

#: Seconds for a look at all repositories.
REPOSITORIES = 300


def said(answers: fleet.Answers, host: str) -> Said:
    """What one host answered, or why that is not known."""
    answer = answers.returned.get(host)
    if answer is None:
        there = host in answers.present
        return Unknown(
            "it is there, and did not answer in time" if there else "its minion does not answer"
        )
    if answer["retcode"]:
        return Unknown(str(answer["ret"]))
    return answer["ret"]


def facts(opts: Mapping[str, Any], pillar: Mapping[str, Any], backups: Said, live: bool) -> Facts:
    """All that a report is made from.

    opts: the master's configuration. pillar: that declares the stack. backups: what
    ``openhim_dr.status`` says. live: whether hosts are asked at all.
    """
    stack = settings.from_pillar(pillar)
    directory = fleet.directory(opts)
    openhim = {**declared.of(pillar["openhim"]), "recovery": pillar["openhim"].get("recovery")}
    seen = _seen(opts, stack) if live else {}
    asked: dict[str, str | None] = {}
    if live and stack.declared.get("backup"):
        asked = live_anchors(opts, stack, directory)
    known = evidence.kept_anchors(stack.name, directory)
    return Facts(
        openhim=openhim,
        now=datetime.now(timezone.utc),
        epochs=[asdict(one) for one in record.history(stack.name, directory)],
        chain=judge(evidence.read(stack.name, directory), stack.name, known),
        anchors=known,
        anchors_asked=asked,
        backups=backups,
        **seen,
    )


def _seen(opts: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """What hosts say of themselves; who does not answer the first question is not asked again."""
    hosts = sorted(stack.hosts)
    first = fleet.asked(opts, hosts, "openhim_plan.runbook", [], QUICK)
    there = [host for host in hosts if host in first.present]
    resting = [host for host in hosts if at_rest.folders(stack, host)]
    cores = [host.id for host in stack.hosts_with("core")]
    return {
        "runbooks": {host: said(first, host) for host in hosts},
        "at_rest": _of(opts, there, resting, "openhim_plan.at_rest", []),
        "cores": _of(opts, there, cores, "service.status", ["openhim-core"]),
        "members": {
            name: _best(_of(opts, there, _on(stack, name), "mongodb_replset.status", [name]))
            for name in sorted(stack.replica_sets)
        },
    }


def _on(stack: Stack, name: str) -> list[str]:
    return [member.host.id for member in stack.replica_sets[name].members]


def _of(
    opts: Mapping[str, Any],
    there: Sequence[str],
    hosts: Sequence[str],
    function: str,
    arguments: Sequence[Any],
) -> dict[str, Said]:
    asked = [host for host in hosts if host in there]
    answers = fleet.asked(opts, asked, function, arguments, QUICK)
    return {host: said(answers, host) for host in hosts}


def _best(answers: Mapping[str, Said]) -> Said:
    """Of what several say of one set: who sees a primary before others."""
    good = [one for one in answers.values() if not isinstance(one, Unknown)]
    if good:
        return next((one for one in good if one.get("primary")), good[0])
    reasons = [f"{host}: {one.why}" for host, one in sorted(answers.items())]
    return Unknown("; ".join(reasons) or "no host holds a member")


def live_anchors(opts: Mapping[str, Any], stack: Stack, directory: str) -> dict[str, str | None]:
    """Fetches the anchors from every host that stores some, and remembers them here.

    Returns by host None, or why it is not known what its repositories hold.
    """
    hosts = sorted(anchors.writers(stack.declared.get("backup") or {}))
    if not hosts:
        return {}
    answers = fleet.asked(opts, hosts, "openhim_plan.anchors", [], REPOSITORIES)
    outcome: dict[str, str | None] = {}
    found: list[Anchor] = []
    for host in hosts:
        one = said(answers, host)
        outcome[host] = one.why if isinstance(one, Unknown) else None
        if not isinstance(one, Unknown):
            found += [Anchor(**entry) for entry in one]
    if found:
        evidence.keep_anchors(stack.name, found, directory)
    return outcome
