"""
Backups of an OpenHIM stack as desired state
============================================

.. code-block:: yaml

    The repository is there:
      openhim_backup.repository_present:
        - name: near

    Backups are taken by schedule:
      openhim_backup.scheduled: []

    The oplog is archived:
      openhim_backup.archive_running: []

    There is a restore point of today:
      openhim_backup.taken:
        - name: near
        - max_age: 86400

    What is there now is kept:
      openhim_backup.kept_aside:
        - why: before a restore

    The data is there:
      openhim_backup.restored:
        - name: latest
        - why: a new environment

With ``test=True`` nothing is written, neither in a repository nor in a database.
"""

from datetime import datetime, timezone
from functools import wraps

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.backup import aside, declaration, points, work
    from saltext.openhim.backup import schedule as scheduling
    from saltext.openhim.backup.failures import RepositoryUnreachable, ResticMissing
    from saltext.openhim.backup.oplog import archiving, declared, pull
    from saltext.openhim.errors import OpenHIMError, Refused
    from saltext.openhim.mongo.connection import raises
    from saltext.openhim.mongo.status import until

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_backup needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_backup"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _answered(function):
    """Makes a state's return of (result, changes, comment), and a failed one of an error."""

    @wraps(function)
    def state(name, *args, **kwargs):
        try:
            result, changes, comment = raises(OpenHIMError)(function)(name, *args, **kwargs)
        except (OpenHIMError, CommandExecutionError) as error:
            result, changes, comment = False, {}, str(error)
        return {"name": name, "result": result, "changes": changes, "comment": comment}

    return state


def _backups():
    return declaration.from_pillar(__pillar__, __opts__["id"])


@_answered
def repository_present(name, recovery_key=None):
    """
    A declared repository is there, its secret opens it, and so does the recovery key.

    name
        Its name in ``openhim:backup:repositories``.

    recovery_key
        Whether the recovery key must open it. When left out: where this host has that secret.
    """
    backups = _backups()
    secret = backups.entry.get("recovery_secret")
    if recovery_key is None:
        held = (__pillar__.get("openhim") or {}).get("secrets") or {}
        recovery_key = bool(secret and secret in held)
    opened = backups.repository(name)
    try:
        changes = _missing(opened, work.recovery_key(backups) if recovery_key else None)
    except (ResticMissing, RepositoryUnreachable) as error:
        if not __opts__["test"]:
            raise
        # On a new host it is a highstate that installs restic and opens the way to the store.
        return None, {}, f"Not known yet whether the repository {name} is there: {error}"
    if not changes:
        return True, {}, f"The repository {name} is there, and opens."
    if __opts__["test"]:
        return None, changes, f"Would make: {', '.join(changes)}."
    if "repository" in changes:
        __salt__["openhim_backup.initialise"](name)
    if "recovery key" in changes:
        __salt__["openhim_backup.recovery_key_add"](name)
    if not __salt__["openhim_backup.repository_exists"](name):
        return False, changes, f"The repository {name} was made, and is not there."
    return True, changes, f"Made: {', '.join(changes)}."


@_answered
def archive_running(name, patience=300):
    """
    The repository of the oplog archive is there, and the unit ``openhim-oplog`` archives every
    declared set into it, as the pillar says now. It is started anew where it says nothing, or runs
    as it was declared before. What keeps one that runs from archiving for a while, such as a store
    that is away, is told in the comment (and by the status).

    name
        Any text.

    patience
        Seconds that it has to begin, after it was started.
    """
    backups = _backups()
    if not declared.archived_here(backups):
        return False, {}, f"Archiving the oplog is not the task of {backups.host}."
    changes = {}
    opened = declared.repository(backups)
    try:
        if not opened.exists():
            changes["repository"] = {"old": None, "new": opened.location}
    except (ResticMissing, RepositoryUnreachable) as error:
        if not __opts__["test"]:
            raise
        return None, {}, f"Not known yet whether the oplog is archived: {error}"
    why = archiving.why_not_running(backups)
    if why:
        changes["archive"] = {"old": why, "new": "runs as declared"}
    if not changes:
        return True, {}, _archives()
    if __opts__["test"]:
        return None, changes, f"Would make or start: {', '.join(changes)}."
    if "repository" in changes:
        opened.initialise()
    if "archive" in changes:
        __salt__["service.restart"](archiving.SERVICE)
    until(lambda: archiving.is_archiving(backups), patience, poll=0.5)
    why = archiving.why_not_running(backups)
    if why:
        return False, changes, f"{archiving.SERVICE} was started; {why}. Look at its journal."
    if not archiving.is_archiving(backups):
        return False, changes, _archives()
    return True, changes, f"Made or started: {', '.join(changes)}. {_archives()}"


