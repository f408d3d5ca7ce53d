"""Puts the lease on this host, takes it away, and looks at what is so: files, units, the kernel."""

from __future__ import annotations

import json
import pwd
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saltext.openhim import certificates, fence_host, files, firewall, nftables, systemd
from saltext.openhim import told as told_here
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.lease import agent, archive, declared, table, witness
from saltext.openhim.lease import book as books
from saltext.openhim.lease.declared import Lease
from saltext.openhim.recovery import epochs
from saltext.openhim.settings import Stack

HOLDER = "openhim-lease.service"
BOOT = "openhim-lease-boot.service"
WITNESS = "openhim-witness.service"

HOLDER_CONFIG = "/etc/openhim-lease/holder.json"
WITNESS_CONFIG = "/etc/openhim-lease/witness.json"

#: The system's own Python, because Salt's goes away with Salt.
_PYTHON = "/usr/bin/python3"

#: Seconds, at least, for each step of a conversation with the witness.
_PATIENCE = 2.0

_MONGOD_USER = "mongodb"

#: States in which a host is as it should be: where its site is not active, it must be closed.
_WELL = (agent.HELD, agent.GIVEN_UP, agent.UNNEEDED)


def wanted(stack: Stack, minion_id: str, record: str | None) -> dict[str, bytes]:
    """The files of the lease on a host: path → content, all 0644. None of them is a secret.

    record: on a Salt master, the path of the stack's recovery record.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the lease is not enabled.
    """
    lease = _lease(stack)
    found: dict[str, bytes] = {}
    python = _PYTHON if Path(_PYTHON).exists() else sys.executable
    program = f"{python} -I {archive.PROGRAM}"
    if declared.holds(stack, minion_id):
        found[HOLDER_CONFIG] = _json(holder_config(stack, minion_id))
        found[_unit(BOOT)] = firewall.loading_unit(
            "Closes this host of the OpenHIM stack until it has a lease",
            agent.BOOT_FILE,
            fence_host.scope(stack, minion_id).units,
        ).encode()
        text = _HOLDER_UNIT.format(program=program, watchdog=int(lease.seconds * 2 / 3))
        found[_unit(HOLDER)] = text.encode()
    if declared.witnesses(stack, minion_id):
        found[WITNESS_CONFIG] = _json(witness_config(stack, record))
        found[_unit(WITNESS)] = _WITNESS_UNIT.format(program=program).encode()
    return {archive.PROGRAM: archive.content(), **found} if found else {}


def holder_config(stack: Stack, minion_id: str) -> dict[str, Any]:
    """What the agent of a host is told."""
    lease = _lease(stack)
    asked = stack.host(lease.witness)
    covered = table.scope(stack, minion_id, fence_host.scope(stack, minion_id).ports)
    return {
        "stack": stack.name,
        "host": minion_id,
        "witness": asked.id,
        "name": asked.name,
        "address": asked.address,
        "port": lease.port,
        "renew_every": lease.renew_every,
        "timeout": max(lease.renew_every / 2, _PATIENCE),
        "closed": table.closed(covered, _mongod_user(stack, minion_id)),
        **_TLS,
    }


def witness_config(stack: Stack, record: str | None) -> dict[str, Any]:
    """What the witness is told. record: as for :func:`wanted`."""
    lease = _lease(stack)
    own = stack.host(lease.witness)
    return {
        "stack": stack.name,
        "host": own.id,
        "site": own.site,
        "address": own.address,
        "port": lease.port,
        "seconds": lease.seconds,
        "max_skew": lease.max_skew,
        # Before any recovery: what came later the witness reads in the record.
        "active_site": stack.declared["active_site"],
        "holders": {
            host.id: {"site": host.site, "name": host.name}
            for _, host in sorted(stack.hosts.items())
            if declared.holds(stack, host.id)
        },
        "records": [*([record] if record else []), told_here.FILE],
        **_TLS,
    }


def units(stack: Stack, minion_id: str) -> tuple[str, ...]:
    """The units that run on a host for the lease."""
    found = [HOLDER] if declared.holds(stack, minion_id) else []
    return tuple(found + ([WITNESS] if declared.witnesses(stack, minion_id) else []))


