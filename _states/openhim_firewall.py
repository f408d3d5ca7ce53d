"""
The firewall of a host of the OpenHIM stack, as a state.

.. code-block:: yaml

    The firewall lets in only what the stack needs:
      openhim_firewall.applied

The rules come from the pillar (see the topic "firewall" of the documentation), so the state takes
no argument but its name.
"""

from salt.exceptions import CommandExecutionError


def applied(name):
    """
    Our table has the rules that the pillar and OpenHIM's live TCP channels ask for, now and after a
    boot.

    The kernel's table, the file that is loaded at boot and the unit that loads it are compared; a
    rule that somebody added to our table or deleted from it is repaired. The rules are validated
    before anything is touched. When the minion no longer reaches its master afterwards, the
    previous rules come back and the state fails.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        known = __salt__["openhim_firewall.tcp_ports"]()
        pending = __salt__["openhim_firewall.pending"](known["ports"])
        said = _about_ports(known)
        if not pending:
            ret["comment"] = f"The firewall is as declared.{said}"
            return ret
        __salt__["openhim_firewall.check"](__salt__["openhim_firewall.rules"](known["ports"]))
        if __opts__["test"]:
            return {**ret, "result": None, "changes": pending, "comment": _would(pending) + said}
        __salt__["openhim_firewall.apply"](ports=known["ports"])
        left = __salt__["openhim_firewall.pending"](known["ports"])
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"The rules were applied, but this still differs: {', '.join(sorted(left))}."
        return {**ret, "result": False, "changes": pending, "comment": comment}
    return {**ret, "changes": pending, "comment": f"The firewall was applied.{said}"}


def absent(name):
    """
    Our table, its file and its unit are not on this host. Other tables stay as they are.

    name: any text.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "There is no firewall of ours."}
    try:
        there = __salt__["openhim_firewall.present"]()
        if not there:
            return ret
        changes = {part: "removed" for part in there}
        if __opts__["test"]:
            comment = f"Would remove: {', '.join(there)}."
            return {**ret, "result": None, "changes": changes, "comment": comment}
        __salt__["openhim_firewall.remove"]()
        left = __salt__["openhim_firewall.present"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    if left:
        comment = f"Removed, but still there: {', '.join(left)}."
        return {**ret, "result": False, "changes": changes, "comment": comment}
    return {**ret, "changes": changes, "comment": "The firewall was removed."}


def _would(pending):
    return f"The firewall would be applied; it differs in: {', '.join(sorted(pending))}."


def _about_ports(known):
    """What must be said when OpenHIM could not be asked; empty otherwise."""
    ports = ", ".join(str(port) for port in known["ports"]) or "none"
    if known["source"] == "last known":
        return (
            f" OpenHIM could not be asked for its TCP channels ({known['reason']}): the last known "
            f"ports stay open: {ports}."
        )
    if known["source"] == "declared":
        return (
            f" OpenHIM could not be asked for its TCP channels ({known['reason']}), and never was "
            f"before: its API, its routers and the declared channels' TCP ports are open: {ports}."
        )
    return ""
