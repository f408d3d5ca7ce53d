"""The whole story, on real hosts: a move and back, a site that is cut off while it writes and comes
back, the loss of everything, the rebuild at a third provider, a drill, and the report.

``python -m lab.demo_full [FOLDER]`` (or ``make demo-full``) shows each step with its time, and
leaves its report, and the one for the officer, in the folder. Clinics know one public name; what
they were told is compared with what MongoDB has after each step.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from lab import cache, name_server, provider, stack, traffic
from lab.demo import Place, Story, highstate, raise_unless, start_clinics, transactions, wait_for
from lab.host import Host
from lab.process import Process

NORTH, SOUTH = "north", "south"
NAME, SERVER, TTL = "him.example.org", "10.20.0.53", 5
ADDRESSES = {NORTH: "10.20.1.21", SOUTH: "10.20.2.21", provider.SITE: "10.20.0.52"}
ORDERS = 40

#: Clinics that are cut off with the primary site, and go on to write there.
INSIDE = Place("north-clinics", NORTH, "10.20.1.41", 1_000_000)


@dataclass
class Told:
    """What the whole story needs from step to step, and what it measured."""

    story: Story
    running: stack.Stack
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def everywhere(self) -> Path:
        """What the clinics that know the public name were told."""
        return self.running.folder / "orders.jsonl"

    @property
    def inside(self) -> Path:
        """What the clinics at the primary site were told."""
        return self.running.folder / "orders-inside.jsonl"

    def run(self, function: str, *arguments: str, **named: Any) -> Any:
        """A runner's answer."""
        return self.running.master.run(function, *arguments, **named)

    def orchestrate(self, verb: str, **request: Any) -> dict[str, Any]:
        """Carry out a recovery; returns its epoch, and notes how long clients were to wait."""
        begun = time.time()
        asked = {"confirm": "example", "declared_by": "the demo", **request}
        with self.running.master.progress(self.story.say):
            self.running.master.orchestrate(f"orch.{verb}", {verb: asked})
        return self.measure(verb, begun)

    def measure(self, verb: str, begun: float) -> dict[str, Any]:
        """The epoch of a recovery whose command was given at a time, and how long it took."""
        *_, epoch = self.run("openhim_dr.history", stack="example")
        if (served := (epoch["result"] or {}).get("served_at")) and verb == epoch["kind"]:
            seconds = datetime.fromisoformat(served).timestamp() - begun
            self.measured[f"{verb}: seconds from the command to a transaction"] = round(seconds, 1)
            self.story.say(f"{seconds:.1f} s from the command to a transaction")
            if verb == "failover":
                self.share(epoch, seconds)
        return epoch

    def share(self, epoch: dict[str, Any], seconds: float) -> None:
        """How much of a failover is not ours: what leases, MongoDB and OpenHIM take themselves."""
        lab, site = self.running.lab, epoch["active_site"]
        own = {
            "the wait for the lease": epoch["result"]["waited_seconds"],
            "MongoDB's own": mongodb_seconds(lab.host(f"{site}-db1"), epoch),
            "OpenHIM's own start": openhim_seconds(lab.host(f"{site}-core")),
        }
        own["ours"] = seconds - sum(own.values())
        for whose, took in own.items():
            self.measured[f"failover: of these {whose}"] = round(took, 1)
        self.story.say("of these " + ", ".join(f"{s:.1f} s {whose}" for whose, s in own.items()))


def openhim_seconds(host: Host) -> float:
    """From the start of OpenHIM's process to its last port that listens, by the host's journal."""
    asked = ["journalctl", "--unit=openhim-core", "--boot", "--output=short-unix", "--all"]
    lines = host.run(asked).stdout.splitlines()
    started = [float(line.split()[0]) for line in lines if "Started openhim-core.service" in line]
    listens = [float(line.split()[0]) for line in lines if "HTTPS listening on port" in line]
    return max(listens) - max(started)


def mongodb_seconds(host: Host, epoch: dict[str, Any]) -> float:
    """What a member took to notice who is gone, as far as it was waited for, and to be elected, by
    its own log."""
    log = [json.loads(line) for line in host.read("/var/log/mongodb/openhim.log").splitlines()]

    def last(message: str, before: float) -> float:
        times = (
            datetime.fromisoformat(e["t"]["$date"]).timestamp() for e in log if message in e["msg"]
        )
        return max(one for one in times if one < before)  # without one, nothing was measured

    elected = last("Transition to primary complete", time.time())
    forced = last("New replica set config in use", elected)
    noticed = last("Member is now in state DOWN", forced)
    (closed,) = (s["at"] for s in epoch["timeline"] if s["step"] == "no other site takes writes")
    begun = datetime.fromisoformat(closed).timestamp()
    return max(0.0, noticed - begun) + elected - forced


