"""
The disaster recovery plan: runbook, evidence and report
========================================================

A part of the runner ``openhim_dr``. What the pillar declares (``openhim:plan``), what was recorded
and what the hosts show becomes a runbook for people, a chain of evidence in which tampering shows,
and a report against the clauses of 45 CFR Part 164.
"""

import json
import shutil
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, record, settings
from saltext.openhim.backup.manifest import utc
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.plan import (
    anchors,
    asking,
    chain,
    declared,
    evidence,
    exercises,
    news,
    pages,
    paper,
)
from saltext.openhim.plan import report as reporting
from saltext.openhim.plan import (
    runbook as writing,
)
from saltext.openhim.plan.chain import Anchor
from saltext.openhim.plan.facts import Unknown

__virtualname__ = "openhim_dr"

#: Below the folder of the recovery records.
_REPORTS, _RUNBOOKS = "reports", "runbooks"


def __virtual__():
    return __virtualname__


def evidence_collect(stack):
    """
    Put on record what is new: versions of the plan, recoveries, verifications, drills, and once a
    day how the backups are. Run it by the master's schedule. Returns what was added, and who could
    not be asked.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.evidence_collect example
    """
    try:
        pillar = fleet.declaration(__opts__, stack, "stack")
        directory = fleet.directory(__opts__)
        backup = pillar["openhim"].get("backup") or {}
        status = _status(stack) if backup else Unknown("the pillar declares no backups")
        verified, silent = _told(backup.get("verified_by"), "openhim_plan.verifications")
        drills, idle = _told(_who_drills(pillar), "openhim_drill.list")
        emergencies, mute = _told(_active_core(pillar), "openhim_plan.emergencies")
        accounts, still = _accounts(pillar)
        added = evidence.append(
            stack,
            news.found(
                evidence.judged(stack, directory).records,
                declared.of(pillar["openhim"]),
                datetime.now(timezone.utc),
                epochs=[asdict(one) for one in record.history(stack, directory)],
                verifications=verified,
                drills=drills,
                emergencies=emergencies,
                accounts=accounts,
                backups=None if isinstance(status, Unknown) else status,
            ),
            directory,
        )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    unknown = [status.why] if backup and isinstance(status, Unknown) else []
    return {
        "added": [f"{one.number}: {one.kind}" for one in added],
        "unknown": unknown + silent + idle + mute + still,
    }


def evidence_add(stack, kind, by, what, ok=True, at=None):
    """
    Put on record what people did: a tabletop exercise, a call of all contacts, a drill without this
    package, or a note.

    stack
        The stack's name.

    kind
        ``tabletop``, ``contacts``, ``drill`` or ``note``.

    by
        Who did it.

    what
        What was done, and what came of it.

    ok
        Whether it passed.

    at
        When (ISO 8601 with zone); now when left out.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.evidence_add example contacts by=Ada what='all of them answered'
    """
    try:
        problems = [
            f"{name}: found nothing; say {what_for}"
            for name, value, what_for in (("by", by, "who did it"), ("what", what, "what was done"))
            if not str(value).strip()
        ]
        if kind not in exercises.BY_HAND:
            problems.append(f"kind: found {kind!r}; allowed {', '.join(exercises.BY_HAND)}")
        if problems:
            raise Refused("nothing was recorded:\n" + "\n".join(problems))
        fleet.declaration(__opts__, stack, "stack")
        moment = reporting.parsed(at) if at else datetime.now(timezone.utc)
        content = {"at": utc(moment), "by": str(by), "what": str(what), "ok": bool(ok)}
        (added,) = evidence.append(stack, [(kind, content)], fleet.directory(__opts__))
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return asdict(added)


