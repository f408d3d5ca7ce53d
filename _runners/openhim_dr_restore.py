"""
A restore in place, across the fleet
====================================

What ``orch.restore`` asks of the master: may the data be replaced, where is what is there kept
aside, and what came of it. A part of the runner ``openhim_dr``; the steps are in the state tree.

Every function but ``restore_plan`` raises when the answer is no.
"""

from dataclasses import replace
from datetime import datetime, timezone

from salt.exceptions import CommandExecutionError
from saltext.openhim import bystanders, completion, evidence, fleet, record
from saltext.openhim.backup import aside as kept_aside
from saltext.openhim.backup.to_time import parsed
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.recovery import restoration
from saltext.openhim.recovery.verdicts import Point, Request, verdict

__virtualname__ = "openhim_dr"

#: Seconds to find the way to a restore point or time; slices of the oplog are read whole for it.
FIND_TIMEOUT = 1800
#: Seconds for a look at the present data.
LOOK_TIMEOUT = 300


def __virtual__():
    return __virtualname__


def restore_plan(
    confirm="",
    point="",
    reason="",
    declared_by="",
    to_time="",
    disrupted_at=None,
    without_aside=False,
    without_aside_reason="",
    **unknown,
):
    """
    May the stack's data become that of a restore point, or of a time, and what would be done? Asks
    the hosts live and changes nothing.

    confirm
        The stack's name, typed out: what was written since the restore point is given up.

    point
        ID of a restore point, ``latest`` or ``verified``. May be left out with ``to_time``: then it
        begins with the newest before that time.

    to_time
        The time whose data is wanted (ISO 8601 with zone, in whole seconds).

    reason, declared_by
        For the recovery record.

    disrupted_at
        When the data was spoilt (ISO 8601 with zone), if it is known.

    without_aside, without_aside_reason
        ``True``, and why: what is there now may be lost for good. It goes on record.

    Returns the reasons against it (``refusals``; anything ``unknown`` is one), or the plan, which
    ``words`` tells to a person.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.restore_plan confirm=example point=latest reason=drill declared_by=Ada
    """
    request = {
        "confirm": confirm,
        "point": point,
        "reason": reason,
        "declared_by": declared_by,
        "to_time": to_time,
        "disrupted_at": disrupted_at,
        "without_aside": without_aside,
        "without_aside_reason": without_aside_reason,
        **unknown,
    }
    try:
        return _plan(restoration.Asked.read(_typed(request)))
    except OpenHIMError as error:
        # A question deserves an answer, not a traceback: what cannot be planned is refused.
        return {"refusals": [str(error)]}


def restore_declare(request, plan):
    """
    Write a restore into the recovery record, once OpenHIM is stopped and what is there is kept
    aside. One that is under way goes on in its epoch. ``orch.restore`` calls it.

    request
        The parameters of :py:func:`restore_plan`.

    plan
        What that returned.

    Returns the number of the ``epoch``, and whether it was ``resumed``.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.restore_declare request='{…}' plan='{…}'
    """
    try:
        asked = restoration.Asked.read(_typed(request))
        question = evidence.question(__opts__, asked.confirm)
        present = _present(plan["host"])
        under_way = restoration.continued(question.history, asked, present)
        if under_way:
            return {"epoch": under_way.number, "resumed": True}
        if plan["resume"]:
            raise Refused(
                f"somebody has written since epoch {plan['epoch']} was declared; run it again, and "
                "that is kept aside too"
            )
        epoch = _declared(question, asked, plan, present)
        seen = fleet.declaration(__opts__, asked.confirm)["openhim"].get("recovery", {})
    except OpenHIMError as error:
        raise CommandExecutionError(f"the restore is refused: {error}") from error
    if seen.get("epoch") != epoch.number:
        raise CommandExecutionError(
            f"epoch {epoch.number} is on record, but the hosts' pillar says {seen.get('epoch')}: "
            "see that the external pillar openhim_recovery loads (salt-run saltutil.sync_all)"
        )
    return {"epoch": epoch.number, "resumed": False}


