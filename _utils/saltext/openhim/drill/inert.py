"""What keeps an OpenHIM that starts on restored data from acting on the outside world.

Restored data is full of work that was under way: tasks to rerun, retries, scheduled jobs, channels
that poll, people to be alerted and to get reports. Started on it, OpenHIM goes on where it was.
https://github.com/jembi/openhim-core-js/blob/v4.0.5/src/server.js (``startAgenda``, ``start``)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.database import Database

#: OpenHIM's configuration that leaves all of it be, laid over the declared one.
CONFIG: Mapping[str, Any] = {
    "rerun": {"processor": {"enabled": False}},
    "polling": {"enabled": False},
    "alerts": {"enableAlerts": False},
    "reports": {"enableReports": False},
    "bodyCull": {"enabled": False},
    "auditing": {
        "auditEvents": {"interface": "internal"},
        "servers": {kind: {"enabled": False} for kind in ("udp", "tls", "tcp")},
    },
    "statsd": {"enabled": False},
    # The files that it would watch are on the core's own host.
    "certificateManagement": {"watchFSForCert": False},
}

#: Work that was under way; renamed, so that OpenHIM begins with none.
QUEUES = ("tasks", "autoretries", "agendaJobs")
ASIDE = "_set_aside"


def set_aside(database: Database) -> dict[str, int]:
    """Sets aside what would be carried out, in OpenHIM's main database; how much of what it was.

    The queues are renamed, and channels that poll are disabled.
    """
    found = {}
    there = set(database.list_collection_names())
    for name in QUEUES:
        if name in there:
            found[name] = database[name].count_documents({})
            database[name].rename(f"{name}{ASIDE}", dropTarget=True)
    polling = database.channels.update_many(
        {"type": "polling", "status": {"$ne": "disabled"}}, {"$set": {"status": "disabled"}}
    )
    return {**found, "polling channels": polling.modified_count}