def evidence_anchor(stack):
    """
    Store the head of the chain of evidence in every repository: nobody who writes there can make
    them forget it, and so a chain that is cut off or written anew is found. Raises when a
    repository could not be reached; those that could keep theirs.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.evidence_anchor example
    """
    try:
        pillar, directory = fleet.declaration(__opts__, stack, "stack"), fleet.directory(__opts__)
        judged = evidence.judged(stack, directory)
        if judged.faults:
            raise Refused(
                "what is wrong must not be anchored as if it were right:\n"
                + "\n".join(judged.faults)
            )
        head = evidence.head(stack, directory)
        writers = anchors.writers(pillar["openhim"].get("backup") or {})
        if head is None or not writers:
            lacking = "no evidence is on record" if head is None else "no repository is declared"
            raise Refused(f"there is nothing to anchor, or nowhere: {lacking}")
        hosts = sorted(writers)
        answers = fleet.asked(
            __opts__, hosts, "openhim_plan.anchor", [head.number, head.sha256],
            asking.REPOSITORIES,
        )  # fmt: skip
        said = {host: asking.said(answers, host) for host in hosts}
        good = [one for one in said.values() if not isinstance(one, Unknown)]
        found = [Anchor(**entry) for one in good for entry in one]
        evidence.keep_anchors(stack, found, directory)
        bad = [f"{host}: {one.why}" for host, one in said.items() if isinstance(one, Unknown)]
        if bad:
            raise OpenHIMError(
                f"record {head.number} is anchored in "
                f"{', '.join(one.repository for one in found) or 'no repository'}, and not by "
                + "; ".join(bad)
            )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return {"record": head.number, "sha256": head.sha256, "in": [one.repository for one in found]}


def evidence_check(stack, live=False, file=None):
    """
    Check the chain of evidence: raises, and names every record that was edited, removed, inserted
    or moved, and where it was cut off or written anew.

    stack
        The stack's name.

    live
        Whether the anchors are fetched from the repositories first. Otherwise nobody is asked, and
        the chain is checked against the anchors that are known here.

    file
        Another file with a chain (JSON lines), such as an auditor's copy.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.evidence_check example
        salt-run openhim_dr.evidence_check example live=True
        salt-run openhim_dr.evidence_check example file=/media/audit/example.jsonl
    """
    try:
        directory = fleet.directory(__opts__)
        asked = {}
        if live:
            pillar = fleet.declaration(__opts__, stack, "stack")
            asked = asking.live_anchors(__opts__, settings.from_pillar(pillar), directory)
        data = _contents(file) if file else evidence.read(stack, directory)
        known = evidence.kept_anchors(stack, directory)
        judged = chain.judge(data, stack, known)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    silent = [f"the anchors that {host} sees are not known: {why}"
              for host, why in sorted(asked.items()) if why]  # fmt: skip
    if judged.faults or silent:
        raise CommandExecutionError(
            f"the evidence of {stack} does not hold:\n" + "\n".join([*judged.faults, *silent])
        )
    return {
        "records": len(judged.records),
        "proved_until": judged.proved,
        "anchors": len(known),
        "comment": (
            f"Whole. Anchors confirm it up to record {judged.proved} of {len(judged.records)}."
            if judged.proved
            else "Whole as it is here, but no anchor is known: whether it was cut off or written "
            "anew cannot be told (live=True fetches them)."
        ),
    }


def report(stack, folder=None, live=True, refresh=None):
    """
    The evidence for 45 CFR 164.308(a)(7) and its neighbours, clause by clause, with what is
    missing: one HTML page that needs no network, and JSON. Whatever cannot be asked is told as not
    known.

    stack
        The stack's name.

    folder
        Where ``<stack>.html`` and ``<stack>.json`` are written; ``reports`` beside the recovery
        records when left out.

    live
        Whether hosts are asked; otherwise what they would say is told as not known.

    refresh
        Seconds (5 to 86400) after which a browser loads the page anew: for a status page that is
        served, and renewed at least as often. It then says from when on it is stale.

    Returns the files, as of when they are, how many findings there are, every gap, and what is open
    of each recovery.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.report example
        salt-run openhim_dr.report example folder=/srv/status refresh=60
    """
    try:
        every = pages.seconds(refresh)
        pillar = fleet.declaration(__opts__, stack, "stack")
        status = Unknown("nobody was asked")
        if live:
            known = bool(pillar["openhim"].get("backup"))
            status = _status(stack) if known else Unknown("the pillar declares no backups")
        model = reporting.build(asking.facts(__opts__, pillar, status, live))
        page = pages.report(model, every)
        written = _write(
            folder or _beside(_REPORTS),
            {f"{stack}.html": page, f"{stack}.json": json.dumps(model, indent=1) + "\n"},
        )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return {
        "files": written,
        "as_of": model["at"],
        "stale_from": pages.stale_from(model, every) if every else None,
        "findings": model["findings"],
        "gaps": [
            f"{clause['id']}: {finding['state']}: {finding['text']}"
            for clause in model["clauses"]
            for finding in clause["findings"]
            if finding["state"] != "shown"
        ],
        "open": [
            f"epoch {one['number']}: {each['words']}"
            for one in model["recoveries"]
            for each in one["open"]
        ],
    }