@_answered
def oplog_copy_present(name):
    """
    The repository of the oplog archive's copy is there, and its secret opens it. The schedule
    fills it.

    name
        Any text.
    """
    backups = _backups()
    opened = declared.repository(backups, place=declared.COPY)
    try:
        if opened.exists():
            return True, {}, "The repository of the oplog archive's copy is there, and opens."
        source = declared.repository(backups)
        ready = source.exists()
    except (ResticMissing, RepositoryUnreachable) as error:
        if not __opts__["test"]:
            raise
        return None, {}, f"Not known yet whether the oplog archive has a copy: {error}"
    changes = {"repository": {"old": None, "new": opened.location}}
    if __opts__["test"]:
        return None, changes, f"Would make {opened.location}."
    # On all hosts at once, another one is about to make the archive.
    if not ready and not until(source.exists, 300, poll=2):
        return False, {}, f"{source.location} is not there, of which this is to be a copy."
    pull.initialise(backups)
    if not opened.exists():
        return False, changes, f"{opened.location} was made, and is not there."
    return True, changes, f"Made {opened.location}."


def _archives():
    errors = "; ".join(archiving.errors())
    return f"The archiver runs, and does not archive: {errors}" if errors else "It archives."


def mod_watch(name, sfun=None, **kwargs):
    """What ``archive_running`` does when what it watches has changed: the unit starts anew."""
    if sfun != "archive_running":
        comment = f"openhim_backup.{sfun} has nothing to do when something changes"
        return {"name": name, "result": False, "changes": {}, "comment": comment}
    changes = {"archive": {"old": "ran before the change", "new": "started anew"}}
    if __opts__["test"]:
        comment = f"Would start {archiving.SERVICE} anew."
        return {"name": name, "result": None, "changes": changes, "comment": comment}
    archiving.forget()
    return archive_running(name, **{k: v for k, v in kwargs.items() if k == "patience"})


def _missing(opened, recovery_key):
    """What a repository lacks, as changes."""
    changes = {}
    if not opened.exists():
        changes["repository"] = {"old": None, "new": opened.location}
    else:
        opened.snapshots(["part=manifest"])  # a wrong secret is told here
    if recovery_key and (changes or not opened.opens_with(recovery_key)):
        changes["recovery key"] = {"old": "does not open it", "new": "opens it"}
    return changes


@_answered
def taken(name, max_age=None, why="a state asked for it"):
    """
    A repository holds a restore point that is young enough; otherwise one is taken now.

    name
        The repository's name in the pillar.

    max_age
        Seconds; ``openhim:backup:max_age_seconds`` when left out.

    why
        For the manifest.
    """
    backups = _backups()
    backups.require_role("taken_by", "taking restore points")
    allowed = float(max_age or backups.entry.get("max_age_seconds", 86400))
    newest = _newest(backups, name)
    age = datetime.now(timezone.utc).timestamp() - newest.as_of if newest else None
    if age is not None and age <= allowed:
        return True, {}, f"{newest.id} shows what was {age:.0f} s ago, allowed are {allowed:.0f}."
    changes = {"restore point": {"old": newest.id if newest else None, "new": "one of now"}}
    if __opts__["test"]:
        return None, changes, "Would take a restore point."
    made = __salt__["openhim_backup.take"](why=why, repository=name)
    changes["restore point"]["new"] = made["id"]
    if made["id"] not in (point.id for point in _points(backups, name)):
        return False, changes, f"{made['id']} was taken, and {name} does not list it."
    return True, changes, f"{made['id']} was taken: {made['documents']} documents."


def _newest(backups, name):
    return points.newest(_points(backups, name))


def _points(backups, name):
    return points.listing(backups.repository(name), backups.stack.name).points


