"""The start bundle: all that a new Salt master is made of, opened by the recovery key alone.

It holds the master's configuration, its key pair and the minions' keys, the state tree, the whole
pillar with the key that decrypts it, and the recovery record; and a script, ``openhim-start.sh``,
which puts them back on an empty machine and starts the master, and its minion. Each of its
repositories is a restic repository of its own, with no other password than the recovery key.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from string import Template
from typing import Any

from saltext.openhim import files
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.repository import Repository
from saltext.openhim.backup.retention import CLOCK_TOLERANCE
from saltext.openhim.errors import OpenHIMError

#: The script that brings the master back; it is kept beside the master's configuration.
START = "openhim-start.sh"

#: Where the certificate authority has its key, on the host that Salt's certificates come from.
AUTHORITY = "/etc/openhim-ca"

PART = "part=bundle"

TOLERANCE = CLOCK_TOLERANCE.total_seconds()


@dataclass(frozen=True)
class Bundle:
    """A stored bundle: in which repository, of when, by which Salt, and its snapshot's ID."""

    repository: str
    time: datetime
    salt: str
    epoch: int
    snapshot: str


def contents(master: Mapping[str, Any], extra: Iterable[str] = ()) -> list[Path]:
    """The files and folders that a Salt master is made of; none of them inside another one.

    master: the master's configuration, as Salt reads it. extra: further ones, which must exist.

    What a link points to is added where it is not among them already.

    Raises OpenHIMError when there is no master's key, or an extra path is missing.
    """
    key = Path(master["pki_dir"]) / "master.pem"
    if not key.is_file():
        raise OpenHIMError(
            f"{key} is not there, so this host has no Salt master to be kept. The start bundle is "
            "stored on the host with the role master"
        )
    named = [Path(path) for path in extra]
    if missing := [str(path) for path in named if not path.exists()]:
        raise OpenHIMError(
            f"openhim:backup:bundle:paths: {', '.join(missing)} is not on this host; expected what "
            "the master needs. Correct it, or bring it back"
        )
    found = [path for path in _candidates(master) if path.exists()]
    return _closed({path.absolute() for path in [*found, *named]})


def _candidates(master: Mapping[str, Any]) -> Iterator[Path]:
    yield Path(master["conf_file"]).parent
    yield Path(master["pki_dir"])
    yield Path(AUTHORITY)
    if master.get("gpg_keydir"):
        yield Path(master["gpg_keydir"])
    for roots in ("file_roots", "pillar_roots"):
        for folders in (master.get(roots) or {}).values():
            yield from (Path(folder) for folder in folders)
    for entry in master.get("ext_pillar") or []:
        if "openhim_recovery" in entry:
            yield Path(entry["openhim_recovery"] or "/var/lib/openhim-recovery")
    # The clones of a git server that may be lost as well.
    for name in ("gitfs", "git_pillar"):
        yield Path(master["cachedir"]) / name


def _closed(paths: set[Path]) -> list[Path]:
    """With what their links point to, and without what is inside another one."""
    waiting = list(paths)
    while waiting:
        for link in _links(waiting.pop()):
            target = Path(os.path.realpath(link))
            if target.exists() and not any(target.is_relative_to(path) for path in paths):
                paths.add(target)
                waiting.append(target)
    return sorted(p for p in paths if not any(p.is_relative_to(o) for o in paths - {p}))


def _links(path: Path) -> Iterator[Path]:
    if path.is_symlink():
        yield path
    for folder, directories, names in os.walk(path):
        for name in [*directories, *names]:
            if (Path(folder) / name).is_symlink():
                yield Path(folder) / name


