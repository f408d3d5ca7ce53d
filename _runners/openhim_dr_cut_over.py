"""
The public name, in a recovery
==============================

Leads clients to another site (``openhim:cut_over``), and tells where they are led now. A part of
the runner ``openhim_dr``. It works on the master and asks no minion: in a disaster there may be
none.
"""

import salt.pillar
import salt.utils.minions
from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, schema
from saltext.openhim.cut_over import declared
from saltext.openhim.errors import OpenHIMError

__virtualname__ = "openhim_dr"


def __virtual__():
    return __virtualname__


def cut_over(stack, site, test=False, if_declared=False):
    """
    Lead clients to a site. Who is there already stays: a second run changes nothing.

    With a name server (``openhim:cut_over:dns``) the server itself is asked first, told in one
    update, and asked again. With a command (``openhim:cut_over:command``) that is run.

    stack
        The stack's name.

    site
        Where clients are to find OpenHIM.

    test
        Only tell what would be done; the name server is asked, with its key.

    if_declared
        Do nothing, and say so, where the pillar declares no cut-over; otherwise that is an error.

    Returns ``changed``, ``before`` and ``after``, ``old_place_kept_seconds`` (for how long clients
    may go on to the old place, because they keep what they were told; None when nobody knows),
    ``confirmed`` (it was read back) and ``comment``. Raises with the reason when clients are not
    led to the site afterwards.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.cut_over example south test=True
        salt-run openhim_dr.cut_over example south
    """
    try:
        pillar = _pillar(stack)
        if if_declared and not declared.is_declared(pillar):
            comment = "openhim:cut_over is not declared: nothing leads clients to a site from here"
            return {"changed": False, "declared": False, "confirmed": False, "comment": comment}
        return declared.way(pillar).move(site, test).told()
    except OpenHIMError as error:
        raise CommandExecutionError(f"clients are not led to {site}: {error}") from error


def points_to(stack):
    """
    To which site clients are led now, as the authoritative name server or the declared command
    says.

    stack
        The stack's name.

    Returns ``state`` (``site``, ``several``, ``none``, ``elsewhere`` or ``unknown``), ``site``
    (None but for the first of them), ``sites``, and ``because`` for all others.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.points_to example
    """
    try:
        return declared.way(_pillar(stack)).points_to().told()
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error


def _pillar(stack):
    """The declaration of a stack, as its hosts with the role master get it: with their secrets.

    Such a host's minion need not run, nor be known to this master: any master that has the pillar
    will do.
    """
    found = fleet.declaration(__opts__, stack, "stack")
    for minion_id, host in sorted(found["openhim"]["hosts"].items()):
        if "master" not in host["roles"]:
            continue
        _, grains, _ = salt.utils.minions.get_minion_data(minion_id, __opts__)
        own = salt.pillar.Pillar(__opts__, grains or {"id": minion_id}, minion_id, "base")
        pillar = own.compile_pillar()
        if (pillar.get("openhim") or {}).get("stack") == stack:
            schema.require(pillar)
            return pillar
    return found
