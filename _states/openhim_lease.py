"""
The lease of a host of the OpenHIM stack, as states.

.. code-block:: yaml

    Clients are admitted while the lease is held:
      openhim_lease.running

See the topic "lease" of the documentation.
"""

from salt.exceptions import CommandExecutionError


def running(name, timeout=90):
    """
    This host renews the declared lease, or witnesses it, now and after a boot.

    It ends well when the lease is: held where the site is the active one, and known from the
    witness not to be needed elsewhere.

    name: any text. timeout: seconds to wait for that; a witness that begins with nothing on its
    disk grants no lease for as long as somebody may hold one that it does not know of.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        pending = __salt__["openhim_lease.pending"]()
        if __opts__["test"]:
            return _foreseen(ret, pending)
        if pending:
            __salt__["openhim_lease.install"]()
        trouble = __salt__["openhim_lease.wait"](timeout)
        left = __salt__["openhim_lease.pending"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"Still differs: {', '.join(sorted(left))}."
        return {**ret, "result": False, "changes": pending, "comment": comment}
    if trouble:
        return {**ret, "result": False, "changes": pending, "comment": trouble}
    comment = f"Put in place: {', '.join(sorted(pending))}." if pending else "The lease is well."
    return {**ret, "changes": pending, "comment": comment}


def absent(name):
    """
    There is no lease on this host: clients are admitted without one. What a witness granted stays
    on its record.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "There is no lease here."}
    try:
        there = __salt__["openhim_lease.present"]()
        if not there:
            return ret
        changes = dict.fromkeys(there, "removed")
        if __opts__["test"]:
            comment = f"Would be removed: {', '.join(there)}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        __salt__["openhim_lease.remove"]()
        left = __salt__["openhim_lease.present"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"Removed, but still there: {', '.join(left)}."
        return {**ret, "result": False, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": "The lease was taken away."}


def _foreseen(ret, pending):
    if not pending:
        trouble = __salt__["openhim_lease.status"]()["trouble"]
        if trouble:
            return {**ret, "result": None, "comment": f"Nothing would be written; now: {trouble}"}
        return {**ret, "comment": "The lease is well."}
    comment = f"Would be put in place: {', '.join(sorted(pending))}."
    return {**ret, "result": None, "changes": pending, "comment": comment}
