"""Reports of a small stack at two sites, to be changed by a test; and what steps do to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saltext.openhim.recovery import epochs, steps
from saltext.openhim.recovery.answers import Refusal, Step
from saltext.openhim.recovery.epochs import Epoch, Minting
from saltext.openhim.recovery.layout import Layout, Member
from saltext.openhim.recovery.observations import Evidence, Look, Report, Saw
from saltext.openhim.recovery.verdicts import Point, Request

HOSTS = {"north-db": "north", "north-core": "north", "south-db": "south", "south-core": "south"}
LAYOUT = Layout(
    stack="example",
    active_site="north",
    sites=("north", "south"),
    hosts=tuple(HOSTS.items()),
    members=tuple(
        Member(f"rs/{host}", "rs", host, HOSTS[host]) for host in ("north-db", "south-db")
    ),
    cores=("north-core", "south-core"),
    promote=(("north", "rs", "rs/north-db"), ("south", "rs", "rs/south-db")),
)
POINT = Point("2026-01-31T12", committed=True, passed=True)
LATER = "2026-01-31T13:00:00+00:00"


def request(verb: str, site: str, **changes: Any) -> Request:
    """A request that lacks nothing."""
    host = f"{site}-core" if verb == "core" else ""
    asked = Request(verb, site, "example", "fire", "Ada", host=host, resync=True, point=POINT)
    return replace(asked, **changes)


def epoch(number: int = 1, **changes: Any) -> Epoch:
    """An epoch; its ID is its number unless the test says otherwise."""
    values: dict[str, Any] = {
        "number": number, "id": str(number), "parent": str(number - 1) if number > 1 else None,
        "kind": "failover", "stack": "example", "active_site": "south", "profile": "reduced",
        "lost_sites": ("north",), "declared_by": "Ada", "reason": "fire", "declared_at": LATER,
    }  # fmt: skip
    return Epoch(**{**values, **changes})


class Fleet:
    """What the hosts are like, and so what they report; north serves, and all is well."""

    def __init__(self) -> None:
        self.records: tuple[Epoch, ...] = ()
        self.primary: str | None = "north-db"
        self.configured: str | None = None
        self.down: set[str] = set()
        self.cores = {"north-core"}
        self.hosts: dict[str, dict[str, Any]] = {
            host: {
                "gate_open": True, "fenced": False, "admits": site == "north", "vouches": True,
                "clock": 0.0, "diverged": False, "caught_up": True, "holds_data": True,
                "can_keep_aside": True, "points_to": "north", "epochs": (),
            }
            for host, site in HOSTS.items()
        }  # fmt: skip

    def lose(self, site: str) -> None:
        """Nothing answers there any more."""
        self.down |= {host for host, where in HOSTS.items() if where == site}
        if self.primary and HOSTS[self.primary] == site:
            self.primary = None
        self.cores = {core for core in self.cores if HOSTS[core] != site}

    def look(self, host: str) -> Look:
        """What anybody sees of a member."""
        if host in self.down:
            return Look(f"rs/{host}", Saw.UNREACHABLE)
        state = "PRIMARY" if host == self.primary else "SECONDARY"
        return Look(f"rs/{host}", Saw.RUNNING, state, self.configured, "set-1")

    def evidence(self, **changes: Any) -> Evidence:
        """All reports."""
        looks = tuple(self.look(host) for host in ("north-db", "south-db"))
        return Evidence(
            LAYOUT, tuple(self._report(host, looks) for host in HOSTS), "south", **changes
        )

    def _report(self, host: str, looks: tuple[Look, ...]) -> Report:
        if host in self.down:
            return Report(host, False)
        saw = Saw.RUNNING if host in self.cores else Saw.NOT_RUNNING
        cores = (Look(host, saw),) if host.endswith("core") else ()
        return Report(host, True, HOSTS[host], members=looks, cores=cores, **self.hosts[host])

    def do(self, step: Step, only: int | None = None) -> None:
        """What a step does; to the first of its hosts only, if the test says so."""
        if step.name == steps.MINT:
            self._mint(step)
        elif step.name == steps.COMPLETE:
            self._everywhere(replace(self.records[-1], completed_at=LATER))
        elif step.name == steps.CUT_OVER:
            for state in self.hosts.values():
                state["points_to"] = self.records[-1].active_site if self.records else "north"
        for host in step.hosts[:only]:
            self._do(step, host)

    def _mint(self, step: Step) -> None:
        details = step.details
        made = epochs.minted(
            self.records,
            Minting(
                details["parent"] or None, "example", details["kind"], details["site"], "reduced",
                tuple(filter(None, details["lost_sites"].split(","))), "Ada", "fire", LATER,
            ),
            str(len(self.records) + 1),
        )  # fmt: skip
        assert not isinstance(made, Refusal)
        self.records = (*self.records, made)
        # The master has it, and keeps it where the first host that answers reads it.
        first = next(host for host in HOSTS if host not in self.down)
        self.hosts[first]["epochs"] = self.records

    def _everywhere(self, newest: Epoch) -> None:
        self.records = (*self.records[:-1], newest)
        for host, state in self.hosts.items():
            if host not in self.down:
                state["epochs"] = self.records

    def _do(self, step: Step, host: str) -> None:
        state = self.hosts[host]
        effects: dict[str, dict[str, Any]] = {
            steps.TELL: {"epochs": self.records},
            steps.CLOSE: {"admits": False},
            steps.FENCE: {"fenced": True, "admits": False},
            steps.UNFENCE: {"fenced": False},
            steps.ADMIT: {"admits": True},
            steps.OPEN: {"gate_open": True, "rejoined": step.epoch},
            steps.KEEP: {"kept": True},
            steps.KEEP_ASIDE: {"kept": True},
            steps.RESYNC: {"diverged": False, "caught_up": True},
            steps.RESTORE: {"restored": POINT.id, "holds_data": True},
            steps.PROVE: {"proven": step.epoch},
        }
        state.update(effects.get(step.name, {}))
        if step.name == steps.START_CORE:
            self.cores.add(host)
        elif step.name == steps.STOP_CORE:
            self.cores.discard(host)
        elif step.name == steps.PROMOTE:
            self.primary, self.configured = host, step.epoch
        elif step.name == steps.HAND_OVER:
            self.primary = f"{self.records[-1].active_site}-db"
            self.configured = step.epoch
