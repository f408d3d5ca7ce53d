"""What one host sees of the stack, and what it says of itself, for who decides on a recovery.

It looks and changes nothing. What it finds is plain values, which
:mod:`saltext.openhim.recovery.reports` reads on the master.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from saltext.openhim import fence_host, gate, gate_host, settings, systemd, told
from saltext.openhim.backup import declaration
from saltext.openhim.backup.failures import NoRepository, RepositoryUnreachable
from saltext.openhim.core.host import UNIT as CORE_UNIT
from saltext.openhim.errors import OpenHIMError, Unauthorized
from saltext.openhim.mongo import config as mongod
from saltext.openhim.mongo import connection, divergence, offline, promotion
from saltext.openhim.mongo.connection import Observation
from saltext.openhim.recovery.epochs import Epoch, known, plain
from saltext.openhim.recovery.observations import STOPPED
from saltext.openhim.settings import Host, Stack

_Found = TypeVar("_Found")

#: A member that is not further behind than this has caught up: MongoDB itself lets it take over.
FRESH_SECONDS = 2.0

RUNNING = "running"
UNREACHABLE = connection.UNREACHABLE
UNAUTHORIZED = connection.UNAUTHORIZED
UNKNOWN = "not known"

#: Seconds for one repository to answer.
REPOSITORY_SECONDS = 20.0


def look(pillar: Mapping[str, Any], minion_id: str, repositories: bool = False) -> dict[str, Any]:
    """All that this host sees, and what it says of itself.

    repositories: whether it also looks at those repositories whose credentials it has, which takes
    seconds.

    Returns ``members`` (``set/host:port`` → ``saw``, ``epoch``, ``set_id``, ``committed``),
    ``cores`` (host → a word), ``repositories`` (name → a word), ``objections`` (set → what
    speaks against a promotion of its own member) and what :func:`own` returns.
    """
    stack = settings.from_pillar(pillar)
    host = stack.host(minion_id)
    cores = {core.id: core for core in stack.hosts_with("core")}
    # At the same time: what is gone costs one timeout, and not one for each kind.
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(_together, cores, lambda name: _core(stack, host, cores[name]))
        observed, objections = _observed(pillar, stack, host)
        return {
            "members": {name: _described(one) for name, one in observed.items()},
            "cores": running.result(),
            "repositories": _repositories(pillar, minion_id) if repositories else {},
            "objections": objections,
            **_own(stack, host, observed),
        }


def own(pillar: Mapping[str, Any], minion_id: str) -> dict[str, Any]:
    """What this host says of itself.

    Returns ``epochs`` (its records), ``gate_open``, ``fenced``, ``admits``, ``holds_data``,
    ``can_keep_aside``, ``caught_up`` and ``time`` (seconds since 1970, by its clock); each as
    :class:`saltext.openhim.recovery.observations.Report` explains it.
    """
    stack = settings.from_pillar(pillar)
    host = stack.host(minion_id)
    observed = {}
    for replica_set in stack.sets_on(minion_id):
        here = connection.vantage(pillar, minion_id, replica_set.name)
        observed[f"{replica_set.name}/{_name(here)}"] = _own_member(here)
    return _own(stack, host, observed)


def _own(stack: Stack, host: Host, observed: Mapping[str, Observation]) -> dict[str, Any]:
    records = told.read()
    fenced = _fenced(stack, host)
    return {
        "epochs": plain(records),
        "gate_open": _gate_open(stack, host),
        "fenced": fenced,
        "admits": not fenced and _admits(stack, host, records),
        "caught_up": _caught_up(stack, host, observed),
        **_data(stack, host),
        "time": time.time(),
    }


def _observed(
    pillar: Mapping[str, Any], stack: Stack, host: Host
) -> tuple[dict[str, Observation], dict[str, list[str]]]:
    """Every declared member, each as this host reaches it, its own one by the loopback; and by set
    what speaks against a promotion of its own."""

    # Salt's pillar is there for the thread that was called, and for no other.
    sets = {name: connection.vantage(pillar, host.id, name) for name in sorted(stack.replica_sets)}

    def seen(name: str) -> tuple[dict[str, Observation], list[str]]:
        here = sets[name]
        mine = _name(here)
        names = [member.name for member in here.replica_set.members]
        found = _together(
            names,
            lambda one: _own_member(here) if one == mine else connection.probe(one, here.access),
        )
        return found, _objections(here, found)

    by_set = _together(sets, seen)
    observed = {
        f"{name}/{one}": what for name, (found, _) in by_set.items() for one, what in found.items()
    }
    return observed, {name: reasons for name, (_, reasons) in by_set.items() if reasons}


def _objections(here: connection.Vantage, found: Mapping[str, Observation]) -> list[str]:
    """What this host's member itself would say to a promotion, and what no wait heals; it also
    knows what is in the set and declared by nobody."""
    mine = found.get(_name(here) or "")
    if mine is None:
        return []
    if mine.set_id is None:  # It did not say how it is; to ask it again may take as long again.
        return [mine.words]
    try:
        return promotion.lasting_objections(here, promotion.look(here, found))
    except OpenHIMError as error:
        return [str(error)]


def _name(here: connection.Vantage) -> str | None:
    return here.member.name if here.member else None


def _own_member(here: connection.Vantage) -> Observation:
    """Only the host itself can say that its member does not run."""
    name = _name(here) or ""
    seen = connection.probe(here.local, here.access, name)
    unit = f"mongod-{here.replica_set.name}.service"
    if seen.kind == UNREACHABLE and _stopped(unit):
        return Observation(name, STOPPED, seen.detail)
    return seen


def _stopped(unit: str) -> bool:
    """Whether systemd says for sure that no process of a unit is alive."""
    states = systemd.states([unit])
    return unit in states and not states[unit].runs


def _core(stack: Stack, host: Host, core: Host) -> str:
    """How OpenHIM of a host looks from here: systemd knows its own, and others can be reached."""
    if core.id == host.id:
        states = systemd.states([CORE_UNIT])
        if not states:
            return UNKNOWN
        return RUNNING if states[CORE_UNIT].runs else STOPPED
    return UNREACHABLE if connection.reach(core_address(stack, core)) else RUNNING


def core_address(stack: Stack, core: Host) -> str:
    """Where OpenHIM's API of a host listens, ``address:port``."""
    return f"{core.address}:{stack.core_ports['api']}"


