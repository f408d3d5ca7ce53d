"""What could be done now, and what speaks against it: every verb at every site, with figures. Pure.

It judges what is seen. That the paper is in order (the stack's name, a reason, a person, a restore
point that is finished and checked) is taken for granted, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from saltext.openhim.recovery.epochs import Epoch, known
from saltext.openhim.recovery.observations import Evidence, Finding, Report
from saltext.openhim.recovery.verdicts import Point, Request, verdict

#: Verbs that are not about one site.
_WHOLE = ("provision", "backup")
_OF_A_SITE = (
    *("failover", "switchover", "failback", "core", "rejoin", "fence", "unfence"),
    *("restore", "rebuild", "drill"),
)
#: Verbs that end with OpenHIM serving, so that their time can be forecast.
_SERVING = ("failover", "switchover", "failback", "core", "restore", "rebuild")
#: Verbs by which nothing is given up.
_LOSSLESS = ("switchover", "failback")

ASSUMED = (
    "Assumed: the request names the stack, a reason and a person; a restore point that is named is "
    "finished and passes its checks; a rejoin may wipe what diverged only with resync"
)


def found(evidence: Evidence, at: str) -> dict[str, Any]:
    """The evidence, and the verdict on each verb at each site, in plain values.

    at: when it was gathered, ISO 8601.

    Returns ``stack``, ``at``, ``problem`` (records that contradict each other, or None), ``epoch``
    (the newest one's overlay, or None), ``active_site``, ``hosts``, ``members``, ``cores``,
    ``repositories``, ``silent``, ``verdicts`` (a list: ``verb``, ``site``, ``host``, ``allowed``,
    ``reasons``, ``wait_seconds``, ``rpo``, ``rto``) and ``assumed``. ``rpo`` and ``rto`` hold
    ``seconds`` (None when not known) and ``words``.
    """
    newest = evidence.known.current
    return {
        "stack": evidence.layout.stack,
        "at": at,
        "problem": evidence.known.problem,
        "epoch": newest.overlay() if newest else None,
        "active_site": evidence.reality.active_site,
        "hosts": {report.host: _host(evidence, report) for report in evidence.reports},
        "members": {name: _finding(one) for name, one in evidence.members.items()},
        "cores": {name: _finding(one) for name, one in evidence.cores.items()},
        "repositories": {name: _finding(one) for name, one in evidence.repositories.items()},
        "silent": {host: evidence.silence(host) for host in evidence.unheard},
        "verdicts": list(_verdicts(evidence)),
        "assumed": ASSUMED,
    }


def table(said: dict[str, Any]) -> str:
    """What :func:`found` returned, for a person."""
    lines = [f"{said['stack']} at {said['at']}: {_epoch(said)}"]
    lines += [f"PROBLEM: {said['problem']}"] if said["problem"] else []
    for kind in ("hosts", "members", "cores", "repositories"):
        rows = [(name, one["words"]) for name, one in said[kind].items()]
        lines += ["", *_columns((kind, "what is seen"), rows)] if rows else []
    lines += ["", *_allowed(said["verdicts"])]
    refused = [one for one in said["verdicts"] if not one["allowed"]]
    lines += ["", "Refused, and why:"] if refused else []
    for one in refused:
        lines.append(f"  {_name(one)}")
        lines += [f"    - {reason}" for reason in one["reasons"]]
    return "\n".join([*lines, "", said["assumed"] + "."])


def estimated_rpo(evidence: Evidence, request: Request) -> dict[str, Any]:
    """How much would be lost: from the last write that the survivor knows to be on a majority to
    the last one that anybody ever told of."""
    if request.verb in _LOSSLESS:
        return {"seconds": 0.0, "words": "0 s: a planned move gives nothing up"}
    if request.verb == "core":
        words = "not known: nothing is promoted, MongoDB's own election has decided what survives"
        return {"seconds": None, "words": words}
    newest = dict(evidence.last_committed)
    behind = []
    for member in evidence.layout.promoted_at(request.site):
        committed = evidence.members[member.name].committed
        if committed is None or member.set not in newest:
            return {"seconds": None, "words": f"not known: {member.name} does not tell its time"}
        behind.append(max(0.0, newest[member.set] - committed))
    if not behind:
        return {"seconds": None, "words": "not known: no member is declared there"}
    led = {evidence.member(one.subject).set for one in evidence.primaries}
    seconds = round(max(behind), 3)
    if led >= {member.set for member in evidence.layout.members}:
        return {"seconds": seconds, "words": f"{seconds} s: so far it is behind the primary"}
    return {
        "seconds": seconds,
        "words": f"at least {seconds} s: from its last write to the last one that was ever seen",
    }


def forecast_rto(history: Iterable[Epoch], verb: str) -> dict[str, Any]:
    """How long it would take, from the declaration to the first transaction: as it took before."""
    taken = [
        float(epoch.result["rto_from_declaration_seconds"])
        for epoch in history
        if epoch.kind == verb
        and epoch.result
        and epoch.result.get("rto_from_declaration_seconds") is not None
    ]
    if not taken:
        return {"seconds": None, "words": "not known, because none was measured"}
    times = "once" if len(taken) == 1 else f"{len(taken)} times, the longest {max(taken):.1f} s"
    return {"seconds": taken[-1], "words": f"{taken[-1]:.1f} s: as the last one (measured {times})"}


def requests(evidence: Evidence) -> Iterator[Request]:
    """Every verb, at every site where it could be asked for, with its paper in order."""
    layout = evidence.layout
    for verb in _WHOLE:
        yield _with_paper(layout.stack, verb)
    for verb in _OF_A_SITE:
        for site in filter(layout.at, layout.sites):
            for host in layout.cores_at(site) if verb == "core" else ("",):
                yield _with_paper(layout.stack, verb, site, host)


def _with_paper(stack: str, verb: str, site: str = "", host: str = "") -> Request:
    point = Point("that is named", committed=True, passed=True)
    return Request(verb, site, stack, "preflight", "preflight", host=host, point=point)


def _verdicts(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for request in requests(evidence):
        judged = verdict(evidence, request)
        serves = request.verb in _SERVING
        yield {
            "verb": request.verb,
            "site": request.site,
            "host": request.host,
            "allowed": judged.allowed,
            "reasons": list(judged.reasons),
            "wait_seconds": judged.wait,
            "rpo": estimated_rpo(evidence, request)
            if request.verb in ("failover", *_LOSSLESS)
            else None,
            "rto": forecast_rto(evidence.master_epochs, request.verb) if serves else None,
        }


def _host(evidence: Evidence, report: Report) -> dict[str, Any]:
    told = known(report.epochs).current
    return {
        **{
            key: value
            for key, value in asdict(report).items()
            if key in ("site", "answered", "gate_open", "fenced", "admits", "clock", "caught_up")
        },
        "epoch": told.number if told else 0,
        "words": _host_words(evidence, report, told),
    }


def _host_words(evidence: Evidence, report: Report, told: Epoch | None) -> str:
    if not report.answered:
        return f"{report.site}: {evidence.silence(report.host)}"
    words = [f"{report.site}: answers", f"knows epoch {told.number if told else 0}"]
    words += ["FENCED"] if report.fenced else []
    words += ["gate closed"] if report.gate_open is False else []
    if report.clock is not None and abs(report.clock) > max(1.0, evidence.layout.max_skew):
        words.append(f"clock {report.clock:+.1f} s")
    return ", ".join(words)


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "status": one.status.name.lower(),
        "state": one.state,
        "seen_by": list(one.seen_by),
        "missed_by": list(one.missed_by),
        "committed": _moment(one.committed),
        "words": _words(one),
    }


def _words(one: Finding) -> str:
    by = f" (seen from {', '.join(one.seen_by)})" if one.seen_by else ""
    missed = f", and not from {', '.join(one.missed_by)}" if one.missed_by else ""
    state = f"{one.state}, {one.status.value}" if one.state else one.status.value
    return f"{state}{by}{missed}"


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _epoch(said: dict[str, Any]) -> str:
    if not said["epoch"]:
        return f"nothing was ever recovered, {said['active_site']} is active"
    lost = ", ".join(said["epoch"]["lost_sites"]) or "none"
    return (
        f"epoch {said['epoch']['epoch']} ({said['epoch']['kind']}), {said['active_site']} is "
        f"active, lost sites: {lost}"
    )


def _allowed(verdicts: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        (
            _name(one),
            "allowed" if one["allowed"] else f"refused ({len(one['reasons'])})",
            one["rpo"]["words"] if one["rpo"] else "",
            one["rto"]["words"] if one["rto"] else "",
        )
        for one in verdicts
    ]
    return _columns(("verb", "verdict", "would be lost (RPO)", "would take (RTO)"), rows)


def _name(one: dict[str, Any]) -> str:
    return " ".join(filter(None, (one["verb"], one["site"], one["host"])))


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [[one or "-" for one in row] for row in (head, *rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
