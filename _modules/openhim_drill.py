"""
Drills: is what was backed up enough to serve again, and how long does it take
==============================================================================

A functional drill restores the newest restore point on ``openhim:drills:run_by``, starts the real
OpenHIM on it where it reaches nobody, sends a transaction and finds it again. It measures RTO and
RPO, counts what OpenHIM tried to send, tears everything down, and is recorded. Full and tabletop
drills are held by people, who record them here.

Every function raises when it cannot do what it says; a drill that is not passed raises once it is
recorded.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import files
    from saltext.openhim.backup import work
    from saltext.openhim.drill import by_people, declaration, functional, records
    from saltext.openhim.drill import status as judging
    from saltext.openhim.errors import OpenHIMError
    from saltext.openhim.mongo.connection import raises

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_drill needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_drill"

__func_alias__ = {"list_": "list"}


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _drills():
    return declaration.from_pillar(__pillar__, __opts__["id"])


@_converted
def tasks():
    """
    What this host does for the drills: whether they run ``here``, and its ``schedule``.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_drill.tasks
    """
    drills = _drills()
    declared = bool(drills.stack.declared.get("drills"))
    return {
        "here": declared and drills.here,
        "schedule": drills.schedule() if declared else {},
    }


@_converted
def run(by="", point="latest", repository=None, folder=None, wait=0):
    """
    Hold a functional drill now. Only ``openhim:drills:run_by`` may.

    by
        Who asked for it; Salt when left out.

    point
        An ID, ``latest`` or ``verified`` (the newest that was verified).

    repository
        Its name in the pillar; all that this host can open when left out.

    folder
        Where the restored data is meanwhile: on a tmpfs or an encrypted disk. ``/dev/shm`` when
        left out.

    wait
        Seconds to wait for a backup task on this host, before the drill is refused.

    Returns the drill as it is recorded: verdict, RPO and RTO in seconds, what each step took, what
    was set aside, and the packets that were dropped (``denied``: none).

    CLI Example:

    .. code-block:: bash

        salt --timeout=3600 'west-backup' openhim_drill.run by='A. Mwale'
    """
    drills = _drills()
    with work.patience(wait):
        done = functional.run(
            drills, by=by or "Salt", point=point, repository=repository, folder=folder
        )
    return functional.told(done)


@_converted
def record(kind, verdict, by, notes, began_at=None, rto_seconds=None, rpo_seconds=None):
    """
    Put a drill on record that people held. Only ``openhim:drills:run_by`` keeps the record.

    kind
        ``full`` or ``tabletop``.

    verdict
        ``passed`` or ``failed``.

    by
        Who says so.

    notes
        What was done, and what was learnt.

    began_at
        ISO 8601 with zone; now when left out.

    rto_seconds, rpo_seconds
        What was measured, if it was.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_drill.record tabletop passed by='A. Mwale' \
            notes='site lost at night; the phone list was out of date, and is corrected'
    """
    done = by_people.record(_drills(), kind, verdict, by, notes, began_at, rto_seconds, rpo_seconds)
    return functional.told(done)


@_converted
def list_(kind=None):
    """
    The drills on record, the oldest first.

    kind
        ``functional``, ``full`` or ``tabletop``; all when left out.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_drill.list
    """
    drills = _drills()
    drills.require_here()
    known = records.read()
    if known.unreadable:
        raise OpenHIMError(
            f"{records.FILE} cannot be read in the lines {', '.join(map(str, known.unreadable))}"
        )
    found = known.of(kind) if kind else known.drills
    return [functional.told(drill) for drill in found]


@_converted
def status(metrics=None):
    """
    How the drills are: ``state`` (ok, degraded, failing, unknown), the reasons, and for each
    declared kind when it was last passed and what was measured. Reads one file, and talks to no
    server.

    metrics
        A file that Prometheus' node exporter reads (``*.prom``); written in one step.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_drill.status
    """
    found = judging.status(_drills())
    if metrics:
        files.write(metrics, judging.metrics(found).encode(), 0o644)
    return found
