"""
The rebuild, as the master carries it out
=========================================

A part of the runner ``openhim_dr``: nothing is left but the repositories, and hosts that are
reached by SSH. The steps are in the state tree (``orch.rebuild``); this gives them their facts.

Every function raises when the answer is no, because in an orchestration only an exception fails
everywhere.
"""

import time
from dataclasses import replace
from datetime import datetime, timezone

from salt.exceptions import CommandExecutionError
from saltext.openhim import bare_hosts, bystanders, completion, evidence, fleet, record, settings
from saltext.openhim.backup.to_time import parsed
from saltext.openhim.cut_over import declared as cut_over
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo.status import until
from saltext.openhim.recovery import rebuild, reports
from saltext.openhim.recovery.figures import moment
from saltext.openhim.recovery.verdicts import Point, Request

__virtualname__ = "openhim_dr"

#: Seconds for a host to find a restore point, and the way to a time.
FIND_TIMEOUT = 600
#: Seconds for a refresh of a host's pillar.
REFRESH_TIMEOUT = 15


def __virtual__():
    return __virtualname__


def rebuild_plan(
    to_site="",
    confirm="",
    reason="",
    declared_by="",
    point="latest",
    to_time="",
    repository=None,
    disrupted_at=None,
    attest=None,
    profile="openhim",
):
    """
    May the stack be made anew at a site now, and what would be done? Asks every declared host live
    and changes nothing. Hosts of the site that have no minion yet are taken for empty: they are
    asked before anything is declared.

    to_site
        The site; its hosts are declared (``openhim:hosts``), best as ``standby``.

    confirm
        The stack's name, typed out.

    reason, declared_by
        Why and by whom, for the recovery record.

    point
        ID of a restore point, ``latest`` or ``verified``.

    to_time
        The time whose data is wanted (ISO 8601 with zone, in whole seconds), by the archived oplog.

    repository
        Its name in the pillar; all that the restoring host can open when left out.

    disrupted_at
        When the service was lost (ISO 8601 with zone), if it is known.

    attest
        Site → how it is known that it is off and stays off; for each other site of which a host is
        silent.

    profile
        salt-cloud's profile for hosts without a minion.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rebuild_plan to_site=west confirm=example reason='both sites burnt' \
            declared_by=Ada attest='{"north": "seen by Ada", "south": "seen by Ada"}'
    """
    try:
        _well_formed(point, to_time, disrupted_at)
        asked, aim, epoch = _question(confirm, to_site, declared_by, attest)
        resumed = rebuild.under_way(epoch, to_site)
        refusals = ()
        if not resumed:
            seen = rebuild.with_bare(_gathered(asked, aim, to_site), aim.hosts)
            named = Point(point or "latest", committed=True, passed=True)
            request = Request("rebuild", to_site, confirm, reason, declared_by, point=named)
            refusals = rebuild.reasons(seen, request)
    except OpenHIMError as error:
        # A question deserves an answer, not a traceback: what cannot be planned is refused.
        return {"refusals": [str(error)]}
    others = (asked.now, aim.lost_sites, aim.hosts)
    answering = bystanders.there(__opts__, *others)
    what = to_time or f"the restore point {point!r}"
    return {
        "refusals": list(refusals),
        "resume": resumed,
        "hosts": list(aim.hosts),
        "restored_by": aim.restored_by,
        "cores": list(aim.cores),
        "lost_sites": list(aim.lost_sites),
        "let_in_by": answering,
        "leads_clients": cut_over.is_declared(asked.pillar),
        "what": what,
        "restore": {
            "point": point or "latest",
            "to_time": to_time or None,
            "reason": reason,
            "declared_by": declared_by,
            # A restore of before the decision does not count.
            "since": epoch.declared_at if resumed else _now(),
        },
        **bystanders.afterwards(__opts__, *others, answering),
        "steps": [
            f"give {', '.join(aim.hosts)} a minion by the profile {profile!r}, where none answers",
            f"ask them whether they are empty, and {aim.restored_by} whether {what} is good",
            f"record that {to_site} is the active site, and {', '.join(aim.lost_sites)} is lost",
            "let these hosts in where others serve them (clock, names, firewall)",
            f"set up MongoDB there, and restore {what} on {aim.restored_by}",
            f"start OpenHIM on {', '.join(aim.cores)}, and find a transaction again",
        ],
    }


def rebuild_reach(to_site, confirm, profile="openhim", **_):
    """
    Make a minion of every host of a site that does not answer as one, by salt-cloud.

    to_site, confirm
        The site, and the stack's name.

    profile
        salt-cloud's profile, with the driver saltify.

    Returns what was done, by host. Other parameters of :py:func:`rebuild_plan` are not looked at.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rebuild_reach to_site=west confirm=example
    """
    try:
        pillar = fleet.with_overlay(fleet.declaration(__opts__, confirm), {})
        aim = rebuild.target(pillar, to_site)
        declared = pillar["openhim"]["hosts"]
        addresses = {host: str(declared[host]["address"]) for host in aim.hosts}
        return bare_hosts.reach(__opts__, addresses, profile)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def rebuild_declare(
    to_site,
    confirm,
    reason,
    declared_by,
    point="latest",
    to_time="",
    repository=None,
    disrupted_at=None,
    attest=None,
    profile="openhim",
):
    """
    Write the decision into the recovery record, once it is allowed: the site's hosts answer, are
    empty, and the restore point is finished and did not fail its checks; every other site is off.
    Parameters as in :py:func:`rebuild_plan`. A rebuild that was declared and is not done is
    continued.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rebuild_declare to_site=west confirm=example reason='both sites burnt' \
            declared_by=Ada attest='{"north": "seen by Ada", "south": "seen by Ada"}'
    """
    try:
        _well_formed(point, to_time, disrupted_at)
        asked, aim, epoch = _question(confirm, to_site, declared_by, attest)
        if rebuild.under_way(epoch, to_site):
            return {"epoch": epoch.number, "resumed": True}
        arguments = [point or "latest", repository, to_time or None]
        named = fleet.ask(
            __opts__, [aim.restored_by], "openhim_rebuild.point", arguments, FIND_TIMEOUT
        )[aim.restored_by]
        request = Request(
            "rebuild", to_site, confirm, reason, declared_by, point=rebuild.point(named)
        )
        refusals = rebuild.reasons(_gathered(asked, aim, to_site), request)
        if refusals:
            raise Refused("the rebuild is refused:\n" + "\n".join(refusals))
        epoch = record.declare(
            confirm,
            fleet.directory(__opts__),
            parent=epoch.id if epoch else None,
            kind=rebuild.KIND,
            active_site=to_site,
            profile="reduced",
            lost_sites=list(aim.lost_sites),
            declared_by=declared_by,
            reason=reason,
            declared_at=_now(),
            disrupted_at=disrupted_at,
            evidence={"point": named},
            attestations=asked.attestations,
        )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return {"epoch": epoch.number, "resumed": False, "point": named}


