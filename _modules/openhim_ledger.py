"""
What a member wrote that did not survive
========================================

This host's part of the ledger: what its member of a replica set wrote past the fork, when another
site had become the real one. ``salt-run openhim_dr.ledger`` asks all hosts and puts it together.

Positions in the oplog are texts, ``<seconds>-<counter>-<term>``; ``fork`` tells them.
"""

import re
from pathlib import Path

import bson
from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.errors import Refused
    from saltext.openhim.mongo import connection, lost_writes, promotion, tail
    from saltext.openhim.mongo import fates as deciding
    from saltext.openhim.recovery.ledger import Write

    _converted = connection.raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_ledger needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_ledger"


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _here(set_name):
    return connection.vantage(__pillar__, __opts__["id"], set_name)


def _reader(set_name, fork, new):
    folder = Path(__opts__.get("openhim_ledger_folder") or lost_writes.DIRECTORY)
    return lost_writes.Reader(_here(set_name), lost_writes.Fork.parse(fork, new), folder)


@_converted
def fork(set=None):
    """
    Where the history that this host's member was promoted with left the old one.

    set
        Name of the replica set.

    Returns ``fork`` (the last entry that both have) and ``new`` (the first of the new history).

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_ledger.fork openhim
    """
    here = _here(set)
    survived = re.fullmatch(
        r"Timestamp\((\d+), (\d+)\)", str(promotion.recorded(here).get("survived_ts"))
    )
    if not survived:
        raise Refused("the record of the promotion does not say what survived it")
    with here.own() as client:
        last, new = tail.fork(client, bson.Timestamp(int(survived[1]), int(survived[2])))
    return {"fork": str(last), "new": str(new)}


@_converted
def divergence(fork, new, set=None, start=0, limit=2000):
    """
    What this host's member wrote past the fork. Reads its oplog, or a copy of its data while mongod
    does not run; what was kept before; and its rollback files. Writes nothing.

    fork, new
        As ``openhim_ledger.fork`` tells them.

    set
        Name of the replica set.

    start, limit
        Which of the writes to return, counted from 0, and how many at most.

    Returns ``member`` (``state`` and, where it is not ``complete``, ``because``), ``writes``,
    ``versions`` (of each document that they wrote, a digest) and ``total``, the number of writes.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_ledger.divergence 1769860800-3-5 1769860812-1-7 openhim
    """
    part = _reader(set, fork, new).part()
    page = part.writes[start : start + limit]
    documents = dict.fromkeys(write.document for write in page)
    return {
        "member": vars(part.member),
        "total": len(part.writes),
        "writes": [vars(write) for write in page],
        "versions": [
            [*document, vars(part.versions[document])]
            for document in documents
            if document in part.versions
        ],
    }


@_converted
def keep(fork, new, set=None):
    """
    Keep aside what would be gone once this host's member joins the new history: its oplog past the
    fork, the documents as it had them last, its rollback files. Only root may enter the folder. A
    second run adds only what is new.

    fork, new, set
        As in ``openhim_ledger.divergence``.

    Returns ``folder``, ``oplog_until`` (the position up to which its oplog is kept, or None) and
    ``rollback_files``. Raises when the member can not be read.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_ledger.keep 1769860800-3-5 1769860812-1-7 openhim
    """
    return _reader(set, fork, new).keep()


@_converted
def status(fork, new, set=None):
    """
    What is kept aside of a fork on this host.

    fork, new, set
        As in ``openhim_ledger.divergence``.

    CLI Example:

    .. code-block:: bash

        salt 'north-db1' openhim_ledger.status 1769860800-3-5 1769860812-1-7 openhim
    """
    return _reader(set, fork, new).status()


@_converted
def fates(fork, new, writes, set=None):
    """
    What the new history has of what some writes wrote. Asks the primary.

    fork, new, set
        As in ``openhim_ledger.divergence``.

    writes
        As ``openhim_ledger.divergence`` returns them.

    Returns ``documents`` (collection, ID, and what there is of it) and ``commands`` (for each of
    the writes that is a command, whether what it did is so here too).

    CLI Example:

    .. code-block:: bash

        salt 'south-db1' openhim_ledger.fates 1769860800-3-5 1769860812-1-7 '[]' openhim
    """
    reader = _reader(set, fork, new)
    found = [Write(**write) for write in writes]
    documents = list(dict.fromkeys(write.document for write in found if write.id))
    with reader.here.primary() as client:
        now = deciding.documents(client, reader.fork.last, documents, reader.transactions)
        commands = deciding.commands(client, [write for write in found if not write.id])
    return {
        "documents": [[*document, vars(one)] for document, one in now.items()],
        "commands": [[vars(write), same] for write, same in commands.items()],
    }
