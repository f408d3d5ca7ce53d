"""Fences this host, lifts its fence, and looks at what is so: nftables, systemd, and the record.

How nothing is ever half open, wherever a run is broken off:

- Fencing begins with the record (from then on the gate stays closed), then cuts the network, then
  makes both last over a boot, then masks and stops the services. A step that fails does not keep
  the next ones from being done: a host without nft still has its services masked.
- Lifting begins with the record too, and ends with it. The services stay masked until the table and
  its file are gone, and nothing is started. Until the last step the record says "fenced".

Running the same again finishes what was begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import pwd
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim import fence, files, gate, nftables, systemd
from saltext.openhim.core import ports as channel_ports
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.fence import FILE, TABLE, UNIT, Order, Scope
from saltext.openhim.settings import STATE_DIRECTORY, Stack

RECORD_FILE = gate.FENCE_RECORD
UNIT_FILE = f"{systemd.UNITS}/{UNIT}"
LOCK_FILE = f"{STATE_DIRECTORY}/fence.lock"

#: Where the names of our files must outlast a power loss.
_FOLDERS = (STATE_DIRECTORY, str(Path(FILE).parent), systemd.UNITS, systemd.MASKS)


def order(verb: str, epoch: int, by: str, reason: str) -> Order:
    """An order of now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Order(verb, epoch, by, reason, now)


def scope(stack: Stack, minion_id: str) -> Scope:
    """What a fence covers on this host.

    OpenHIM is not asked for its channels: it may hang, and a fence is in a hurry. Their ports are
    those that it named last, those that the firewall has opened, and those that are declared.
    """
    remembered = nftables.remembered_facts().get("tcp_ports") or []
    path = Path(STATE_DIRECTORY) / channel_ports.FILE
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        remembered = [*remembered, *json.loads(path.read_text(encoding="utf-8"))["ports"]]
    return fence.scope(stack, minion_id, [int(port) for port in remembered])


def rules(covered: Scope) -> str:
    """The text of the table, with the services' users as they are on this host."""
    return fence.ruleset(covered.ports, _user_ids())


def raise_fence(stack: Stack, minion_id: str, wanted: Order) -> dict[str, Any]:
    """Fences this host, or finishes a fence that was begun; returns :func:`status` then.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the order is refused (nothing was done
    then), or when something is missing in the end: it names what, and all the rest is done.
    """
    with _locked():
        record = read_record()
        _require(stack, record, wanted)
        covered = scope(stack, minion_id)
        text = rules(covered)
        record = _ordered(record, wanted, fenced=True, units=_units(record, covered))
        problems = _each(
            lambda: _write_record(record),
            lambda: files.write(FILE, text.encode(), mode=0o600),
            lambda: _load(text, record),
            lambda: _persist(record["units"]),
            lambda: systemd.mask(record["units"]),
            lambda: systemd.stop(record["units"]),
            _close_gate,
            _make_lasting,
        )
    if left := missing(stack, minion_id):
        parts = "; ".join(f"{part}: {words}" for part, words in sorted(left.items()))
        why = f" ({'; '.join(problems)})" if problems else ""
        raise OpenHIMError(
            f"this host is not fenced completely. Missing: {parts}{why}. All the rest was done; "
            "put it right and run this again, or switch the host off."
        )
    return status(stack, minion_id)


def lift_fence(stack: Stack, minion_id: str, wanted: Order) -> dict[str, Any]:
    """Lifts the fence of this host, and starts nothing; returns :func:`status` then.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when the order is refused (nothing was done
    then), or when a step failed: the host counts as fenced then, and the next run finishes.
    """
    with _locked():
        record = read_record()
        covered = scope(stack, minion_id)
        units = _units(record, covered)
        if not record.get("fenced") and not remains(units):
            return status(stack, minion_id)
        _require(stack, record, wanted)
        gate.withdraw()
        # Still "fenced", so that the gate is closed until the last step.
        record = _ordered(record, wanted, fenced=True, units=units)
        _write_record(record)
        Path(FILE).unlink(missing_ok=True)
        _make_lasting()
        if _live() is not None:
            nftables.nft("--file", "-", stdin=fence.REMOVE)
        _remove_unit()
        systemd.unmask(units)
        if left := remains(units):
            raise OpenHIMError(
                f"the fence was lifted, and this is still there: {', '.join(left)}. The host "
                "counts as fenced; run this again."
            )
        _write_record({**record, "fenced": False, "listing": None})
        _make_lasting()
    return status(stack, minion_id)


