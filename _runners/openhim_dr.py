"""
Disaster recovery across the fleet
==================================

What only the master can do: ask every host live, decide, and keep the recovery record. The steps of
a recovery are in the state tree (``orch.failover``); this runner gives them their facts.

Every function raises when the answer is no, because in an orchestration only an exception fails
everywhere.
"""

import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from salt.exceptions import CommandExecutionError
from saltext.openhim import advance, bystanders, completion, evidence, fleet, record, settings
from saltext.openhim.backup import schedule
from saltext.openhim.backup import status as backups
from saltext.openhim.cut_over import declared as cut_over
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.fleet import ANSWER_TIMEOUT
from saltext.openhim.recovery import layout, steps, withdrawal
from saltext.openhim.recovery import preflight as judged
from saltext.openhim.recovery.answers import Done, Refusal
from saltext.openhim.recovery.epochs import plain
from saltext.openhim.recovery.figures import after_an_election, figures, moment
from saltext.openhim.recovery.verdicts import Force, Request, verdict

log = logging.getLogger(__name__)

#: Seconds after which a refresh of a host's pillar is asked for again.
REFRESH_TIMEOUT = 15

#: Seconds between two such looks: one at hosts that the master does not know takes no time at all.
PAUSE = 1

#: Seconds by which two hosts' clocks may differ and both count as right.
CLOCK_DIFFERENCE = 1

#: Seconds that a host has for a look at all its repositories.
STATUS_TIMEOUT = 300


