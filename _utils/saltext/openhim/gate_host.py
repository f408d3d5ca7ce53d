"""Puts the gate before mongod and OpenHIM on this host, takes it away, and lets the master open it.

The gate does not wait. One that did would hold back the boot, and a highstate that starts mongod
would hang on it; so it answers at once, and a unit beside it asks the master until it may open.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltext.openhim import fence, files, gate, systemd
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.settings import Stack

PROGRAM = "/usr/local/lib/saltext-openhim/gate.py"
ATTEST = "/usr/local/sbin/openhim-attest"

UNIT_FILE = f"{systemd.UNITS}/{gate.UNIT}"
ASK_UNIT_FILE = f"{systemd.UNITS}/{gate.ASK_UNIT}"

#: The system's own Python, because Salt's goes away with Salt.
_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Tools:
    """What the gate's units call: a Python, and the command line that asks the master."""

    python: str
    ask: tuple[str, ...]


def tools(config_dir: str) -> Tools:
    """Those of this host. config_dir: of the minion.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when there is no salt-call.
    """
    beside = str(Path(sys.executable).parent)
    salt_call = shutil.which("salt-call") or shutil.which("salt-call", path=beside)
    if salt_call is None:
        raise OpenHIMError("there is no salt-call on this host; the gate asks the master with it")
    options = (
        f"--config-dir={config_dir}",
        "--log-level=error",
        "--out=quiet",
        "--retcode-passthrough",
    )
    python = _PYTHON if Path(_PYTHON).exists() else sys.executable
    return Tools(python, (salt_call, *options, "openhim_fence.admit"))


def wanted(stack: Stack, minion_id: str, found: Tools) -> dict[str, tuple[str, int]]:
    """The files that make the gate: path → text and mode."""
    units = fence.scope(stack, minion_id).units
    told = {"stack": stack.name, "units": list(units), "ask": list(found.ask)}
    program = f"{found.python} -I {PROGRAM}"
    behind = f"[Unit]\nRequires={gate.UNIT}\nAfter={gate.UNIT}\n"
    return {
        PROGRAM: (Path(gate.__file__).read_text(encoding="utf-8"), 0o755),
        ATTEST: (f'#!/bin/sh\nexec {program} attest "$@"\n', 0o755),
        gate.CONFIG: (json.dumps(told, indent=1) + "\n", 0o644),
        UNIT_FILE: (_UNIT.format(program=program), 0o644),
        ASK_UNIT_FILE: (_ASK_UNIT.format(program=program), 0o644),
        **{drop_in(unit): (behind, 0o644) for unit in units},
    }


def drop_in(unit: str) -> str:
    """The path of what puts a unit behind the gate."""
    return f"{systemd.UNITS}/{unit}.d/openhim-gate.conf"


def pending(stack: Stack, minion_id: str, config_dir: str) -> dict[str, Any]:
    """What differs between this host and one with a gate, by path; empty when nothing does."""
    found = {}
    for path, (text, mode) in wanted(stack, minion_id, tools(config_dir)).items():
        if changes := files.differences(path, text.encode(), mode):
            found[path] = changes
    if systemd.systemctl("is-enabled", "--quiet", gate.ASK_UNIT, must=False):
        found[gate.ASK_UNIT] = {"enabled": False}
    return found


def install(stack: Stack, minion_id: str, config_dir: str) -> None:
    """Puts the gate before the services of this host; those that run go on.

    The drop-ins come last: before the gate is there, nothing must need it.
    """
    for path, (text, mode) in wanted(stack, minion_id, tools(config_dir)).items():
        files.write(path, text.encode(), mode)
    systemd.systemctl("enable", "--quiet", gate.ASK_UNIT)
    systemd.reload()


def present(stack: Stack, minion_id: str) -> list[str]:
    """The files of a gate that are on this host."""
    return [path for path in _paths(stack, minion_id) if Path(path).exists()]


def remove(stack: Stack, minion_id: str) -> None:
    """Takes the gate away; what runs goes on, and what is known of epochs stays."""
    there = present(stack, minion_id)
    if ASK_UNIT_FILE in there:
        if systemd.booted():
            systemd.systemctl("stop", gate.ASK_UNIT)
        systemd.systemctl("disable", "--quiet", gate.ASK_UNIT)
    # The drop-ins first: until they are gone, stopping the gate would stop what is behind it.
    for path in reversed(there):
        Path(path).unlink()
    systemd.reload()


def admit(stack: Stack, minion_id: str, epoch: int | None, master: str) -> dict[str, Any]:
    """Opens the gate for this boot under the epoch of a pillar that the master has just given.

    epoch: what the caller thinks that it is; None when it does not say. master: who was asked.

    Returns :func:`status`. A higher epoch is remembered, also when the host is refused.

    Raises :class:`~saltext.openhim.errors.Refused` with the reason.
    """
    recovery: Mapping[str, Any] = stack.declared.get("recovery") or {}
    current = int(recovery.get("epoch") or 0)
    try:
        problem = fence.admission_problem(
            stack, minion_id, epoch, gate.highest_epoch(), gate.fenced()
        )
        gate.learn(current)
        if problem:
            gate.remember_refusal(problem)
        else:
            gate.prove(current, "master", master, f"epoch {current} of the recovery record")
    except gate.Closed as error:
        problem = str(error)
    if problem:
        raise Refused(f"the gate stays closed: {problem}")
    return status()


def status() -> dict[str, Any]:
    """Whether mongod and OpenHIM may start in this boot.

    ``open``; ``reason``: why not, None when they may; ``proof``: ``epoch``, ``how``, ``by``,
    ``reason`` and ``at`` of it, None without one.
    """
    reason = gate.refusal()
    return {"open": reason is None, "reason": reason, "proof": gate.proof()}


def _paths(stack: Stack, minion_id: str) -> list[str]:
    return list(wanted(stack, minion_id, Tools("", ())))


_UNIT = """\
# Written by Salt (openhim_fence.gated).
[Unit]
Description=Gate of the OpenHIM stack: opens on proof of the current epoch
After=local-fs.target openhim-fence.service

[Service]
Type=oneshot
RemainAfterExit=yes
NotifyAccess=main
ExecStart={program} check
"""

_ASK_UNIT = """\
# Written by Salt (openhim_fence.gated).
[Unit]
Description=Asks the master for the current epoch until the gate of the OpenHIM stack is open
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
# Not a oneshot: the boot would wait for it.
Type=exec
NotifyAccess=main
ExecStart={program} ask
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
