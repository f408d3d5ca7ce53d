"""
Emergency mode of the OpenHIM stack
===================================

How it is now, and when it was entered and left. The states of the same name enter and leave it.

Needs PyMongo on the minion.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.core.host import CoreHost
    from saltext.openhim.emergency import switch
    from saltext.openhim.errors import Refused
    from saltext.openhim.mongo.connection import raises

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_emergency needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_emergency"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


@_converted
def status():
    """
    Whether emergency mode is on: ``on``, ``phase``, ``number``, ``by``, ``reason`` and ``at`` (ISO
    8601); ``critical``, ``held`` (kept off) and ``enabled``: names of channels; ``protection``: how
    audit and TLS are; ``problems``: what is not as emergency mode wants it.

    OpenHIM and its databases are asked now. Raises when they cannot be: not known is not "off".

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim_emergency.status
    """
    return switch.status(_core())


@_converted
def history():
    """
    Every entry into emergency mode and every exit, the oldest first, as the main database remembers
    them: ``emergency`` (its number), ``what`` (``entered`` or ``left``), ``by``, ``reason``,
    ``at``, ``host``, and which channels were ``off``, or what was ``told`` of some in the end.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim_emergency.history
    """
    return switch.history(_core())


def _core():
    core = CoreHost(__pillar__, __opts__["id"])
    if not core.active:
        raise Refused(
            f"OpenHIM is not active on this host, which is at {core.host.site}. Ask a core host of "
            f"the active site {core.stack.active_site}."
        )
    return core