def failover_plan(
    to_site="", confirm="", reason="", declared_by="", disrupted_at=None, attest=None, force=None
):
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

    attest
        Site → how somebody knows that it is off, and that it stays off until the recovery is done;
        for each site of which a host is silent. It is recorded with the person who declares.

    force
        ``confirm``: the stack's name once more, and ``primary``: the name of the healthy primary,
        if there is one. It overrules those reasons that cost data only, and is recorded.

    Returns the reasons against it (``refusals``), the hosts that gave no answer (``unseen``), and
    the plan.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_plan to_site=south confirm=example reason=fire \
            declared_by=Ada attest='{"north": "its power is cut, seen by Ada"}'
    """
    asked = (to_site, confirm, reason, declared_by)
    return _plan("failover", *asked, disrupted_at=disrupted_at, attest=attest, force=force)


def failover_declare(
    to_site,
    confirm,
    reason,
    declared_by,
    disrupted_at=None,
    attest=None,
    force=None,
    silent=(),
    planned_within=0,
):
    """
    Write the decision into the recovery record, once it is allowed. A failover that was declared
    and not concluded is continued: no second epoch is declared for it.

    silent
        Hosts that were silent when :py:func:`failover_plan` asked a moment ago (its ``unseen``).
        They are asked again, and not waited for again.

    planned_within
        Seconds. Evidence that this same process began to gather so short a time ago counts, and
        nobody is asked again: for an orchestration that has planned, and declares at once.
        :py:func:`secure` asks everybody again before anything is promoted.

    Other parameters as in :py:func:`failover_plan`.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.failover_declare to_site=south confirm=example reason=fire \
            declared_by=Ada attest='{"north": "its power is cut, seen by Ada"}'
    """
    return _declare(
        *("failover", to_site, confirm, reason, declared_by),
        disrupted_at=disrupted_at,
        attest=attest,
        force=force,
        silent=silent,
        planned_within=planned_within,
    )


def move_plan(
    verb="", to_site="", confirm="", reason="", declared_by="", disrupted_at=None, force=None
):
    """
    May OpenHIM move to another site in order, and what would be done? Nothing is given up: every
    host must be there and well. Asks every declared host live and changes nothing.

    verb
        ``switchover``, or ``failback`` to a site that was given up before.

    to_site, confirm, reason, declared_by, force
        As in :py:func:`failover_plan`.

    disrupted_at
        Left out: a planned move is disrupted when OpenHIM is stopped for it.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.move_plan verb=switchover to_site=south confirm=example \\
            reason='work on the power supply' declared_by=Ada
    """
    if verb not in _MOVES:
        return {"refusals": [f"verb: found {verb!r}; it is one of {', '.join(_MOVES)}"]}
    asked = (to_site, confirm, reason, declared_by)
    return _plan(verb, *asked, disrupted_at=disrupted_at, force=force)


def move_declare(verb, to_site, confirm, reason, declared_by, disrupted_at=None, force=None):
    """
    Write the decision on a planned move into the recovery record, once it is allowed. Parameters as
    in :py:func:`move_plan`. One that was declared and not completed is continued.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.move_declare verb=failback to_site=north confirm=example \\
            reason='north is well again' declared_by=Ada
    """
    if verb not in _MOVES:
        raise CommandExecutionError(f"verb: found {verb!r}; it is one of {', '.join(_MOVES)}")
    asked = (to_site, confirm, reason, declared_by)
    return _declare(verb, *asked, disrupted_at=disrupted_at, force=force)


def core_plan(
    to_site="", confirm="", reason="", declared_by="", host="", disrupted_at=None, attest=None
):
    """
    May OpenHIM alone move to another host now, and what would be done? MongoDB has a primary, and
    keeps it: it elected one by itself, or never lost it. Asks every declared host live and changes
    nothing.

    to_site
        The site where OpenHIM should run. At the active site itself nothing is put on record: what
        is real stays as it was.

    host
        On which host of the site; the one with a core when left out.

    confirm, reason, declared_by, disrupted_at, attest
        As in :py:func:`failover_plan`.

    Returns as :py:func:`failover_plan`, and ``in_place``: whether the active site stays.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.core_plan to_site=south confirm=example reason='north lost power' \
            declared_by=Ada attest='{"north": "its power is cut, seen by Ada"}'
    """
    asked = (to_site, confirm, reason, declared_by)
    return _plan("core", *asked, disrupted_at=disrupted_at, attest=attest, host=host)


def core_declare(
    to_site, confirm, reason, declared_by, host="", disrupted_at=None, attest=None, silent=()
):
    """
    Write the decision that OpenHIM alone moves into the recovery record, once it is allowed.
    Parameters as in :py:func:`core_plan`, ``silent`` as in :py:func:`failover_declare`. One that
    was declared and not completed is continued. At the active site itself it is only judged once
    more; there is nothing to record.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.core_declare to_site=south confirm=example reason='north lost power' \
            declared_by=Ada attest='{"north": "its power is cut, seen by Ada"}'
    """
    return _declare(
        *("core", to_site, confirm, reason, declared_by),
        disrupted_at=disrupted_at,
        attest=attest,
        host=host,
        silent=silent,
    )


def rejoin_plan(site="", confirm="", reason="", declared_by="", resync=False):
    """
    May a site that was given up belong to the stack again, and what would be done? Asks every
    declared host live and changes nothing, but for a host whose members are stopped: to see where
    their history ends, a mongod is started on their data for some seconds, which nobody else
    reaches.

    site
        The site that is back.

    confirm
        The stack's name, typed out.

    reason, declared_by
        For the recovery record.

    resync
        Whether a member that has writes which did not survive may begin anew. Its data is kept
        aside.

    Returns the reasons against it (``refusals``), and the plan.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rejoin_plan site=north confirm=example reason='it is back' \\
            declared_by=Ada
    """
    try:
        asked, request = _rejoin(site, confirm, reason, declared_by, resync)
        seen = evidence.gather(asked)
        answer = steps.next_step(request, seen)
        judged_now = verdict(seen, request).reasons
        if isinstance(answer, Refusal) or judged_now:
            reasons = answer.reasons if isinstance(answer, Refusal) else judged_now
            return {"refusals": list(reasons), "unseen": list(seen.unheard)}
        newest = asked.history[-1] if asked.history else None
        lost = [one for one in (newest.still_lost if newest else ()) if one != site]
        profile = asked.pillar["openhim"].get("profile", "production")
        overlay = {**newest.overlay(), "profile": profile, "lost_sites": lost} if newest else {}
        served = [h for h, at in seen.layout.hosts if at not in lost and h in seen.heard]
        return {
            "refusals": [],
            "unseen": list(seen.unheard),
            "hosts": served,
            "lost_by": _lost_by(asked.history, site),
            "diverged": [r.host for r in seen.reports if r.site == site and r.diverged],
            "fenced": [r.host for r in seen.reports if r.site == site and r.fenced],
            "overlay": overlay,
            **bystanders.afterwards(__opts__, asked.now, lost, served),
            **_seen(seen),
        }
    except OpenHIMError as error:
        return {"refusals": [str(error)]}


def _lost_by(history, site):
    """The number of the failover that gave a site up; None where it was none."""
    lost = [one.number for one in history if one.kind == "failover" and site in one.lost_sites]
    return lost[-1] if lost else None


def rejoin_prepare(site, confirm, reason, declared_by, resync=False):
    """
    Let a site that is back belong to the stack again, up to the point where its services may start:
    its hosts are told of the recovery, data that left the history is kept aside, the rejoin is
    noted on record, the fences are lifted and the gates opened. Parameters as in
    :py:func:`rejoin_plan`.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rejoin_prepare site=north confirm=example reason='it is back' \\
            declared_by=Ada resync=True
    """
    return _rejoined(site, confirm, reason, declared_by, resync, patience=None)


def rejoin_finish(site, confirm, reason, declared_by, resync=False, timeout=3600):
    """
    Wait until the members of a site that rejoined have all writes. Parameters as in
    :py:func:`rejoin_plan`.

    timeout
        Seconds to wait; it can be run again, for as long as a member copies.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rejoin_finish site=north confirm=example reason='it is back' \\
            declared_by=Ada
    """
    return _rejoined(site, confirm, reason, declared_by, resync, patience=timeout)


def secure(
    verb,
    to_site,
    confirm,
    reason="",
    declared_by="",
    attest=None,
    disrupted_at=None,
    force=None,
    host="",
    timeout=300,
    silent=(),
):
    """
    See to it that no other site takes writes: every host that answers is told of the recovery,
    OpenHIM stops elsewhere, what was given up is fenced, or, if it is silent, switched off by its
    provider (``openhim:fencing:power_off``), and each other site is proven closed, by its hosts or
    by what is attested. Where the primary hands over, its successor catches up.

    verb
        The recovery that is on record: ``failover``, ``core``, ``switchover`` or ``failback``.

    timeout
        Seconds to wait for what only time brings.

    silent
        As in :py:func:`failover_declare`. Without another proof of theirs nothing is promoted.

    Other parameters as in :py:func:`failover_plan`; ``disrupted_at``, ``force`` and ``host`` are
    not looked at again. Returns what was done. Raises, with every reason, while there is no proof:
    nothing is promoted then.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.secure verb=failover to_site=south confirm=example reason=fire \
            declared_by=Ada
    """
    try:
        asked = evidence.question(__opts__, confirm)
        request = Request(verb, to_site, confirm, reason, declared_by)
        newest = asked.history[-1] if asked.history else None
        if newest is None or newest.active_site != to_site or newest.completed_at:
            raise Refused(f"no {verb} to {to_site} is under way on record; declare it first")
        _note_attestations(asked, request, _attested(asked, attest, declared_by, to_site))
        mine = (steps.TELL, steps.CLOSE, steps.FENCE, steps.POWER_OFF)
        asked = replace(evidence.reread(asked), silent=tuple(silent))
        answer, seen, run = advance.advance(asked, request, mine, timeout)
        for reason, seconds in run.waited.items():
            step, seconds = f"waited until it was over: {reason}", round(seconds, 3)
            record.reached(confirm, newest.id, step, _now(), asked.directory, waited=seconds)
        return {
            "done": run.done,
            "waited": run.waited,
            "next": getattr(answer, "name", str(answer)),
            **_seen(seen),
        }
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def tell(stack, hosts=None, timeout=60, step=""):
    """
    See to it that hosts know the newest epoch: they write the recovery record down, and their
    pillar is refreshed, and then read back.

    stack
        The stack's name.

    hosts
        The minions that must know it; all with a database or OpenHIM that answer when left out.

    timeout
        Seconds until all of them must.

    step
        What is done then, in words, for the timeline of the recovery that is under way; nothing is
        noted when left out.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.tell stack=example hosts='[south-core, south-db1]'
    """
    try:
        known = record.history(stack, _directory())
        if not known:
            raise Refused(f"no recovery of {stack!r} is on record; there is nothing to know")
        found = _known(known, hosts if hosts is not None else _who_answers(stack), timeout)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if step:
        _noted(stack, known[-1], step)
    return found


def withdraw(confirm, reason, declared_by):
    """
    Take a recovery back that was declared and then refused: the stack is again what it was before.
    Refuses once a member was promoted, because then the new history has begun.

    confirm
        The stack's name, typed out.

    reason
        Why, for the recovery record.

    declared_by
        Who takes it back.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.withdraw confirm=example reason='north is back' declared_by=Ada
    """
    try:
        asked = evidence.question(__opts__, confirm)
        known = asked.history
        problem = withdrawal.not_under_way(known)
        if problem:
            raise Refused(problem)
        before = withdrawal.before(asked.pillar["openhim"], known)
        earlier = settings.from_pillar(fleet.with_overlay(asked.pillar, before))
        seen = evidence.gather(asked)
        traces = _traces(asked.now, seen)
        problem = withdrawal.problem(earlier, asked.now, known, seen, traces)
        if problem:
            raise Refused(problem)
        epoch = record.declare(
            confirm,
            asked.directory,
            parent=known[-1].id,
            kind="withdrawal",
            declared_by=declared_by,
            reason=reason,
            declared_at=_now(),
            witnesses=layout.reality(seen.layout, known[-2] if known[1:] else None).witnesses,
            **before,
        )
        records = plain(record.history(confirm, asked.directory))
        _cmd(sorted(seen.heard), "openhim_dr.tell", [records], ANSWER_TIMEOUT)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return epoch.overlay()


def conclude(stack):
    """
    Prove that OpenHIM serves (a synthetic transaction, found again in MongoDB), measure RPO and
    RTO, and write them into the recovery record.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.conclude stack=example
    """
    try:
        asked = evidence.question(__opts__, stack, parameter="stack")
        epoch = asked.history[-1] if asked.history else None
        if epoch is None or epoch.kind not in _CONCLUDED:
            raise Refused(f"no recovery of {stack!r} that could be concluded is on record")
        if epoch.result is not None:
            return dict(epoch.result)
        cores = [h.id for h in asked.now.hosts_with("core", epoch.active_site)]
        cores = [epoch.evidence["host"]] if epoch.evidence.get("host") else cores
        served = {core: _ask([core], "openhim.synthetic", timeout=60)[core] for core in cores}
        result = {
            **_CONCLUDED[epoch.kind](asked.now, epoch, _now()),
            "waited_seconds": epoch.waited,
            "epoch": epoch.number,
            "active_site": epoch.active_site,
            "synthetic": served,
        }
        return dict(record.conclude(stack, epoch.id, result, asked.directory).result)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def reached(stack, step):
    """
    Note that a step of the recovery that is under way is done, and when. The orchestrations do it
    after each step; the time of the first run counts, and is what a later one returns.

    stack
        The stack's name.

    step
        What is done, in words.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.reached example 'OpenHIM serves at south'
    """
    try:
        if not str(step or "").strip():
            raise Refused(f"step: found {step!r}; say what is done")
        epoch = record.current(stack, _directory())
        if epoch is None or epoch.completed_at:
            raise Refused(f"no recovery of {stack!r} is under way on record")
        at = record.reached(stack, epoch.id, str(step), _now(), _directory())
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return {"epoch": epoch.number, "step": str(step), "at": at}


def complete(stack):
    """
    Mark the newest recovery as done to its last step (every host that is left has confirmed it), in
    the record of the master and of every host that answers, which then has the results and the
    times of all steps.

    stack
        The stack's name.

    Returns ``completed_at``, ``told`` (hosts) and ``not_told`` (host → why not).

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.complete stack=example
    """
    try:
        epoch = record.current(stack, _directory())
        if epoch is None or epoch.kind not in _CONCLUDED or epoch.result is None:
            raise Refused(f"the newest recovery of {stack!r} is none that serves")
        return completion.complete(__opts__, stack, epoch.id)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


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
        present = sorted(fleet.present(__opts__, asked))
        answers = _cmd(present, "openhim_backup.status", [], STATUS_TIMEOUT) if present else {}
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    found = backups.fleet({host: _said(answers.get(host), host in present) for host in asked})
    found = {"stack": stack, "at": _now(), **found, "retcode": int(found["state"] != backups.OK)}
    if _asked_by_a_person("status"):
        print(backups.table(found))
        return {"retcode": found["retcode"]}
    return found


def preflight(stack, repositories=True):
    """
    What could be done now, and what speaks against it: every host is asked live what it sees of the
    others, and every verb is judged at every site. Changes nothing.

    stack
        The stack's name.

    repositories
        Whether the hosts look at the backup repositories too, which takes some seconds.

    A person at ``salt-run`` sees a table. With ``--out=json``, and for whoever else calls it, it
    returns ``hosts``, ``members``, ``cores`` and ``repositories`` with what is seen of them from
    where, ``silent``, and ``verdicts``: for each verb and site whether it is allowed or every
    reason why not, the RPO as it is estimated and the RTO as it was measured before.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.preflight example
        salt-run openhim_dr.preflight stack=example --out=json
    """
    try:
        asked = evidence.question(__opts__, stack, parameter="stack")
        asked = replace(asked, sites=tuple(asked.now.sites), power=True)
        found = judged.found(evidence.gather(asked, repositories), _now())
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if _asked_by_a_person("preflight"):
        print(judged.table(found))
        return {"retcode": 0}
    return found


def _asked_by_a_person(function):
    """Whether ``salt-run`` itself was told this function, and not how to print what it returns.

    In an orchestration ``fun`` is the orchestration's; through an API or a reactor there is none.
    """
    return __opts__.get("fun") == f"openhim_dr.{function}" and not __opts__.get("output")


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
                "attestations": list(epoch.attestations),
                "power_offs": list(epoch.power_offs),
                "rejoins": list(epoch.rejoins),
                "timeline": list(epoch.timeline),
            }
            for epoch in record.history(stack, _directory())
        ]
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _plan(
    verb,
    to_site,
    confirm,
    reason,
    declared_by,
    *,
    disrupted_at=None,
    attest=None,
    force=None,
    declaring=False,
    host="",
    silent=(),
    planned_within=0,
):
    try:
        if disrupted_at is not None:
            moment(disrupted_at, "disrupted_at")
        asked = evidence.question(__opts__, confirm)
        words = _attested(asked, attest, declared_by, to_site)
        sites = (to_site,) if verb == "failback" else ()
        power = verb in ("failover", "core")
        asked = replace(
            asked, attestations=tuple(words), sites=sites, power=power, silent=tuple(silent)
        )
        forced = Force(**force) if force else None
        if verb == "core":
            host = _host_of(asked, to_site, host)
        request = Request(verb, to_site, confirm, reason, declared_by, host=host, force=forced)
        remember = not __opts__.get("test")
        if planned_within:
            seen = evidence.of_just_now(asked, planned_within, remember)
        else:
            seen = evidence.gather(asked, remember=remember)
        return {**_planned(asked, request, seen, declaring), "attested": words}
    except (OpenHIMError, TypeError) as error:
        # A question deserves an answer, not a traceback: what cannot be planned is refused.
        return {"refusals": [str(error)]}


def _planned(asked, request, seen, declaring):
    """What the model says to a request, and what the orchestration does by it.

    declaring: whether only the decision is wanted. Time counts then, and to see which bystanders
    are there takes some, where one is silent.
    """
    answer = steps.next_step(request, seen)
    if isinstance(answer, Refusal):
        return {"refusals": list(answer.reasons), "unseen": list(seen.unheard)}
    if isinstance(answer, Done):
        return {"refusals": [f"{answer.what}: there is nothing to do"], "unseen": []}
    own = steps.own_epoch(request, seen)
    in_place = own is None and answer.name != steps.MINT
    overlay = own.overlay() if own else _foreseen(asked, request, seen, answer)
    lost = overlay.get("lost_sites", [])
    target = settings.from_pillar(fleet.with_overlay(asked.pillar, overlay))
    hosts = [host for host, site in seen.layout.hosts if site not in lost]
    heard = [host for host in hosts if host in seen.heard]
    with_members = {m.host for m in seen.layout.members}
    judged_now = verdict(seen, request)
    return {
        "refusals": [],
        "unseen": list(seen.unheard),
        "in_place": in_place,
        "lost_sites": lost,
        "promote": {name: rs.initiator.host.id for name, rs in sorted(target.replica_sets.items())},
        "hosts": heard,
        "cores": [request.host] if request.host else list(seen.layout.cores_at(request.site)),
        "handing_over": sorted(with_members & set(hosts)),
        "counted": sorted(with_members & set(heard)),
        **({} if declaring else bystanders.afterwards(__opts__, target, lost, heard)),
        "leads_clients": cut_over.is_declared(asked.pillar),
        "resume": own.id if own else None,
        "parent": seen.reality.epoch,
        "overlay": overlay,
        "overruled": [] if own else list(judged_now.overruled),
        "witnesses": list(_witnesses(request, seen)),
        "wait_seconds": round(judged_now.wait, 1),
        "rpo": judged.estimated_rpo(seen, request),
        "rto": judged.forecast_rto(asked.history, request.verb),
        **_seen(seen),
    }


def _witnesses(request, seen):
    """Who lengthens the lease of the next epoch: one that is there, and at another site.

    After a failover nobody: it leaves a reduced environment, and a witness that goes must not take
    that along. The next planned move declares the lease again.
    """
    if request.verb not in _MOVES:
        return ()
    at = {report.host: report.site for report in seen.heard.values()}
    return tuple(w for w in seen.layout.witnesses if at.get(w, request.site) != request.site)


def _host_of(asked, site, host):
    """Where OpenHIM is to run: as it is asked for, or the only one of the site that may run it."""
    there = evidence.declared_layout(asked).cores_at(site)
    return host or (there[0] if len(there) == 1 else "")


def _foreseen(asked, request, seen, answer):
    """What the next epoch would lay over the declaration; its ID nobody knows yet. Without a next
    one, what the newest lays over it."""
    newest = seen.known.current
    if answer.name != steps.MINT:
        return newest.overlay() if newest else {}
    declared = asked.pillar["openhim"].get("profile", "production")
    return {
        "epoch": (newest.number if newest else 0) + 1,
        "kind": request.verb,
        "active_site": request.site,
        "profile": "reduced" if request.verb == "failover" else declared,
        "lost_sites": [site for site in answer.details["lost_sites"].split(",") if site],
    }


def _seen(found):
    """What was seen, in words that a record keeps."""
    return {
        "members": {name: one.words for name, one in found.members.items()},
        "openhim": {name: one.words for name, one in found.cores.items()},
    }


def _declare(verb, to_site, confirm, reason, declared_by, *, disrupted_at=None, **more):
    asked = (to_site, confirm, reason, declared_by)
    plan = _plan(verb, *asked, declaring=True, disrupted_at=disrupted_at, **more)
    if plan["refusals"]:
        raise CommandExecutionError(f"the {verb} is refused:\n" + "\n".join(plan["refusals"]))
    overlay = plan["overlay"]
    if plan["resume"]:
        return {"epoch": overlay["epoch"], "resumed": True}
    if plan["in_place"]:
        return {"epoch": overlay.get("epoch"), "resumed": False, "in_place": True}
    kept = ("unseen", "members", "openhim", "overruled", "rpo")
    chosen = {"host": plan["cores"][0]} if verb == "core" else {}
    try:
        epoch = record.declare(
            confirm,
            _directory(),
            parent=plan["parent"],
            kind=verb,
            active_site=to_site,
            profile=overlay["profile"],
            lost_sites=overlay["lost_sites"],
            declared_by=declared_by,
            reason=reason,
            declared_at=_now(),
            disrupted_at=disrupted_at,
            evidence={**{key: plan[key] for key in kept}, **chosen},
            attestations=tuple(plan["attested"]),
            witnesses=tuple(plan["witnesses"]),
        )
        seen = fleet.declaration(__opts__, confirm)["openhim"].get("recovery", {})
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if seen.get("epoch") != epoch.number:
        raise CommandExecutionError(
            f"epoch {epoch.number} is on record, but the hosts' pillar says {seen.get('epoch')}: "
            "see that the external pillar openhim_recovery loads (salt-run saltutil.sync_all)"
        )
    return {"epoch": epoch.number, "resumed": False}


def _attested(asked, attest, by, to_site):
    """What somebody attests of sites, each with who and when; refuses what cannot be one."""
    if not attest:
        return []
    sites = [site for site in sorted(asked.now.sites) if site != to_site]
    if not isinstance(attest, dict):
        raise Refused(
            f"attest: found {attest!r}; a mapping from a site to how it is known that it is off is "
            'needed, such as {"north": "its power is cut, seen by Ada"}'
        )
    for site, words in attest.items():
        if site not in sites:
            raise Refused(f"attest: found {site!r}; those that can be off are {', '.join(sites)}")
        if not isinstance(words, str) or not words.strip():
            raise Refused(f"attest: {site}: found {words!r}; say how it is known that it is off")
    if not by.strip():
        raise Refused("attest: somebody must answer for it; say who in declared_by")
    return [
        {"site": site, "words": words, "by": by, "at": _now()} for site, words in attest.items()
    ]


def _note_attestations(asked, request, words):
    """A word that is given when a recovery is run again belongs to that recovery."""
    newest = asked.history[-1] if asked.history else None
    if words and newest and newest.kind == request.verb and newest.active_site == request.site:
        record.attest(asked.now.name, newest.id, words, asked.directory)


def _loss_of_a_failover(stack, epoch, served_at):
    """What was lost, by the record that each promotion left."""
    promoted = {}
    for name, replica_set in sorted(stack.replica_sets.items()):
        host = replica_set.initiator.host.id
        promoted[name] = _ask([host], "mongodb_replset.promotion", [name])[host]
    kept = [facts["survived_until"] for facts in promoted.values()]
    found = figures(epoch.disrupted_at, epoch.declared_at, served_at, kept)
    return {**found, "promotion": promoted}


def _loss_of_a_move(stack, epoch, served_at):
    """Nothing, if the new primary has the last entry that the old one had; and how long it took."""
    hosts = sorted(h.id for h in stack.hosts_with("mongodb"))
    cores = [h.id for h in stack.hosts_with("core") if h.site != epoch.active_site]
    stops = [one for one in _ask(cores, "openhim_dr.stopped_at").values() if one]
    # One of an earlier recovery says nothing about this one. The hosts' clocks say when they
    # stopped and ours when it was declared; those may differ by so much (openhim:clock).
    begun = moment(epoch.declared_at, "declared_at") - timedelta(seconds=CLOCK_DIFFERENCE)
    stops = [one for one in stops if moment(one, "stopped_at") >= begun]
    kept = {}
    for name, replica_set in sorted(stack.replica_sets.items()):
        noted = {
            host: where
            for host in hosts
            if replica_set.member_on(host)
            and (where := _ask([host], "openhim_dr.handed_over", [name])[host])
            and where["epoch"] == epoch.id
        }
        leader = replica_set.initiator.host.id
        kept[name] = _ask([leader], "openhim_dr.has_writes", [name, noted])[leader]
    stopped = max(stops, default=None)
    found = figures(stopped, epoch.declared_at, served_at, [])
    found["notes"] = []
    if not all(kept.values()):
        found["notes"].append("RPO is not known: nobody noted where the old primary's oplog ended")
    elif all(has for of_set in kept.values() for has in of_set.values()):
        found["rpo_seconds"] = 0.0
        found["notes"].append("the new primaries have the last entry that the old ones had")
    else:
        found["notes"].append("RPO is not known: an entry of the old primary is not in the new one")
    return {**found, "handed_over": kept}


def _loss_of_an_election(stack, epoch, served_at):
    """What every member has that can be asked, against its set's primary."""
    asked = evidence.question(__opts__, stack.name)
    seen = evidence.gather(asked, remember=False)
    found = evidence.histories(replace(asked, sites=tuple(stack.sites)), seen)
    compared = {m.name: found.get(m.host, {}).get(m.set) for m in seen.layout.members}
    return after_an_election(epoch.disrupted_at, epoch.declared_at, served_at, compared)


