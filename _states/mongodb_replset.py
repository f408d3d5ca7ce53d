"""
MongoDB replica sets as desired state
=====================================

Run the same states on every host of a set, at the same moment if you like: one host writes, and the
others wait for the result. Each state reads back what it wrote, and with ``test=True`` writes
nothing.

.. code-block:: yaml

    The replica set is initiated:
      mongodb_replset.initiated:
        - name: openhim

    The operator exists:
      mongodb_replset.user_present:
        - name: operator
        - set: openhim

    The replica set is as declared:
      mongodb_replset.configured:
        - name: openhim

    The replica set is healthy:
      mongodb_replset.healthy:
        - name: openhim
"""

from functools import wraps

try:
    from saltext.openhim import errors, secrets
    from saltext.openhim.mongo import change, connection, handover, promotion, restart, users
    from saltext.openhim.mongo import config as mongod
    from saltext.openhim.mongo import status as observed

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"mongodb_replset needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "mongodb_replset"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _answered(function):
    """Makes a state's return of (result, changes, comment), and a failed one of an error."""

    @wraps(function)
    def state(name, *args, **kwargs):
        try:
            answer = connection.raises(errors.OpenHIMError)(function)(name, *args, **kwargs)
        except errors.OpenHIMError as error:
            # A mongod that does not run (yet) leaves open what would be changed in it.
            open_question = __opts__["test"] and isinstance(error, errors.Unreachable)
            answer = (None if open_question else False, {}, str(error))
        result, changes, comment = answer
        return {"name": name, "result": result, "changes": changes, "comment": comment}

    return state


def _here(set_name):
    return connection.vantage(__pillar__, __opts__["id"], set_name)


def _no_member(here):
    """The answer for a host that the active profile leaves out of the set."""
    return (
        True,
        {},
        f"This host has no member of {here.replica_set.name} in the profile {here.stack.profile}: "
        "nothing to do.",
    )


def _foreseen(changes, ours):
    """The answer in test mode: changes only on the host that would make them."""
    if not changes:
        return True, {}, "As declared."
    if ours:
        return None, {"would": changes}, f"Would change: {'; '.join(changes)}"
    return None, {}, f"The primary's host would change: {'; '.join(changes)}"


def _reconfigured(done):
    return (True, {"changed": done}, "Changed.") if done else (True, {}, "As declared.")


def _instance(here):
    """This host's mongod of a set: where its unit, its files and its record are."""
    known = mongod.instances(here.stack, __opts__["id"])
    return next(instance for instance in known if instance["set"] == here.replica_set.name)


@_answered
def up_to_date(name, timeout=600):
    """
    The running mongod has the configuration, keyfile, unit, certificate and version that are
    declared and on its disk.

    Restarts it where it has not, in turn with the other members, so that the set keeps its
    majority; a primary steps down first. A new certificate is taken without a restart. Refuses,
    with the reason, while the set cannot do without this member.

    name
        Name of the replica set.

    timeout
        Seconds for its turn to come, and for it to be back.
    """
    here = _here(name)
    if here.member is None:
        return _no_member(here)
    instance = _instance(here)
    if __opts__["test"]:
        found = restart.pending(here, instance)
        if not found:
            return True, {}, f"mongod of {name} has what is on its disk."
        return None, {"would take": found.words}, f"Would let mongod of {name} have it."
    done = restart.bring_up_to_date(
        here, instance, lambda: __salt__["service.restart"](instance["unit"]), timeout
    )
    if not done:
        return True, {}, f"mongod of {name} has what is on its disk."
    return True, {"done": done}, f"mongod of {name} has what is on its disk now."


def mod_watch(name, sfun=None, timeout=600, **_):
    """
    What ``up_to_date`` does when a state that it watches has written: in test mode, where that
    state wrote nothing, it says so.

    name
        Name of the replica set.

    sfun
        The state that watches; only ``up_to_date`` does.

    timeout
        Seconds, as above.
    """
    if sfun != "up_to_date":
        comment = f"mongodb_replset.{sfun} watches nothing: require the other state."
        return {"name": name, "result": False, "changes": {}, "comment": comment}
    if __opts__["test"]:
        comment = f"Would let mongod of {name} have what the states before would write."
        return {"name": name, "result": None, "changes": {}, "comment": comment}
    return up_to_date(name, timeout)


@_answered
def initiated(name, timeout=300):
    """
    The replica set exists, with all declared members from the start.

    One designated host initiates it, as soon as every declared member answers, holds our keyfile
    and belongs to no set; the other hosts wait. Refuses in words: a member of another set, another
    keyfile, a member that does not answer in time.

    name
        Name of the replica set.

    timeout
        Seconds to wait for all members.
    """
    here = _here(name)
    if here.member is None:
        return _no_member(here)
    exists, comment = change.foresee_initiation(here)
    if __opts__["test"]:
        ours = here.replica_set.initiator == here.member
        changes = {} if exists or not ours else {"would": f"initiate {name}"}
        return (True if exists else None), changes, comment
    done = change.initiate(here, timeout)
    if not done:
        return True, {}, f"{name} is initiated."
    return True, {"initiated": done}, f"{name} was initiated with all declared members."


@_answered
def configured(name, timeout=300):
    """
    Members, priorities, votes, tags, write modes and timeouts of the set are as the pillar
    declares.

    The host whose member is primary makes the changes, one vote at a time, and the others wait for
    it.

    name
        Name of the replica set.

    timeout
        Seconds until all must be as declared.
    """
    here = _here(name)
    if here.member is None:
        return _no_member(here)
    if __opts__["test"]:
        return _foreseen(*change.foresee(here, change.target))
    return _reconfigured(change.configure(here, timeout))