def store(backups: Backups, master: Mapping[str, Any], salt_version: str) -> list[Bundle]:
    """Stores the bundle in each of its repositories, which are made when they are missing.

    master: the master's configuration, as Salt reads it.

    Raises OpenHIMError, naming every repository that failed, after all had their turn.
    """
    paths = contents(master, _declared(backups).get("paths") or ())
    start = _start(master)
    files.write(str(start), script(backups, master, salt_version, paths).encode(), 0o600)
    tags = [f"stack={backups.stack.name}", PART, f"salt={salt_version}", f"epoch={backups.epoch}"]
    stored, failed = [], []
    for name in repositories(backups):
        try:
            opened = opened_by_the_recovery_key(backups, name)
            opened.initialise()
            snapshot = opened.store_paths(paths, tags, host=backups.host).snapshot
            stored += [one for one in _listed(backups, name) if one.snapshot == snapshot]
        except OpenHIMError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise OpenHIMError(f"the start bundle was not stored: {'; '.join(failed)}")
    return stored


def listing(backups: Backups, repository: str | None = None) -> list[Bundle]:
    """The bundles that are stored, the oldest first; in all repositories when none is named."""
    names = [repository] if repository else repositories(backups)
    found = [one for name in names for one in _listed(backups, name)]
    return sorted(found, key=lambda one: one.time)


def repositories(backups: Backups) -> list[str]:
    """The names of the repositories that bundles are stored in."""
    return sorted(_declared(backups)["repositories"])


def stored_here(backups: Backups) -> bool:
    """Whether this host stores the start bundle: it has the role ``master`` and one is declared."""
    return bool(backups.entry.get("bundle")) and "master" in backups.stack.host(backups.host).roles


def max_age(backups: Backups) -> float:
    """Seconds after which a highstate stores another one."""
    return float(_declared(backups).get("max_age_seconds", 86400))


def late(backups: Backups, limit: float, now: datetime | None = None) -> dict[str, str | None]:
    """The repositories whose newest bundle will not do, with its time in ISO 8601, or None.

    It is older than ``limit`` seconds, of the future, or does not know the newest recovery.
    """
    present = now or datetime.now(timezone.utc)
    newest = {one.repository: one for one in listing(backups)}
    return {
        name: newest[name].time.isoformat() if name in newest else None
        for name in repositories(backups)
        if name not in newest
        or newest[name].epoch < backups.epoch
        or not -TOLERANCE <= (present - newest[name].time).total_seconds() <= limit
    }


def opened_by_the_recovery_key(backups: Backups, name: str) -> Repository:
    """One of the bundle's repositories."""
    declared = _declared(backups)["repositories"]
    if name not in declared:
        raise OpenHIMError(
            f"the repository {name!r} is not in openhim:backup:bundle:repositories; declared are "
            f"{', '.join(sorted(declared))}"
        )
    return backups.opened({**declared[name], "secret": _declared(backups)["secret"]})


def _declared(backups: Backups) -> Mapping[str, Any]:
    declared = backups.entry.get("bundle")
    if not declared:
        raise OpenHIMError(
            "openhim:backup:bundle: found nothing; declare the recovery key's secret and the "
            "repositories of the start bundle"
        )
    return declared


def _listed(backups: Backups, name: str) -> list[Bundle]:
    opened = opened_by_the_recovery_key(backups, name)
    if not opened.exists():
        return []
    return [
        Bundle(
            name,
            one.time.astimezone(timezone.utc),
            one.tag("salt") or "unknown",
            int(one.tag("epoch") or 0),
            one.id,
        )
        for one in opened.snapshots([f"stack={backups.stack.name}", PART])
    ]


def script(
    backups: Backups, master: Mapping[str, Any], salt_version: str, paths: Iterable[Path]
) -> str:
    """``openhim-start.sh``: puts a bundle back on an empty machine and starts the master.

    The machine's minion is started too, when it has a configuration.

    paths: what the bundle holds, for the owners of its files: on another machine the same user has
    another number.
    """
    known = list(paths)
    return Template(_SCRIPT).substitute(
        start=shlex.quote(str(_start(master))),
        stack=shlex.quote(backups.stack.name),
        tags=shlex.quote(f"stack={backups.stack.name},{PART}"),
        version=shlex.quote(salt_version),
        key=shlex.quote(str(Path(master["pki_dir"]) / "master.pem")),
        configuration=shlex.quote(str(Path(master["conf_file"]).parent)),
        owners="\n".join(_owners(known)) or ":",
    )


def _start(master: Mapping[str, Any]) -> Path:
    return Path(master["conf_file"]).parent / START


