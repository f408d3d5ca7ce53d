"""
The start bundle
================

All that a new Salt master is made of: configuration, keys, state tree, pillar, recovery record. It
is stored by the host with the role ``master`` in repositories of its own, which the recovery key
opens and nothing else. ``docs/topics/start-bundle.md`` tells how to begin from it.
"""

from pathlib import Path

import salt.config
import salt.version
from salt.exceptions import CommandExecutionError

try:
    from saltext.openhim.backup import bundle, declaration
    from saltext.openhim.mongo.connection import raises

    _converted = raises(CommandExecutionError)
    _PROBLEM = None
except ImportError as error:
    _PROBLEM = f"openhim_bundle needs PyMongo and the library of saltext-openhim: {error}"

    def _converted(function):
        return function


__virtualname__ = "openhim_bundle"

__func_alias__ = {"list_": "list"}


def __virtual__():
    return __virtualname__ if _PROBLEM is None else (False, _PROBLEM)


def _backups():
    return declaration.from_pillar(__pillar__, __opts__["id"])


def _master(config):
    """The configuration of the master on this host, as Salt reads it."""
    path = Path(config or Path(__opts__["conf_file"]).with_name("master"))
    if not path.is_file():
        raise CommandExecutionError(
            f"config: {path} is not there; expected the configuration of the Salt master on this "
            "host. The start bundle is stored on the host with the role master"
        )
    return salt.config.master_config(str(path))


def _shown(one):
    return {
        "repository": one.repository,
        "time": one.time.isoformat(),
        "salt": one.salt,
        "epoch": one.epoch,
        "snapshot": one.snapshot,
    }


@_converted
def contents(config=None):
    """
    The files and folders that a start bundle of this host holds.

    config
        The master's configuration; the file ``master`` beside the minion's when left out.

    CLI Example:

    .. code-block:: bash

        salt 'master' openhim_bundle.contents
    """
    backups = _backups()
    declared = backups.entry.get("bundle") or {}
    return [str(path) for path in bundle.contents(_master(config), declared.get("paths") or ())]


@_converted
def store(config=None):
    """
    Store the start bundle in each of its repositories, which are made when they are missing.

    config
        The master's configuration; the file ``master`` beside the minion's when left out.

    CLI Example:

    .. code-block:: bash

        salt 'master' openhim_bundle.store
    """
    version = str(salt.version.__version__)
    return [_shown(one) for one in bundle.store(_backups(), _master(config), version)]


@_converted
def list_(repository=None):
    """
    The start bundles that are stored, the oldest first.

    repository
        Its name in ``openhim:backup:bundle:repositories``; all of them when left out.

    CLI Example:

    .. code-block:: bash

        salt 'master' openhim_bundle.list
    """
    return [_shown(one) for one in bundle.listing(_backups(), repository)]
