"""
Backups of an OpenHIM stack
===========================

Restore points of OpenHIM's databases and files, encrypted in restic repositories: taken, copied,
verified, restored, and how they are. The pillar's ``openhim:backup`` says where, by whom, and for
how long.

Every function raises when it cannot do what it says. A restore point is there when its manifest is,
and not before.
"""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim import files
    from saltext.openhim.backup import aside, declaration, extract, points, work
    from saltext.openhim.backup import schedule as scheduling
    from saltext.openhim.backup import status as judging
    from saltext.openhim.backup import verify as verifying
    from saltext.openhim.backup.oplog import archiving, declared, pull, tidy
    from saltext.openhim.errors import OpenHIMError
    from saltext.openhim.mongo.connection import raises
    from saltext.openhim.mongo.status import until

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_backup needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_backup"

__func_alias__ = {"list_": "list"}

#: At most so often is progress told as an event.
_EVENT = "openhim/backup/progress"

#: OpenHIM's configuration is in; its history follows.
_CONFIGURED = "openhim/backup/configured"
_OPLOG_EVENT = "openhim/backup/oplog"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _backups():
    return declaration.from_pillar(__pillar__, __opts__["id"])


def _tell(what):
    """Progress as events on the master's bus; a person watches with ``salt-run state.event``."""

    def tell(progress):
        __salt__["event.fire_master"](
            {
                "what": what,
                "namespace": progress.namespace,
                "done_bytes": progress.done_bytes,
                "total_bytes": progress.total_bytes,
                "bytes_per_second": round(progress.rate),
                "seconds_left": progress.seconds_left,
            },
            _EVENT,
        )

    return tell


def _shown(point, repository):
    manifest = point.manifest
    return {
        "id": point.id,
        "repository": repository,
        "time": point.time.isoformat(),
        "cluster_times": {name: list(at) for name, at in manifest.times().items()},
        "documents": sum(n.count for one in manifest.replica_sets for n in one.namespaces),
        "bytes": sum(n.bytes for one in manifest.replica_sets for n in one.namespaces),
        "files": len(manifest.files),
        "by": manifest.by,
        "why": manifest.why,
        "host": manifest.host,
        "epoch": manifest.epoch,
        "aside": manifest.aside,
        "seconds": manifest.milliseconds / 1000,
        "verified": point.verified,
        "verified_at": point.verifications[-1].at if point.verifications else None,
    }


@_converted
def tasks():
    """
    What this host does for the backups: ``repositories`` that it makes, whether it ``verifies``,
    its ``schedule``, the systemd unit that archives the oplog (``archiver``; None on others), and
    whether it pulls the archive's copy (``copies_oplog``).

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.tasks
    """
    backups = _backups()
    takes = backups.entry.get("taken_by") == backups.host
    return {
        "repositories": (backups.first if takes else []) + backups.pulled_here,
        "verifies": backups.entry.get("verified_by") == backups.host,
        "schedule": scheduling.wanted(backups),
        "archiver": _unit() if declared.archived_here(backups) else None,
        "copies_oplog": declared.copied_here(backups),
    }


def _unit():
    """The unit's text, for this host's Salt."""
    own = Path(sys.executable).with_name("salt-call")
    command = str(own) if own.exists() else shutil.which("salt-call")
    if command is None:
        raise OpenHIMError("salt-call is not on this host; the oplog archive is run by it")
    return archiving.unit(command, str(Path(__opts__["conf_file"]).parent))


@_converted
def initialise(repository=None):
    """
    Make a declared repository; False when it is there already and its secret opens it.

    repository
        Its name in the pillar; may be left out where only one is no copy.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.initialise near
    """
    backups = _backups()
    source = None
    if repository and "copy_of" in backups.repositories.get(repository, {}):
        source = backups.repository(backups.repositories[repository]["copy_of"])
        # On all hosts at once, another one is about to make it.
        if not until(source.exists, 300, poll=2):
            raise OpenHIMError(f"{source.location} is not there, of which this is to be a copy")
    return backups.repository(repository).initialise(copy_chunker_from=source)


@_converted
def repository_exists(repository=None):
    """
    Whether a declared repository is there and its secret opens it. Raises when that cannot be told.

    repository
        Its name in the pillar.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.repository_exists near
    """
    opened = _backups().repository(repository)
    if not opened.exists():
        return False
    opened.snapshots(["part=manifest"])
    return True


