"""
The ledger of a recovery
========================

Which writes did not survive a failover. A part of the runner ``openhim_dr``: it asks every member
of the lost site what it wrote past the fork, and the new primary what became of it.
"""

from datetime import datetime, timezone

from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, ledgers, record, settings
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.recovery import ledger as listed

__virtualname__ = "openhim_dr"

#: Writes that a host tells of, or is asked about, at once.
PAGE = 2000


def __virtual__():
    return __virtualname__


def ledger(stack, epoch=None, timeout=1800, brief=False):
    """
    The writes that did not survive a failover: what every member of the lost site wrote past the
    fork, and what the new history has of it. What would be gone when such a member joins the new
    history is kept aside on its host first (``openhim_ledger.keep``). Stored beside the recovery
    record; running it again adds what can be seen by then, such as a member that has come back.

    stack
        The stack's name.

    epoch
        The number of the failover's epoch; the newest failover when left out.

    timeout
        Seconds that a host has: to read a mongod that does not run, it copies its data.

    brief
        Return the state, the doubts and the counts only: what an orchestration returns is kept by
        Salt, and paths of requests can name patients.

    Returns ``state`` (``nothing was lost``, ``writes were lost`` or ``not known``), and for each
    set its ``doubts`` (why it is not known), ``counts`` and ``writes``, and ``rerun``: the IDs of
    the transactions that OpenHIM can rerun. A person at ``salt-run`` sees a table, or with
    ``--out=json`` all of it.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.ledger example
        salt-run openhim_dr.ledger example --out=json
    """
    try:
        directory = fleet.directory(__opts__)
        failover = _failover(record.history(stack, directory), stack, epoch)
        pillar = fleet.declaration(__opts__, stack, "stack")
        target = settings.from_pillar(fleet.with_overlay(pillar, failover.overlay()))
        earlier = ledgers.stored(directory, stack, failover.number)
        sets = {
            name: _of_set(rs, (earlier or {}).get("sets", {}).get(name), timeout)
            for name, rs in sorted(target.replica_sets.items())
        }
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = listed.of_stack(stack, failover.number, now, sets)
        told = listed.with_earlier(told, earlier)
        told["rerun"] = listed.to_rerun(told)
        ledgers.store(directory, told)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if __opts__.get("fun") == "openhim_dr.ledger" and not __opts__.get("output"):
        print(listed.table(told))
        return {"state": told["state"]}
    return _brief(told) if brief else told


def _brief(told):
    sets = {
        name: {"counts": one["counts"], "doubts": one["doubts"]}
        for name, one in told["sets"].items()
    }
    return {"stack": told["stack"], "epoch": told["epoch"], "state": told["state"], "sets": sets}


def _failover(history, stack, number):
    found = [one for one in history if one.kind == "failover" and number in (None, one.number)]
    if not found:
        which = "" if number is None else f" with the number {number}"
        raise Refused(f"no failover of {stack!r}{which} is on record, so there is no ledger of one")
    return found[-1]


def _of_set(replica_set, earlier, timeout):
    """One replica set: its members are asked, and then the survivor."""
    survivor = replica_set.initiator
    lost = {member.host.id: member.name for member in replica_set.members if member is not survivor}
    fork, problem = _fork(survivor.host.id, replica_set.name, earlier, timeout)
    if fork is None:
        members = [listed.Member(name, listed.UNREAD, problem) for name in lost.values()]
        unknown = {"fork": None, "new": None}
        return listed.of_set(unknown, [], members, listed.doubts(members, lost.values()))
    kept = {**fork, "set": replica_set.name}
    unkept = _problems(sorted(lost), "openhim_ledger.keep", kept, timeout)
    parts = [_part(host, name, kept, timeout) for host, name in sorted(lost.items())]
    members = [member for member, _, _ in parts]
    writes = listed.merged([write for _, found, _ in parts for write in found])
    now, commands, problem = _fates(survivor.host.id, kept, writes, timeout)
    versions = listed.versions([(found, known) for _, found, known in parts])
    found = listed.entries(writes, versions, now, commands)
    reasons = listed.doubts(members, lost.values())
    reasons += [f"{lost[host]}: nothing was kept: {why}" for host, why in sorted(unkept.items())]
    reasons += [problem] if problem else []
    return listed.of_set(fork, found, members, reasons)


def _fork(host, name, earlier, timeout):
    """Where the histories part; an earlier ledger knows it when the survivor does no more."""
    try:
        return _one(host, "openhim_ledger.fork", {"set": name}, timeout), ""
    except OpenHIMError as error:
        if earlier and earlier.get("fork"):
            return {"fork": earlier["fork"], "new": earlier["new"]}, ""
        return None, str(error)


def _part(host, name, kept, timeout):
    """What a host tells, page by page: its member, its writes, their documents' last versions."""
    writes, versions, total = [], {}, None
    try:
        while total is None or len(writes) < total:
            arguments = {**kept, "start": len(writes), "limit": PAGE}
            found = _one(host, "openhim_ledger.divergence", arguments, timeout)
            total = found["total"] if found["writes"] else len(writes)
            writes += [listed.Write(**write) for write in found["writes"]]
            versions |= {(where, id): listed.Lost(**one) for where, id, one in found["versions"]}
        return listed.Member(**found["member"]), writes, versions
    except OpenHIMError as error:
        return listed.Member(name, listed.UNREAD, str(error)), writes, versions


def _fates(host, kept, writes, timeout):
    now, commands = {}, {}
    try:
        for begin in range(0, len(writes), PAGE):
            page = [vars(write) for write in writes[begin : begin + PAGE]]
            found = _one(host, "openhim_ledger.fates", {**kept, "writes": page}, timeout)
            now |= {(where, id): listed.Now(**one) for where, id, one in found["documents"]}
            commands |= {listed.Write(**write): same for write, same in found["commands"]}
    except OpenHIMError as error:
        return now, commands, f"{host}: what the new history has is not known: {error}"
    return now, commands, ""


def _problems(hosts, function, arguments, timeout):
    """Why a function failed, by host; hosts that answer well, or not at all, are not in it.

    Silence is told by the question that comes next.
    """
    answers = _ask(hosts, function, arguments, timeout)
    return {host: str(one["ret"]) for host, one in answers.items() if one["retcode"]}


def _one(host, function, arguments, timeout):
    answer = _ask([host], function, arguments, timeout).get(host)
    if answer is None:
        raise OpenHIMError(f"{host} gave no answer to {function}")
    if answer["retcode"]:
        raise OpenHIMError(f"{host}: {answer['ret']}")
    return answer["ret"]


def _ask(hosts, function, arguments, timeout):
    """What hosts answer to a function; those that are not there are not waited for."""
    named = [{**arguments, "__kwarg__": True}]
    return fleet.asked(__opts__, hosts, function, named, timeout).returned
