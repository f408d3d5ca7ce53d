"""A functional drill: a restore point becomes a stack that serves, in a place that nothing leaves.

The restore point is read outside of the isolated place, through the socket of a scratch mongod that
is in it. Then the real OpenHIM starts on the data, inert, and a synthetic transaction is sent and
found again. What it tried to send to anybody else was dropped and counted: one packet fails the
drill.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from saltext.openhim.backup import declaration as backup
from saltext.openhim.backup import load, points, scratch, verify, work
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.backup.manifest import ReplicaSet
from saltext.openhim.backup.points import RestorePoint
from saltext.openhim.core import release
from saltext.openhim.core.host import CoreHost
from saltext.openhim.drill import core, inert, records
from saltext.openhim.drill.core import InertCore, Program
from saltext.openhim.drill.declaration import FUNCTIONAL, Drills
from saltext.openhim.drill.isolation import Denied, Isolation
from saltext.openhim.drill.records import Drill
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo import config
from saltext.openhim.mongo.connection import explained

#: The first scratch mongod's port in the isolated place; each further one has the next.
_PORT = 27017
#: How often OpenHIM is looked at while it is watched (seconds).
_LOOK = 0.5


class NotPassed(OpenHIMError):
    """The drill was held and not passed, or refused; it is on record. ``drill``: as recorded."""

    def __init__(self, drill: Drill):
        self.drill = drill
        super().__init__(
            f"the drill {drill.id} was not passed ({drill.verdict}), and that is recorded: "
            f"{'; '.join(drill.reasons)}"
        )


def run(
    drills: Drills,
    *,
    by: str,
    point: str = work.LATEST,
    repository: str | None = None,
    folder: str | Path | None = None,
    program: Program | None = None,
) -> Drill:
    """Carries out a functional drill, and records it.

    by: who asked for it. point: an ID, ``latest`` or ``verified``. repository: in which; the newest
    of all that this host can open when left out. folder: for the restored data, on a tmpfs or an
    encrypted disk. program: which OpenHIM; this host's when left out.

    Returns the drill, which was passed. Raises :class:`NotPassed` once another verdict is recorded;
    Refused on another host, and while something else is under way.
    """
    drills.require_here()
    with work.alone("a drill"), records.alone():
        _end_interrupted()
        began = datetime.now(timezone.utc)
        drill = Drill(
            id=f"{began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            kind=FUNCTIONAL,
            stack=drills.stack.name,
            host=drills.host,
            by=by,
            began_at=began.isoformat(timespec="milliseconds"),
        )
        records.append(drill)
        drilling = _Drilling(drills, drill, folder, program or Program())
        drill = _judged(drilling, point, repository)
        records.append(drill)
    if drill.verdict != records.PASSED:
        raise NotPassed(drill)
    return drill


def _end_interrupted() -> None:
    """Writes down the end of drills that did not come to it. Their processes and data are gone:
    the kernel ended the ones, and the next scratch mongod's folder removes the other.
    """
    for drill in records.read(before=True).drills:
        if drill.verdict == records.INTERRUPTED and not drill.ended_at:
            records.append(replace(drill, ended_at=records.now()))


def _judged(drilling: _Drilling, point: str, repository: str | None) -> Drill:
    """The drill with its verdict: whatever goes wrong on the way is what a recovery would meet."""
    verdict = records.PASSED
    reasons: tuple[str, ...] = ()
    try:
        with explained("the scratch mongod"):
            drilling.all(point, repository)
        reasons = verdict_reasons(drilling.denied)
        verdict = records.FAILED if reasons else records.PASSED
    except Refused as error:
        verdict, reasons = records.REFUSED, (str(error),)
    except OpenHIMError as error:
        verdict, reasons = records.FAILED, (str(error), *verdict_reasons(drilling.denied))
    except Exception as error:
        verdict, reasons = records.FAILED, (f"{type(error).__name__}: {error}",)
    return replace(drilling.drill, verdict=verdict, reasons=reasons, ended_at=records.now())


def verdict_reasons(denied: Denied) -> tuple[str, ...]:
    """Why what was counted fails a drill; nothing when nothing was. Pure."""
    if not denied.packets:
        return ()
    known = ", ".join(denied.wanted[:10]) or "somebody"
    return (
        f"{denied.packets} packets were for {known}, and were dropped: a recovery would have sent "
        "them. Look for what reaches out in OpenHIM's configuration, and switch it off in "
        "openhim:core:config or set it aside",
    )


@dataclass
class _Drilling:
    """The way through one drill; what is found out on it is in ``drill``."""

    drills: Drills
    drill: Drill
    folder: str | Path | None
    program: Program
    denied: Denied = field(default_factory=lambda: Denied(0))
    steps: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.backups = Backups(self.drills.stack, self.drills.host, self.drills.pillar)

    def all(self, point: str, repository: str | None) -> None:
        """Restores, starts, sends, finds, watches; leaves nothing behind."""
        why_not = release.problem(self.drills.stack.declared["core"], self.program.current)
        if why_not:
            raise OpenHIMError(f"OpenHIM is not installed on this host: {why_not}")
        if Path(self.folder or scratch.FOLDER).resolve().is_relative_to("/run"):
            raise OpenHIMError(
                f"{self.folder or scratch.FOLDER} is below /run, which is empty in the isolated "
                "place; name another tmpfs with folder="
            )
        with self._step("find the restore point"):
            chosen, name = work.find(self.backups, point, repository)
        age = datetime.fromisoformat(self.drill.began_at).timestamp() - chosen.as_of
        self._note(point=chosen.id, repository=name, rpo_seconds=round(age, 1))
        parent = scratch.parent_with_room(self.folder, _size(chosen))
        with self._step("isolate"):
            stack = ExitStack()
            place = stack.enter_context(Isolation())
        with stack:
            baseline = place.prove()
            try:
                self._recover(place, stack, chosen, name, parent)
            finally:
                self._count(place, baseline)

    def _recover(
        self, place: Isolation, stack: ExitStack, chosen: RestorePoint, name: str, parent: Path
    ) -> None:
        opened = self.backups.repository(name).uncached()
        servers: dict[str, tuple[scratch.Scratch, int]] = {}
        documents = 0
        with self._step("restore"):
            for port, one in enumerate(chosen.manifest.replica_sets, _PORT):
                server = stack.enter_context(
                    scratch.mongod(
                        config.binary(self.drills.stack),
                        sum(n.bytes for n in one.namespaces),
                        parent,
                        isolated=(place.network, port),
                    )
                )
                verify.refuse_older(server.version, one)
                documents += self._restored(server, one, opened, chosen)
                servers[one.name] = (server, port)
            self._read_other_parts(opened, chosen)
        self._note(documents=documents)
        host = self._prepared(servers)
        with InertCore(host, place, parent, self.program) as running:
            with self._step("start OpenHIM, and send a transaction"):
                found = running.transaction()
            rto = round(time.monotonic() - self.began, 1)
            self._note(transaction=found["transaction"], rto_seconds=rto)
            self._watch(running)

    def _restored(
        self, server: scratch.Scratch, one: ReplicaSet, opened: Any, chosen: RestorePoint
    ) -> int:
        try:
            with points.open_part(opened, chosen, one.part) as stream:
                loaded = load.load(stream, server.client)  # type: ignore[arg-type]
            work.compare(one.name, one.namespaces, loaded)
            work.read_back(one.name, one.namespaces, server.client)
        except OpenHIMError:
            # It says more than that it does not answer.
            server.check()
            raise
        return loaded.count

    def _read_other_parts(self, opened: Any, chosen: RestorePoint) -> None:
        """The files are read and hashed: a recovery needs them too."""
        archives = {one.part for one in chosen.manifest.replica_sets}
        for part in chosen.manifest.parts:
            if part.name not in archives:
                with points.open_part(opened, chosen, part.name):
                    pass

    def _prepared(self, servers: dict[str, tuple[scratch.Scratch, int]]) -> CoreHost:
        """The data is made inert, and lets our transaction in; the core to start on it."""
        urls = {}
        for kind, database in self.drills.stack.databases.items():
            if database.replica_set.name not in servers:
                raise OpenHIMError(
                    f"the restore point holds no data of {database.replica_set.name}, where "
                    f"openhim:mongodb:databases:{kind} is declared"
                )
            port = servers[database.replica_set.name][1]
            urls[kind] = f"mongodb://127.0.0.1:{port}/{database.name}?w=majority"
        host = CoreHost(core.declared(self.drills.pillar, self.drills.host, urls), self.drills.host)
        main = self.drills.stack.databases["main"]
        client = servers[main.replica_set.name][0].client
        self._note(set_aside=inert.set_aside(client[main.name]))
        core.admit_synthetic(host, client[main.name])
        return host

    def _watch(self, running: InertCore) -> None:
        """OpenHIM goes on running for as long as its timers need to fire."""
        with self._step("watch"):
            end = time.monotonic() + self.drills.observe_seconds
            while time.monotonic() < end:
                running.check()
                time.sleep(_LOOK)

    def _count(self, place: Isolation, baseline: Denied) -> None:
        found = place.denied()
        wanted = tuple(each for each in found.wanted if each not in baseline.wanted)
        self.denied = Denied(found.packets - baseline.packets, wanted)
        self._note(denied=self.denied.packets, wanted=wanted)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.steps[what] = round(time.monotonic() - began, 2)
        self._note(steps=dict(self.steps))

    def _note(self, **found: Any) -> None:
        self.drill = replace(self.drill, **found)


def foreseen(
    drills: Drills, point: str = work.LATEST, repository: str | None = None
) -> tuple[RestorePoint, str]:
    """Which restore point a drill would take, from which repository; changes nothing."""
    drills.require_here()
    return work.find(backup.from_pillar(drills.pillar, drills.host), point, repository)


def told(drill: Drill) -> dict[str, Any]:
    """A drill as Salt returns it, without what is empty."""
    return {key: _plain(value) for key, value in asdict(drill).items() if value not in ("", (), {})}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _size(chosen: RestorePoint) -> int:
    return sum(n.bytes for one in chosen.manifest.replica_sets for n in one.namespaces)