def pillar(folder: Path, lease: bool = True) -> Path:
    """The example with a lease, a public name, and hosts that stand by at a third provider."""
    shutil.copytree(stack.EXAMPLE, folder)
    file = folder / "openhim" / "production.sls"
    declared = yaml.safe_load(file.read_text())
    openhim = declared["openhim"]
    provider.declare(openhim)
    openhim["lease"] = {"enabled": lease, "seconds": 20}
    openhim["drills"] |= {"observe_seconds": 5}
    openhim["cut_over"] = {
        "dns": {
            "name": NAME,
            "zone": NAME.partition(".")[2],
            "server": SERVER,
            "ttl": TTL,
            "key": {"name": "cut-over", "algorithm": "hmac-sha256", "secret": "dns_update"},
            "addresses": {site: [address] for site, address in ADDRESSES.items()},
        }
    }
    file.write_text(yaml.safe_dump(declared))
    top = folder / "top.sls"
    text = top.read_text().replace("# - secrets.cut_over", "- secrets.cut_over")
    top.write_text(text + "  'west-db1':\n    - secrets.backup\n")
    return folder


@contextmanager
def started(lease: bool = True) -> Iterator[stack.Stack]:
    """The hosts of that pillar, their name server and the third provider's laboratory."""
    with tempfile.TemporaryDirectory(dir=cache.directory()) as scratch:
        Path(scratch).chmod(0o755)
        declared = pillar(Path(scratch) / "pillar", lease)
        with stack.started(declared, share=provider.shares()) as running:
            stack.start_upstream(running.lab, provider.SITE, provider.LABORATORY)
            dns = running.declared["cut_over"]["dns"]
            folder = running.folder / "name-server"
            name_server.start(running.lab, folder, dns, running.secret("dns_update"))
            yield running


def production(told: Told) -> None:
    """It stands, holds its lease, and clients find it by its name."""
    with told.story.step("Production by highstate: `salt '*' state.highstate`, all hosts at once"):
        highstate(told.story, told.running)
        told.run("openhim_dr.cut_over", stack="example", site=NORTH)
        pointing = told.run("openhim_dr.points_to", stack="example")
        raise_unless(pointing["site"] == NORTH, f"{NAME} leads elsewhere: {pointing}")
        lease = lease_of(told, "north-core")
        raise_unless(lease["state"] == "held", f"north has no lease: {lease}")
        told.story.say(f"{NAME} leads to {NORTH}, which holds a lease of {lease['left']:.0f} s")


def moved_and_back(told: Told) -> None:
    """OpenHIM moves in order, under load, and nothing is lost."""
    start_public_clinics(told)
    for site in (SOUTH, NORTH):
        with told.story.step(f"A move in order, under load: `orch.switchover` to {site}"):
            epoch = told.orchestrate("switchover", to_site=site, reason="work on the power supply")
            say_result(told, f"switchover to {site}", epoch)
            served_at(told, site)
    compare(told, NORTH, "the moves")


def cut_off(told: Told) -> None:
    """North is cut off and goes on writing; it closes by itself, and only then south takes over."""
    start_clinics(told.running, told.inside, "north-core", place=INSIDE)
    wait_for(lambda: len(acknowledged(told.inside)) >= ORDERS, 120)
    request = {"to_site": SOUTH, "reason": "north is cut off"}
    asked = {**request, "confirm": "example", "declared_by": "the demo"}
    with told.story.step(f"A failover while {NORTH} is well is refused"):
        refused = told.run("openhim_dr.failover_plan", **asked)["refusals"]
        raise_unless(any("PRIMARY" in one for one in refused), f"it was not refused: {refused}")
        told.story.say(refused[0])
    with told.story.step(
        f"{NORTH} is cut off from everybody; its own clinics go on to write there"
    ):
        told.running.lab.isolate_site(NORTH)
        cut = time.time()
        moment = datetime.fromtimestamp(cut, timezone.utc).isoformat()
        wait_for(lambda: acknowledged(told.inside)[-1]["answered"] > cut + 2, 30)
    with told.story.step(f"Nobody is promoted while {NORTH} may be writing"):
        told.run("openhim_dr.failover_declare", **asked, disrupted_at=moment)
        answer = told.run("openhim_dr.secure", "timeout=1", verb="failover", **asked)
        over = isinstance(answer, dict) and answer["next"] == "promote"
        runs = "the lease of north has not run out yet" in str(answer)
        raise_unless(over or runs, str(answer))
        told.story.say("its lease is over" if over else str(answer).strip().splitlines()[-1])
    with told.story.step(f"`orch.failover` to {SOUTH}, with nobody's word that {NORTH} is off"):
        epoch = told.orchestrate("failover", **request, disrupted_at=moment)
        say_result(told, "failover", epoch)
        served_at(told, SOUTH)
    closed(told, epoch)