def status(stack: Stack, minion_id: str) -> dict[str, Any]:
    """Whether this host is fenced, by whom, since when, why, in which epoch, and what is missing.

    ``fenced``: whether the record says so. ``missing``: what a fence lacks, by part; empty when the
    host is not fenced. ``remains``: parts of a fence on a host that is not fenced. ``lifting``: a
    run that lifted it was broken off. ``highest_epoch``: the highest that this host has heard of;
    None when that cannot be read.
    """
    record = read_record()
    orders = record.get("orders") or []
    fenced = bool(record.get("fenced"))
    last = orders[-1] if orders else {}
    by_fence = [entry for entry in orders if entry["verb"] == "fence"] if fenced else []
    covered = scope(stack, minion_id)
    return {
        "fenced": fenced,
        "lifting": fenced and last.get("verb") == "unfence",
        **{key: by_fence[-1].get(key) if by_fence else None for key in _TOLD},
        "last_order": last or None,
        "missing": missing(stack, minion_id) if fenced else {},
        "remains": [] if fenced else remains(_units(record, covered)),
        "units": list(covered.units),
        "highest_epoch": _highest(),
    }


_TOLD = ("epoch", "by", "reason", "at")


def missing(stack: Stack, minion_id: str) -> dict[str, str]:
    """What this host lacks to be fenced, by part, in words; empty when it is fenced.

    Parts: ``record``, ``kernel`` (the table), ``file`` and ``unit`` (for the boot), ``masks`` and
    ``services``.
    """
    record = read_record()
    covered = scope(stack, minion_id)
    units = _units(record, covered)
    text = rules(covered)
    checks = {
        "record": record.get("damaged") or (None if _is_fence(record) else "not fenced"),
        "kernel": _kernel_problem(text, record),
        "file": _words(files.differences(FILE, text.encode(), mode=0o600)),
        "unit": _unit_problem(units),
        "masks": _words({unit: "not masked" for unit in units if not systemd.is_masked(unit)}),
        "services": _words({u: s.active for u, s in systemd.states(units).items() if s.runs}),
    }
    return {part: words for part, words in checks.items() if words}


def remains(units: tuple[str, ...] | list[str]) -> list[str]:
    """Which parts of a fence are on this host: of ``kernel``, ``file``, ``unit`` and ``masks``."""
    there = {
        "kernel": _live() is not None,
        "file": Path(FILE).exists(),
        "unit": Path(UNIT_FILE).exists(),
        "masks": any(systemd.is_masked(unit) for unit in units),
    }
    return [part for part, is_there in there.items() if is_there]


def read_record() -> dict[str, Any]:
    """The record of the fence; empty when this host never had one.

    One that cannot be read is that of a fenced host, with the reason as ``damaged``. A fence that
    is raised or lifted writes it anew.
    """
    try:
        record = json.loads(Path(RECORD_FILE).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record["orders"], list):
            raise ValueError("it is no record of a fence")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        return {"fenced": True, "orders": [], "damaged": f"it cannot be read ({error!r})"}
    return record


def require_permission(stack: Stack, wanted: Order) -> None:
    """Raises what :func:`raise_fence` and :func:`lift_fence` would refuse; does nothing."""
    _require(stack, read_record(), wanted)


def _is_fence(record: Mapping[str, Any]) -> bool:
    last = (record.get("orders") or [{}])[-1]
    return bool(record.get("fenced")) and last.get("verb") == "fence"


def _require(stack: Stack, record: Mapping[str, Any], wanted: Order) -> None:
    highest = _highest()
    if highest is None and wanted.verb != "fence":
        raise OpenHIMError(
            f"{gate.HIGHEST}, the highest epoch that this host knew, cannot be read, so nobody can "
            "tell if this order is of the current one. Write the number of the current epoch into "
            "it, then run this again."
        )
    # A disk that is failing must not keep a host from being fenced.
    fence.require(wanted, fence.known_epoch(stack, highest or 0, record))


def _highest() -> int | None:
    try:
        return gate.highest_epoch()
    except gate.Closed:
        return None