@_converted
def take(why="", by="", repository=None, old_data=False, wait=0):
    """
    Take a restore point of OpenHIM's databases, at one cluster time each, and of the declared
    files.

    why
        For those who read the manifest later.

    by
        Who asked for it; Salt when left out.

    repository
        Its name in the pillar; may be left out where only one is no copy.

    old_data
        Whether the data may be older than ``max_age_seconds``: what a set still has that lost its
        majority. Otherwise that is refused, for it would be taken for a backup of now.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.take why='before the upgrade' by='A. Mwale'
    """
    backups = _backups()
    name = repository or (backups.first[0] if len(backups.first) == 1 else None)
    with work.patience(wait):
        point = work.take(backups, by or "Salt", why or "asked for", name, _tell("take"), old_data)
    return _shown(point, name)


@_converted
def list_(repository=None):
    """
    What a repository holds: committed restore points, leftovers of backups that did not come to
    their end, and restore points that cannot be used.

    repository
        Its name in the pillar.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.list near
    """
    backups = _backups()
    known = points.listing(backups.repository(repository), backups.stack.name)
    return {
        "points": [_shown(point, repository or backups.first[0]) for point in known.points],
        "leftovers": [
            {"id": one.id, "parts": list(one.parts), "newest": one.newest.isoformat()}
            for one in known.leftovers
        ],
        "broken": [{"id": one.id, "reason": one.reason} for one in known.broken],
        "unreadable": list(known.unreadable),
    }


@_converted
def clean(repository=None, confirm=False):
    """
    Remove what backups left that did not come to their end a day ago or longer; only tell what
    that is, unless confirmed. What an interrupted copy left is removed on the host that pulls it:
    elsewhere nobody knows whether it is under way.

    repository
        Its name in the pillar.

    confirm
        Whether to remove it.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.clean near confirm=True
    """
    return [one.id for one in work.clean(_backups(), repository, confirm)]


@_converted
def copy(repository, wait=0):
    """
    Pull the restore points that a copy does not have yet; returns them.

    repository
        The copy's name in the pillar.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.copy far
    """
    with work.patience(wait):
        return [_shown(point, repository) for point in work.copy(_backups(), repository)]


@_converted
def prune(repository, confirm=False, wait=0):
    """
    Remove the restore points that ``openhim:backup:retention`` does not keep; only tell which,
    unless confirmed. A lock in the way whose process is gone is removed, as by ``unlock``.

    repository
        Its name in the pillar.

    confirm
        Whether to remove them.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.prune far confirm=True
    """
    with work.patience(wait):
        done = work.prune(_backups(), repository, confirm)
    return {
        "kept": {point: list(why) for point, why in done.decision.keep.items()},
        "removed": list(done.removed),
        "would_remove": [] if done.removed else list(done.decision.remove),
        "held": done.decision.held,
    }


@_converted
def prune_oplog(confirm=False, wait=0):
    """
    Keep the oplog archive small: hours and days that newer restore points cover become one slice
    each, and what no restore point needs any more is removed. Only tell how many, unless confirmed.

    confirm
        Whether to join and remove them.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.prune_oplog confirm=True
    """
    with work.patience(wait), work.alone("making the oplog archive smaller"):
        return asdict(tidy.tidy(_backups(), confirm))


@_converted
def copy_oplog(wait=0):
    """
    Pull the oplog slices that the archive's copy does not have yet; returns how many. Only
    ``openhim:backup:oplog:copy:pulled_by`` may.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.copy_oplog
    """
    with work.patience(wait), work.alone("copying the oplog archive"):
        return pull.pull(_backups())


@_converted
def archive():
    """
    Archive the oplog of every declared set, until told to stop. The unit ``openhim-oplog`` of
    ``openhim:backup:oplog:archived_by`` runs this; a person has no need to.

    Changes are events ``openhim/backup/oplog/<set>``: it is ``archiving``, ``behind``, ``stopped``,
    or there is a ``gap``.

    CLI Example:

    .. code-block:: bash

        salt-call openhim_backup.archive
    """
    fire = __salt__["event.fire_master"]
    archiving.serve(_backups(), lambda name, said: fire(dict(said), f"{_OPLOG_EVENT}/{name}"))


