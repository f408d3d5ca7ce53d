"""
What this host can see, for those who decide on a recovery
==========================================================

The master's runner of the same name asks every declared host for its sighting before it decides.
"""

from salt.exceptions import CommandExecutionError
from saltext.openhim import settings, told
from saltext.openhim import sighting as seen
from saltext.openhim.core import standby
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo import connection, divergence, handover, promotion
from saltext.openhim.recovery import epochs


def sighting(repositories=False):
    """
    What every declared member of every replica set and every OpenHIM answers to this host, and what
    this host says of itself. Changes nothing.

    repositories
        Whether it also looks at the backup repositories whose credentials it has.

    Returns ``members`` (``set/host:port`` → ``saw``: a state such as ``PRIMARY``, or
    ``unreachable``, ``unauthorized``, ``silent``, ``not running``, ``not initiated`` and so on;
    with ``epoch``, ``set_id`` and ``committed``, seconds since 1970), ``cores`` and
    ``repositories`` (name → such a word), and of itself ``objections`` (set → what speaks against a
    promotion of its member, but for what heals by waiting), ``epochs``, ``gate_open``, ``fenced``,
    ``admits`` (it serves clients, or would), ``caught_up``, ``holds_data``, ``can_keep_aside`` and
    ``time``.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_dr.sighting
    """
    return _guarded(lambda: seen.look(__pillar__, __grains__["id"], repositories))


def tell(records):
    """
    Lets this host know of the recovery record: it writes down all epochs, beside those that it
    knows already.

    records
        The epochs, as the master's runner ``openhim_dr.tell`` sends them.

    Returns what the host says of itself then, as in ``sighting``.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_dr.tell records='[]'
    """

    def written():
        told.tell(epochs.parsed(records))
        return seen.own(__pillar__, __grains__["id"])

    return _guarded(written)


def close(epoch_id):
    """
    OpenHIM on this host serves nobody: it is stopped, and does not start with the host. A host
    without OpenHIM has nothing to do.

    epoch_id
        The ID of the epoch in whose name it is asked; refused when this host knows a newer one.

    Returns what the host says of itself then, as in ``sighting``.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim_dr.close 0b1c3f1e-8f0d-4c52-9d7a-1c1f6d3f2a55
    """

    def closed():
        _obey(epoch_id)
        if "core" in settings.from_pillar(__pillar__).host(__grains__["id"]).roles:
            standby.close()
        return seen.own(__pillar__, __grains__["id"])

    return _guarded(closed)


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
    return _guarded(lambda: promotion.traces(connection.vantage(__pillar__, __grains__["id"], set)))


def handed_over(set):
    """
    How far the oplog reached when this host's member gave way as the primary: ``epoch`` (its ID),
    ``set``, ``ts``, ``term`` and ``at`` (ISO 8601); None where it never did.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_dr.handed_over openhim
    """
    return _guarded(lambda: handover.noted(connection.vantage(__pillar__, __grains__["id"], set)))


def has_writes(set, positions):
    """
    Which entries of other members' oplogs are in that of this host's member too, so that its
    history has them; None for one that is older than its oplog reaches back.

    set
        Name of the replica set.

    positions
        By any name, ``ts`` (seconds and increment) and ``term`` of an entry, as ``positions`` and
        ``handed_over`` return them.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_dr.has_writes openhim '{north-db1: {ts: [1769860800, 1], term: 3}}'
    """
    here = connection.vantage(__pillar__, __grains__["id"], set)
    return _guarded(lambda: handover.has(here, positions))


def positions(stopped=False):
    """
    Set → where this host's member stands in the history: ``ts``, ``term`` and ``at`` (ISO 8601) of
    the newest entry of its oplog; None for a member without data. One that does not run is left
    out.

    stopped
        Whether to look into the data of those that do not run, or end after each start, too: a
        mongod is started on it for some seconds, which nobody else reaches.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_dr.positions stopped=True
    """
    return _guarded(lambda: divergence.positions(__pillar__, __grains__["id"], stopped))


def keep_aside(epoch_id, sets):
    """
    Stops the members of these sets on this host, and moves their data aside; they copy everything
    from the other members when they start again.

    epoch_id
        The ID of the epoch in whose name it is asked; refused when this host knows a newer one.

    sets
        Names of the replica sets.

    Returns where the data is kept, by set. Raises where there is no room for both.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_dr.keep_aside 0b1c3f1e-8f0d-4c52-9d7a-1c1f6d3f2a55 '[openhim]'
    """

    def moved():
        newest = _obey(epoch_id)
        return divergence.keep_aside(__pillar__, __grains__["id"], sets, newest.number)

    return _guarded(moved)


def stopped_at():
    """
    When OpenHIM on this host was last stopped for a recovery (ISO 8601); None when it runs, or
    never was.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim_dr.stopped_at
    """
    return _guarded(standby.stopped_at)


def _obey(epoch_id):
    """The newest epoch that this host knows; refuses what is asked in the name of another."""
    records = told.read()
    problem = epochs.disobedience(records, epoch_id)
    if problem:
        raise Refused(problem)
    return epochs.known(records).current


def _guarded(function):
    try:
        return function()
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
