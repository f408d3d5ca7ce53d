"""
Emergency mode as desired state
===============================

Only the critical channels work, audit and TLS stay on, and leaving it gives back exactly what was.

.. code-block:: yaml

    only critical channels are on:
      openhim_emergency.entered:
        - by: Ada
        - reason: the laboratory's uplink carries a tenth of what it should

    everything is as it was before the emergency:
      openhim_emergency.left:
        - by: Ada
        - reason: the uplink is back

Apply them on the core host at the active site. See the topic "emergency mode" of the documentation.

Needs PyMongo on the minion.
"""

from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.core.host import CoreHost
    from saltext.openhim.emergency import switch
    from saltext.openhim.errors import OpenHIMError, Unreachable

    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_emergency needs PyMongo and the library of saltext-openhim: {error}"

__virtualname__ = "openhim_emergency"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def entered(name, by, reason, channels=None):
    """
    Only the critical channels are on; which others were is remembered in the main database.

    Refuses, and changes nothing, when audit or TLS is off, or when a critical channel is not in
    OpenHIM or is there twice. The channel of the synthetic transaction stays on. A channel that
    somebody put on meanwhile is put off again.

    name
        Any text.

    by
        Who decides; written down. While emergency mode is on it stays the one who entered it.

    reason
        Why; written down.

    channels
        Names of the critical channels. Default is ``openhim:plan:emergency_mode:channels``.
    """
    return _switched(
        name,
        lambda core, test: switch.enter(core, by, reason, channels, test=test),
        "Only critical channels are on",
        "Emergency mode would be entered",
    )


def left(name, by, reason):
    """
    There is no emergency mode, and what it put off is on again. A channel that was off before stays
    off; one that somebody changed or deleted meanwhile is left as it is, and told.

    name
        Any text.

    by
        Who decides; written down.

    reason
        Why; written down.
    """
    return _switched(
        name,
        lambda core, test: switch.leave(core, by, reason, test=test),
        "There is no emergency mode",
        "Emergency mode would be left",
    )


def _switched(name, do, is_so, would):
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    try:
        core = CoreHost(__pillar__, __opts__["id"])
        if not core.active:
            return {
                **ret,
                "result": False,
                "comment": f"OpenHIM is not active on this host, which is at {core.host.site}: "
                f"apply this on a core host of the active site {core.stack.active_site}.",
            }
        done = do(core, __opts__["test"])
    except Unreachable as error:
        # A host on which OpenHIM is about to be started leaves open what would be changed.
        return {**ret, "result": None if __opts__["test"] else False, "comment": str(error)}
    except (OpenHIMError, CommandExecutionError) as error:
        return {**ret, "result": False, "comment": str(error)}
    told = "".join(f" {channel}: {words}." for channel, words in sorted(done.told.items()))
    if done.changes and __opts__["test"]:
        return {**ret, "result": None, "changes": done.changes, "comment": f"{would}.{told}"}
    since = f", {done.mode.words}" if done.mode else ""
    comment = f"{is_so}{since}.{told}{_announced(done.recorded)}"
    return {**ret, "changes": done.changes, "comment": comment}


def _announced(entry):
    """Tells the master of an entry that is new in the record; in words when nobody was told."""
    if entry is None:
        return ""
    tag = f"openhim/emergency/{entry['what']}"
    event = {**entry, "state": entry["what"], "text": switch.words(entry)}
    try:
        told = __salt__["event.fire_master"](event, tag)
    except Exception as error:
        # The emergency may be that there is no master: it must not stop what is to be done.
        return f" The master was not told: {error}."
    return "" if told else " The master was not told; it is on record here."
