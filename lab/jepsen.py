"""Random faults at the active site, with writers at both, judged by what the writers were told.

After Jepsen (https://jepsen.io): a nemesis breaks something at random, the recovery is what a user
would run, and a checker compares every acknowledged order with what MongoDB and the ledgers have.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from lab import stack, traffic
from lab.demo import Place, raise_unless, start_clinics, transactions, wait_for
from lab.demo_full import ADDRESSES, INSIDE, NORTH, SOUTH, Told, acknowledged, lease_of, served_at

INSIDE_SOUTH = Place("south-clinics", SOUTH, "10.20.2.41", 2_000_000)
NORTH_HOSTS = ("north-core", "north-db1", "north-db2")

#: A unit that lives in another time; the kernel and all else on its host do not.
_SKEWED = """\
[Service]
Environment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1
Environment=FAKETIME={seconds:+d}s FAKETIME_DONT_FAKE_MONOTONIC=1
"""
_DROP_IN = "/etc/systemd/system/openhim-lease.service.d/skewed.conf"


class Nemesis:
    """What it does to the active site, and how that ends."""

    def __init__(self, told: Told, chance: random.Random):
        self._told, self._lab, self._chance = told, told.running.lab, chance

    @property
    def faults(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """What may happen: name → how it begins, and how it ends."""
        return {
            "power": (lambda: self._lab.kill_site(NORTH), self._power_back),
            "cut off": (lambda: self._lab.isolate_site(NORTH), self._network_back),
            "frozen": (self._freeze, self._thaw),
            "cut off with a wrong clock": (self._skew_and_cut, self._right_and_back),
        }

    def _power_back(self) -> None:
        self._lab.boot_site(NORTH)
        stack.start_upstream(self._lab, NORTH, stack.UPSTREAMS[NORTH])
        start_clinics(self._told.running, self._told.inside, "north-core", place=INSIDE)

    def _network_back(self) -> None:
        self._lab.rejoin_site(NORTH)

    def _freeze(self) -> None:
        """Whoever is frozen may wake as the primary: refused, until somebody cuts it off."""
        for name in NORTH_HOSTS:
            self._lab.host(name).freeze()
        asked = {"to_site": SOUTH, "confirm": "example", "declared_by": "x", "reason": "frozen"}
        refused = self._told.run("openhim_dr.failover_plan", **asked)["refusals"]
        raise_unless(any("says nothing" in one for one in refused), f"not refused: {refused}")
        self._lab.isolate_site(NORTH)

    def _thaw(self) -> None:
        """First the network, then the hosts: all that they have to keep them closed is a clock."""
        self._lab.rejoin_site(NORTH)
        for name in NORTH_HOSTS:
            self._lab.host(name).thaw()

    def _skew_and_cut(self) -> None:
        """Each agent asks with the wrong time, and the network goes before its lease is over."""
        seconds = self._chance.choice((-300, 300))
        for name in NORTH_HOSTS:
            host = self._lab.host(name)
            host.write(_DROP_IN, _SKEWED.format(seconds=seconds))
            host.run(["systemctl", "daemon-reload"])
            host.run(["systemctl", "restart", "openhim-lease"])
        self._lab.isolate_site(NORTH)

    def _right_and_back(self) -> None:
        for name in NORTH_HOSTS:
            host = self._lab.host(name)
            host.run(["rm", "-r", _DROP_IN.rpartition("/")[0]])
            host.run(["systemctl", "daemon-reload"])
            host.run(["systemctl", "restart", "openhim-lease"])
        self._lab.rejoin_site(NORTH)


@dataclass
class Run:
    """The rounds of one run: which faults there were and come next, and what every ledger has."""

    told: Told
    chance: random.Random
    faults: list[str] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    ledgers: list[str] = field(default_factory=list)

    @property
    def outside(self) -> Any:
        """What the clinics at the distant site were told."""
        return self.told.running.folder / "orders-south.jsonl"

    def begin(self) -> None:
        """Writers at both sites, and elsewhere by the public name."""
        start_clinics(self.told.running, self.told.inside, "north-core", place=INSIDE)
        start_clinics(self.told.running, self.outside, "south-core", place=INSIDE_SOUTH)

    def round(self) -> None:
        """Something breaks, OpenHIM moves, what broke is well again and OpenHIM moves back."""
        faults = Nemesis(self.told, self.chance).faults
        if not self.ahead:  # each of them once, before any comes again
            self.ahead = self.chance.sample(sorted(faults), len(faults))
        name = self.ahead.pop()
        begin, end = faults[name]
        self.faults.append(name)
        with self.told.story.step(f"{NORTH}: {name}"):
            self._wait_for_orders_inside(time.time(), 120)  # or there would be nothing to lose
            begin()
            moment = datetime.now(timezone.utc).isoformat()
            time.sleep(self.chance.uniform(0, 5))
        with self.told.story.step(f"`orch.failover` to {SOUTH}"):
            epoch = self.told.orchestrate(
                "failover", to_site=SOUTH, reason=name, disrupted_at=moment
            )
            self._only_one_site_took_writes(epoch)
        with self.told.story.step(f"{NORTH} is well again, and takes nothing"):
            end()
            self.told.running.master.wait_for(NORTH_HOSTS, 180)
            wait_for(lambda: lease_of(self.told, "north-core")["state"] == "given up", 90)
        with self.told.story.step(f"{NORTH} rejoins, and OpenHIM moves back"):
            self.told.orchestrate("rejoin", site=NORTH, reason="it is back", resync=True)
            ledger = self.told.run("openhim_dr.ledger", stack="example")
            self.ledgers.append(json.dumps(ledger["sets"]))
            self._only_one_site_took_writes(epoch)
            self.told.orchestrate("failback", to_site=NORTH, reason="it is well again")
            served_at(self.told, NORTH)

    def _wait_for_orders_inside(self, since: float, seconds: float) -> None:
        """Until the clinics at the active site were told that an order was taken."""

        def taken() -> bool:
            orders = acknowledged(self.told.inside)
            return bool(orders) and orders[-1]["answered"] > since

        wait_for(taken, seconds)

    def _only_one_site_took_writes(self, epoch: dict[str, Any]) -> None:
        """North took its last order before a member of south could take a write."""
        promoted = next(s["at"] for s in epoch["timeline"] if "primaries are at" in s["step"])
        begun = datetime.fromisoformat(epoch["declared_at"]).timestamp()
        since = datetime.fromisoformat(promoted).timestamp()
        late = [o for o in self._taken_at(NORTH) if o["answered"] >= since]
        raise_unless(not late, f"epoch {epoch['epoch']}: {NORTH} took orders later: {late}")
        early = [o for o in self._taken_at(SOUTH) if begun < o["answered"] < since]
        raise_unless(not early, f"epoch {epoch['epoch']}: {SOUTH} took orders before: {early}")

    def _taken_at(self, site: str) -> list[dict[str, Any]]:
        names = {ADDRESSES[site], f"{site}-core"}
        return [order for order in self._acknowledged() if order["address"] in names]

    def _acknowledged(self) -> list[dict[str, Any]]:
        logs = (self.told.everywhere, self.told.inside, self.outside)
        return [order for log in logs for order in acknowledged(log)]

    def check(self) -> dict[str, int]:
        """The checker: no acknowledged order is missing, unless a ledger has it."""
        orders = self._acknowledged()  # first: what is acknowledged while it looks is there too
        found = transactions(self.told.running, NORTH)
        missing = [o["number"] for o in orders if str(o["number"]) not in found]
        listed = "".join(self.ledgers)
        unlisted = [n for n in missing if f"{traffic.PATH}{n}" not in listed]
        raise_unless(not unlisted, f"acknowledged, missing, and in no ledger: {unlisted}")
        return {"acknowledged": len(orders), "missing and in a ledger": len(missing)}
