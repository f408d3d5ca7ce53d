"""
The fence and the gate of a host of the OpenHIM stack, as states.

.. code-block:: yaml

    North cannot write any more:
      openhim_fence.fenced:
        - epoch: 1
        - by: Ada
        - reason: north burns

    mongod and OpenHIM start only under the current epoch:
      openhim_fence.gated

See the topic "fencing" of the documentation.
"""

from salt.exceptions import CommandExecutionError


def fenced(name, epoch, by, reason):
    """
    This host cannot write, now and after every boot.

    A host that is fenced already keeps the order that fenced it, unless this one is of a newer
    epoch; what its fence lacks is put right.

    name: any text. epoch, by, reason: as for ``openhim_fence.fence``.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        before = __salt__["openhim_fence.status"]()
        missing = __salt__["openhim_fence.missing"]()
        newer = before["fenced"] and not missing and before["epoch"] < epoch
        if not missing and not newer:
            return {**ret, "comment": f"This host is fenced: {_about(before)}."}
        changes = dict(missing)
        if newer:
            changes["epoch"] = {"old": before["epoch"], "new": epoch}
        __salt__["openhim_fence.check_order"]("fence", epoch, by, reason)
        if __opts__["test"]:
            comment = f"This host would be fenced; missing: {', '.join(sorted(changes))}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        after = __salt__["openhim_fence.fence"](epoch, by, reason)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if not after["fenced"] or after["missing"]:
        comment = f"This host was fenced, and this is missing: {after['missing'] or 'the record'}."
        return {**ret, "result": False, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": f"This host is fenced: {_about(after)}."}


def unfenced(name, epoch, by, reason):
    """
    This host is not fenced. Its services are not started.

    name: any text. epoch, by, reason: as for ``openhim_fence.unfence``; they are looked at only
    when there is a fence to lift.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "This host is not fenced."}
    try:
        before = __salt__["openhim_fence.status"]()
        if not before["fenced"] and not before["remains"]:
            return ret
        changes = {"fence": "lifted"} if before["fenced"] else {"removed": before["remains"]}
        __salt__["openhim_fence.check_order"]("unfence", epoch, by, reason)
        if __opts__["test"]:
            comment = f"The fence would be lifted: {_about(before)}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        after = __salt__["openhim_fence.unfence"](epoch, by, reason)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if after["fenced"] or after["remains"]:
        comment = f"Still there: {after['remains'] or 'the record of the fence'}."
        return {**ret, "result": False, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": "The fence was lifted; nothing was started."}


def gated(name):
    """
    After a boot mongod and OpenHIM start on this host only when somebody has proved the current
    epoch. What runs goes on.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The gate is there."}
    try:
        pending = __salt__["openhim_fence.gate_pending"]()
        if not pending:
            return ret
        if __opts__["test"]:
            comment = f"Would be written: {', '.join(sorted(pending))}."
            return {**ret, "result": None, "changes": pending, "comment": comment}
        __salt__["openhim_fence.gate_install"]()
        left = __salt__["openhim_fence.gate_pending"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"Still differs: {', '.join(sorted(left))}."
        return {**ret, "result": False, "changes": pending, "comment": comment}
    return {**ret, "changes": pending, "comment": f"Written: {', '.join(sorted(pending))}."}


def ungated(name):
    """
    There is no gate on this host. What runs goes on.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "There is no gate."}
    try:
        there = __salt__["openhim_fence.gate_present"]()
        if not there:
            return ret
        changes = dict.fromkeys(there, "removed")
        if __opts__["test"]:
            comment = f"Would be removed: {', '.join(there)}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        __salt__["openhim_fence.gate_remove"]()
        left = __salt__["openhim_fence.gate_present"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"Still there: {', '.join(left)}."
        return {**ret, "result": False, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": "The gate was removed."}


def admitted(name, epoch=None):
    """
    The gate of this host is open in this boot, under the epoch that the master's recovery record
    has now. A host that must not start its services fails here, and its gate stays closed.

    name: any text. epoch: as for ``openhim_fence.admit``.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        before = __salt__["openhim_fence.gate"]()
        current = (__pillar__["openhim"].get("recovery") or {}).get("epoch") or 0
        if before["open"] and before["proof"]["epoch"] == current:
            return {**ret, "comment": f"The gate is open: epoch {current}."}
        changes = {"epoch": {"old": (before["proof"] or {}).get("epoch"), "new": current}}
        if __opts__["test"]:
            comment = f"The master would be asked; now: {before['reason'] or 'an older epoch'}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        after = __salt__["openhim_fence.admit"](epoch)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if not after["open"]:
        return {**ret, "result": False, "comment": after["reason"]}
    return {**ret, "changes": changes, "comment": f"The gate is open: epoch {current}."}


def _about(status):
    return f"epoch {status['epoch']}, by {status['by']} ({status['reason']})"
