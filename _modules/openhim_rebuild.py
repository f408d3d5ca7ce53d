"""
What a host says that a site is to be rebuilt on
================================================

The runner ``openhim_dr`` asks these before it declares a rebuild. The host only stands by then
(``openhim:hosts:<host>:standby``), and is no part of the stack yet.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import settings, sighting
    from saltext.openhim.backup import declaration, to_time, work
    from saltext.openhim.mongo.connection import raises

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_rebuild needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_rebuild"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


@_converted
def facts(site):
    """
    What this host sees, and whether it holds data, were its site the one that is rebuilt; as
    ``openhim_dr.sighting`` tells it of a host that is in service.

    site
        The site.

    CLI Example:

    .. code-block:: bash

        salt 'west-db1' openhim_rebuild.facts west
    """
    return sighting.look(settings.with_standby(__pillar__, site), __opts__["id"])


@_converted
def point(point="latest", repository=None, time=None):
    """
    Which restore point a rebuild would begin from, and how it was judged. One without a manifest is
    none; a time that cannot be reached is refused, with those that can.

    point
        An ID, ``latest`` or ``verified``.

    repository
        Its name in the pillar; all that this host can open when left out.

    time
        ISO 8601 with zone, in whole seconds: the data of that time, by the archived oplog.

    Returns ``id``, ``repository``, ``as_of`` (seconds since 1970: of when the data will be),
    ``bad`` (why its verification failed; empty otherwise) and ``verified``.

    CLI Example:

    .. code-block:: bash

        salt 'west-db1' openhim_rebuild.point latest
    """
    backups = declaration.from_pillar(__pillar__, __opts__["id"])
    if time:
        way = to_time.find(backups, time, point, repository)
        chosen, name, as_of = way.point, way.repository, float(to_time.parsed(time).time)
    else:
        chosen, name = work.find(backups, point, repository)
        as_of = chosen.as_of
    verdict = chosen.verdict
    return {
        "id": chosen.id,
        "repository": name,
        "as_of": as_of,
        "verified": chosen.verified,
        "bad": [] if verdict is None or verdict.ok else list(verdict.reasons) or ["no reason"],
    }
