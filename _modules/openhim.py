"""OpenHIM core on this host: is it up, does it write, what does it route.

Everything here reads the stack's declaration from the minion's pillar and asks OpenHIM through its
own API. Secrets are looked up by name and never returned. Every function raises when it cannot say
what it is asked; a core that is kept stopped, because its site is not the active one, is told in
words.

Needs PyMongo on the minion.
"""

from __future__ import annotations

import functools

from salt.exceptions import CommandExecutionError
from saltext.openhim import schema, settings
from saltext.openhim.core import config as configuration
from saltext.openhim.core import database, health, ports
from saltext.openhim.core import synthetic as transaction
from saltext.openhim.core.host import CoreHost
from saltext.openhim.errors import OpenHIMError, Refused


def _converted(function):
    """What the library raises on purpose comes out as CommandExecutionError, message kept."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except OpenHIMError as error:
            raise CommandExecutionError(str(error)) from error

    return wrapper


def _core():
    return CoreHost(__pillar__, __opts__["id"])


def _active_core():
    core = _core()
    if not core.active:
        raise Refused(
            f"OpenHIM is not active on this host: the active site is {core.stack.active_site}, "
            "and this "
            f"host is at {core.host.site}. Ask a core host there."
        )
    return core


@_converted
def core_settings():
    """
    What the state tree needs to install and run OpenHIM on this host: version, paths, unit, user,
    command line, environment, ports, and whether it is active here. Nothing in it is secret.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.core_settings
    """
    return _core().settings()


@_converted
def about():
    """
    What OpenHIM says about itself: ``currentCoreVersion`` and ``serverTimezone``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.about
    """
    return _active_core().api().get("about")


@_converted
def version():
    """
    The version of the OpenHIM that runs on this host.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.version
    """
    return _active_core().api().get("about")["currentCoreVersion"]


@_converted
def heartbeat():
    """
    OpenHIM's uptime in seconds (``master``), the registered mediators' uptime (None when one has
    been silent for a minute), and OpenHIM's clock in milliseconds (``now``).

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.heartbeat
    """
    return _active_core().api().heartbeat()


@_converted
def healthy(timeout=30):
    """
    Whether OpenHIM is up *and* MongoDB takes its writes: OpenHIM is asked through its API, writes a
    mark into the synthetic client, and returns it. Raises when it is not healthy, with the reason.

    Returns ``version``, ``uptime_seconds`` and ``write_seconds``.

    timeout
        Seconds for each request. Default is ``30``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.healthy
    """
    return health.check(_active_core(), timeout)


@_converted
def synthetic(timeout=30):
    """Send a synthetic transaction through OpenHIM's router and find it in MongoDB, read with
    majority: the proof of service. Raises when any step of it fails.

    Returns ``id``, ``transaction`` (OpenHIM's ``_id``), ``status``, ``time`` (UTC),
    ``respond_seconds`` and ``found_seconds``.

    timeout
        Seconds for the whole of it. Default is ``30``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.synthetic
    """
    return transaction.run(_active_core(), timeout)


@_converted
def tcp_ports(state_directory=None, timeout=10, remember=True):
    """
    The TCP ports on which OpenHIM's live channels listen, and how they are known.

    Returns ``ports``, ``source``, ``time`` and ``reason``. ``source`` is ``live`` when OpenHIM was
    asked now; ``last known`` when it could not be asked (``reason``) and said so before, at
    ``time``; ``declared`` when it never was asked and these are the ports of the declared channels.

    state_directory
        Where they are remembered. Default is the package's own.

    timeout
        Seconds for OpenHIM to answer. Default is ``10``.

    remember
        Whether to remember what OpenHIM says. Default is ``True``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.tcp_ports
    """
    return ports.known(_core(), state_directory, timeout, remember)


@_converted
def restart(timeout=60):
    """
    Restart OpenHIM's servers through its API, and wait until they are back. What only a restart
    brings into use: the keystore's certificate, and another port of a TCP channel.

    Returns the seconds until OpenHIM answered again.

    timeout
        Seconds for the whole of it. Default is ``60``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.restart
    """
    return {"seconds": round(_active_core().api().restart(timeout), 3)}


@_converted
def database_writable(timeout=60):
    """
    Wait until both of OpenHIM's databases take writes from OpenHIM's user; leaves nothing behind.

    Returns the seconds that it took.

    timeout
        Seconds to wait. Default is ``60``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.database_writable timeout=300
    """
    return {"seconds": round(database.wait_writable(_core(), timeout), 3)}


@_converted
def config():
    """
    OpenHIM's configuration as declared, with every secret hidden.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim.config
    """
    return configuration.masked(_core().config)


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
    The roles of this host; none when its pillar is not allowed, or while it only stands by.

    The state tree asks this to decide what belongs to the host. It does not raise, so that the
    rendered tree still contains the check that says what is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call openhim.roles
    """
    if schema.check(__pillar__, __opts__["id"]):
        return []
    hosts = settings.from_pillar(__pillar__).hosts
    # One that stands by is declared, and no part of the stack yet.
    return list(hosts[__opts__["id"]].roles) if __opts__["id"] in hosts else []
