"""
MongoDB replica sets of an OpenHIM stack
========================================

What a person or an orchestration asks of a replica set that the pillar declares. ``set`` may be
left out on a host that has members of one set only. Every function raises when it cannot do what it
says.

Needs PyMongo on the minion, and in its pillar the stack's declaration, the operator's password and
the keyfile. The desired state is in the states of the same name.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import secrets, settings
    from saltext.openhim.mongo import change, connection, users
    from saltext.openhim.mongo import config as mongod
    from saltext.openhim.mongo import promotion as promoting
    from saltext.openhim.mongo import status as observed

    _converted = connection.raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"mongodb_replset needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "mongodb_replset"

__func_alias__ = {"set_config": "config"}


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _here(set_name):
    return connection.vantage(__pillar__, __opts__["id"], set_name)


@_converted
def status(set=None):
    """
    The set and each member: state, health, lag in seconds, uptime, sync source, site; and the
    problems.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.status
    """
    return observed.status(_here(set))


@_converted
def set_config(set=None):
    """
    The configuration document that this host's member has.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.config
    """
    return observed.config(_here(set))


@_converted
def pending(set=None):
    """
    What the configuration does not have as the pillar declares it; an empty list when nothing.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.pending
    """
    return observed.pending(_here(set))


@_converted
def lag(set=None):
    """
    Seconds that each member is behind the primary; None where that is not known.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' mongodb_replset.lag
    """
    return observed.lag(_here(set))


@_converted
def last_committed(set=None):
    """
    The time of the newest write that is on a majority, as this host's member knows it.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' mongodb_replset.last_committed
    """
    return observed.last_committed(_here(set))


@_converted
def oplog_window(set=None):
    """
    How far back this member's oplog reaches, in hours, and its size in MB.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' mongodb_replset.oplog_window
    """
    return observed.oplog_window(_here(set))


@_converted
def members_by_site(set=None):
    """
    The members with their states, by site.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.members_by_site
    """
    return observed.members_by_site(_here(set))


@_converted
def wait_healthy(set=None, timeout=300, max_lag=None):
    """
    Returns the status as soon as the set is healthy; raises with the reasons when it is not in
    time.

    set
        Name of the replica set.

    timeout
        Seconds to wait.

    max_lag
        Seconds that a member may be behind the primary; any lag when left out.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.wait_healthy timeout=60 max_lag=10
    """
    return observed.wait_healthy(_here(set), timeout, max_lag)


@_converted
def probe(address=None, set=None):
    """
    Looks at each declared member, or at one mongod, and says in words what answers there.

    Tells apart: unreachable, unauthorized, wrong keyfile, not a replica-set mongod, not initiated,
    removed, and member of a set with its state.

    address
        ``host:port`` of one mongod; every declared member when left out.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.probe
    """
    here = _here(set)
    if address:
        found = {address: connection.probe(address, here.access)}
    else:
        found = connection.probe_all([m.name for m in here.replica_set.members], here.access)
    return {
        name: {"kind": o.kind, "set": o.set_name, "state": o.state, "words": o.words}
        for name, o in found.items()
    }


@_converted
def is_primary(set=None):
    """
    Whether this host's own member is primary at this moment.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.is_primary
    """
    return change.observe_own(_here(set)).is_primary


@_converted
def initiate(set=None, timeout=300):
    """
    Initiates the set with all declared members or not at all; on other hosts, waits until it is.

    set
        Name of the replica set.

    timeout
        Seconds to wait for all members.

    CLI Example:

    .. code-block:: bash

        salt -L north-db1,north-db2,south-db1 mongodb_replset.initiate
    """
    return change.initiate(_here(set), timeout)


@_converted
def add(member, set=None, timeout=300):
    """
    Adds a declared member: first without a vote, then, when it has copied the data, with it.

    member
        Minion ID or ``host:port``.

    set
        Name of the replica set.

    timeout
        Seconds to wait until the member has its vote.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.add south-db2
    """
    return change.add(_here(set), member, timeout)


@_converted
def remove(member, set=None, timeout=300):
    """
    Removes a member that the pillar no longer declares.

    member
        ``host:port``.

    set
        Name of the replica set.

    timeout
        Seconds to wait.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.remove south-db2:27017
    """
    return change.remove(_here(set), member, timeout)


@_converted
def reconfigure(set=None, timeout=300):
    """
    Brings the configuration to the declared one, changing one vote at a time; returns what it
    changed.

    set
        Name of the replica set.

    timeout
        Seconds to wait until all steps are taken.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.reconfigure
    """
    return change.configure(_here(set), timeout, from_anywhere=True)


@_converted
def step_down(set=None, seconds=60, catch_up=10):
    """
    Lets the primary step down; returns who was primary and who is now.

    set
        Name of the replica set.

    seconds
        How long the old primary may not be elected again.

    catch_up
        Seconds in which a secondary must catch up, or MongoDB refuses.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.step_down seconds=120
    """
    return change.step_down(_here(set), seconds, catch_up)


@_converted
def freeze(seconds, set=None):
    """
    Keeps this host's member from seeking election for so many seconds; 0 lifts it.

    seconds
        How long.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db2' mongodb_replset.freeze 120
    """
    return change.freeze(_here(set), seconds)


@_converted
def promote(confirm, reason, declarer, set=None, timeout=60):
    """
    Failover: makes this host's member primary by a forced reconfiguration, when the majority is
    lost.

    Refuses, with every reason, while a primary is visible or a majority answers. The pillar must
    hold the recovery record (profile ``reduced``, this site active, the other lost).

    confirm
        The stack's name, typed out.

    reason
        Why the site counts as lost.

    declarer
        Who decided it.

    set
        Name of the replica set.

    timeout
        Seconds until the member must be primary and have proved a write.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' mongodb_replset.promote example reason='fire at north' declarer='A. Mwale'
    """
    return promoting.promote(_here(set), confirm, reason, declarer, timeout)


@_converted
def promotion(set=None):
    """
    The record of the last promotion on this host, with ``survived_until``: the time of the last
    write of the lost primary that its member has.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' mongodb_replset.promotion openhim
    """
    return promoting.recorded(_here(set))


@_converted
def user_logs_in(name, secret, set=None, database="admin"):
    """
    Whether this host's member accepts the password that the pillar has for a user.

    name
        The user.

    secret
        Name of its password in ``openhim:secrets``.

    set
        Name of the replica set.

    database
        The database in which the user is defined.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.user_logs_in openhim mongodb_openhim
    """
    password = secrets.lookup(__pillar__, secret)
    return users.logs_in(_here(set), name, password, database)


@_converted
def instances():
    """
    The mongods of this host: set, port, unit, paths of configuration, data and log, and binary.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.instances
    """
    return mongod.instances(settings.from_pillar(__pillar__), __opts__["id"])


@_converted
def mongod_config(set=None):
    """
    The content of the configuration file of this host's mongod.

    set
        Name of the replica set.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' mongodb_replset.mongod_config openhim
    """
    here = _here(set)
    return mongod.mongod_config(here.stack, __opts__["id"], here.replica_set.name)
