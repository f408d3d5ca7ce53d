"""
A minion says by itself how its backups are
===========================================

.. code-block:: yaml

    beacons:
      openhim_backup:
        - interval: 60
        - max_age: 1800      # seconds after which an old judgement is none any more
        - repeat: 3600       # seconds between two events while something is not ok

It reads what ``openhim_backup.status`` said last, which the schedule asks for, and talks to no
server: a beacon runs in the minion's main loop. An event comes when the state or its reasons
change, and again while it is not ok. When nobody has looked for ``max_age`` seconds, that is an
event as well: silence is not ok.

The event's tag is ``salt/beacon/<minion>/openhim_backup/<state>``.
"""

import time

__virtualname__ = "openhim_backup"

MAX_AGE = 1800
REPEAT = 3600

#: What was told last, and when. A minion that starts anew tells once more.
_TOLD = {}


def __virtual__():
    return __virtualname__


def validate(config):
    """Whether a beacon's configuration can be used: ``max_age`` and ``repeat`` are numbers."""
    if not isinstance(config, list):
        return False, "the configuration of openhim_backup must be a list of mappings"
    for key, value in _settings(config).items():
        if key in ("max_age", "repeat") and not (isinstance(value, (int, float)) and value > 0):
            return False, f"{key} is {value!r}; expected is a number of seconds above 0"
    return True, "valid"


def beacon(config):
    """The event to fire, in a list; an empty list when there is nothing to say."""
    settings = _settings(config)
    found = __salt__["openhim_backup.last_status"](settings.get("max_age", MAX_AGE))
    news = (found["state"], tuple(found.get("reasons", ())))
    now = time.monotonic()
    due = news[0] != "ok" and now - _TOLD.get("at", now) >= settings.get("repeat", REPEAT)
    if news == _TOLD.get("news") and not due:
        return []
    _TOLD.update(news=news, at=now)
    return [
        {
            "tag": news[0],
            "state": news[0],
            "reasons": list(news[1]),
            "stack": found.get("stack"),
            "looked_at": found.get("at"),
        }
    ]


def _settings(config):
    found = {}
    for entry in config:
        found.update(entry)
    return found