def _owners(paths: Iterable[Path]) -> Iterator[str]:
    """Commands that give files to the users and groups of the same name."""
    words = [shlex.quote(str(path)) for path in paths]
    users, groups = set(), set()
    for path in paths:
        for one in [path, *path.rglob("*")]:
            status = one.lstat()
            users.add(status.st_uid)
            groups.add(status.st_gid)
    for number in sorted(users - {0}):
        name = shlex.quote(pwd.getpwuid(number).pw_name)
        yield f"find {' '.join(words)} -uid {number} -exec chown -h {name} {{}} +"
    for number in sorted(groups - {0}):
        name = shlex.quote(grp.getgrgid(number).gr_name)
        yield f"find {' '.join(words)} -gid {number} -exec chgrp -h {name} {{}} +"


_SCRIPT = """\
#!/bin/sh
# Brings the Salt master of an OpenHIM stack back on an empty machine. Run it as
#   restic dump --tag $tags latest $start | sh
# with RESTIC_REPOSITORY_FILE (a file that holds the URL, for it may hold a password) and
# RESTIC_PASSWORD_FILE (one that holds the recovery key) in the environment.
set -eu
umask 077
stop() { echo "Refused: $$*" >&2; exit 2; }
say() { echo "$$*" >&2; }

test "$$(id -u)" = 0 || stop "this is not root; expected root, for the files are root's"
test -n "$${RESTIC_REPOSITORY:-}$${RESTIC_REPOSITORY_FILE:-}" ||
  stop "RESTIC_REPOSITORY_FILE is not set; expected a file that holds the bundle's URL"
test -n "$${RESTIC_PASSWORD_FILE:-}$${RESTIC_PASSWORD_COMMAND:-}" ||
  stop "RESTIC_PASSWORD_FILE is not set; expected a file that holds the recovery key"
command -v salt-master >/dev/null ||
  stop "salt-master was not found; install Salt "$version" (salt-master, salt-minion) and try again"
found="$$(salt-master --version | tr ' ' '\\n' | grep -E '^[0-9]+[.]' | head -1)"
test "$${found%%.*}" = "$$(echo $version | cut -d. -f1)" ||
  stop "Salt $$found was found; expected "$version", or another one of the same series"
test ! -e $key ||
  stop "$$(echo $key) is there: this machine has a Salt master already; expected an empty one. If
it is only what the package's installation made (salt-key lists no minion), stop salt-master, move
that folder away, and run this again"

say "1/3 Restoring the master's files ..."
restic restore latest --tag $tags --target / </dev/null >&2
$owners
test -e $key || stop "the files were restored, and $$(echo $key) is not among them"

say "2/3 Starting the master ..."
if test -n "$${START_MASTER:-}"; then
  $$START_MASTER
else
  systemctl enable salt-master && systemctl restart salt-master
fi
salt_run() { salt-run -c $configuration --no-color "$$@" </dev/null; }
tries=0
until salt_run --out=quiet saltutil.sync_all >/dev/null 2>&1; do
  tries=$$((tries + 1))
  test $$tries -lt 60 || stop "the master does not answer; look at journalctl -u salt-master"
  sleep 1
done
# As a minion this machine stores the next bundles, and is told what the stack is told.
if test -z "$${START_MASTER:-}" && test -s $configuration/minion; then
  { systemctl enable salt-minion && systemctl restart salt-minion; } ||
    say "salt-minion of this machine does not start; look at journalctl -u salt-minion"
fi

say "3/3 Asking it for the stack $stack ..."
plan="$$(salt_run --out=json openhim_dr.backup_plan $stack)"
case "$$plan" in
  *'"refusals": []'*) ;;
  *) say "$$plan"; stop "the master runs, and does not know the stack "$stack"; see above" ;;
esac
salt_run openhim_dr.history $stack
say "The master of $stack is back. Minions find it by the name in their configuration: give that"
say "name this machine's address, then run: salt '*' test.ping. Then saltutil.sync_all and a"
say "highstate on this machine's own minion: it stores the start bundle from now on."
"""
