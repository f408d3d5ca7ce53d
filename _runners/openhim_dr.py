"""
Disaster recovery across the fleet
==================================

What only the master can do: ask every host live, decide, and keep the recovery record. The steps of
a recovery are in the state tree (``orch.failover``); this runner gives them their facts.

Every function raises when the answer is no, because in an orchestration only an exception fails
everywhere.
"""

import time
from datetime import datetime, timezone

import salt.client
import salt.pillar
import salt.utils.minions
from salt.exceptions import CommandExecutionError
from saltext.openhim import record, schema, settings
from saltext.openhim.backup import schedule
from saltext.openhim.backup import status as backups
from saltext.openhim.backup.to_time import parsed
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.recovery import failover
from saltext.openhim.recovery.figures import figures, moment

#: Seconds that a host has to answer at all; silence after it is "no answer", never "all is well".
PING_TIMEOUT = 4

#: Seconds that a host which is there has for its answer; it may itself wait for others.
ANSWER_TIMEOUT = 30

#: Seconds after which a refresh of a host's pillar is asked for again.
REFRESH_TIMEOUT = 15

#: Seconds between two such looks: one at hosts that the master does not know takes no time at all.
PAUSE = 1

#: Seconds that a host has for a look at all its repositories.
STATUS_TIMEOUT = 300


def failover_plan(to_site="", confirm="", reason="", declared_by="", disrupted_at=None):
    """
    May OpenHIM move to another site now, and what would be done? Asks every declared host live and
    changes nothing.

    to_site
        The site where OpenHIM should run.

    confirm
        The stack's name, typed out.

    reason
        Why, for the recovery record.

    declared_by
        Who declares the disaster.

    disrupted_at
        When the service was lost (ISO 8601 with zone), if it is known.

    Returns the reasons against it (``refusals``), the hosts that gave no answer (``unseen``), and
    the plan.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_plan to_site=south confirm=example reason=fire declared_by=Ada
    """
    try:
        if disrupted_at is not None:
            moment(disrupted_at, "disrupted_at")
        request = failover.Request(to_site, confirm, reason, declared_by, disrupted_at)
        return _failover_plan(request)
    except OpenHIMError as error:
        # A question deserves an answer, not a traceback: what cannot be planned is refused.
        return {"refusals": [str(error)]}


def failover_declare(to_site, confirm, reason, declared_by, disrupted_at=None):
    """
    Write the decision into the recovery record, once it is allowed. Parameters as in
    :py:func:`failover_plan`. A failover that was declared and not concluded is continued: no second
    epoch is declared for it.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_declare to_site=south confirm=example reason=fire \
            declared_by=Ada
    """
    plan = failover_plan(to_site, confirm, reason, declared_by, disrupted_at)
    if plan["refusals"]:
        raise CommandExecutionError("the failover is refused:\n" + "\n".join(plan["refusals"]))
    if plan["resume"]:
        return {"epoch": plan["overlay"]["epoch"], "resumed": True}
    try:
        epoch = record.declare(
            confirm,
            _directory(),
            parent=plan["parent"],
            kind="failover",
            active_site=to_site,
            profile="reduced",
            lost_sites=plan["lost_sites"],
            declared_by=declared_by,
            reason=reason,
            declared_at=_now(),
            disrupted_at=disrupted_at,
            evidence={"unseen": plan["unseen"], "sightings": plan["sightings"]},
        )
        seen = _declaration(confirm)["openhim"].get("recovery", {})
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if seen.get("epoch") != epoch.number:
        raise CommandExecutionError(
            f"epoch {epoch.number} is on record, but the hosts' pillar says {seen.get('epoch')}: "
            "see that the external pillar openhim_recovery loads (salt-run saltutil.sync_all)"
        )
    return {"epoch": epoch.number, "resumed": False}


def failover_known(stack, hosts, timeout=60):
    """
    See to it that hosts know the newest epoch: their pillar is refreshed, and then read back.

    stack
        The stack's name.

    hosts
        The minions that must know it.

    timeout
        Seconds until all of them must.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_known stack=example hosts='[south-core, south-db1]'
    """
    try:
        epoch = record.current(stack, _directory())
        if epoch is None:
            raise Refused(f"no recovery of {stack!r} is on record; there is nothing to know")
        deadline = time.monotonic() + timeout
        known, silent = dict.fromkeys(hosts), set(hosts)
        while behind := sorted(host for host, number in known.items() if number != epoch.number):
            if time.monotonic() >= deadline:
                told = ", ".join(
                    f"{host} ({'no answer' if host in silent else f'epoch {known[host]}'})"
                    for host in behind
                )
                raise OpenHIMError(
                    f"epoch {epoch.number} is on record, and {timeout} s later these hosts don't "
                    f"have it in their pillar: {told}. See what keeps them from it (salt-call "
                    "pillar.items there, and the master's log), then run this again"
                )
            # It says True even when the refresh did not end in time, so what it did is read back.
            _cmd(behind, "saltutil.refresh_pillar", [True, REFRESH_TIMEOUT], ANSWER_TIMEOUT)
            answers = _cmd(behind, "openhim_dr.epoch", [], ANSWER_TIMEOUT)
            known.update({host: one["ret"] for host, one in answers.items() if not one["retcode"]})
            silent = set(behind) - set(answers)
            if any(known[host] != epoch.number for host in behind):
                time.sleep(PAUSE)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return known