def restore_conclude(stack):
    """
    Prove that OpenHIM serves what was restored (a synthetic transaction, found again in MongoDB),
    and write RPO, RTO and what was kept aside into the recovery record.

    stack
        The stack's name.

    Returns the result; ``aside`` names the restore point that holds what was replaced, and
    ``way_back`` the command that brings it back.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.restore_conclude stack=example
    """
    try:
        question = evidence.question(__opts__, stack, parameter="stack")
        epoch = _newest_restore(question)
        if epoch.result is not None:
            return dict(epoch.result)
        host = question.now.declared["backup"]["taken_by"]
        if not restoration.replaced(epoch, _present(host)):
            raise Refused(
                f"{epoch.words} did not replace the data to its end; run the restore again"
            )
        cores = [core.id for core in question.now.hosts_with("core", epoch.active_site)]
        served = {core: _ask([core], "openhim.synthetic", (), 60)[core] for core in cores}
        result = {
            **restoration.result(epoch, _now()),
            "epoch": epoch.number,
            "active_site": epoch.active_site,
            "synthetic": served,
        }
        kept = epoch.evidence["aside"].get("point")
        result["way_back"] = kept_aside.way_back(stack, kept) if kept else None
        return dict(record.conclude(stack, epoch.id, result, _directory()).result)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def restore_complete(stack):
    """
    Mark the restore as done to its last step (every host has confirmed it), in the record of the
    master and of every host that answers.

    stack
        The stack's name.

    Returns ``completed_at``, ``told`` (hosts) and ``not_told`` (host → why not).

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.restore_complete stack=example
    """
    try:
        epoch = _newest_restore(evidence.question(__opts__, stack, parameter="stack"))
        if epoch.result is None:
            raise Refused(f"{epoch.words} does not serve yet; run the restore again")
        return completion.complete(__opts__, stack, epoch.id)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _typed(request):
    """What a person typed, without what Salt adds."""
    return {key: value for key, value in request.items() if not key.startswith("__")}


def _plan(asked):
    problems = asked.problems()
    if asked.to_time:
        parsed(asked.to_time)
    question = evidence.question(__opts__, asked.confirm)
    host = (question.now.declared.get("backup") or {}).get("taken_by")
    if host is None:
        raise Refused("openhim:backup: the pillar declares no backups")
    if asked.to_time:
        problems += filter(None, [restoration.amid_another(question.history, asked.to_time)])
    if problems:
        return {"refusals": problems}
    seen = evidence.gather(question, remember=not __opts__.get("test"))
    if not fleet.present(__opts__, [host]):
        raise Refused(f"{host} does not answer, and it is the one that restores; bring it back")
    present = _present(host)
    problem = restoration.unfinished(question.history, present)
    if problem:
        raise Refused(problem)
    under_way = restoration.continued(question.history, asked, present)
    found = _found(host, asked, question, present, under_way)
    refusals = _refusals(asked, question, seen, found)
    if refusals:
        return {"refusals": refusals}
    return _allowed(asked, question, seen, host, found, under_way)


def _found(host, asked, question, present, under_way):
    """What would be restored, and how what is there is kept aside."""
    if under_way:
        known = {key: under_way.evidence[key] for key in ("point", "to_time", "until")}
        replaced = restoration.replaced(under_way, present)
        # Declared and not begun: OpenHIM may have been started since, so it is looked at once more.
        untouched = present["half_replaced"] is None and not replaced
        kept = under_way.evidence["aside"]
        keep = untouched and "point" in kept
        found = {**known, "failed": None, "kept": kept, "keep": keep}
        return {**found, "replaced": replaced, "untouched": untouched}
    wanted = [asked.target["point"], asked.to_time or None]
    answer = _ask([host], "openhim_backup.restorable", wanted, FIND_TIMEOUT)[host]
    before = restoration.inherited(question.history, present)
    kept = None
    if before:
        kept = before["aside"]
    elif asked.without_aside:
        kept = {"without": asked.without_aside_reason}
    last_write = before["last_write"] if before else present["last_write"]
    return {
        **{key: answer[key] for key in ("point", "to_time", "until", "failed", "verified")},
        "kept": kept,
        "keep": kept is None,
        "into": answer["keep_aside"],
        "keep_aside_refused": answer["keep_aside_refused"] if kept is None else None,
        "gives_up_seconds": restoration.gives_up(answer["until"], last_write),
        "replaced": False,
        "untouched": present["half_replaced"] is None,
    }


def _refusals(asked, question, seen, found):
    """What the recovery model says against it, and the repositories."""
    passed = found["failed"] is None
    request = Request(
        restoration.KIND,
        seen.reality.active_site,
        asked.confirm,
        asked.reason,
        asked.declared_by,
        point=Point(found["point"], committed=True, passed=passed),
    )
    refusals = list(verdict(_as_it_concerns_a_restore(seen), request).reasons)
    if not passed:
        refusals.append(f"{found['point']} did not verify: {found['failed']}")
    if found.get("keep_aside_refused"):
        refusals.append(found["keep_aside_refused"])
    return refusals


def _as_it_concerns_a_restore(seen):
    """The evidence, with what is kept aside elsewhere, and without the cores that were given up.

    What is there is kept in a repository, so the members' hosts need no room for it. A site that
    was given up was proven closed then, and its hosts boot closed.
    """
    layout = seen.layout
    lost = seen.reality.lost_sites
    cores = tuple(host for host in layout.cores if layout.site_of[host] not in lost)
    reports = tuple(replace(report, can_keep_aside=True) for report in seen.reports)
    return replace(seen, layout=replace(layout, cores=cores), reports=reports)


