"""Carries out, from the master, the steps of a recovery that need no state tree.

What is to be done next says :mod:`saltext.openhim.recovery.steps`, from what the hosts say now. So
a run that was broken off goes on where it stopped, and a host that comes back meanwhile is told and
fenced like those that never were away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from saltext.openhim import evidence, fleet, power_off, record
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.evidence import Question
from saltext.openhim.recovery import steps
from saltext.openhim.recovery.answers import Answer, Refusal, Step, Wait
from saltext.openhim.recovery.epochs import Epoch, plain
from saltext.openhim.recovery.observations import Evidence
from saltext.openhim.recovery.verdicts import Request

#: So often a step is tried on a host that answers.
ATTEMPTS = 3

#: Seconds for a host to fence itself, or to stop OpenHIM: systemd itself waits for 90.
STOP_TIMEOUT = 180

#: Seconds between two looks while one waits.
PAUSE = 1.0


@dataclass
class Advance:
    """One run: what was done (``step: hosts``), how often a step was tried on a host, and for how
    many seconds it waited for what only time brings (reason → seconds)."""

    done: list[str] = field(default_factory=list)
    tried: dict[str, int] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)


def advance(
    asked: Question, request: Request, mine: Collection[str], patience: float | None
) -> tuple[Answer, Evidence, Advance]:
    """Does one step after the other, as long as the next one is in ``mine``.

    mine: names of steps, as :mod:`saltext.openhim.recovery.steps` has them. patience: seconds to
    wait in all for what only time brings; None not to wait at all.

    Returns the first answer that is not for us (a step of somebody else's, a Wait without patience,
    or Done), what was seen last, and the run.

    Raises :class:`~saltext.openhim.errors.Refused` for a refusal, and when waiting did not help.
    """
    run = Advance()
    seen = evidence.gather(asked)
    deadline = time.monotonic() + (patience or 0.0)
    while True:
        asked = replace(asked, heard=tuple({*asked.heard, *seen.heard}))
        answer = steps.next_step(request, seen)
        if isinstance(answer, Refusal):
            raise Refused(str(answer))
        if isinstance(answer, Wait) and patience is not None:
            if time.monotonic() + min(answer.seconds, PAUSE) > deadline:
                raise Refused(f"{answer.reason}, after {patience:g} s; run this again")
            begun = time.monotonic()
            time.sleep(min(answer.seconds, PAUSE))
            seen = evidence.gather(replace(asked, silent=seen.unheard))
            already = run.waited.get(answer.reason, 0.0)
            run.waited[answer.reason] = already + time.monotonic() - begun
        elif isinstance(answer, Step) and answer.name in mine:
            asked, seen = _do(asked, request, seen, answer, run)
        else:
            return answer, seen, run


def _do(
    asked: Question, request: Request, seen: Evidence, step: Step, run: Advance
) -> tuple[Question, Evidence]:
    epoch = asked.history[-1] if asked.history else None
    if step.name == steps.POWER_OFF and epoch:
        _count(run, step, {})
        asked = _power_off(asked, request, step, epoch)
        off = [p for p in asked.powers if p.off and p.host in step.hosts]
        run.done += [f"{step.name}: {one.host} ({one.said})" for one in off]
        return asked, evidence.gather(asked)
    answers = _STEPS[step.name](asked, request, step, epoch)
    asked = evidence.reread(asked)
    problems = {
        host: answers[host]["ret"] if host in answers else "no answer in time"
        for host in step.hosts
        if host not in answers or answers[host]["retcode"]
    }
    _count(run, step, problems)
    if problems:
        return asked, evidence.gather(asked)
    run.done.append(f"{step.name}: {', '.join(step.hosts)}")
    # What a witness said of leases is of before it knew the epoch: it is asked anew.
    witnesses = {report.host for report in seen.reports if report.grants}
    if step.name in _OWN_WORDS and not witnesses & set(step.hosts):
        return asked, evidence.with_own_words(seen, answers, asked)
    return asked, evidence.gather(asked)


def _count(run: Advance, step: Step, problems: Mapping[str, Any]) -> None:
    """A host that fell silent is another evidence; one that answers and fails is a failure, and so
    is one where a step has no effect."""
    for host in step.hosts:
        key = f"{step.name} {host}"
        run.tried[key] = run.tried.get(key, 0) + 1
        if run.tried[key] > ATTEMPTS or (host in problems and run.tried[key] == ATTEMPTS):
            why = problems.get(host, "it says that it did, and it is not so")
            raise OpenHIMError(f"{host}: could not {step.name}: {why}. Put it right, run it again")


Answers = dict[str, dict[str, Any]]


def _tell(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    records = plain(asked.history)
    return fleet.cmd(asked.opts, step.hosts, "openhim_dr.tell", [records], fleet.ANSWER_TIMEOUT)


def _close(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    return fleet.cmd(asked.opts, step.hosts, "openhim_dr.close", [step.epoch], STOP_TIMEOUT)


def _fence(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    order = [epoch.number if epoch else 0, *_by_whom(request, epoch)]
    return fleet.cmd(asked.opts, step.hosts, "openhim_fence.fence", order, STOP_TIMEOUT)


def _power_off(asked: Question, request: Request, step: Step, epoch: Epoch) -> Question:
    """What the provider says then. What it reads back as off is on record, with who asked it."""
    switch = power_off.of(asked.pillar)
    said = switch.switched_off(step.hosts, epoch.id) if switch else ()
    by, _ = _by_whom(request, epoch)
    off = [
        {
            "site": asked.now.host(one.host).site,
            "host": one.host,
            "words": f"{switch.name if switch else ''}: {one.said}",
            "by": by,
            "at": _now(),
        }
        for one in said
        if one.off
    ]
    if off:
        record.power_off(asked.now.name, epoch.id, off, asked.directory)
    return replace(evidence.reread(asked), powers=(*asked.powers, *said))


def _unfence(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    order = [epoch.number if epoch else 0, *_by_whom(request, epoch)]
    return fleet.cmd(asked.opts, step.hosts, "openhim_fence.unfence", order, STOP_TIMEOUT)


def _keep(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    """Of each host only those sets whose history the primary has not."""
    compared = evidence.histories(asked, evidence.gather(replace(asked, sites=())))
    answers: Answers = {}
    for host in step.hosts:
        sets = sorted(name for name, has in compared.get(host, {}).items() if not has)
        order = [step.epoch, sets]
        answers |= fleet.cmd(asked.opts, [host], "openhim_dr.keep_aside", order, STOP_TIMEOUT)
    return answers


def _open(asked: Question, request: Request, step: Step, epoch: Epoch | None) -> Answers:
    """The rejoin is noted first: by that the master's pillar lets the hosts' gates open."""
    if epoch and request.site in epoch.still_lost:
        by, reason = _by_whom(request, epoch)
        noted = {"site": request.site, "by": by, "reason": reason, "at": _now()}
        record.rejoin(asked.now.name, epoch.id, noted, asked.directory)
        asked = evidence.reread(asked)
    told = _tell(asked, request, step, epoch)
    shut = [
        host for host, one in told.items() if not one["retcode"] and not one["ret"]["gate_open"]
    ]
    number = [epoch.number if epoch else 0]
    return told | fleet.cmd(asked.opts, shut, "openhim_fence.admit", number, STOP_TIMEOUT)


def _by_whom(request: Request, epoch: Epoch | None) -> tuple[str, str]:
    """Who orders it, and why: whoever asks now, or else whoever declared the epoch."""
    by = request.declared_by or (epoch.declared_by if epoch else "")
    return by, request.reason or (epoch.reason if epoch else "")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


_STEPS: dict[str, Callable[[Question, Request, Step, Epoch | None], Answers]] = {
    steps.TELL: _tell,
    steps.CLOSE: _close,
    steps.FENCE: _fence,
    steps.UNFENCE: _unfence,
    steps.KEEP: _keep,
    steps.OPEN: _open,
}

#: Steps whose hosts answer with what they say of themselves; after others all are asked anew.
_OWN_WORDS = (steps.TELL, steps.CLOSE)