def closed(told: Told, epoch: dict[str, Any]) -> None:
    """What was taken at north was taken before anything was taken at south."""
    last = acknowledged(told.inside)[-1]["answered"]
    first = min(o["answered"] for o in acknowledged(told.everywhere) if at(o, SOUTH, since=last))
    promoted = next(s["at"] for s in epoch["timeline"] if "primaries are at" in s["step"])
    raise_unless(
        last < datetime.fromisoformat(promoted).timestamp(),
        f"north took an order at {last}, and south's member was promoted at {promoted}",
    )
    told.measured["seconds between the last order taken at north and the first at south"] = round(
        first - last, 1
    )


def kept_out(told: Told) -> None:
    """North is back on the network, and takes nothing."""
    with told.story.step(f"{NORTH} is reached again, and is kept out"):
        told.running.lab.rejoin_site(NORTH)
        hosts = ["north-core", "north-db1", "north-db2"]
        told.running.master.wait_for(hosts, 120)
        wait_for(lambda: lease_of(told, "north-core")["state"] == "given up", 60)
        before = len(acknowledged(told.inside))
        sent = len(traffic.read(told.inside))
        wait_for(lambda: len(traffic.read(told.inside)) > sent + 3, 60)
        raise_unless(len(acknowledged(told.inside)) == before, "north took an order again")
        told.running.lab.processes[INSIDE.name].stop(30)
        told.story.say(f"its clinics go on to send, and none of their orders is taken: {before}")


def rejoined_and_back(told: Told) -> None:
    """What north took alone is in the ledger; then it serves again."""
    with told.story.step(f"{NORTH} rejoins, and what it took alone is entered in the ledger"):
        told.orchestrate("rejoin", site=NORTH, reason="it is back", resync=True)
        ledger = told.run("openhim_dr.ledger", stack="example")
        compare_with_ledger(told, ledger)
    with told.story.step(f"Back in order: `orch.failback` to {NORTH}"):
        epoch = told.orchestrate("failback", to_site=NORTH, reason="north is well again")
        say_result(told, "failback", epoch)
        served_at(told, NORTH)


def drilled(told: Told) -> None:
    """A restore point, and a drill of it where nothing gets out."""
    with told.story.step("A restore point, and a drill of it: `orch.backup`, `orch.drill`"):
        told.running.master.orchestrate("orch.backup", {"backup": {"stack": "example"}})
        request = {"stack": "example", "declared_by": "the demo"}
        told.running.master.orchestrate("orch.drill", {"drill": request})
        (held,) = told.running.master.salt(["west-backup"], "openhim_drill.list")["west-backup"]
        raise_unless(held["verdict"] == "passed", f"the drill was not passed: {held}")
        told.measured["drill: RTO"] = held["rto_seconds"]


def rebuilt(told: Told) -> None:
    """Both sites are destroyed; a third provider's bare hosts become the stack."""
    provider.hand_out(told.running)
    with told.story.step("Both sites are destroyed, under load"):
        told.running.lab.kill_site(NORTH)
        told.running.lab.kill_site(SOUTH)
        moment = datetime.now(timezone.utc).isoformat()
    with told.story.step(f"`orch.rebuild` at {provider.SITE}, from the repositories alone"):
        word = "the demo took its power away"
        epoch = told.orchestrate(
            "rebuild",
            to_site=provider.SITE,
            reason="both data centres burnt",
            point="latest",
            disrupted_at=moment,
            attest={NORTH: word, SOUTH: word},
        )
        say_result(told, "rebuild", epoch)
        took = told.measured["rebuild: seconds from the command to a transaction"]
        restored = restore_seconds(epoch)
        told.measured["rebuild: the same, without the restore"] = round(took - restored, 1)
        told.story.say(f"{restored:.1f} s of it the restore")
        served_at(told, provider.SITE)
        told.running.lab.processes["clinics"].stop(30)


def restore_seconds(epoch: dict[str, Any]) -> float:
    """How long a rebuild's restore took: what grows with the data."""
    at = {one["step"]: datetime.fromisoformat(one["at"]) for one in epoch["timeline"]}
    (ready,) = (when for step, when in at.items() if "ready for the data" in step)
    (there,) = (when for step, when in at.items() if "the data is that of" in step)
    return (there - ready).total_seconds()


def reported(told: Told, folder: Path) -> Path:
    """The report for the officer."""
    with told.story.step("The report: `salt-run openhim_dr.report`"):
        written = told.run("openhim_dr.report", "example")
        raise_unless(isinstance(written, dict), f"no report: {written}")
        (file,) = (one for one in written["files"] if one.endswith(".html"))
        page = folder / "report.html"
        page.write_text(told.running.lab.host("master").read(file))
        raise_unless("164.308" in page.read_text(), "the report names no clause")
        return page