def failover_withdraw(confirm, reason, declared_by):
    """
    Take a failover back that was declared and then refused: the stack is again what it was before.
    Refuses once a member was promoted, because then the new history has begun.

    confirm
        The stack's name, typed out.

    reason
        Why, for the recovery record.

    declared_by
        Who takes it back.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_withdraw confirm=example reason='north is back' declared_by=Ada
    """
    try:
        known = record.history(confirm, _directory())
        pillar = _declaration(confirm)
        problem = failover.not_under_way(known)
        if problem:
            raise Refused(problem)
        target = settings.from_pillar(pillar)
        before = failover.before(pillar["openhim"], known)
        earlier = settings.from_pillar(_with_overlay(pillar, before))
        sightings = _sightings(target)
        problem = failover.withdrawal_problem(
            earlier, target, known, sightings, _traces(target, sightings)
        )
        if problem:
            raise Refused(problem)
        epoch = record.declare(
            confirm,
            _directory(),
            parent=known[-1].id,
            kind="withdrawal",
            declared_by=declared_by,
            reason=reason,
            declared_at=_now(),
            **before,
        )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return epoch.overlay()


def failover_conclude(stack):
    """
    Prove that OpenHIM serves (a synthetic transaction, found again in MongoDB), measure RPO and
    RTO, and write them into the recovery record.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_conclude stack=example
    """
    try:
        epoch = record.current(stack, _directory())
        if epoch is None or epoch.kind != "failover":
            raise Refused(f"no failover of {stack!r} is on record; declare it first")
        if epoch.result is not None:
            return dict(epoch.result)
        target = settings.from_pillar(_with_overlay(_declaration(stack), epoch.overlay()))
        cores = [host.id for host in target.hosts_with("core", epoch.active_site)]
        served = {core: _ask([core], "openhim.synthetic", timeout=60)[core] for core in cores}
        served_at = _now()
        promoted = {
            name: _ask([rs.initiator.host.id], "mongodb_replset.promotion", [name])[
                rs.initiator.host.id
            ]
            for name, rs in sorted(target.replica_sets.items())
        }
        kept = [facts["survived_until"] for facts in promoted.values()]
        result = {
            **figures(epoch.disrupted_at, epoch.declared_at, served_at, kept),
            "epoch": epoch.number,
            "active_site": epoch.active_site,
            "synthetic": served,
            "promotion": promoted,
        }
        return dict(record.conclude(stack, epoch.id, result, _directory()).result)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def failover_complete(stack):
    """
    Mark the failover as done to its last step: every host that is left has confirmed it.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_complete stack=example
    """
    try:
        epoch = record.current(stack, _directory())
        if epoch is None or epoch.kind != "failover" or epoch.result is None:
            raise Refused(f"the newest recovery of {stack!r} is no failover that serves")
        record.complete(stack, epoch.id, _now(), _directory())
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return True


def backup_plan(stack=""):
    """
    Who takes a stack's restore points into which repositories, and who pulls which copies.

    stack
        The stack's name.

    Returns the reasons against it (``refusals``), or ``taken_by``, the repositories to take into
    (``first``), and who pulls each copy (``copies``).

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.backup_plan example
    """
    try:
        backup = settings.from_pillar(_declaration(stack, "stack")).declared.get("backup") or {}
    except OpenHIMError as error:
        return {"refusals": [str(error)]}
    repositories = backup.get("repositories") or {}
    if not repositories:
        return {"refusals": [f"openhim:backup: the pillar of {stack!r} declares no backups"]}
    return {
        "refusals": [],
        "taken_by": backup["taken_by"],
        "first": [name for name, entry in repositories.items() if "copy_of" not in entry],
        "copies": {
            name: entry["pulled_by"] for name, entry in repositories.items() if "copy_of" in entry
        },
    }


