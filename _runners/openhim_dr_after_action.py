"""
After-action reports
====================

What happened in each recovery, phase by phase (NIST SP 800-34: activation and notification,
recovery, reconstitution), and what is still open about it: a part of the runner ``openhim_dr``.
Nothing is done to any host, and no epoch is changed.
"""

from dataclasses import asdict
from datetime import datetime, timezone

from salt.exceptions import CommandExecutionError
from saltext.openhim import fleet, record
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.plan import after_action as reports
from saltext.openhim.plan import evidence, exercises, news, statements

__virtualname__ = "openhim_dr"


def __virtual__():
    return __virtualname__


def after_action(
    stack,
    epoch=None,
    by=None,
    notified=None,
    acknowledged_by=None,
    decision=None,
    root_cause=None,
    corrective_action=None,
    owner=None,
    due=None,
    done=None,
    at=None,
    message=None,
    late_because=None,
):
    """
    Show the after-action report of each recovery: its phases with their times, and what is open. A
    person at ``salt-run`` sees a table, or with ``--out=json`` all of it.

    With any of the fields below, put them on record instead: one record of the chain of evidence,
    which is returned. Nothing is overwritten; of two root causes the later one counts, and both
    stay. An epoch itself is never changed by this.

    stack
        The stack's name.

    epoch
        The number or the ID of the epoch; all of them are shown when it is left out.

    by
        Who puts it on record.

    notified
        Who was told: a role or a contact of the plan, or anybody else.

    acknowledged_by
        Who confirmed it, with ``notified``. Until then it stays open.

    decision
        What was decided.

    root_cause
        Why it happened.

    corrective_action
        What will keep it from happening again, with its ``owner``.

    owner
        Who sees to the corrective action.

    due
        By which day (``2026-12-31``) the corrective action is to be done.

    done
        The number of the record whose corrective action is done.

    at
        When it was (ISO 8601 with zone), now when left out; nothing that is still to come.

    message
        Which message of the plan they were told, by its ``when``, with ``notified``: where the plan
        has several for them.

    late_because
        Why they were told after the deadline, with ``notified``. Until then it stays open.

    CLI Example:

    .. code-block:: bash

        salt-run openhim_dr.after_action example
        salt-run openhim_dr.after_action example 3 by=Ada notified=laboratory acknowledged_by=Chi
        salt-run openhim_dr.after_action example 3 by=Ada notified=laboratory \\
            late_because='its line was busy'
        salt-run openhim_dr.after_action example 3 by=Ada root_cause='a pump failed'
        salt-run openhim_dr.after_action example 3 by=Ada corrective_action='a second pump' \\
            owner=Ben due=2026-12-31
        salt-run openhim_dr.after_action example 3 by=Ben done=41
    """
    fields = statements.given(
        {
            "notified": notified, "acknowledged_by": acknowledged_by, "message": message,
            "late_because": late_because, "decision": decision,
            "root_cause": root_cause, "corrective_action": corrective_action, "owner": owner,
            "due": due, "done": done,
        }
    )  # fmt: skip
    try:
        plan = fleet.declaration(__opts__, stack, "stack")["openhim"].get("plan") or {}
        directory = fleet.directory(__opts__)
        epochs = [asdict(one) for one in record.history(stack, directory)]
        records = evidence.judged(stack, directory).records
        if fields:
            return _recorded(stack, directory, epochs, records, epoch, fields, by, at, plan)
        if by is not None or at is not None:
            raise Refused(
                "by, at: found nothing that was put on record with them; say at least one of "
                + ", ".join(["done", *statements.TEXTS])
            )
        found = reports.all_of(epochs, records, plan, datetime.now(timezone.utc))
        if epoch is not None:
            wanted = statements.epoch_of(reports.known(epochs, records), epoch)
            found = [one for one in found if one["id"] == wanted["id"]]
    except OpenHIMError as error:
        raise CommandExecutionError(str(error)) from error
    if __opts__.get("fun") == "openhim_dr.after_action" and not __opts__.get("output"):
        print(reports.table(found))
        return {"open": sum(len(one["open"]) for one in found)}
    return found


def _recorded(stack, directory, epochs, records, epoch, fields, by, at, plan):
    """What was added; the epoch itself first, where the evidence did not have it as it is."""
    now = datetime.now(timezone.utc)
    wanted = statements.epoch_of(reports.known(epochs, records), epoch)
    told = [one for one in records if one.kind == exercises.AFTER_ACTION]
    content = statements.content(wanted, fields, told, by, at, now, plan)
    fresh = news.found(records, {}, now, epochs=epochs)
    *_, added = evidence.append(stack, [*fresh, (exercises.AFTER_ACTION, content)], directory)
    return asdict(added)