def pending(stack: Stack, minion_id: str, record: str | None) -> dict[str, Any]:
    """What differs between this host and one with the lease, by path or unit; empty when nothing.

    Parameters and errors: :func:`wanted`.
    """
    found: dict[str, Any] = {}
    for path, content in wanted(stack, minion_id, record).items():
        if changes := files.differences(path, content, 0o644):
            found[path] = changes
    for unit in _enabled(stack, minion_id):
        if systemd.systemctl("is-enabled", "--quiet", unit, must=False):
            found[unit] = {"enabled": False}
    for unit, state in systemd.states(units(stack, minion_id)).items():
        if state.active != "active":
            found[unit] = {"active": state.active}
    return found


def install(stack: Stack, minion_id: str, record: str | None) -> None:
    """Writes what :func:`pending` found, and starts it. A lease that is held goes on meanwhile."""
    changed = pending(stack, minion_id, record)
    for path, content in wanted(stack, minion_id, record).items():
        if path in changed:
            files.write(path, content, 0o644)
    systemd.reload()
    for unit in _enabled(stack, minion_id):
        systemd.systemctl("enable", "--quiet", unit)
    if systemd.booted():
        # What was found by the one that ends now says nothing of the next.
        Path(agent.STATUS).unlink(missing_ok=True)
        for unit in units(stack, minion_id):
            # The program and what it is told are read at the start.
            systemd.systemctl("restart", unit)


def wait(stack: Stack, minion_id: str, seconds: float) -> str | None:
    """Waits until the lease is well on this host; why it is not, None when it is.

    seconds: at most so long.
    """
    end = time.monotonic() + seconds
    while (problem := trouble(stack, minion_id)) and time.monotonic() < end:
        time.sleep(0.5)
    return problem


def trouble(stack: Stack, minion_id: str) -> str | None:
    """Why the lease is not well on this host; None when it is.

    Well is a host of the active site whose kernel admits clients, any other host that was told so
    by the witness, and a witness that runs.
    """
    if not systemd.booted():
        return None
    states = systemd.states(units(stack, minion_id))
    stopped = [unit for unit, state in states.items() if state.active != "active"]
    if stopped:
        return f"{', '.join(stopped)} does not run; journalctl -u {stopped[0]} says why"
    if not declared.holds(stack, minion_id):
        return None
    found = holder()
    if found["state"] not in _WELL:
        return f"no lease: {'; '.join(found['reasons']) or 'nobody has asked for one yet'}"
    if found["state"] == agent.HELD and found["left"] is None:
        return "the witness grants the lease, and the kernel admits nobody"
    return None


def holder() -> dict[str, Any]:
    """What the agent of this host found last, and what the kernel does.

    ``state``: ``held``, ``refused``, ``given up``, ``unneeded``, ``no answer``, or ``not known``;
    ``reasons``; ``epoch``: the witness' newest; ``age``: seconds since it asked; ``leased``:
    whether this host is closed without a lease; ``left``: seconds for which the kernel admits
    clients, None when it does not.
    """
    found = _last_answer()
    return {
        "state": found.get("state", "not known"),
        "reasons": found.get("reasons", []),
        "epoch": found.get("epoch"),
        "age": round(books.now() - found["asked"], 1) if found else None,
        "leased": agent.leased(),
        "left": agent.held(),
    }


def admits() -> bool | None:
    """Whether the lease lets clients in here; None where no lease decides on it."""
    return agent.held() is not None if agent.leased() else None


def granted(stack: Stack, record: str | None) -> dict[str, Any]:
    """What this host knows as the witness, for :mod:`saltext.openhim.lease.evidence`.

    ``epochs``: all its records; ``grants``: site → seconds until its lease ends by this clock
    (negative once it has), None where this witness does not know, or never granted one to a host
    there that is to hold one; ``time``: seconds since 1970.

    The record is read *before* the book: see :mod:`saltext.openhim.lease.witness`.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the book cannot be read.
    """
    config = witness_config(stack, record)
    known = witness.known_here(config)
    book = books.read()
    now = books.now()
    sites = sorted({*stack.sites, *book.sites})
    holders: dict[str, list[str]] = {}
    for host, entry in config["holders"].items():
        holders.setdefault(entry["site"], []).append(host)
    left = {site: book.left(site, now, holders.get(site, ())) for site in sites}
    return {
        "epochs": epochs.plain(known),
        "grants": {site: None if one is None else round(one, 3) for site, one in left.items()},
        "time": time.time(),
    }