def runbook(stack, folder=None, pdf=None):
    """
    The runbook of a stack, as every host holds it: Markdown and HTML, and PDF where Chromium is
    installed on the master.

    stack
        The stack's name.

    folder
        Where the files are written; ``runbooks`` beside the recovery records when left out.

    pdf
        Whether a PDF is made too; when Chromium is there, if left out. True without it is an error.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.runbook example
    """
    try:
        pillar = fleet.declaration(__opts__, stack, "stack")
        model = writing.build(pillar["openhim"], datetime.now(timezone.utc))
        page = pages.runbook(model)
        target = folder or _beside(_RUNBOOKS)
        written = _write(target, {f"{stack}.md": pages.runbook_text(model), f"{stack}.html": page})
        if pdf or (pdf is None and paper.browser()):
            written.append(paper.printed(page, Path(target) / f"{stack}.pdf"))
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    without = [] if len(written) > 2 else ["no PDF: Chromium is not installed on the master"]
    return {"files": written, "epoch": model["epoch"], "digest": model["digest"], "notes": without}


def _status(stack):
    try:
        return __salt__["openhim_dr.status"](stack)
    except CommandExecutionError as error:
        return Unknown(str(error))


def _active_core(pillar):
    """A host on which OpenHIM runs, of those that may answer for it."""
    stack = settings.from_pillar(pillar)
    return next((host.id for host in stack.hosts_with("core", stack.active_site)), None)


def _who_drills(pillar):
    return (pillar["openhim"].get("drills") or {}).get("run_by")


def _told(host, function):
    """The list that a host tells, and why that is not known where it is not."""
    if not host:
        return [], []
    said = asking.said(fleet.asked(__opts__, [host], function, [], asking.REPOSITORIES), host)
    return ([], [f"{host}: {said.why}"]) if isinstance(said, Unknown) else (said, [])


def _accounts(pillar):
    """What every host that may open accounts for the emergency tells of them, asked at once."""
    stack = settings.from_pillar(pillar)
    hosts = sorted({host.id for role in ("core", "mongodb") for host in stack.hosts_with(role)})
    answers = fleet.asked(
        __opts__, hosts, "openhim_break_glass.history", [], asking.REPOSITORIES
    )  # fmt: skip
    said = {host: asking.said(answers, host) for host in hosts}
    silent = [f"{host}: {one.why}" for host, one in said.items() if isinstance(one, Unknown)]
    told = [entry for one in said.values() if not isinstance(one, Unknown) for entry in one]
    return sorted(told, key=lambda entry: entry["at"]), silent


def _contents(file):
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise OpenHIMError(f"file: {error}; name a chain of evidence (JSON lines)") from error


def _beside(name):
    return str(Path(fleet.directory(__opts__)) / name)


def _write(folder, contents):
    """Writes each file in one step, readable by the master's user alone: they name people."""
    target = Path(folder)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in contents.items():
            partial = target / f".{name}.partial"
            partial.touch(mode=0o600)
            partial.write_text(text, encoding="utf-8")
            shutil.move(partial, target / name)
    except OSError as error:
        raise OpenHIMError(
            f"folder: {error}; name one that the master's user may write to"
        ) from error
    return [str(target / name) for name in contents]
