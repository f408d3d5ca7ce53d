"""
The start bundle as desired state
=================================

.. code-block:: yaml

    There is a start bundle of today:
      openhim_bundle.stored:
        - max_age: 86400

With ``test=True`` nothing is stored.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.backup import bundle, declaration
    from saltext.openhim.backup.failures import RepositoryUnreachable, ResticMissing
    from saltext.openhim.errors import OpenHIMError

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_bundle needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_bundle"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def stored(name, max_age=None, config=None):
    """
    Every repository of the start bundle holds one that is young enough and knows the newest
    recovery; otherwise it is stored now.

    name
        Any text.

    max_age
        Seconds; ``openhim:backup:bundle:max_age_seconds`` when left out.

    config
        The master's configuration; the file ``master`` beside the minion's when left out.
    """
    try:
        result, changes, comment = _stored(max_age, config)
    except (OpenHIMError, CommandExecutionError) as error:
        result, changes, comment = False, {}, str(error)
    return {"name": name, "result": result, "changes": changes, "comment": comment}


def _stored(max_age, config):
    backups = declaration.from_pillar(__pillar__, __opts__["id"])
    limit = float(max_age or bundle.max_age(backups))
    wanted = ", ".join(bundle.repositories(backups))
    try:
        old = bundle.late(backups, limit)
    except (ResticMissing, RepositoryUnreachable) as error:
        if not __opts__["test"]:
            raise
        # On a new host it is a highstate that installs restic and opens the way to the store.
        return None, {}, f"Not known yet whether a start bundle is in {wanted}: {error}"
    if not old:
        return True, {}, f"A start bundle is in {wanted}."
    changes = {name: {"old": was, "new": "one of now"} for name, was in old.items()}
    if __opts__["test"]:
        return None, changes, f"Would store the start bundle in {wanted}."
    made = {one["repository"]: one["time"] for one in __salt__["openhim_bundle.store"](config)}
    changes = {name: {"old": was, "new": made.get(name)} for name, was in old.items()}
    if left := bundle.late(backups, limit):
        return False, changes, f"Stored, and not listed in {', '.join(left)}."
    return True, changes, f"The start bundle was stored in {wanted}."