@_converted
def unlock(repository=None):
    """
    Remove the locks of processes that are gone, so that others can prune and check again; returns
    them. A living one's lock stays: what looks old is looked at twice, ten minutes apart.

    repository
        Its name in the pillar.

    CLI Example:

    .. code-block:: bash

        salt --timeout=900 'west-backup' openhim_backup.unlock far
    """
    return [
        {"host": lock.host, "pid": lock.pid, "time": lock.time.isoformat()}
        for lock in work.unlock(_backups(), repository)
    ]


@_converted
def check(repository=None, read_data=False):
    """
    Let restic check a repository; returns what it said, raises when something is damaged.

    repository
        Its name in the pillar.

    read_data
        Whether to read everything, or a part such as ``5%``; otherwise the structure only.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.check far read_data=5%
    """
    return _backups().repository(repository).check(read_data)


@_converted
def verify(point="due", by="", repository=None, sample=None, folder=None, wait=0):
    """
    Verify restore points: restore them from the repository into a scratch mongod, compare what is
    there with the manifest, and ask ``openhim:backup:assertions``. The result is recorded with the
    restore point; a bad one raises. Only ``openhim:backup:verified_by`` may.

    point
        ``due``: in every repository that this host can open, the newest that was not verified yet,
        or not within ``max_unverified_seconds``. Or an ID, ``latest``, ``verified``.

    by
        Who asked for it; Salt when left out.

    repository
        Its name in the pillar; all that this host can open when left out.

    sample
        Bytes of documents to restore and compare, the smallest collections first; the rest is read
        and hashed only. All is restored when left out.

    folder
        Where the scratch mongod's files are: on a tmpfs or an encrypted disk. ``/dev/shm`` when
        left out.

    wait
        Seconds to wait for another task of backups on this host, before this one is refused.

    CLI Example:

    .. code-block:: bash

        salt 'west-backup' openhim_backup.verify
        salt 'west-backup' openhim_backup.verify latest repository=far by='A. Mwale'
    """
    backups = _backups()
    options = {
        "by": by or "Salt",
        "sample": sample,
        "folder": folder,
        "progress": _tell("verify"),
    }
    with work.patience(wait):
        if point != "due":
            found = verifying.verify(backups, point, repository, **options)
            return _verified(found)
        done = verifying.verify_due(backups, repository, **options)
    return {
        "verified": {name: _verified(found) for found, name in done.verified},
        "nothing_to_do": done.nothing,
    }


def _verified(point):
    record = point.verifications[-1]
    return {
        "id": point.id,
        "ok": record.ok,
        "sampled": record.sampled,
        "seconds": record.milliseconds / 1000,
        **record.details,
    }


@_converted
def restore(
    point="latest",
    why="",
    by="",
    repository=None,
    overwrite=False,
    to_time=None,
    configuration_first=False,
    exactly=False,
):
    """
    Restore a restore point, or the data of any time that the oplog archive reaches, into the
    declared replica sets. Stop OpenHIM first: it would write into data that is incomplete
    (``orch.restore`` does so).

    point
        An ID, ``latest`` or ``verified`` (the newest that was verified). With ``to_time``, the
        newest from before that time.

    why, by
        For the marker that it leaves in the database.

    repository
        Its name in the pillar; all that this host can open when left out.

    overwrite
        Whether collections of the same name are replaced; otherwise they are a reason to refuse.

    to_time
        ISO 8601 with zone, in whole seconds: what was written before that second is restored, and
        nothing of it or later. Collections that came later are dropped. A time that the archive
        does not reach is refused before anything is touched, with those that it does reach.

    configuration_first
        Whether OpenHIM's configuration (channels, clients, users) comes before its history. The
        event ``openhim/backup/configured`` says when it is in: OpenHIM may be started then, and
        routes again while its history is still being restored. Not with ``to_time``.

    exactly
        Whether collections that the restore point does not have are dropped; with ``to_time`` they
        always are.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.restore latest why='north burnt down' by='A. Mwale'
        salt 'south-db1' openhim_backup.restore to_time=2026-01-31T11:59:59Z overwrite=True
    """
    return work.restore(
        _backups(),
        point,
        by=by or "Salt",
        why=why or "asked for",
        repository=repository,
        overwrite=overwrite,
        time=to_time,
        exactly=exactly,
        configuration_first=configuration_first,
        on_configured=lambda: __salt__["event.fire_master"]({"point": point}, _CONFIGURED),
        progress=_tell("restore"),
    )