def start_public_clinics(told: Told) -> Process:
    """Clinics elsewhere, which know the public name and nothing else."""
    process = start_clinics(told.running, told.everywhere, f"{NAME}@{SERVER}")
    served_at(told, NORTH)
    return process


def served_at(told: Told, site: str) -> None:
    """Wait until clinics that know the public name are served at a site."""
    since = time.time()

    def served() -> int:
        return sum(at(order, site, since) for order in acknowledged(told.everywhere))

    wait_for(lambda: served() >= ORDERS, 120)


def at(order: dict[str, Any], site: str, since: float) -> bool:
    """Whether an order was taken at a site, after a moment."""
    return order["address"] == ADDRESSES[site] and order["answered"] > since


def acknowledged(log: Path) -> list[dict[str, Any]]:
    """The orders that clinics were told were taken."""
    return traffic.acknowledged(traffic.read(log))


def lease_of(told: Told, host: str) -> dict[str, Any]:
    """How the lease is on a host."""
    return told.running.master.salt([host], "openhim_lease.status")[host]["holder"]


def compare(told: Told, site: str, after: str) -> None:
    """Every order that was acknowledged is in MongoDB at a site."""
    orders = acknowledged(told.everywhere)
    missing = missing_at(told, site, orders)
    raise_unless(not missing, f"acknowledged, and missing after {after}: {missing}")
    told.story.say(f"after {after} all {len(orders)} acknowledged orders are there")


def missing_at(told: Told, site: str, orders: list[dict[str, Any]]) -> list[int]:
    """Which of these orders MongoDB at a site has not."""
    found = transactions(told.running, site)
    return [order["number"] for order in orders if str(order["number"]) not in found]


def compare_with_ledger(told: Told, ledger: dict[str, Any]) -> None:
    """Each order that was acknowledged and is missing has an entry in the ledger."""
    orders = [*acknowledged(told.inside), *acknowledged(told.everywhere)]
    missing = missing_at(told, SOUTH, orders)
    text = json.dumps(ledger["sets"])
    unlisted = [n for n in missing if f"{traffic.PATH}{n}" not in text]
    raise_unless(not unlisted, f"missing, and in no ledger: {unlisted}")
    told.measured["orders that north took alone, each in the ledger"] = len(missing)
    told.story.say(
        f"{len(missing)} of {len(orders)} acknowledged orders did not survive; the ledger has each "
        f"of them, and says of the whole: {ledger['state']}"
    )


def say_result(told: Told, what: str, epoch: dict[str, Any]) -> None:
    """What a recovery measured, on the screen and in the report."""
    result = epoch["result"]
    for name in (
        "rpo_seconds",
        "rto_seconds",
        "rto_from_declaration_seconds",
        "waited_seconds",
    ):
        told.measured[f"{what}: {name}"] = result.get(name)
    told.story.say(
        f"epoch {epoch['epoch']}: RPO {result['rpo_seconds']} s, RTO {result['rto_seconds']} s, "
        f"from its declaration {result['rto_from_declaration_seconds']} s"
    )


#: The whole story, in its order.
STEPS: tuple[Callable[[Told], None], ...] = (
    *(production, moved_and_back, cut_off, kept_out, rejoined_and_back, drilled, rebuilt),
)


def main(folder: Path) -> int:
    """Run the whole story; it raises when something does not come out as it says."""
    folder.mkdir(parents=True, exist_ok=True)
    story = Story()
    with story.step("Boot the hosts of two sites and a third place, with Salt on each"):
        context = started()
        running = context.__enter__()
    try:
        told = Told(story, running)
        for step in STEPS:
            step(told)
        page = reported(told, folder)
    finally:
        context.__exit__(None, None, None)
    text = report(told)
    (folder / "demo-full.md").write_text(text)
    print(f"\n{text}\nThis is in {folder / 'demo-full.md'}, the report for the officer in {page}")
    return 0


def report(told: Told) -> str:
    """What was measured, and how long each step took, as Markdown."""
    measured = "\n".join(f"| {name} | {value} |" for name, value in told.measured.items())
    steps = "\n".join(f"| {title} | {seconds:.1f} |" for title, seconds in told.story.steps)
    return f"""\
# Moved, cut off, destroyed, rebuilt

| measured | |
|---|---|
{measured}

| step | seconds |
|---|---|
{steps}
| **all** | {time.monotonic() - told.story.started:.1f} |
"""


if __name__ == "__main__":
    # A demo that is told to stop takes its hosts with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else cache.directory() / "demo-full"
    sys.exit(main(target))
