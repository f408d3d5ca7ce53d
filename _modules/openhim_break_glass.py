"""
Break-glass access to the OpenHIM stack
=======================================

Which accounts for the emergency there are, and what happened. The states of the same name open and
remove them; the timer of each calls ``expire``.

Needs PyMongo on the minion.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import journal
    from saltext.openhim.break_glass import cabinet
    from saltext.openhim.errors import OpenHIMError
    from saltext.openhim.mongo.connection import raises

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_break_glass needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_break_glass"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


@_converted
def status():
    """
    The accounts for the emergency that this host has to remove: ``name``, ``by``, ``reason``,
    ``opened_at``, ``until``, ``phase``, ``groups``, ``roles``, ``handover`` (where the password is
    handed over), ``recipient`` (the key it is encrypted to) and ``problems``.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_break_glass.status
    """
    return cabinet.status()


@_converted
def history():
    """
    Every account that was opened or closed on this host, the oldest first: ``what``, ``name``,
    ``by``, ``reason``, ``at``, ``until``, ``groups``, ``roles``, and ``closed_by`` and
    ``closed_because`` of one that was closed.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_break_glass.history
    """
    return journal.read(cabinet.RECORD)


@_converted
def expire(name):
    """
    Remove an account whose time is over. Needs neither the master nor a pillar: what it takes is on
    this host. The account's timer calls this; a person uses ``openhim_break_glass.absent``.

    Returns whether it is gone; False when its time is not over.

    name
        The account's name, or the part of its timer's name.

    CLI Example:

    .. code-block:: bash

        salt-call --local openhim_break_glass.expire ada@example.org
    """
    return cabinet.expire(name)


def tell():
    """
    Tell the master what it was not told yet: the events ``openhim/break_glass/opened`` and
    ``openhim/break_glass/closed``. Returns how many. Raises when the master could not be told; the
    next call tells it.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_break_glass.tell
    """
    number = told = 0
    try:
        number, entries = cabinet.untold()
        for entry in entries:
            event = {**entry, "state": entry["what"], "text": cabinet.words(entry)}
            if not __salt__["event.fire_master"](event, f"openhim/break_glass/{entry['what']}"):
                raise OpenHIMError("there is no connection to it")
            told += 1
            cabinet.mark_told(number + told)
    except Exception as error:
        raise CommandExecutionError(
            f"The master was not told of all that is on record: {error}."
        ) from error
    return told