def _described(seen: Observation) -> dict[str, Any]:
    word = seen.state or seen.kind
    return {
        "saw": word,
        "epoch": seen.epoch,
        "set_id": seen.set_id,
        "committed": seen.committed,
        "detail": seen.detail,
    }


def _fenced(stack: Stack, host: Host) -> bool:
    """Whether the fence is whole: one that lacks a part proves nothing."""
    record = fence_host.read_record()
    return bool(record.get("fenced")) and not fence_host.missing(stack, host.id)


def _gate_open(stack: Stack, host: Host) -> bool:
    """Whether services may start; where there is no gate, nothing keeps them from it."""
    return not gate_host.present(stack, host.id) or gate.refusal() is None


def _admits(stack: Stack, host: Host, records: list[Epoch]) -> bool:
    """Whether clients are served here, or would be by the next highstate or boot.

    By the newest epoch that this host has, be it in its records or in its pillar, its own site is
    the active one; or OpenHIM runs, or starts with the host, whatever should be.
    """
    newest = known(records).current
    number = int((stack.declared.get("recovery") or {}).get("epoch") or 0)
    active = stack.active_site if newest is None or newest.number < number else newest.active_site
    return active == host.site or ("core" in host.roles and _may_run(CORE_UNIT))


def _may_run(unit: str) -> bool:
    """Whether a unit runs, or will by itself after a boot; where nobody can tell, it may."""
    if not systemd.booted():
        return True
    state = systemd.states([unit])[unit]
    if state.load == "not-found":
        return False
    return state.runs or not systemd.systemctl("is-enabled", "--quiet", unit, must=False)


def _caught_up(stack: Stack, host: Host, observed: Mapping[str, Observation]) -> bool | None:
    """Whether each member here has what the primary has; None where the host has no member."""
    sets = stack.sets_on(host.id)
    mine = [
        observed[f"{each.name}/{member.name}"]
        for each in sets
        if (member := each.member_on(host.id))
    ]
    if not mine:
        return None
    return all(
        one.state == "PRIMARY"
        or (one.state == "SECONDARY" and one.lag is not None and one.lag <= FRESH_SECONDS)
        for one in mine
    )


def _data(stack: Stack, host: Host) -> dict[str, bool | None]:
    """Whether data of a member is here, and whether there is room to keep it aside."""
    folders = [Path(instance["data"]) for instance in mongod.instances(stack, host.id)]
    there = [folder for folder in folders if offline.has_data(folder)]
    if not folders:
        return {"holds_data": None, "can_keep_aside": None}
    return {
        "holds_data": bool(there),
        "can_keep_aside": all(divergence.used(f) <= shutil.disk_usage(f).free for f in there),
    }


def _repositories(pillar: Mapping[str, Any], minion_id: str) -> dict[str, str]:
    """How each repository looks whose credentials this host has."""
    if not (pillar["openhim"].get("backup") or {}).get("repositories"):
        return {}
    backups = declaration.from_pillar(pillar, minion_id)
    return _together(backups.visible, lambda name: _repository(backups, name))


def _repository(backups: declaration.Backups, name: str) -> str:
    repository = backups.repository(name)
    repository.timeout = REPOSITORY_SECONDS
    try:
        repository.repository_id()
    except Unauthorized:
        return UNAUTHORIZED
    except (RepositoryUnreachable, NoRepository):
        return UNREACHABLE
    except OpenHIMError:
        return UNKNOWN
    return RUNNING


def _together(names: Iterable[str], looked: Callable[[str], _Found]) -> dict[str, _Found]:
    names = list(names)
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        return dict(zip(names, pool.map(looked, names), strict=True))