@_converted
def restore_collections(only, point="latest", repository=None, rename=None, overwrite=False):
    """
    Restore single collections of a restore point, beside what is there or in its place; the rest
    of the database stays as it is. Returns how many documents each of them has now.

    only
        Their names, or patterns: ``openhim.channels``, or a list such as
        ``['openhim.channels', 'openhim.client*']``.

    point
        An ID, ``latest`` or ``verified`` (the newest that was verified).

    repository
        Its name in the pillar; all that this host can open when left out.

    rename
        What they become: ``{'openhim.users': 'rescue.people'}`` for one, ``{'openhim': 'rescue'}``
        for a database.

    overwrite
        Whether collections of these names are replaced; otherwise they are a reason to refuse.
        Stop OpenHIM before what it uses is replaced.

    CLI Example:

    .. code-block:: bash

        salt south-db1 openhim_backup.restore_collections openhim.users rename='{openhim: rescue}'
    """
    return extract.extract(
        _backups(),
        [only] if isinstance(only, str) else only,
        point=point,
        repository=repository,
        rename=rename,
        overwrite=overwrite,
        progress=_tell("restore"),
    )


@_converted
def restored():
    """
    What was restored into the main database, the oldest first, as each restore has marked it.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.restored
    """
    return [
        {**marker, "restored_at": marker["restored_at"].isoformat()}
        for marker in work.restored(_backups())
    ]


@_converted
def keep_aside(why="", by=""):
    """
    Keep the data that is there now, for a restore is about to replace it: as a restore point in the
    first repository that will have it, which retention spares for ``keep_aside_days``. Data that is
    kept already, because nothing was written since, is not taken once more. Stop OpenHIM first
    (``orch.restore`` does so).

    why, by
        For those who read the manifest later.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.keep_aside why='before the restore' by='A. Mwale'
    """
    kept = aside.keep(_backups(), by or "Salt", why or "asked for", _tell("keep aside"))
    return {**_shown(kept.point, kept.repository), "taken": kept.taken}


@_converted
def present():
    """
    How the data is that is there now. Changes nothing.

    Returns ``last_write`` (by set: ``ts`` and ``wall``, ISO 8601; None where it was not found in
    time), ``half_replaced`` (the restore that did not come to its end, or None), ``aside`` (where
    just this data is kept: ``point`` and ``repository``; or None) and ``restored`` (the last
    restore, or None).

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.present
    """
    return aside.told(_backups())


@_converted
def restorable(point="latest", to_time=None, repository=None):
    """
    What a restore would bring back in place of what is there, from where, and whether that can be
    kept aside before. Changes nothing. Raises what ``restore`` would refuse.

    point, to_time, repository
        As in ``restore``.

    Returns ``point``, ``repository``, ``to_time``, ``until`` (by set, the newest time that is
    restored), ``verified``, ``failed`` (why its newest verification was bad, or None),
    ``keep_aside`` (the repository into which, or None with the reason in ``keep_aside_refused``),
    and ``present`` as the function of that name.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.restorable latest
    """
    return aside.restorable(_backups(), point, to_time, repository)


@_converted
def status(keep=True, metrics=None):
    """
    How the backups are, as this host sees them: ``state`` (ok, degraded, failing, unknown), the
    reasons, and each repository's figures.

    keep
        Whether to remember it for the beacon.

    metrics
        A file that Prometheus' node exporter reads (``*.prom``); written in one step.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.status
    """
    found = judging.status(_backups())
    if keep:
        judging.keep(found)
    if metrics:
        files.write(metrics, judging.metrics(found).encode(), 0o644)
    return found


def last_status(max_age=3600):
    """
    What ``status`` said last on this host; unknown when that is longer ago. Talks to no server.

    max_age
        Seconds.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.last_status
    """
    return judging.kept(float(max_age))


@_converted
def recovery_key_add(repository=None):
    """
    Add the recovery key (``openhim:backup:recovery_secret``) to a repository, and prove that it
    opens it. Returns False when it does already.

    repository
        Its name in the pillar.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.recovery_key_add near
    """
    return work.add_recovery_key(_backups(), repository)


@_converted
def keys(repository=None):
    """
    The keys of a repository: for whom, made when, and which is in use. Never a password.

    repository
        Its name in the pillar.

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_backup.keys near
    """
    return _backups().repository(repository).key_list()
