"""Whether an answer to a disaster is the expected one: the model's, or that of real hosts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from saltext.openhim.disasters import world
from saltext.openhim.disasters.case import Case, verdict_name
from saltext.openhim.recovery import preflight
from saltext.openhim.recovery.observations import Evidence
from saltext.openhim.recovery.verdicts import Verdict, verdict


def answer(case: Case) -> dict[str, Any]:
    """What the model answers to a case, as ``openhim_dr.preflight`` returns it."""
    return found(world.after(case).evidence())


def found(evidence: Evidence) -> dict[str, Any]:
    """What the model answers to evidence on paper."""
    return preflight.found(evidence, world.NOW.isoformat())


def differences(case: Case) -> list[str]:
    """Where the model's answer is not the expected one, and where the way forward leads nowhere."""
    return [*compared(case, answer(case)), *_way_forward(case)]


def compared(case: Case, said: Mapping[str, Any]) -> list[str]:
    """Where an answer is not the expected one.

    said: as ``openhim_dr.preflight`` returns it.
    """
    return [*_seen(case, said), *_verdicts(case, said)]


def _seen(case: Case, said: Mapping[str, Any]) -> Iterator[str]:
    expected = case.expected
    silent = sorted(said["silent"])
    if silent != sorted(expected.silent):
        yield f"silent: expected {_names(expected.silent)}; found {_names(silent)}"
    for host, wanted in expected.members.items():
        for name in _members_on(case, host):
            yield from _counts(f"members:{name}", wanted, said["members"][name])
    for host, wanted in expected.cores.items():
        yield from _counts(f"cores:{host}", wanted, said["cores"][host])


def _counts(path: str, wanted: tuple[str, ...], finding: Mapping[str, Any]) -> Iterator[str]:
    is_so = (finding["status"], finding["state"])
    if not set(wanted) <= set(is_so):
        yield f"{path}: expected {_names(wanted)}; found {_names(filter(None, is_so))}"


def _members_on(case: Case, host: str) -> list[str]:
    return [
        f"{name}/{member.name}"
        for name, replica_set in sorted(case.stack.replica_sets.items())
        if (member := replica_set.member_on(host))
    ]


def _verdicts(case: Case, said: Mapping[str, Any]) -> Iterator[str]:
    expected = case.expected
    judged = {verdict_name(one): one for one in said["verdicts"]}
    for name, one in judged.items():
        if name in expected.allowed and not one["allowed"]:
            yield f"{name}: expected allowed; found refused: {'; '.join(one['reasons'])}"
        elif name not in expected.allowed and one["allowed"]:
            yield f"{name}: expected refused; found allowed"
    for name, words in expected.refused.items():
        reasons = judged[name]["reasons"]
        for wanted in words:
            if not any(wanted in reason for reason in reasons):
                told = "; ".join(reasons) or "no reason"
                yield f"{name}: expected the words {wanted!r} in a reason; found {told}"


def _way_forward(case: Case) -> Iterator[str]:
    way = case.expected.way_forward
    if not way.then:
        return
    later = world.after(case, way.happens).evidence()
    judged = asked(later, way.then, way.resync)
    if not judged.allowed:
        told = "; ".join(judged.reasons)
        yield f"way_forward: expected that {way.then} is allowed then; found refused: {told}"


def asked(evidence: Evidence, name: str, resync: bool = False) -> Verdict:
    """The verdict of a name, such as ``failover south``.

    resync: whether what diverged may be wiped.
    """
    (request,) = [r for r in preflight.requests(evidence) if verdict_name(vars(r)) == name]
    return verdict(evidence, replace(request, resync=resync))


def _names(names: Any) -> str:
    return ", ".join(names) or "none"
