"""The gate of a host: whether mongod and OpenHIM may start in this boot, and who said so.

This file is also the program that runs on the host before them (``gate.py check``, ``ask``,
``attest``), installed by :mod:`saltext.openhim.gate_host`. So it needs nothing but Python: neither
Salt nor this package, for it must close a host on which both are broken.

The proof of the current epoch is a file in ``/run``, gone with the boot, and names the boot too. It
comes from the master (``openhim_fence.admit``) or from an operator (``openhim-attest``).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROOF = "/run/saltext-openhim/epoch"
#: Why the master let this host not start when it was asked last, in this boot.
REFUSED = "/run/saltext-openhim/refused"
STATE = "/var/lib/saltext-openhim"
#: The highest epoch that this host has ever heard of.
HIGHEST = f"{STATE}/epoch"
ATTESTATIONS = f"{STATE}/attestations.jsonl"
FENCE_RECORD = f"{STATE}/fence.json"
#: The stack's name, the units behind the gate, and how to ask the master.
CONFIG = "/etc/openhim-gate/gate.json"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

UNIT = "openhim-gate.service"
ASK_UNIT = "openhim-gate-ask.service"

#: Seconds for one question to the master; a minion that finds none would try for ever.
ASK_TIMEOUT = 60.0

_WHAT_TO_DO = (
    f"{ASK_UNIT} goes on asking the master; if no master can answer and no other site of the stack "
    "takes writes, run openhim-attest here as root"
)


class Closed(Exception):
    """The gate stays closed, or a step to open it was refused; the text says why."""


def refusal(root: str = "/") -> str | None:
    """Why mongod and OpenHIM may not start in this boot; None when they may.

    root: where the host's files are.
    """
    try:
        if order := fenced(root):
            return (
                f"closed: this host was fenced in epoch {order.get('epoch')} by {order.get('by')} "
                f"({order.get('reason')}); rejoin it, or lift the fence (openhim_fence.unfence)"
            )
        highest, proof = highest_epoch(root), _proof(root)
    except Closed as error:
        return f"closed: {error}"
    if proof is None and (words := _refused(root)):
        return f"closed: the master refused: {words}"
    if proof is None:
        return f"closed: there is no proof of the current epoch in this boot; {_WHAT_TO_DO}"
    if proof["epoch"] < highest:
        return (
            f"closed: the proof is of epoch {proof['epoch']}, and this host has heard of epoch "
            f"{highest}; {_WHAT_TO_DO}"
        )
    return None


def fenced(root: str = "/") -> dict[str, Any] | None:
    """The order that fenced this host (``epoch``, ``by``, ``reason``, ``at``); None when it is not.

    Raises :class:`Closed` when nobody can tell.
    """
    path = _at(root, FENCE_RECORD)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        orders = [order for order in record["orders"] if order["verb"] == "fence"]
        return dict(orders[-1]) if record["fenced"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Closed(
            f"the record of the fence, {path}, cannot be read ({error!r}), so this host counts as "
            "fenced; fence it again or lift the fence, which writes the record anew"
        ) from error


def highest_epoch(root: str = "/") -> int:
    """The highest epoch that this host has ever heard of; 0 where nothing was ever recovered.

    Raises :class:`Closed` when the file cannot be read.
    """
    path = _at(root, HIGHEST)
    try:
        return int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError) as error:
        raise Closed(
            f"{path}, the highest epoch that this host knew, cannot be read ({error}); write the "
            "number of the stack's current epoch into it (the master's recovery record has it)"
        ) from error


def learn(epoch: int, root: str = "/") -> None:
    """Remembers an epoch, if it is the highest so far."""
    if epoch > highest_epoch(root) or (epoch and not _at(root, HIGHEST).exists()):
        write(_at(root, HIGHEST), f"{epoch}\n")


def prove(epoch: int, how: str, by: str, reason: str, root: str = "/") -> None:
    """Writes the proof for this boot, and reads it back.

    how: ``master`` or ``attested``. by: who said so.

    Raises :class:`Closed` when the gate would stay closed nevertheless.
    """
    proof = {"epoch": epoch, "how": how, "by": by, "reason": reason, "at": _now()}
    write(_at(root, PROOF), json.dumps({**proof, "boot": _boot(root)}) + "\n")
    _at(root, REFUSED).unlink(missing_ok=True)
    if problem := refusal(root):
        raise Closed(problem)


def withdraw(root: str = "/") -> None:
    """Takes the proof away: what is behind the gate does not start again without a new one."""
    _at(root, PROOF).unlink(missing_ok=True)


def remember_refusal(words: str, root: str = "/") -> None:
    """Keeps why the master let this host not start, for whoever looks at the gate."""
    write(_at(root, REFUSED), " ".join(words.split()) + "\n")


def proof(root: str = "/") -> dict[str, Any] | None:
    """The proof of this boot: ``epoch``, ``how``, ``by``, ``reason``, ``at``; None without one."""
    with contextlib.suppress(Closed):
        return _proof(root)
    return None


def write(path: Path, text: str) -> None:
    """Writes a file of root's, whole or not at all, and lasting."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(partial).unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Lets the names in a folder outlast a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def attest(root: str = "/") -> None:
    """Asks the operator who attests what, records it, and writes the proof.

    Raises :class:`Closed` when an answer is missing or wrong, or the host is fenced.
    """
    stack = config(root)["stack"]
    if order := fenced(root):
        raise Closed(
            f"this host was fenced in epoch {order['epoch']} by {order['by']}, and no attestation "
            "lifts a fence; rejoin it, or lift the fence (openhim_fence.unfence)"
        )
    epoch = highest_epoch(root)
    print(
        f"You attest that epoch {epoch} is the current one of the stack, and that no other site of "
        "it takes writes: if one does, there will be two histories, and one of them is lost.",
        flush=True,
    )
    answers = {name: _asked(question) for name, question in _QUESTIONS.items()}
    if answers["stack"] != stack:
        raise Closed(
            f"found the stack's name {answers['stack']!r}; type {stack!r}. Nothing was done."
        )
    if missing := [name for name in ("by", "reason") if not answers[name]]:
        raise Closed(f"found no {' and no '.join(missing)}; both are recorded. Nothing was done.")
    # Recorded before it counts, so that nothing is open that nobody answers for.
    _record_attestation({"epoch": epoch, "at": _now(), **answers}, root)
    prove(epoch, "attested", answers["by"], answers["reason"], root)


