"""
A minion says by itself how the drills are
==========================================

.. code-block:: yaml

    beacons:
      openhim_drill:
        - interval: 300
        - repeat: 86400      # seconds between two events while something is not ok

It reads the record of drills on ``openhim:drills:run_by`` and talks to no server. An event comes
when the state or its reasons change, and again while it is not ok: a drill that is overdue, failed,
or did not come to its end.

The event's tag is ``salt/beacon/<minion>/openhim_drill/<state>``.
"""

import re
import time

__virtualname__ = "openhim_drill"

REPEAT = 86400

#: What was told last, and when. A minion that starts anew tells once more.
_TOLD = {}


def __virtual__():
    return __virtualname__


def validate(config):
    """Whether a beacon's configuration can be used: ``repeat`` is a number of seconds."""
    if not isinstance(config, list):
        return False, "the configuration of openhim_drill must be a list of mappings"
    repeat = _settings(config).get("repeat", REPEAT)
    if not (isinstance(repeat, (int, float)) and repeat > 0):
        return False, f"repeat is {repeat!r}; expected is a number of seconds above 0"
    return True, "valid"


def beacon(config):
    """The event to fire, in a list; an empty list when there is nothing to say."""
    try:
        found = __salt__["openhim_drill.status"]()
    except Exception as error:
        # A beacon that raises is told to the log only: silence is not ok.
        found = {"state": "unknown", "reasons": [str(error)]}
    # How long ago something was changes at every look, and is no news.
    news = (found["state"], tuple(re.sub(r"\d+", "N", reason) for reason in found["reasons"]))
    now = time.monotonic()
    due = news[0] != "ok" and now - _TOLD.get("at", now) >= _settings(config).get("repeat", REPEAT)
    if news == _TOLD.get("news") and not due:
        return []
    _TOLD.update(news=news, at=now)
    return [
        {
            "tag": found["state"],
            "what": "drills",
            "state": found["state"],
            "reasons": list(found["reasons"]),
            "stack": found.get("stack"),
            "looked_at": found.get("at"),
        }
    ]


def _settings(config):
    found = {}
    for entry in config:
        found.update(entry)
    return found
