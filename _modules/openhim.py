"""OpenHIM core on this host: is it up, does it write, what does it route.

Everything here reads the stack's declaration from the minion's pillar and asks OpenHIM through its
own API. Secrets are looked up by name and never returned.
"""

from __future__ import annotations

from salt.exceptions import CommandExecutionError
from saltext.openhim import schema, settings
from saltext.openhim.errors import OpenHIMError


def pillar_check():
    """
    Check this minion's pillar, its secrets included, against everything that it may say.

    Returns what the pillar declares, in words: ``stack``, ``profile``, ``active_site``, ``hosts``
    and ``replica_sets``. Raises when something is wrong, with all problems at once, each naming
    the path, what was found and what is allowed. Secrets are never shown.

    CLI Example:

    .. code-block:: bash

        salt-call openhim.pillar_check
    """
    try:
        # Not pillar.get: it masks what it returns.
        schema.require(__pillar__, __opts__["id"])
        stack = settings.from_pillar(__pillar__)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    return {
        "stack": stack.name,
        "profile": stack.profile,
        "active_site": stack.active_site,
        "hosts": {
            host.id: f"{', '.join(host.roles)} at {host.site} ({host.address})"
            for host in stack.hosts.values()
        },
        "replica_sets": {
            name: ", ".join(member.name for member in replica_set.members)
            for name, replica_set in stack.replica_sets.items()
        },
    }


def roles():
    """
    The roles of this host; none when its pillar is not allowed.

    The state tree asks this to decide what belongs to the host. It does not raise, so that the
    rendered tree still contains the check that says what is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call openhim.roles
    """
    if schema.check(__pillar__, __opts__["id"]):
        return []
    return list(settings.from_pillar(__pillar__).host(__opts__["id"]).roles)