@_answered
def kept_aside(name, why, by="Salt"):
    """
    The data that is there now is kept as a restore point of its own, which retention spares for
    ``openhim:backup:keep_aside_days``: a restore is about to replace it. Stop OpenHIM before.
    Nothing is taken when just this data is kept already.

    name
        Any text.

    why, by
        For the manifest.
    """
    backups = _backups()
    backups.require_role("taken_by", "keeping the present data aside")
    into = aside.foreseen(backups)
    kept = aside.standing(backups)
    if kept:
        return True, {}, f"It is kept already, as {kept.point.id} in {kept.repository}."
    changes = {"kept aside": {"old": None, "new": f"a restore point of now in {into}"}}
    if __opts__["test"]:
        return None, changes, f"Would take the present data into {into}."
    made = __salt__["openhim_backup.keep_aside"](why=why, by=by)
    changes["kept aside"]["new"] = f"{made['id']} in {made['repository']}"
    return True, changes, f"{made['id']} in {made['repository']}: {made['documents']} documents."


@_answered
def restored(
    name,
    why,
    by="Salt",
    repository=None,
    overwrite=False,
    since=None,
    to_time=None,
    epoch=None,
    exactly=False,
):
    """
    A restore point, or the data of a time, was restored into the declared replica sets. Live data
    never equals its restore point, so the marker decides that the restore left in the main
    database.

    Refuses databases that hold data of which no marker tells.

    name
        ID of the restore point; or ``latest`` or ``verified``, which is satisfied by any restore.

    why, by
        For the marker.

    repository
        Its name in the pillar; all that this host can open when left out.

    overwrite
        Whether data that is there may be replaced. It is replaced once: the marker tells of it.

    since
        ISO 8601 with zone. A restore before that time does not count.

    to_time
        ISO 8601 with zone, in whole seconds: the data of that time, as the function ``restore`` has
        it. It begins with the newest restore point before it, or with that of ``name``.

    epoch
        The number of the epoch in whose name it is restored: only a restore in that one counts, and
        a host that is in another one restores nothing.

    exactly
        Whether collections that the restore point does not have are dropped; with ``to_time`` they
        always are.
    """
    backups = _backups()
    if epoch is not None and backups.epoch != epoch and not __opts__["test"]:
        raise Refused(
            f"this is the restore of epoch {epoch}, and {backups.host} is in epoch "
            f"{backups.epoch}; nothing was restored. Refresh its pillar, or drop the command"
        )
    before = datetime.fromisoformat(since) if since else None
    markers = [
        marker
        for marker in work.restored(backups)
        if (before is None or marker["restored_at"] >= before)
        and (epoch is None or marker.get("epoch_id") == backups.epoch_id)
    ]
    for marker in reversed(markers):
        if work.is_of(marker, name, to_time):
            when = f"{marker['restored_at']:%Y-%m-%d %H:%M:%S} UTC"
            return True, {}, f"{work.words(marker)} was restored ({when})."
    way = work.foreseen(backups, name, repository, overwrite, to_time)
    what = work.words({"point": way.point.id, "to_time": way.time})
    changes = {"restored": {"old": None, "new": what}}
    if __opts__["test"]:
        return None, changes, f"Would restore {what} from {way.repository}."
    arguments = (way.point.id, why, by, way.repository, overwrite, to_time)
    done = __salt__["openhim_backup.restore"](*arguments, exactly=exactly)
    if not any(work.is_of(marker, way.point.id, to_time) for marker in work.restored(backups)):
        return False, changes, f"{what} was restored, and its marker is not there."
    comment = f"{what} was restored: {done['documents']} documents."
    if to_time:
        operations = sum(one["operations"] for one in done["replayed"].values())
        comment += f" {operations} operations were replayed."
    if done["dropped"]:
        comment += f" Of later, and dropped: {', '.join(done['dropped'])}."
    if done["untouched"]:
        comment += f" Not in it, and left as they are: {', '.join(done['untouched'])}."
    return True, changes, comment


@_answered
def scheduled(name):
    """
    Salt's schedule on this host holds the declared tasks of backups, and no others of ours.

    name
        Any text.
    """
    declared = scheduling.wanted(_backups())
    pending = scheduling.differences(_schedule(), declared)
    if not pending:
        return True, {}, f"{len(declared)} tasks are scheduled."
    if __opts__["test"]:
        return None, pending, f"Would schedule: {', '.join(pending)}."
    for entry, change in pending.items():
        if change["old"] is not None:
            __salt__["schedule.delete"](entry)
        if change["new"] is not None:
            asked = dict(change["new"])
            __salt__["schedule.add"](entry, job_kwargs=asked.pop("kwargs"), **asked)
    left = scheduling.differences(_schedule(), declared)
    if left:
        return False, pending, f"Still not as declared: {', '.join(left)}."
    return True, pending, f"Scheduled: {', '.join(pending)}."


def _schedule():
    return __salt__["schedule.list"](show_all=True, return_yaml=False)
