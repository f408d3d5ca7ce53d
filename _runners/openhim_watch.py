"""
Watching, and being watched
===========================

``notify`` tells people what a minion says of its backups, or of an emergency; the reactors in
``salt/reactor/`` call it. ``heartbeat`` is a dead man's switch: it gives a sign of life only while
all is well, so that silence is the alarm, whatever it was that fell silent: the backups, a minion
or the master.

Both read their addresses from the master's configuration, because they are as good as passwords
and arguments are seen in events:

.. code-block:: yaml

    openhim_notify: https://chat.example.org/hooks/…      # takes JSON by POST
    openhim_heartbeat: https://watch.example.org/ping/…   # is called by GET, and alarms on silence
"""

import json

from salt.exceptions import CommandExecutionError
from saltext.openhim import files, outside
from saltext.openhim.errors import OpenHIMError

NOTIFY, HEARTBEAT = "openhim_notify", "openhim_heartbeat"


def notify(minion, event):
    """
    Send a minion's event to ``openhim_notify``, as JSON: ``text`` in words (the event's own, or
    one about its backups), and the event's ``minion``, ``stack``, ``state`` and ``reasons``.

    minion
        Who says so.

    event
        The event's data.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_watch.notify south-db1 '{stack: example, state: ok, reasons: [a test]}'
    """
    message = {
        "text": outside.words(minion, event),
        "minion": minion,
        **{key: event.get(key) for key in ("stack", "state", "reasons")},
    }
    _call(NOTIFY, message)
    return message["text"]


def heartbeat(stack, file=None):
    """
    Look at the backups of a stack (``openhim_dr.status``), and give a sign of life if they are ok:
    ``openhim_heartbeat`` is called then and only then. Run it by the master's schedule.

    stack
        The stack's name.

    file
        A file that says when it was looked and what was found (JSON), ok or not, for a monitoring
        that reads files; written in one step.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_watch.heartbeat example file=/var/lib/openhim-watch/example.json
    """
    if not file and not __opts__.get(HEARTBEAT):
        raise CommandExecutionError(
            f"nobody would notice: found no file and no {HEARTBEAT} in the master's configuration; "
            "give one of them"
        )
    found = __salt__["openhim_dr.status"](stack)
    seen = {key: found[key] for key in ("stack", "at", "state", "reasons")}
    if file:
        files.write(file, json.dumps(seen, indent=1).encode() + b"\n", 0o644)
    alive = found["state"] == "ok"
    if alive and __opts__.get(HEARTBEAT):
        _call(HEARTBEAT)
    return {**seen, "retcode": int(not alive)}


def _call(key, message=None):
    address = __opts__.get(key)
    if not address:
        raise CommandExecutionError(
            f"{key}: found nothing in the master's configuration; expected an https:// address"
        )
    try:
        outside.call(address, message)
    except OpenHIMError as error:
        raise CommandExecutionError(f"{key}: {error}") from error