def restore_plan(confirm="", point="", reason="", declared_by="", to_time=""):
    """
    May the stack's data become that of a restore point, or of a time, and what would be done?
    Changes nothing.

    confirm
        The stack's name, typed out: what was written since the restore point is replaced.

    point
        ID of a restore point, ``latest`` or ``verified``. May be left out with ``to_time``: then it
        begins with the newest before that time.

    reason, declared_by
        For the marker that the restore leaves.

    to_time
        The time whose data is wanted (ISO 8601 with zone, in whole seconds).

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.restore_plan confirm=example point=latest reason=drill declared_by=Ada
    """
    try:
        stack = settings.from_pillar(_declaration(confirm))
    except OpenHIMError as error:
        return {"refusals": [str(error)]}
    cores = [host.id for host in stack.hosts_with("core", stack.active_site)]
    host = (stack.declared.get("backup") or {}).get("taken_by")
    asked = sorted({*cores, *([host] if host else [])})
    silent = sorted(set(asked) - set(_cmd(asked, "test.ping", [], PING_TIMEOUT)))
    refusals = [
        f"{name}: found nothing; say {what}"
        for name, value, what in (
            ("point", point or to_time, "an ID, latest or verified; or to_time"),
            ("reason", reason, "why, it goes into the marker"),
            ("declared_by", declared_by, "who decides it"),
        )
        if not str(value).strip()
    ]
    refusals += [f"{one} does not answer, and is needed for a restore" for one in silent]
    if host is None:
        refusals.append("openhim:backup: the pillar declares no backups")
    if to_time:
        try:
            parsed(to_time)
        except OpenHIMError as error:
            refusals.append(str(error))
    return {
        "refusals": refusals,
        "cores": cores,
        "host": host,
        "since": _now(),
        "point": point or "latest",
        "what": f"{to_time}" if to_time else point,
    }


def status(stack):
    """
    How the backups of a stack are: every host with a task in them is asked live. One that does not
    answer is told as unknown. The exit code is 0 when all is ok, 1 otherwise.

    stack
        The stack's name.

    A person at ``salt-run`` sees a table. With ``--out=json``, and for whoever else calls it, it
    returns ``state``, ``reasons`` and what each host said.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.status example
        salt-run openhim_dr.status example --out=json
    """
    try:
        declared = settings.from_pillar(_declaration(stack, "stack"))
        asked = schedule.hosts_with_a_task(declared)
        if not asked:
            raise Refused(f"openhim:backup: the pillar of {stack!r} declares no backups")
        present = sorted(_cmd(asked, "test.ping", [], PING_TIMEOUT))
        answers = _cmd(present, "openhim_backup.status", [], STATUS_TIMEOUT) if present else {}
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    found = backups.fleet({host: _said(answers.get(host), host in present) for host in asked})
    found = {"stack": stack, "at": _now(), **found, "retcode": int(found["state"] != backups.OK)}
    if _asked_by_a_person():
        print(backups.table(found))
        return {"retcode": found["retcode"]}
    return found


def _asked_by_a_person():
    """Whether ``salt-run`` itself was told this function, and not how to print what it returns.

    In an orchestration ``fun`` is the orchestration's; through an API or a reactor there is none.
    """
    return __opts__.get("fun") == "openhim_dr.status" and not __opts__.get("output")


def _said(answer, present):
    """What a host says of its backups, or why that is not known."""
    if answer is None:
        why = "it is there, and did not answer in time" if present else "its minion does not answer"
        return {"state": backups.UNKNOWN, "reasons": [why]}
    if answer["retcode"] or not isinstance(answer["ret"], dict):
        return {"state": backups.UNKNOWN, "reasons": [str(answer["ret"])]}
    return answer["ret"]


def history(stack):
    """
    The recovery record of a stack: every epoch, the oldest first.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.history stack=example
    """
    try:
        return [
            {
                **epoch.overlay(),
                "declared_by": epoch.declared_by,
                "reason": epoch.reason,
                "declared_at": epoch.declared_at,
                "result": epoch.result,
                "completed_at": epoch.completed_at,
            }
            for epoch in record.history(stack, _directory())
        ]
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _failover_plan(request):
    pillar = _declaration(request.confirm)
    stack = settings.from_pillar(pillar)
    epoch = record.current(stack.name, _directory())
    if request.to_site not in stack.sites:
        raise Refused(
            f"to_site: found {request.to_site!r}; declared sites are "
            f"{', '.join(sorted(stack.sites))}"
        )
    overlay = failover.overlay(stack, request, epoch)
    target = settings.from_pillar(_with_overlay(pillar, overlay))
    sightings = _sightings(stack)
    verdict = failover.verdict(stack, target, request, sightings, epoch)
    return {
        "refusals": list(verdict.refusals),
        "unseen": list(verdict.unseen),
        "lost_sites": list(verdict.lost_sites),
        "promote": dict(verdict.promote),
        "hosts": list(verdict.hosts),
        "cores": list(verdict.cores),
        "bundled_by": _who_stores_the_start_bundle(target, verdict.lost_sites),
        "resume": verdict.resume,
        "parent": epoch.id if epoch else None,
        "overlay": overlay,
        "sightings": {s.host: dict(s.members) for s in sightings if s.answered},
    }


