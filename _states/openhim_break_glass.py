"""
Break-glass access as desired state
===================================

An account for the emergency: for one person, for a reason, for a time, announced and recorded. It
is removed when its time is over, by the host itself: neither the master nor the minion must live
then.

.. code-block:: yaml

    ada@example.org:
      openhim_break_glass.present:
        - by: Ben
        - reason: the coordinator cannot be reached, and the orders are stuck
        - valid_for: 14400
        - groups: [admin]

The password is made on the host. It is in a file of root's, or encrypted to the public key of
whoever is to have it; nowhere else. See the topic "break-glass access" of the documentation.

Needs PyMongo on the minion, and systemd.
"""

from pathlib import Path

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.break_glass import cabinet
    from saltext.openhim.errors import OpenHIMError

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_break_glass needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_break_glass"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def present(
    name,
    by,
    reason,
    valid_for,
    groups=None,
    roles=None,
    set=None,
    recipient_key=None,
    config_file=None,
    keyfile=None,
):
    """
    An account for the emergency is open, until its time is over.

    One that is open is not changed: asked for with another time, reason or right it is refused, and
    so is one that was opened by the same words before and has ended.

    name
        The user's name, in small letters; an e-mail address where it is a user of OpenHIM.

    by
        Who opens it; written down.

    reason
        Why; written down.

    valid_for
        Seconds from the moment at which it is opened; at most a week.

    groups
        OpenHIM's groups of the user; the host is the core host at the active site. None: it is no
        user of OpenHIM.

    roles
        MongoDB's roles of the user: names (of ``admin``), or mappings with ``role`` and ``db``; the
        host has a member. None: it is no user of MongoDB.

    set
        The replica set, where the host has members of several.

    recipient_key
        The OpenPGP public key (armoured) of whoever is to have the password. Without it the
        password is in a file of root's, in memory.

    config_file
        OpenHIM's configuration. Default is the package's own place.

    keyfile
        The members' keyfile. Default is the package's own place.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        host = _host(config_file, keyfile)
        asked = cabinet.wanted(
            host, name, by, reason, valid_for, groups or (), roles or (), set, recipient_key
        )
        done = cabinet.open_(host, asked, recipient_key, test=__opts__["test"])
    except (OpenHIMError, CommandExecutionError) as error:
        return {**ret, "result": False, "comment": str(error)}
    if not done.changes:
        return {**ret, "comment": f"The account was {done.account.words}.{_announced()}"}
    if __opts__["test"]:
        comment = f"The account would be opened until {done.account.until}."
        return {**ret, "result": None, "changes": done.changes, "comment": comment}
    comment = (
        f"The account is open until {done.account.until}. Its password is in "
        f"{done.account.handover}{_for(done.account)}.{_announced()}"
    )
    return {**ret, "changes": done.changes, "comment": comment}


def absent(name, by, reason):
    """
    There is no such account for the emergency: its user, its sessions and its password are gone.
    Only accounts that ``present`` opened on this host are removed.

    name
        The user's name.

    by
        Who removes it; written down.

    reason
        Why; written down.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        done = cabinet.close(name, by, reason, test=__opts__["test"])
        if done.changes and __opts__["test"]:
            comment = f"The account would be removed; it was {done.account.words}."
            return {**ret, "result": None, "changes": done.changes, "comment": comment}
    except (OpenHIMError, CommandExecutionError) as error:
        return {**ret, "result": False, "comment": str(error)}
    comment = "The account was removed." if done.changes else "There is no such account here."
    return {**ret, "changes": done.changes, "comment": comment + _announced()}


def kept_to_time(name, config_file=None, keyfile=None):
    """
    No account for the emergency outlives its time: those that are overdue are removed, also those
    of a host that is lost, and all others have a timer on this host. Part of every highstate.

    name
        Any text.

    config_file, keyfile
        As in ``present``.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        done = cabinet.sweep(_host(config_file, keyfile), test=__opts__["test"])
    except (OpenHIMError, CommandExecutionError) as error:
        return {**ret, "result": None if __opts__["test"] else False, "comment": str(error)}
    if not done:
        return {**ret, "comment": f"No account outlives its time.{_announced()}"}
    result = None if __opts__["test"] else True
    return {**ret, "result": result, "changes": done, "comment": _announced().strip()}


def _host(config_file=None, keyfile=None):
    directory = str(Path(__opts__["conf_file"]).parent)
    return cabinet.Host(__pillar__, __opts__["id"], directory, config_file, keyfile)


def _for(account):
    return f", encrypted to the key {account.recipient}" if account.recipient else ", for root"


def _announced():
    """Tells the master what was not told yet; in words when it could not be told."""
    if __opts__["test"]:
        return ""
    try:
        __salt__["openhim_break_glass.tell"]()
    except CommandExecutionError as error:
        return f" {error}"
    return ""