def _allowed(asked, question, seen, host, found, under_way):
    """What ``orch.restore`` needs to know of each step."""
    newest = question.history[-1] if question.history else None
    now = question.now
    archiver = ((now.declared.get("backup") or {}).get("oplog") or {}).get("archived_by")
    cores = [core for core in seen.layout.cores if core in seen.heard]
    serving = [core.id for core in now.hosts_with("core", now.active_site)]
    hosts = sorted({*seen.heard, host, *([archiver] if archiver else [])})
    number = under_way.number if under_way else (newest.number if newest else 0) + 1
    plan = {
        **found,
        "refusals": [],
        "what": asked.to_time or found["point"],
        "host": host,
        "cores": serving,
        "stop": cores,
        "archiver": archiver,
        "hosts": hosts,
        "unseen": list(seen.unheard),
        **bystanders.afterwards(__opts__, now, now.lost_sites, hosts),
        "resume": under_way.id if under_way else None,
        "epoch": number,
        "parent": newest.id if newest else None,
        "since": under_way.declared_at if under_way else _now(),
        "seen": {name: one.words for name, one in seen.members.items()},
    }
    return {**plan, "words": _words(asked, plan)}


def _words(asked, plan):
    """The plan, for a person."""
    kept = plan["kept"] or {}
    if plan["replaced"]:
        told = ["The data was replaced already, and is not replaced again."]
    elif plan["keep"] and not plan["resume"]:
        told = [f"What is there now is kept aside in {plan['into']}, once OpenHIM is stopped."]
    elif "without" in kept:
        told = [f"What is there now is NOT kept aside, and lost for good: {kept['without']}."]
    else:
        told = [f"What was there is kept aside already, as {kept['point']}."]
    if plan["resume"]:
        told.insert(0, f"Goes on with the restore of epoch {plan['epoch']}, of {plan['since']}.")
    else:
        told.insert(0, f"OpenHIM stops on {', '.join(plan['stop'])}; epoch {plan['epoch']} begins.")
        told.append(_loss(plan))
    if not plan["resume"] and not plan["verified"]:
        told.append(f"{plan['point']} was never verified by restoring it.")
    told.append(f"The data becomes that of {plan['what']}; OpenHIM serves on {plan['cores']}.")
    return " ".join(told)


def _loss(plan):
    seconds = plan["gives_up_seconds"]
    until = ", ".join(f"{name}: {time}" for name, time in plan["until"].items())
    known = "not known how much" if seconds is None else f"{seconds:.0f} s of writes, as of now"
    return f"What was written after {until} is given up: {known}."


def _declared(question, asked, plan, present):
    """The next epoch, minted upon the one that was seen when it was planned."""
    before = restoration.inherited(question.history, present)
    if before is None:
        kept = {"without": asked.without_aside_reason} if asked.without_aside else present["aside"]
        if present["half_replaced"] is not None and not asked.without_aside:
            raise Refused(f"the data is half replaced, by {present['half_replaced']}")
        if kept is None:
            raise Refused(
                "what is there is not kept aside, or somebody has written since. See that OpenHIM "
                "is stopped, and run it again"
            )
        before = {"aside": kept, "last_write": present["last_write"]}
    newest = question.history[-1] if question.history else None
    values = restoration.next_epoch(asked.confirm, question.pillar["openhim"], newest)
    stack = values.pop("stack")
    # What is real stays as it is, a declared lease too.
    witnesses = evidence.declared_layout(question).witnesses
    return record.declare(
        stack,
        _directory(),
        **{"witnesses": witnesses, **values, "parent": plan["parent"]},
        declared_by=asked.declared_by,
        reason=asked.reason,
        declared_at=plan["since"],
        disrupted_at=asked.disrupted_at,
        fork_point=min(plan["until"].values()),
        evidence={
            **before,
            "asked": asked.target,
            "minted_at": _now(),
            **{key: plan[key] for key in ("point", "to_time", "until", "unseen", "seen")},
        },
    )


def _newest_restore(question):
    newest = question.history[-1] if question.history else None
    if newest is None or newest.kind != restoration.KIND:
        raise Refused(f"the newest recovery of {question.now.name!r} is no restore; run it first")
    return newest


def _present(host):
    return _ask([host], "openhim_backup.present", (), LOOK_TIMEOUT)[host]


def _ask(hosts, function, arguments, timeout):
    return fleet.ask(__opts__, hosts, function, arguments, timeout)


def _directory():
    return fleet.directory(__opts__)


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