@_answered
def member_present(name, set=None, timeout=300):
    """
    One declared member belongs to the set, as declared.

    It is added without a vote, and gets its vote when it has copied the data. Refuses one that does
    not answer in time, belongs to another set, or holds another keyfile.

    name
        Minion ID, or ``host:port``, of a declared member.

    set
        Name of the replica set.

    timeout
        Seconds until the member must have its vote.
    """
    here = _here(set)
    if here.member is None:
        return _no_member(here)
    member = change.declared_member(here, name)
    if member is None:
        declared = ", ".join(m.host.id for m in here.replica_set.members)
        return (
            False,
            {},
            f"{name} is no declared member; declared are {declared}. Declare it first.",
        )
    if __opts__["test"]:
        return _foreseen(*change.foresee(here, change.with_member(member)))
    return _reconfigured(change.configure(here, timeout, change.with_member(member)))


@_answered
def member_absent(name, set=None, timeout=300):
    """
    A member does not belong to the set (any more). Refuses one that the pillar still declares.

    name
        ``host:port``, or the minion ID of a host that is declared for something else.

    set
        Name of the replica set.

    timeout
        Seconds until it must be gone.
    """
    here = _here(set)
    if here.member is None:
        return _no_member(here)
    wanted = change.without_member(change.undeclared_name(here, name))
    if __opts__["test"]:
        return _foreseen(*change.foresee(here, wanted))
    return _reconfigured(change.configure(here, timeout, wanted))


@_answered
def handed_over(name, timeout=300):
    """
    The set is as the pillar declares, and its member with the highest priority is the primary: the
    one that is primary hands over, and no write is lost.

    Before it does, its host notes how far its oplog reaches. Run it on all hosts of the set: the
    others wait.

    name
        Name of the replica set.

    timeout
        Seconds until it must be so.
    """
    here = _here(name)
    if here.member is None:
        return _no_member(here)
    if __opts__["test"]:
        return _foreseen(*handover.foresee(here))
    return _reconfigured(handover.hand_over(here, timeout))


@_answered
def healthy(name, timeout=300, max_lag=None):
    """
    The set has a primary, and every declared member has the data and keeps up. Changes nothing.

    name
        Name of the replica set.

    timeout
        Seconds until it must be healthy.

    max_lag
        Seconds that a member may be behind the primary; any lag when left out.
    """
    here = _here(name)
    if here.member is None:
        return _no_member(here)
    if __opts__["test"]:
        found = observed.status(here)
        reasons = observed.problems(here, found, max_lag)
        if reasons:
            return None, {}, f"Would wait until {name} is healthy; now: {'; '.join(reasons)}"
        return True, {}, f"{name} is healthy; the primary is {found['primary']}."
    found = observed.wait_healthy(here, timeout, max_lag)
    return True, {}, f"{name} is healthy; the primary is {found['primary']}."


@_answered
def user_present(
    name, set=None, secret=None, roles=None, database="admin", reset=False, timeout=300
):
    """
    A database user exists, with the pillar's password and exactly these roles.

    The first user must be the operator, and comes in through MongoDB's localhost exception on the
    primary's host. The password is compared by logging in.

    name
        The user's name.

    set
        Name of the replica set.

    secret
        Name of the password in ``openhim:secrets``; never the password itself. When left out, as
        ``openhim:mongodb:users`` declares it.

    roles
        List of role names, or of mappings with ``role`` and ``db``. When left out, as
        ``openhim:mongodb:users`` declares them.

    database
        The database in which the user is defined.

    reset
        For the operator only: where its password differs, set it by means of the keyfile.

    timeout
        Seconds until the user must have reached this host's member.
    """
    here = _here(set)
    if here.member is None:
        return _no_member(here)
    declared = here.stack.declared["mongodb"].get("users", {}).get(name, {})
    secret, roles = secret or declared.get("secret"), roles or declared.get("roles")
    if not secret or not roles:
        return False, {}, f"{name} has no secret or no roles: give them, or declare the user."
    password = secrets.lookup(__pillar__, secret)
    if __opts__["test"]:
        changes, ours = users.foresee(here, name, password, roles, database, reset)
        if not changes:
            return True, {}, f"The user {name} is as declared."
        who = "This host" if ours else "The primary's host"
        return (
            None,
            changes if ours else {},
            f"{who} would write its {' and '.join(sorted(changes))}.",
        )
    done = users.ensure(here, name, password, roles, database, reset, timeout)
    return True, done, f"The user {name} {'was written and ' if done else ''}is as declared."


@_answered
def promoted(name, confirm, reason, declared_by, timeout=60):
    """
    Failover: this host's member is the primary, by forced reconfiguration, after the majority is
    lost.

    Only an orchestration that a person started uses it. Refuses, with every reason, while a primary
    is visible or a majority answers; does nothing where it is done already but to prove a write
    again.

    name
        Name of the replica set.

    confirm
        The stack's name, typed out.

    reason
        Why the site counts as lost.

    declared_by
        Who decided it.

    timeout
        Seconds until the member must be primary and have proved a write.
    """
    here = _here(name)
    if __opts__["test"]:
        changes, state = promotion.foresee(here, confirm, reason, declared_by, timeout)
        if not changes and state == "PRIMARY":
            return True, {}, f"{name} has its primary here."
        return None, {"would": changes or ["wait for the election"]}, f"Would promote {name} here."
    done = promotion.promote(here, confirm, reason, declared_by, timeout)
    changes = {"promoted": done} if done["changed"] else {}
    return True, changes, f"{done['comment']}."
