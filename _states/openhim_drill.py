"""
Drills of an OpenHIM stack as desired state
===========================================

.. code-block:: yaml

    Drills are held by schedule:
      openhim_drill.scheduled: []

    A functional drill was passed lately:
      openhim_drill.passed:
        - max_age: 604800

With ``test=True`` nothing is restored, started or scheduled.
"""

from datetime import datetime, timezone
from functools import wraps

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.backup import schedule as scheduling
    from saltext.openhim.drill import declaration, functional, records
    from saltext.openhim.errors import OpenHIMError
    from saltext.openhim.mongo.connection import raises

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_drill needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_drill"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _answered(function):
    """Makes a state's return of (result, changes, comment), and a failed one of an error."""

    @wraps(function)
    def state(name, *args, **kwargs):
        try:
            result, changes, comment = raises(OpenHIMError)(function)(name, *args, **kwargs)
        except (OpenHIMError, CommandExecutionError) as error:
            result, changes, comment = False, {}, str(error)
        return {"name": name, "result": result, "changes": changes, "comment": comment}

    return state


def _drills():
    return declaration.from_pillar(__pillar__, __opts__["id"])


@_answered
def passed(name, max_age=0, by="a state", point="latest", repository=None, wait=0):
    """
    A functional drill was passed on this host, and is young enough; otherwise one is held now.

    name
        Any text.

    max_age
        Seconds; 0 holds one in any case.

    by
        Who asked for it.

    point, repository, wait
        As the function ``run`` has them.
    """
    drills = _drills()
    drills.require_here()
    last = _last()
    age = (datetime.now(timezone.utc) - last.began).total_seconds() if last else None
    if age is not None and 0 <= age < max_age:
        return True, {}, f"{last.id} was passed {age:.0f} s ago, allowed are {max_age:.0f}."
    chosen, where = functional.foreseen(drills, point, repository)
    changes = {"drill": {"old": last.id if last else None, "new": f"of {chosen.id} in {where}"}}
    if __opts__["test"]:
        return None, changes, f"Would hold a drill of the restore point {chosen.id} in {where}."
    done = __salt__["openhim_drill.run"](by=by, point=point, repository=repository, wait=wait)
    changes["drill"]["new"] = done["id"]
    last = _last()
    if last is None or last.id != done["id"]:
        return False, changes, f"{done['id']} was passed, and is not the last one on record."
    comment = (
        f"{done['id']} was passed: RTO {done['rto_seconds']:g} s, RPO {done['rpo_seconds']:g} s "
        f"({done['point']} in {done['repository']}); nothing was sent to anybody."
    )
    return True, changes, comment


def _last():
    known = records.read().of(declaration.FUNCTIONAL)
    return next((one for one in reversed(known) if one.verdict == records.PASSED), None)


@_answered
def scheduled(name):
    """
    Salt's schedule on this host holds the declared drills, and no others of ours.

    name
        Any text.
    """
    declared = _drills().schedule()
    pending = _differences(declared)
    if not pending:
        return True, {}, f"{len(declared)} drills are scheduled."
    if __opts__["test"]:
        return None, pending, f"Would schedule: {', '.join(pending)}."
    for entry, change in pending.items():
        if change["old"] is not None:
            __salt__["schedule.delete"](entry)
        if change["new"] is not None:
            asked = dict(change["new"])
            __salt__["schedule.add"](entry, job_kwargs=asked.pop("kwargs"), **asked)
    left = _differences(declared)
    if left:
        return False, pending, f"Still not as declared: {', '.join(left)}."
    return True, pending, f"Scheduled: {', '.join(pending)}."


def _differences(declared):
    present = __salt__["schedule.list"](show_all=True, return_yaml=False)
    return scheduling.differences(present, declared, declaration.SCHEDULE_PREFIX)