#: The planned moves: nothing is given up.
_MOVES = ("switchover", "failback")

#: How each recovery that ends with a transaction is measured.
_CONCLUDED = {
    "failover": _loss_of_a_failover,
    "core": _loss_of_an_election,
    **dict.fromkeys(_MOVES, _loss_of_a_move),
}


def _rejoin(site, confirm, reason, declared_by, resync):
    asked = evidence.question(__opts__, confirm)
    for name, value in (("reason", reason), ("declared_by", declared_by)):
        if not str(value).strip():
            raise Refused(f"{name}: found nothing; it goes into the recovery record, say it")
    request = Request("rejoin", site, confirm, reason, declared_by, resync=bool(resync))
    return replace(asked, sites=(site,), stopped=True), request


def _rejoined(site, confirm, reason, declared_by, resync, patience):
    mine = (steps.TELL, steps.KEEP, steps.UNFENCE, steps.OPEN)
    try:
        asked, request = _rejoin(site, confirm, reason, declared_by, resync)
        answer, _, run = advance.advance(asked, request, mine, patience)
        return {"done": run.done, "next": getattr(answer, "reason", getattr(answer, "what", ""))}
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _who_answers(stack):
    now = evidence.question(__opts__, stack, parameter="stack").now
    asked = [h.id for h in now.hosts.values() if set(h.roles) & {"mongodb", "core"}]
    return sorted(fleet.present(__opts__, asked))