def rebuild_known(stack, hosts, timeout=120):
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

        salt-run openhim_dr.rebuild_known stack=example hosts='[west-core, west-db1]'
    """
    known = dict.fromkeys(hosts)

    def all_know():
        behind = sorted(host for host, number in known.items() if number != epoch.number)
        refresh = [True, REFRESH_TIMEOUT]
        fleet.cmd(__opts__, behind, "saltutil.refresh_pillar", refresh, fleet.ANSWER_TIMEOUT)
        answers = fleet.cmd(__opts__, behind, "openhim_dr.epoch", [], fleet.ANSWER_TIMEOUT)
        known.update({host: one["ret"] for host, one in answers.items() if not one["retcode"]})
        return all(number == epoch.number for number in known.values())

    try:
        epoch = _on_record(stack)
        if not until(all_know, timeout, poll=1):
            raise OpenHIMError(
                f"epoch {epoch.number} is on record, and {timeout} s later hosts have another one "
                f"in their pillar: {known}. See that the external pillar openhim_recovery loads"
            )
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return known


def rebuild_conclude(stack):
    """
    Prove that the rebuilt OpenHIM serves (a synthetic transaction, found again in MongoDB), measure
    RPO and RTO, and write them into the recovery record.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rebuild_conclude stack=example
    """
    try:
        epoch = _on_record(stack)
        if epoch.result is not None:
            return dict(epoch.result)
        aim = rebuild.target(_bare_pillar(stack), epoch.active_site)
        served = fleet.ask(__opts__, list(aim.cores), "openhim.synthetic", timeout=60)
        found = rebuild.result(epoch, _now(), served)
        directory = fleet.directory(__opts__)
        return dict(record.conclude(stack, epoch.id, found, directory).result)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def rebuild_complete(stack):
    """
    Mark the rebuild as done to its last step, in the record of the master and of every host that
    answers.

    stack
        The stack's name.

    Returns ``completed_at``, ``told`` (hosts) and ``not_told`` (host → why not).

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.rebuild_complete stack=example
    """
    try:
        epoch = _on_record(stack)
        if epoch.result is None:
            raise Refused(f"the rebuild of {stack!r} does not serve yet")
        return completion.complete(__opts__, stack, epoch.id)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _question(confirm, to_site, declared_by, attest):
    """What the master knows of the stack, whose hosts at the site are asked like all others; the
    target; and the newest epoch."""
    if attest is not None and not isinstance(attest, dict):
        raise Refused(f"attest: found {attest!r}; expected a mapping: site → how it is known")
    words = [
        {"site": site, "words": str(how), "by": declared_by, "at": _now()}
        for site, how in (attest or {}).items()
        if str(how).strip()
    ]
    found = evidence.question(__opts__, confirm, tuple(words))
    if to_site not in found.now.sites:
        sites = ", ".join(sorted(found.now.sites))
        raise Refused(f"to_site: found {to_site!r}; declared sites are {sites}")
    pillar = fleet.with_overlay(found.pillar, {})
    aim = rebuild.target(pillar, to_site)
    serving = settings.with_standby(found.pillar, to_site)
    asked = replace(found, pillar=serving)
    return asked, aim, found.history[-1] if found.history else None


def _gathered(asked, aim, site):
    """The evidence; the target's hosts, not in service yet, are asked in their own way."""
    seen = evidence.gather(asked, remember=False)
    answers = fleet.cmd(__opts__, aim.hosts, "openhim_rebuild.facts", [site], fleet.ANSWER_TIMEOUT)
    found = {}
    for host, answer in answers.items():
        if answer["retcode"]:
            found[host] = reports.silent(host, site, str(answer["ret"]))
        else:
            found[host] = reports.heard(host, site, answer["ret"], time.time(), asked.history)
    return rebuild.with_reports(seen, found)


def _on_record(stack):
    epoch = record.current(stack, fleet.directory(__opts__))
    if epoch is None or epoch.kind != rebuild.KIND:
        raise Refused(f"the newest recovery of {stack!r} is no rebuild; declare it first")
    return epoch


def _bare_pillar(stack):
    return fleet.with_overlay(fleet.declaration(__opts__, stack, "stack"), {})


def _well_formed(point, to_time, disrupted_at):
    if not str(point or to_time).strip():
        raise Refused("point: found nothing; say an ID, latest or verified; or to_time")
    if disrupted_at is not None:
        moment(disrupted_at, "disrupted_at")
    if to_time:
        parsed(to_time)


def _now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