def present() -> list[str]:
    """Which parts of a lease are on this host: paths, and ``kernel`` for the table."""
    found = [path for path in (*_paths(), agent.BOOT_FILE) if Path(path).exists()]
    return found + (["kernel"] if _live() is not None else [])


def remove() -> None:
    """Takes the lease away: clients are admitted without one. What was granted stays on record."""
    there = present()
    for unit in (HOLDER, WITNESS, BOOT):
        if _unit(unit) in there:
            if systemd.booted():
                systemd.systemctl("stop", unit)
            systemd.systemctl("disable", "--quiet", unit)
    for path in there:
        if path != "kernel":
            Path(path).unlink()
    systemd.reload()
    Path(agent.STATUS).unlink(missing_ok=True)
    if "kernel" in there:
        nftables.nft("--file", "-", stdin=table.REMOVE)


def _live() -> str | None:
    try:
        return nftables.listing(table.TABLE)
    except nftables.NftMissing:
        return None


def _last_answer() -> dict[str, Any]:
    try:
        found = json.loads(Path(agent.STATUS).read_text(encoding="utf-8"))
        return dict(found) if found["boot"] == books.boot() else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OpenHIMError(f"{agent.STATUS} cannot be read: {error!r}") from error


def _lease(stack: Stack) -> Lease:
    found = declared.lease(stack)
    if found is None:
        raise OpenHIMError(
            "openhim:lease: found nothing that is enabled; the pillar must declare the lease"
        )
    return found


def _mongod_user(stack: Stack, minion_id: str) -> int | None:
    """As whom mongod runs where OpenHIM may run too: both go out to the same ports."""
    if not stack.sets_on(minion_id) or "core" not in stack.host(minion_id).roles:
        return None
    try:
        return pwd.getpwnam(_MONGOD_USER).pw_uid
    except KeyError:
        raise OpenHIMError(
            f"the user {_MONGOD_USER!r} does not exist on this host; the state that makes it must "
            "come first"
        ) from None


def _enabled(stack: Stack, minion_id: str) -> tuple[str, ...]:
    boot = (BOOT,) if declared.holds(stack, minion_id) else ()
    return (*boot, *units(stack, minion_id))


def _paths() -> tuple[str, ...]:
    return (
        *(_unit(unit) for unit in (HOLDER, WITNESS, BOOT)),
        HOLDER_CONFIG,
        WITNESS_CONFIG,
        archive.PROGRAM,
    )


def _unit(name: str) -> str:
    return f"{systemd.UNITS}/{name}"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


_TLS = {
    "ca": certificates.CA_FILE,
    "certificate": certificates.CERTIFICATE_FILE,
    "key": certificates.KEY_FILE,
}

_HOLDER_UNIT = """\
# Written by Salt (openhim_lease.running).
[Unit]
Description=Renews the lease by which this host of the OpenHIM stack admits clients
After=network-online.target openhim-lease-boot.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
NotifyAccess=main
ExecStart={program} agent /etc/openhim-lease/holder.json
# A frozen one is replaced while the lease still holds.
WatchdogSec={watchdog}
Restart=always
RestartSec=1
Environment=TZ=UTC
Nice=-10
OOMScoreAdjust=-900
UMask=0077
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""

_WITNESS_UNIT = """\
# Written by Salt (openhim_lease.running).
[Unit]
Description=Witnesses the lease of the OpenHIM stack's active site
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
NotifyAccess=main
ExecStart={program} witness /etc/openhim-lease/witness.json
Restart=always
RestartSec=1
Nice=-10
OOMScoreAdjust=-900
UMask=0077
StateDirectory=openhim-witness
StateDirectoryMode=0700
# The recovery record belongs to the user of the Salt master.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""
