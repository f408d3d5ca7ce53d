"""
Drills, as the master sees them
===============================

A part of the runner ``openhim_dr``: who holds a stack's drills, and how they are.
"""

from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, settings
from saltext.openhim.errors import OpenHIMError

__virtualname__ = "openhim_dr"


def __virtual__():
    return __virtualname__


def drill_plan(stack="", declared_by="", point="latest", repository=None):
    """
    May a functional drill be held now, and where? Changes nothing.

    stack
        The stack's name.

    declared_by
        Who asks for it, for the record.

    point
        ID of a restore point, ``latest`` or ``verified``.

    repository
        Its name in the pillar; all that the host can open when left out.

    Returns the reasons against it (``refusals``), or the ``host``.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.drill_plan example declared_by='A. Mwale'
    """
    refusals = [
        f"{name}: found nothing; say {what}"
        for name, value, what in (
            ("declared_by", declared_by, "who asks for the drill"),
            ("point", point, "an ID, latest or verified"),
        )
        if not str(value).strip()
    ]
    try:
        declared = settings.from_pillar(fleet.declaration(__opts__, stack, "stack")).declared
    except OpenHIMError as error:
        return {"refusals": [str(error), *refusals]}
    host = (declared.get("drills") or {}).get("run_by")
    known = (declared.get("backup") or {}).get("repositories") or {}
    if host is None:
        refusals.append(f"openhim:drills: the pillar of {stack!r} declares no drills")
    elif not fleet.present(__opts__, [host]):
        refusals.append(f"{host} does not answer, and holds the drills")
    if repository is not None and repository not in known:
        refusals.append(
            f"repository: found {repository!r}; declared are {', '.join(sorted(known))}"
        )
    return {"refusals": refusals, "host": host}


def drills(stack):
    """
    How the drills of a stack are, asked live: ``state``, ``reasons``, and for each kind when it was
    last passed, and what was measured beside its target. The exit code is 0 when all is ok, 1
    otherwise.

    stack
        The stack's name.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.drills example
    """
    try:
        declared = settings.from_pillar(fleet.declaration(__opts__, stack, "stack")).declared
        host = (declared.get("drills") or {}).get("run_by")
        if host is None:
            raise OpenHIMError(f"openhim:drills: the pillar of {stack!r} declares no drills")
        found = fleet.cmd(__opts__, [host], "openhim_drill.status", [], fleet.ANSWER_TIMEOUT)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    said = found.get(host)
    if said is None or said["retcode"] or not isinstance(said["ret"], dict):
        why = f"{host} does not answer" if said is None else str(said["ret"])
        return {"stack": stack, "state": "unknown", "reasons": [why], "kinds": {}, "retcode": 1}
    return {**said["ret"], "retcode": int(said["ret"]["state"] != "ok")}
