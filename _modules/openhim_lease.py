"""
The lease: the active site admits clients only while a witness elsewhere renews it
==================================================================================

Declared as ``openhim:lease``; see the topic "lease" of the documentation.
"""

from pathlib import Path

import salt.config
from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, settings
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.lease import declared, host


def status():
    """
    How the lease is on this host.

    Returns a dictionary: ``holder``, None on a host that needs no lease, else ``state`` (``held``,
    ``refused``, ``given up``, ``unneeded``, ``no answer``, ``not known``), ``reasons``, ``epoch``
    (the witness' newest), ``age`` (seconds since it asked), ``leased`` (it is closed without a
    lease) and ``left`` (seconds for which the kernel admits clients, None when it does not);
    ``witness``, None on a host that is none, else as ``openhim_lease.granted``; ``trouble``: why
    the lease is not well here, None when it is.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_lease.status
    """

    def found():
        stack, here = _stack(), __opts__["id"]
        if declared.lease(stack) is None:
            return {"holder": None, "witness": None, "trouble": None}
        witnesses = declared.witnesses(stack, here)
        return {
            "holder": host.holder() if declared.holds(stack, here) else None,
            "witness": host.granted(stack, _record(stack)) if witnesses else None,
            "trouble": host.trouble(stack, here),
        }

    return _guarded(found)


def granted():
    """
    What this host, as the witness, has granted, and which epochs it knows. Changes nothing.

    Returns a dictionary: ``grants`` (site → seconds until its lease ends by this host's clock,
    negative once it has; None where this witness does not know, or never granted one to a host
    there that is to hold one), ``epochs`` and ``time`` (seconds since 1970).

    CLI Example:

    .. code-block:: bash

        salt master openhim_lease.granted
    """

    def found():
        stack = _stack()
        if not declared.witnesses(stack, __opts__["id"]):
            raise OpenHIMError("this host is not the witness of the lease (openhim:lease:witness)")
        return host.granted(stack, _record(stack))

    return _guarded(found)


def has_task():
    """
    Whether this host has anything to do for the lease: it may serve clients, or is the witness.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_lease.has_task
    """
    return bool(_guarded(lambda: host.units(_stack(), __opts__["id"])))


def pending():
    """
    What differs between this host and one with the declared lease, by path or unit; empty when
    nothing does.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_lease.pending
    """

    def found():
        stack = _stack()
        return host.pending(stack, __opts__["id"], _record(stack))

    return _guarded(found)


def install():
    """
    Puts what the lease needs on this host, and starts it. A lease that is held goes on meanwhile.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_lease.install
    """

    def done():
        stack = _stack()
        host.install(stack, __opts__["id"], _record(stack))
        return True

    return _guarded(done)


def wait(seconds=90):
    """
    Waits until the lease is well on this host: held at the active site, and known not to be needed
    elsewhere.

    seconds
        How long at most.

    Returns why it is not; None when it is.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_lease.wait
    """
    return _guarded(lambda: host.wait(_stack(), __opts__["id"], seconds))


def present():
    """
    The parts of a lease that are on this host; a list of paths, and ``kernel`` for the table.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_lease.present
    """
    return _guarded(host.present)


def remove():
    """
    Takes the lease away from this host: clients are admitted without one.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_lease.remove
    """
    _guarded(host.remove)
    return True


def _stack():
    return settings.from_pillar(__pillar__)


def _record(stack):
    """The path of the recovery record, where this host is the Salt master and the witness."""
    here = __opts__["id"]
    if not declared.witnesses(stack, here) or "master" not in stack.host(here).roles:
        return None
    path = Path(__opts__["conf_file"]).with_name("master")
    if not path.is_file():
        raise OpenHIMError(
            f"{path} is not there; this host has the role master, so the configuration of a Salt "
            "master was expected: it says where the recovery record is"
        )
    return str(Path(fleet.directory(salt.config.master_config(str(path)))) / f"{stack.name}.json")


def _guarded(function):
    try:
        return function()
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
