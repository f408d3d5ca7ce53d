"""OpenHIM core as desired state: installed, configured, healthy, and the objects inside it.

"""

from __future__ import annotations

from salt.exceptions import CommandExecutionError


def pillar_checked(name):
    """
    The pillar of this minion is allowed. The first state of every run: what follows requires it.

    name
        Any text; it says so in the state's ID.

    Changes nothing, in test mode or not. The result is False when the pillar is not allowed, with
    all problems in the comment.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        found = __salt__["openhim.pillar_check"]()
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    ret["comment"] = (
        f"the pillar of the stack {found['stack']} is allowed: profile {found['profile']}, "
        f"{len(found['hosts'])} hosts"
    )
    return ret
