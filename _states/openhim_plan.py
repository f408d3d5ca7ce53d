"""
The disaster recovery plan as desired state
===========================================

.. code-block:: yaml

    The runbook is at hand:
      openhim_plan.runbook_present: []

With ``test=True`` nothing is written.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.errors import OpenHIMError
    from saltext.openhim.plan import delivery, pages

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_plan needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_plan"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def runbook_present(name, folder=None):
    """
    This host holds the runbook of the present declaration and epoch, as Markdown and as HTML. The
    ones before are kept beside it, in ``older``.

    name
        Any text.

    folder
        Where; ``/var/lib/saltext-openhim/runbook`` when left out.
    """
    openhim = __pillar__.get("openhim") or {}
    folder = folder or pages.FOLDER
    try:
        changes = delivery.differences(openhim, folder)
        if not changes:
            return _answer(name, True, {}, "The runbook is the present one.")
        if __opts__["test"]:
            return _answer(name, None, changes, "Would write the runbook.")
        delivery.deliver(openhim, folder)
        left = delivery.differences(openhim, folder)
    except (OpenHIMError, CommandExecutionError, OSError) as error:
        return _answer(name, False, {}, str(error))
    if left:
        return _answer(name, False, {}, f"Written, and still to be changed: {left}.")
    return _answer(name, True, changes, "The runbook was written; the one before is kept.")


def _answer(name, result, changes, comment):
    return {"name": name, "result": result, "changes": changes, "comment": comment}
