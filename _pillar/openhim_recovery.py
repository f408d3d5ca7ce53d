"""
The recovery record as external pillar
======================================

Lays the newest epoch of a stack over its declaration, as ``openhim:recovery``, so that a plain
``state.highstate`` after a failover keeps the new reality instead of undoing it.

Master configuration:

.. code-block:: yaml

    ext_pillar:
      - openhim_recovery: /var/lib/openhim-recovery
"""

import logging

from saltext.openhim import record
from saltext.openhim.errors import OpenHIMError

log = logging.getLogger(__name__)

__virtualname__ = "openhim_recovery"


def __virtual__():
    return __virtualname__


def ext_pillar(minion_id, pillar, directory=record.DIRECTORY):
    """
    The newest epoch of the minion's stack, or nothing when there never was a recovery.

    minion_id
        The minion's ID.

    pillar
        The pillar so far; the declaration must have been read before.

    directory
        Where the recovery records are on the master.
    """
    stack = (pillar.get("openhim") or {}).get("stack")
    if not stack:
        return {}
    try:
        epoch = record.current(stack, directory)
    except OpenHIMError as error:
        # Without this error the minion would get the declaration from before the recovery, and
        # a highstate would undo it. pillar_check refuses a pillar that carries it.
        log.error("openhim_recovery: %s", error)
        return {"openhim": {"recovery": {"error": str(error)}}}
    return {"openhim": {"recovery": epoch.overlay()}} if epoch else {}