def _who_stores_the_start_bundle(stack, lost_sites):
    """The hosts whose start bundle must know of a recovery; none where none is declared."""
    if not (stack.declared.get("backup") or {}).get("bundle"):
        return []
    return [host.id for host in stack.hosts_with("master") if host.site not in lost_sites]


def _directory():
    """Where the external pillar reads the recovery records, and so where they are written."""
    for entry in __opts__.get("ext_pillar") or []:
        if "openhim_recovery" in entry:
            return entry["openhim_recovery"] or record.DIRECTORY
    raise Refused(
        "the master's ext_pillar has no openhim_recovery, so its hosts would never learn of a "
        f"recovery; configure ext_pillar: [{{openhim_recovery: {record.DIRECTORY}}}]"
    )


def _declaration(stack, parameter="confirm"):
    """The pillar that declares a stack, as its hosts get it, without their secrets' use.

    parameter: as which the person gave the stack's name.
    """
    opts = __opts__
    for minion_id in sorted(salt.utils.minions.CkMinions(opts).check_minions("*")["minions"]):
        _, grains, _ = salt.utils.minions.get_minion_data(minion_id, opts)
        pillar = salt.pillar.Pillar(opts, grains or {"id": minion_id}, minion_id, "base")
        found = pillar.compile_pillar()
        if (found.get("openhim") or {}).get("stack") == stack:
            schema.require(found)
            return found
    raise Refused(
        f"{parameter}: found {stack!r}; no accepted minion's pillar declares a stack of that name. "
        "Type the stack's name (openhim:stack)."
    )


def _with_overlay(pillar, overlay):
    return {**pillar, "openhim": {**pillar["openhim"], "recovery": overlay}}


def _sightings(stack):
    asked = sorted(
        host.id for host in stack.hosts.values() if set(host.roles) & {"mongodb", "core"}
    )
    present = sorted(_cmd(asked, "test.ping", [], PING_TIMEOUT))
    answers = _cmd(present, "openhim_dr.sighting", [], ANSWER_TIMEOUT) if present else {}
    return [_sighting(host, host in present, answers.get(host)) for host in asked]


def _sighting(host, present, answer):
    if not present:
        return failover.Sighting(host, answered=False)
    if answer is None:
        raise Refused(
            f"{host} is there, but did not say within {ANSWER_TIMEOUT} s what it sees; ask again"
        )
    if answer["retcode"] or not isinstance(answer["ret"], dict):
        # It answered that it cannot tell. That is not "no answer", and not "nothing there".
        raise Refused(f"{host} answers, but cannot say what it sees: {answer['ret']}")
    seen = answer["ret"]
    return failover.Sighting(host, True, seen["members"], seen["core_running"])


def _traces(target, sightings):
    """What the survivor of each set has of a promotion; a host that does not answer has no say."""
    present = {sighting.host for sighting in sightings if sighting.answered}
    survivors = {name: rs.initiator.host.id for name, rs in sorted(target.replica_sets.items())}
    return {
        name: failover.Traces(**_ask([host], "openhim_dr.traces", [name])[host])
        for name, host in survivors.items()
        if host in present
    }


def _ask(hosts, function, arguments=(), timeout=ANSWER_TIMEOUT):
    """What every one of ``hosts`` answers; raises when one does not, or answers an error."""
    answers = _cmd(hosts, function, list(arguments), timeout)
    for host in hosts:
        if host not in answers:
            raise OpenHIMError(f"{host} gave no answer to {function} within {timeout} s")
        if answers[host]["retcode"]:
            raise OpenHIMError(f"{host}: {function}: {answers[host]['ret']}")
    return {host: answers[host]["ret"] for host in hosts}


def _cmd(hosts, function, arguments, timeout):
    """What each host answers within ``timeout`` seconds; those that do not are left out.

    Returns as soon as all have answered. ``LocalClient.cmd`` would look for the jobs of the silent
    ones again and again, which costs as long as the disaster has hosts.
    """
    answers = {}
    with salt.client.get_local_client(mopts=__opts__) as client:
        job = client.run_job(hosts, function, arguments, tgt_type="list", listen=True)
        deadline = time.monotonic() + timeout
        while job and len(answers) < len(hosts) and (left := deadline - time.monotonic()) > 0:
            event = client.event.get_event(
                wait=left, tag=f"salt/job/{job['jid']}/ret/", match_type="startswith"
            )
            if event:
                answers[event["id"]] = {"ret": event["return"], "retcode": event["retcode"]}
    return answers


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