def _ordered(
    record: Mapping[str, Any], wanted: Order, fenced: bool, units: list[str]
) -> dict[str, Any]:
    """The record with one more order, unless the last one asked for the same."""
    orders = list(record.get("orders") or [])
    last = orders[-1] if orders else {}
    asked = ("verb", "epoch", "by", "reason")
    if any(last.get(key) != wanted.entry()[key] for key in asked):
        orders.append(wanted.entry())
    kept = {key: value for key, value in record.items() if key != "damaged"}
    return {**kept, "fenced": fenced, "orders": orders, "units": units}


def _units(record: Mapping[str, Any], covered: Scope) -> list[str]:
    """Those of the declaration, and those that a fence covered before the declaration changed."""
    fenced = record.get("units") or () if record.get("fenced") else ()
    return sorted({*covered.units, *fenced})


def _write_record(record: Mapping[str, Any]) -> None:
    files.make_directory(STATE_DIRECTORY)
    content = json.dumps(record, indent=1).encode()
    files.write(RECORD_FILE, content, mode=0o600)
    if Path(RECORD_FILE).read_bytes() != content:
        raise OpenHIMError(f"{RECORD_FILE} was written and reads otherwise; look at that disk")


def _load(text: str, record: dict[str, Any]) -> None:
    """Loads the table, and remembers how the kernel prints it, to notice who changes it later."""
    nftables.nft("--file", "-", stdin=text)
    record.update(listing=nftables.listing(TABLE), sha256=_digest(text))
    _write_record(record)


def _kernel_problem(text: str, record: Mapping[str, Any]) -> str | None:
    try:
        live = _live()
    except nftables.NftError as error:
        return f"nobody can tell: {error}"
    if live is None:
        return "the table is not loaded"
    if record.get("sha256") != _digest(text):
        return "another table is loaded than the wanted one"
    return None if record.get("listing") == live else "the table was changed"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _live() -> str | None:
    try:
        return nftables.listing(TABLE)
    except nftables.NftMissing:
        return None


def _persist(units: list[str]) -> None:
    files.write(UNIT_FILE, fence.boot_unit(units).encode(), mode=0o644)
    systemd.systemctl("enable", "--quiet", UNIT)
    systemd.reload()
    if systemd.booted():
        # Only an active unit follows when the distribution's own rules are loaded again.
        systemd.systemctl("start", UNIT)


def _remove_unit() -> None:
    if not Path(UNIT_FILE).exists():
        return
    if systemd.booted():
        systemd.systemctl("stop", UNIT)
    systemd.systemctl("disable", "--quiet", UNIT)
    Path(UNIT_FILE).unlink()
    systemd.reload()


def _unit_problem(units: list[str]) -> str | None:
    if found := files.differences(UNIT_FILE, fence.boot_unit(units).encode(), mode=0o644):
        return _words(found)
    if systemd.systemctl("is-enabled", "--quiet", UNIT, must=False):
        return "not enabled"
    if systemd.booted() and systemd.systemctl("is-active", "--quiet", UNIT, must=False):
        return "not active"
    return None


def _close_gate() -> None:
    """What was proved before the fence does not open anything after it."""
    gate.withdraw()
    if systemd.booted():
        for unit in (gate.ASK_UNIT, gate.UNIT):
            if systemd.states([unit])[unit].runs:
                systemd.systemctl("stop", unit)


def _make_lasting() -> None:
    for folder in _FOLDERS:
        if Path(folder).is_dir():
            gate.sync_folder(Path(folder))


def _each(*steps: Callable[[], object]) -> list[str]:
    """Does every step, whatever becomes of the others; what failed, in words."""
    problems = []
    for step in steps:
        try:
            step()
        except (OpenHIMError, OSError) as error:
            problems.append(str(error))
    return problems


def _user_ids() -> list[int]:
    found = []
    for name in fence.USERS:
        with contextlib.suppress(KeyError):
            found.append(pwd.getpwnam(name).pw_uid)
    return found


def _words(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(found.items()))


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    files.make_directory(STATE_DIRECTORY)
    with Path(LOCK_FILE).open("a", encoding="utf-8") as lock:
        # Waits: what holds it ends by itself, and neither order may be lost.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
