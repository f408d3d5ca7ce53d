"""
The start bundle as desired state
=================================

.. code-block:: yaml

    There is a start bundle of today:
      openhim_bundle.stored:
        - max_age: 86400

With ``test=True`` nothing is stored.
"""

from datetime import datetime, timezone

from salt.exceptions import CommandExecutionError

__virtualname__ = "openhim_bundle"


def __virtual__():
    if "openhim_bundle.store" in __salt__:
        return __virtualname__
    return False, "the execution module openhim_bundle did not load"


def stored(name, max_age=86400, config=None):
    """
    Every repository of the start bundle holds one that is young enough and knows the newest
    recovery; otherwise it is stored now.

    name
        Any text.

    max_age
        Seconds.

    config
        The master's configuration; the file ``master`` beside the minion's when left out.
    """
    try:
        result, changes, comment = _stored(float(max_age), config)
    except CommandExecutionError as error:
        result, changes, comment = False, {}, str(error)
    return {"name": name, "result": result, "changes": changes, "comment": comment}


def _stored(max_age, config):
    wanted = sorted(__pillar__["openhim"]["backup"]["bundle"]["repositories"])
    old = _late(wanted, max_age)
    if not old:
        return True, {}, f"A start bundle is in {', '.join(wanted)}."
    changes = {name: {"old": was, "new": "one of now"} for name, was in old.items()}
    if __opts__["test"]:
        return None, changes, f"Would store the start bundle in {', '.join(wanted)}."
    made = {one["repository"]: one["time"] for one in __salt__["openhim_bundle.store"](config)}
    changes = {name: {"old": was, "new": made.get(name)} for name, was in old.items()}
    if left := _late(wanted, max_age):
        return False, changes, f"Stored, and not listed in {', '.join(left)}."
    return True, changes, f"The start bundle was stored in {', '.join(made)}."


def _late(wanted, max_age):
    """The repositories whose newest bundle will not do, with its time or None."""
    newest = {one["repository"]: one for one in __salt__["openhim_bundle.list"]()}
    epoch = int((__pillar__["openhim"].get("recovery") or {}).get("epoch") or 0)
    return {
        name: newest[name]["time"] if name in newest else None
        for name in wanted
        if name not in newest or not _will_do(newest[name], epoch, max_age)
    }


def _will_do(one, epoch, max_age):
    """Whether a bundle is neither too old nor of the future, and of this epoch."""
    now = datetime.now(timezone.utc)
    age = (now - datetime.fromisoformat(one["time"])).total_seconds()
    return -300 <= age <= max_age and one["epoch"] >= epoch
