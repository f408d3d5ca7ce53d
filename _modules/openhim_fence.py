"""
The fence and the gate of a host of the OpenHIM stack.

A fenced host cannot write: mongod's and OpenHIM's ports are cut on every interface, and their
services are stopped and masked, also after a boot. The gate keeps both from starting after a boot
until somebody proves which epoch is the current one. See the topic "fencing" of the documentation.
"""

import salt.pillar
from salt.exceptions import CommandExecutionError
from saltext.openhim import fence_host, gate_host, settings
from saltext.openhim.errors import OpenHIMError


def fence(epoch, by, reason):
    """
    Makes this host unable to write, now and after every boot, until the fence is lifted.

    epoch: the stack's epoch in which this is ordered: the current one, or the one that it prepares;
    one older than this host knows is refused. by: who orders it. reason: why. All three are
    recorded on the host.

    Returns ``openhim_fence.status``. Raises when anything is missing in the end; all that could be
    done is done then. A host that is fenced stays so, and what is missing is put right.

    CLI Example:

    .. code-block:: bash

        salt -L north-db1,north-core openhim_fence.fence epoch=1 by=Ada reason='north burns'
    """
    order = fence_host.order("fence", epoch, by, reason)
    return _guarded(lambda: fence_host.raise_fence(_stack(), _id(), order))


def unfence(epoch, by, reason):
    """
    Lifts the fence of this host. Its services are not started.

    epoch: the stack's current epoch; any other number is refused. by: who orders it. reason: why,
    for instance that the host was resynchronised.

    Returns ``openhim_fence.status``. Raises when a step failed; the host counts as fenced then.

    CLI Example:

    .. code-block:: bash

        salt north-db1 openhim_fence.unfence epoch=2 by=Ada reason='rejoined'
    """
    order = fence_host.order("unfence", epoch, by, reason)
    return _guarded(lambda: fence_host.lift_fence(_stack(), _id(), order))


def status():
    """
    Whether this host is fenced: by whom, since when, why, in which epoch, and what is missing.

    Returns a dictionary: ``fenced``; ``epoch``, ``by``, ``reason`` and ``at`` (ISO 8601) of the
    order, None when it is not; ``missing``: what the fence lacks, by part (``record``, ``kernel``,
    ``file``, ``unit``, ``masks``, ``services``), empty when nothing; ``remains``: parts of a fence
    on a host that is not fenced; ``lifting``: a run that lifted it was broken off; ``last_order``;
    ``units``: the services that it covers; ``highest_epoch``: that this host has ever heard of,
    None when that cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_fence.status
    """
    return _guarded(lambda: fence_host.status(_stack(), _id()))


def rules():
    """
    The table that fences this host, as text for ``nft -f``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.rules
    """
    return _guarded(lambda: fence_host.rules(fence_host.scope(_stack(), _id())))


def missing():
    """
    What this host lacks to be fenced, by part, in words; empty when it is.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.missing
    """
    return _guarded(lambda: fence_host.missing(_stack(), _id()))


def check_order(verb, epoch, by, reason):
    """
    Whether ``fence`` or ``unfence`` would be accepted; raises what they would refuse. Changes
    nothing.

    verb: ``fence`` or ``unfence``. epoch, by, reason: as for these.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.check_order unfence epoch=2 by=Ada reason='rejoined'
    """
    order = fence_host.order(verb, epoch, by, reason)
    _guarded(lambda: fence_host.require_permission(_stack(), order))
    return True


def admit(epoch=None):
    """
    Opens the gate of this host for this boot, under the epoch that the master's recovery record has
    now. The services behind it are not started.

    The master is asked for the pillar anew, for what the minion has in memory may be from before a
    recovery. Refused are an epoch lower than the highest that this host has ever heard of, a host
    whose site was given up, and a fenced host.

    epoch: refused when the master says another one; not compared when left out.

    Returns ``openhim_fence.gate``.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_fence.admit epoch=2
    """
    if __opts__.get("file_client") == "local" or __opts__.get("master_type") == "disable":
        raise CommandExecutionError(
            "no master was asked (file_client: local), so there is no proof of the current epoch; "
            "without a master, openhim-attest opens the gate"
        )
    master = __opts__.get("master_ip") or __opts__.get("master")
    return _guarded(
        lambda: gate_host.admit(settings.from_pillar(_fresh_pillar()), _id(), epoch, str(master))
    )


def gate():
    """
    Whether mongod and OpenHIM may start in this boot.

    Returns a dictionary: ``open``; ``reason``: why not; ``proof``: ``epoch``, ``how`` (``master``
    or ``attested``), ``by``, ``reason``, ``at``; None without one.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_fence.gate
    """
    return gate_host.status()


def gate_pending():
    """
    What differs between this host and one with a gate, by path; empty when nothing does.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.gate_pending
    """
    return _guarded(lambda: gate_host.pending(_stack(), _id(), __opts__["config_dir"]))


def gate_install():
    """
    Puts the gate before mongod and OpenHIM on this host; those that run go on.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.gate_install
    """
    _guarded(lambda: gate_host.install(_stack(), _id(), __opts__["config_dir"]))
    return True


def gate_present():
    """
    The files of a gate that are on this host; a list of paths.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.gate_present
    """
    return _guarded(lambda: gate_host.present(_stack(), _id()))


def gate_remove():
    """
    Takes the gate away; what runs goes on.

    Returns True.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_fence.gate_remove
    """
    _guarded(lambda: gate_host.remove(_stack(), _id()))
    return True


def _id():
    return __opts__["id"]


def _stack():
    # __pillar__ and not pillar.get, which masks values inside modules.
    return settings.from_pillar(__pillar__)


def _fresh_pillar():
    found = salt.pillar.get_pillar(
        __opts__, __grains__, _id(), __opts__.get("saltenv"), pillarenv=__opts__.get("pillarenv")
    ).compile_pillar()
    if not found or "_errors" in found:
        raise OpenHIMError(f"the master gave no pillar: {found.get('_errors') or 'it is empty'}")
    return found


def _guarded(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
