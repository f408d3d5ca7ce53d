"""
What a host shows for the disaster recovery plan
================================================

Evidence that only the host itself can give: whether its data is encrypted on its disks, which
runbook it holds, and the anchors of the chain of evidence in the repositories that it works with.
The master's runner ``openhim_dr`` asks for these.
"""

from dataclasses import asdict

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import settings
    from saltext.openhim.backup import declaration, points
    from saltext.openhim.core.host import CoreHost
    from saltext.openhim.emergency import switch
    from saltext.openhim.mongo.connection import raises
    from saltext.openhim.plan import anchors as anchoring
    from saltext.openhim.plan import at_rest as resting
    from saltext.openhim.plan import delivery, pages

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_plan needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_plan"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


@_converted
def at_rest():
    """
    Whether the folders with patients' data are encrypted on this host's disks: for each one
    ``state`` (``encrypted``, ``plain``, ``memory``, ``unknown``) and why.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_plan.at_rest
    """
    stack = settings.from_pillar(__pillar__)
    return [asdict(resting.look(path)) for path in resting.folders(stack, __opts__["id"])]


@_converted
def anchor(number, sha256):
    """
    Remember the head of the chain of evidence in every repository in which this host stores; the
    same head is not stored twice. Returns the anchors as they were read back.

    number
        Of the newest record.

    sha256
        Of the newest record.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_plan.anchor 12 9e173f4e…
    """
    backups = declaration.from_pillar(__pillar__, __opts__["id"])
    return [asdict(one) for one in anchoring.anchored(backups, int(number), str(sha256))]


@_converted
def anchors():
    """
    The anchors of the chain of evidence in every repository that this host can open.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_plan.anchors
    """
    backups = declaration.from_pillar(__pillar__, __opts__["id"])
    return [asdict(one) for one in anchoring.visible(backups)]


@_converted
def verifications():
    """
    Every verification in every repository that this host can open: ``point``, ``repository``,
    ``ok``, ``sampled``, ``at``, ``host``.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_plan.verifications
    """
    backups = declaration.from_pillar(__pillar__, __opts__["id"])
    return [
        {
            "point": point.id,
            "repository": name,
            "ok": one.ok,
            "sampled": one.sampled,
            "at": one.at,
            "host": one.host,
        }
        for name in backups.visible
        for point in points.listing(backups.repository(name), backups.stack.name).points
        for one in point.verifications
    ]


@_converted
def emergencies():
    """
    Every time that OpenHIM was in emergency mode, the oldest first: who entered and left it, when
    and why, which channels were off, and what became of them. To be asked where OpenHIM is active.

    CLI Example:

    .. code-block:: bash

        salt 'north-core' openhim_plan.emergencies
    """
    return switch.emergencies(CoreHost(__pillar__, __opts__["id"]))


@_converted
def runbook(folder=None):
    """
    Which runbook this host holds: ``digest`` of the declaration that it was made from, ``epoch``,
    ``written`` (when), and ``older`` (how many older ones are kept). Empty when there is none.

    folder
        Where; ``/var/lib/saltext-openhim/runbook`` when left out.

    CLI Example:

    .. code-block:: bash

        salt '*' openhim_plan.runbook
    """
    return delivery.held(folder or pages.FOLDER)