def _known(known, hosts, timeout):
    """Each host → the epoch of its pillar, once it is the newest and the record is written down."""
    newest, records = known[-1], plain(known)
    deadline = time.monotonic() + timeout
    found, silent = dict.fromkeys(hosts), set(hosts)
    while behind := sorted(host for host, number in found.items() if number != newest.number):
        if time.monotonic() >= deadline:
            told = ", ".join(
                f"{host} ({'no answer' if host in silent else f'epoch {found[host]}'})"
                for host in behind
            )
            raise OpenHIMError(
                f"epoch {newest.number} is on record, and {timeout} s later these hosts don't "
                f"have it in their pillar: {told}. See what keeps them from it (salt-call "
                "pillar.items there, and the master's log), then run this again"
            )
        written = _cmd(behind, "openhim_dr.tell", [records], ANSWER_TIMEOUT)
        # It says True even when the refresh did not end in time, so what it did is read back.
        _cmd(behind, "saltutil.refresh_pillar", [True, REFRESH_TIMEOUT], ANSWER_TIMEOUT)
        answers = _cmd(behind, "openhim_dr.epoch", [], ANSWER_TIMEOUT)
        wrote = {host for host, one in written.items() if not one["retcode"]}
        found.update({h: a["ret"] for h, a in answers.items() if not a["retcode"] and h in wrote})
        silent = set(behind) - set(answers)
        if any(found[host] != newest.number for host in behind):
            time.sleep(PAUSE)
    return found


def _noted(stack, epoch, step):
    """A note that cannot be made ends no recovery."""
    try:
        record.reached(stack, epoch.id, step, _now(), _directory())
    except (OpenHIMError, OSError) as error:
        log.warning("%s: not noted in epoch %s: %s", step, epoch.number, error)


def _directory():
    return fleet.directory(__opts__)


def _declaration(stack, parameter="confirm"):
    return fleet.declaration(__opts__, stack, parameter)


def _traces(target, seen):
    """What the survivor of each set has of a promotion; a host that does not answer has no say."""
    survivors = {name: rs.initiator.host.id for name, rs in sorted(target.replica_sets.items())}
    return {
        name: withdrawal.Traces(**_ask([host], "openhim_dr.traces", [name])[host])
        for name, host in survivors.items()
        if host in seen.heard
    }


def _ask(hosts, function, arguments=(), timeout=ANSWER_TIMEOUT):
    return fleet.ask(__opts__, hosts, function, arguments, timeout)


def _cmd(hosts, function, arguments, timeout):
    return fleet.cmd(__opts__, hosts, function, arguments, timeout)


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
