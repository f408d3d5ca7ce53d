"""The end of a recovery: its record is complete on the master, and at each site."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from saltext.openhim import evidence, fleet, record
from saltext.openhim.recovery.epochs import plain


def complete(opts: Mapping[str, Any], stack: str, epoch_id: str) -> dict[str, Any]:
    """Marks an epoch as done to its last step, and lets every host that answers know the record.

    A host was told of the epoch when it was declared. What was measured and when each step was done
    came later: told again, the record outlives the loss of the master.

    opts: the master's configuration.

    Returns ``completed_at``, ``told`` (hosts that wrote it down) and ``not_told`` (host → why not,
    in words). The recovery is complete all the same where a host is silent: it may be a lost one.
    """
    asked = evidence.question(opts, stack, parameter="stack")
    at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    record.complete(stack, epoch_id, at, asked.directory)
    known = record.history(stack, asked.directory)
    completed = next(epoch.completed_at for epoch in known if epoch.id == epoch_id)
    hosts = [h.id for h in asked.now.hosts.values() if set(h.roles) & {"mongodb", "core"}]
    answers = fleet.asked(opts, hosts, "openhim_dr.tell", [plain(known)]).returned
    wrong = {
        host: str(answers[host]["ret"]) if host in answers else "it gave no answer"
        for host in hosts
        if host not in answers or answers[host]["retcode"]
    }
    told = [host for host in hosts if host not in wrong]
    return {"completed_at": completed, "told": sorted(told), "not_told": wrong}