_QUESTIONS = {"stack": "The stack's name: ", "by": "Your name: ", "reason": "The reason: "}


def ask() -> None:
    """Lets the minion ask the master for the epoch, as ``salt-call openhim_fence.admit`` does."""
    before = refusal()
    if before is None:
        return
    command = config()["ask"]
    try:
        done = subprocess.run(command, timeout=ASK_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Closed(f"the master did not answer within {ASK_TIMEOUT:g} s") from None
    except OSError as error:
        raise Closed(f"the master cannot be asked: {error}") from error
    if done.returncode:
        if refusal() != before:
            # The gate says it anew, for whoever asks systemd.
            subprocess.run(["systemctl", "start", UNIT], check=False, stderr=subprocess.DEVNULL)
        raise Closed("the master did not answer, or does not let this host start; see above")


def open_units() -> None:
    """Opens the gate, and starts what is behind it and starts with the host."""
    if subprocess.run(["systemctl", "start", UNIT], check=False).returncode:
        raise Closed(refusal() or f"systemctl start {UNIT} failed")
    for unit in config()["units"]:
        enabled = subprocess.run(["systemctl", "is-enabled", "--quiet", unit], check=False)
        if not enabled.returncode:
            subprocess.run(["systemctl", "start", "--no-block", unit], check=False)


def config(root: str = "/") -> dict[str, Any]:
    """What the host's gate was told: ``stack``, ``units``, ``ask`` (a command line)."""
    path = _at(root, CONFIG)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Closed(f"{path} cannot be read ({error}); the state tree writes it") from error
    return dict(found)


def main(arguments: list[str]) -> int:
    """The program. Arguments: ``check``, ``ask`` or ``attest``."""
    verb = arguments[0] if len(arguments) == 1 else ""
    try:
        if verb == "check":
            problem = refusal()
            tell(problem or _opened())
            return 1 if problem else 0
        if verb not in ("ask", "attest"):
            raise Closed("say one of: check, ask, attest")
        if os.geteuid():
            raise Closed("run this as root; nothing was done")
        if verb == "ask" and (order := fenced()):
            tell(f"nothing to ask: this host was fenced by {order['by']} ({order['reason']})")
            return 0
        (ask if verb == "ask" else attest)()
        open_units()
    except (Closed, PermissionError) as error:
        tell(str(error))
        return 1
    except (KeyboardInterrupt, EOFError):
        tell("broken off; nothing was done")
        return 1
    return 0


def tell(sentence: str) -> None:
    """Says something where the operator looks: on the output, and in ``systemctl status``."""
    print(sentence, flush=True)
    notified = os.environ.get("NOTIFY_SOCKET", "")
    if notified:
        # An abstract socket's name begins with a zero byte.
        address = "\0" + notified[1:] if notified.startswith("@") else notified
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, contextlib.suppress(OSError):
            told.sendto(f"STATUS={sentence}".encode(), address)


def _opened() -> str:
    found = proof() or {}
    return f"open: epoch {found.get('epoch')}, by {found.get('how')} ({found.get('by')})"


def _proof(root: str) -> dict[str, Any] | None:
    path = _at(root, PROOF)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        epoch, boot = int(found["epoch"]), found["boot"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Closed(f"the proof {path} cannot be read ({error!r}); {_WHAT_TO_DO}") from error
    # Where /run outlasts a boot, an old proof must not.
    return {**found, "epoch": epoch} if boot == _boot(root) else None


def _refused(root: str) -> str:
    try:
        return _at(root, REFUSED).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""  # it explains, and decides nothing


def _record_attestation(entry: dict[str, Any], root: str) -> None:
    path = _at(root, ATTESTATIONS)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _asked(question: str) -> str:
    print(question, end="", flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _boot(root: str) -> str:
    return _at(root, BOOT_ID).read_text(encoding="ascii").strip()


def _at(root: str, path: str) -> Path:
    return Path(root) / path.lstrip("/")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
