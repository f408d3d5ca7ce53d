"""
What this host can see, for those who decide on a recovery
==========================================================

The master's runner of the same name asks every declared host for its sighting before it decides.
"""

from salt.exceptions import CommandExecutionError
from saltext.openhim import settings
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.mongo import connection, promotion


def sighting():
    """
    What every declared member of every replica set answers to this host, and whether OpenHIM runs
    here.

    Returns ``members`` (``set/host:port`` → a state such as ``PRIMARY``, or ``unreachable``,
    ``unauthorized``, ``not initiated`` and so on) and ``core_running`` (None where no core is
    declared on this host).

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_dr.sighting
    """
    try:
        stack = settings.from_pillar(__pillar__)
        host = stack.host(__grains__["id"])
        members = {}
        for name in sorted(stack.replica_sets):
            here = connection.vantage(__pillar__, host.id, name)
            seen = connection.probe_all([m.name for m in here.replica_set.members], here.access)
            for member, observation in seen.items():
                members[f"{name}/{member}"] = observation.state or observation.kind
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    running = None
    if "core" in host.roles:
        running = __salt__["service.status"]("openhim-core")
    return {"members": members, "core_running": running}


def epoch():
    """
    The number of the epoch that this host's pillar has in memory; None where nothing was recovered.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_dr.epoch
    """
    recovery = (__pillar__.get("openhim") or {}).get("recovery") or {}
    return recovery.get("epoch")


def traces(set):
    """
    What this host's member has of a promotion, even if it is not primary now: the votes in its
    configuration, and whether it noted that its promotion began.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_dr.traces openhim
    """
    try:
        return promotion.traces(connection.vantage(__pillar__, __grains__["id"], set))
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
