"""The main job, on real hosts: production stands up, gets destroyed data back to the second before,
loses its primary site under load, and serves from the other site.

``python -m lab.demo [REPORT]`` (or ``make demo``) shows each step with its time, and leaves a
report.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lab import cache, reckoning, stack, traffic
from lab.errors import LabError
from lab.process import Process

LOST, SURVIVOR = "north", "south"
WRITERS, PER_SECOND = 4, 20
ORDERS_DESTROYED = 60
ORDERS_BEFORE, ORDERS_AFTER = 120, 50
CLIENT = "laboratory"


@dataclass
class Story:
    """What happened, step by step, for the screen and for the report."""

    started: float = field(default_factory=time.monotonic)
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show one step while it runs, and how long it took."""
        begun = time.monotonic()
        print(f"[{begun - self.started:6.1f} s] {title} …", flush=True)
        yield
        seconds = time.monotonic() - begun
        self.steps.append((title, seconds))
        print(f"           done in {seconds:.1f} s", flush=True)

    @staticmethod
    def say(text: str) -> None:
        """One fact below the step that it belongs to."""
        print("           " + text.replace("\n", "\n           "), flush=True)


def main(report: Path) -> int:
    """Run the demo; it raises when something does not come out as the story says."""
    story = Story()
    with story.step("Boot the hosts of two sites and a third place, with Salt on each"):
        context = stack.started()
        running = context.__enter__()
    try:
        outcome = _play(story, running)
    finally:
        context.__exit__(None, None, None)
    text = _report(story, outcome)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(text)
    print(f"\n{text}\nThis report is in {report}")
    return 0


def _play(story: Story, running: stack.Stack) -> dict[str, Any]:
    with story.step("Production by highstate: `salt '*' state.highstate`, all hosts at once"):
        highstate(story, running)
    log = running.folder / "orders.jsonl"
    back = _destroyed_and_back(story, running, log)
    with story.step(
        f"Clinics send laboratory orders to {LOST} until {ORDERS_BEFORE} are acknowledged"
    ):
        clinics = start_clinics(running, log)
        wanted = ORDERS_DESTROYED + ORDERS_BEFORE
        wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= wanted, 120)
    with story.step(f"Site {LOST} loses power, while orders are on their way"):
        disrupted = time.time()
        running.lab.kill_site(LOST)
    disrupted_at = datetime.fromtimestamp(disrupted, timezone.utc).isoformat()
    request = {
        "to_site": SURVIVOR,
        "confirm": running.declared["stack"],
        "declared_by": "the demo",
        "reason": f"{LOST} lost power",
        "disrupted_at": disrupted_at,
    }
    word = {"attest": {LOST: f"the demo took its power away at {disrupted_at}"}}
    with story.step("A failover without the stack's name is refused"):
        plan = running.master.run("openhim_dr.failover_plan", **{**request, "confirm": "exmaple"})
        raise_unless(plan["refusals"], "a failover with a wrong confirmation was not refused")
        story.say("\n".join(plan["refusals"]))
    with story.step(f"Without a word for {LOST}, which may only be cut off, it is refused, too"):
        plan = running.master.run("openhim_dr.failover_plan", **request)
        raise_unless(plan["refusals"], "a failover beside a site that may be open was not refused")
        story.say("\n".join(plan["refusals"]))
    title = f"The failover: `salt-run state.orchestrate orch.failover`, to {SURVIVOR}"
    with story.step(title), running.master.progress(story.say):
        result = _failover(running, {**request, **word})
    with story.step(f"The clinics go on at {SURVIVOR}, until {ORDERS_AFTER} more are acknowledged"):
        wait_for(lambda: len(acknowledged_at(log, running, SURVIVOR)) >= ORDERS_AFTER, 120)
        clinics.stop(30)
    with story.step("Every acknowledged order is looked up in MongoDB"):
        outcome = reckon(running, log, disrupted)
    return {**outcome, **result, **back}


#: What somebody's script does to OpenHIM's database, with OpenHIM's own password.
DESTROY = """
import json, sys
from pymongo import MongoClient
with MongoClient(json.load(sys.stdin)["url"]) as client:
    database = client.get_default_database()
    database.drop_collection("channels")
    database.transactions.update_many({}, {"$set": {"status": "destroyed"}})
"""


def _destroyed_and_back(story: Story, running: stack.Stack, log: Path) -> dict[str, Any]:
    """A backup, orders after it, data destroyed, and every order back again."""
    name = running.declared["stack"]
    title = (
        "A restore point: `salt-run state.orchestrate orch.backup`, taken and pulled to the copy"
    )
    with story.step(title):
        request = {"stack": name, "reason": "the demo"}
        running.master.orchestrate("orch.backup", {"backup": request})
    with story.step(f"Clinics send orders until {ORDERS_DESTROYED} are acknowledged"):
        clinics = start_clinics(running, log)
        wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= ORDERS_DESTROYED, 120)
        clinics.stop(30)
    with story.step("A bad script drops the channels and spoils every transaction"):
        before = int(time.time()) + 1  # all that was acknowledged was written before that second
        wait_for(lambda: time.time() >= before, 5)
        host = running.lab.host(core(running, LOST))
        url = json.loads(host.read("/etc/openhim/core.json"))["mongo"]["url"]
        command = ["/opt/salt/bin/python", "-c", DESTROY]
        host.run(command, input=json.dumps({"url": url}))
    moment = datetime.fromtimestamp(before, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    with story.step("The oplog archive reaches beyond that second"):
        wait_for(lambda: archived_until(running) >= before, 120)
    with story.step(f"Back to the second before: `orch.restore` to {moment}"):
        began = time.monotonic()
        request = {
            "confirm": name,
            "to_time": moment,
            "declared_by": "the demo",
            "reason": "a bad script",
        }
        running.master.orchestrate("orch.restore", {"restore": request})
        seconds = time.monotonic() - began
    with story.step("Every order that was acknowledged before is looked up"):
        orders = traffic.acknowledged(traffic.read(log))
        found = transactions(running)
        missing = [o["number"] for o in orders if str(o["number"]) not in found]
        raise_unless(not missing, f"acknowledged before {moment}, and not restored: {missing}")
        raise_unless("destroyed" not in found.values(), "transactions are still spoilt")
        story.say(f"all {len(orders)} are there as they were, from before and after the backup")
    return {"restored_orders": len(orders), "restore_seconds": round(seconds, 1)}


def archived_until(running: stack.Stack) -> float:
    """Seconds since 1970 up to which the oplog archive reaches; 0 when that is not known."""
    host = running.declared["backup"]["oplog"]["archived_by"]
    replica_set = running.declared["mongodb"]["databases"]["main"]["replica_set"]
    said = running.master.salt([host], "openhim_backup.status")[host]
    figures = said.get("oplog", {}).get("sets", {}).get(replica_set, {})
    if figures.get("behind_seconds") is None:
        return 0.0
    return datetime.fromisoformat(said["at"]).timestamp() - figures["behind_seconds"]


def raise_unless(condition: Any, message: str) -> None:
    """Stop the demo with a reason: what it shows must be true."""
    if not condition:
        raise LabError(message)


def highstate(story: Story, running: stack.Stack) -> None:
    """A highstate of every host; each of its states must hold."""
    with running.master.progress(story.say):
        results = running.master.salt("*", "state.highstate", timeout=600)
    failed = {
        host: [state for state in states.values() if state["result"] is not True]
        if isinstance(states, Mapping)
        else states
        for host, states in results.items()
    }
    for host in running.managed():
        raise_unless(host in results, f"{host} did not answer to the highstate")
        raise_unless(not failed[host], f"the highstate failed on {host}: {failed[host]}")
    count = sum(len(states) for states in results.values())
    story.say(f"{count} states on {len(results)} hosts hold")


@dataclass(frozen=True)
class Place:
    """Where clinics are, by which name they are known, and the number of their first order."""

    name: str = "clinics"
    site: str = "clinics"
    address: str = stack.CLINICS
    first: int = 1


def start_clinics(running: stack.Stack, log: Path, *cores: str, place: Place = Place()) -> Process:
    """Let clinics of the lab send orders, first to the site that will be lost.

    cores: those that they know instead, as :mod:`lab.traffic` takes them.
    """
    log.touch()
    known = cores or [core(running, site) for site in (LOST, SURVIVOR)]
    return running.lab.process(
        place.name,
        place.address,
        place.site,
        [sys.executable, "-m", "lab.traffic", log, WRITERS, PER_SECOND, *known],
        env={
            "PYTHONPATH": str(stack.REPOSITORY),
            "CLINIC": f"{CLIENT}:{running.secret('client_laboratory')}",
            "FIRST": str(place.first),
        },
    )


def core(running: stack.Stack, site: str) -> str:
    """The host of a site's OpenHIM."""
    hosts = running.declared["hosts"]
    return next(
        name for name, host in hosts.items() if host["site"] == site and "core" in host["roles"]
    )


def acknowledged_at(log: Path, running: stack.Stack, site: str) -> list[dict]:
    """The orders that the OpenHIM of one site acknowledged."""
    name = core(running, site)
    return [order for order in traffic.acknowledged(traffic.read(log)) if order["core"] == name]


def _failover(running: stack.Stack, request: Mapping[str, Any]) -> dict[str, Any]:
    running.master.orchestrate("orch.failover", {"failover": request})
    *_, epoch = running.master.run("openhim_dr.history", stack=request["confirm"])
    return {"epoch": epoch["epoch"], **epoch["result"]}


def reckon(running: stack.Stack, log: Path, disrupted: float) -> dict[str, Any]:
    """Compare what clients were told with what MongoDB has."""
    orders = traffic.read(log)
    acknowledged = traffic.acknowledged(orders)
    found = transactions(running)
    states = Counter(found.get(str(order["number"]), "missing") for order in acknowledged)
    missing = [order for order in acknowledged if str(order["number"]) not in found]
    before = [order for order in acknowledged if order["answered"] <= disrupted]
    kept = [order["answered"] for order in before if str(order["number"]) in found]
    late = [order for order in missing if order["answered"] > disrupted]
    raise_unless(not late, f"acknowledged at {SURVIVOR} after the failover, and not found: {late}")
    return {
        "sent": len(orders),
        "acknowledged": len(acknowledged),
        "before": len(before),
        "states": dict(states),
        "missing": missing,
        "last_kept_seconds": round(disrupted - max(kept), 3) if kept else None,
    }


def transactions(running: stack.Stack, site: str = SURVIVOR) -> dict[str, str]:
    """What MongoDB at a site has of the orders: number → status."""
    member = next(
        name
        for name, host in running.declared["hosts"].items()
        if host["site"] == site and "mongodb" in host["roles"]
    )
    database = running.declared["mongodb"]["databases"]["main"]
    asked = {
        "url": f"mongodb://operator:{quote(running.secret('mongodb_operator'), safe='')}"
        f"@{member}:27017/?directConnection=true&tls=true&tlsCAFile=/etc/openhim-tls/ca.crt",
        "database": database["name"],
        "prefix": traffic.PATH,
    }
    # As text: run as a file, the lab's own secrets.py would stand in for Python's.
    script = Path(reckoning.__file__).read_text()
    answer = running.lab.host(member).run(
        ["/opt/salt/bin/python", "-c", script], input=json.dumps(asked)
    )
    return json.loads(answer.stdout)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so; raises when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        raise_unless(time.monotonic() < deadline, f"it did not come to that within {seconds} s")
        time.sleep(0.2)


def _report(story: Story, outcome: Mapping[str, Any]) -> str:
    steps = "\n".join(f"| {title} | {seconds:.1f} |" for title, seconds in story.steps)
    states = "\n".join(
        f"| {state} | {count} |" for state, count in sorted(outcome["states"].items())
    )
    missing = "\n".join(
        f"- order {order['number']}, acknowledged "
        f"{datetime.fromtimestamp(order['answered'], timezone.utc).isoformat()}"
        for order in outcome["missing"]
    )
    kept_until = outcome["last_kept_seconds"]
    return f"""\
# A site was lost, and OpenHIM serves from the other

| measured | seconds |
|---|---|
| RTO: from the disruption to the first transaction served | {outcome["rto_seconds"]} |
| from the declaration to the first transaction served | {outcome["rto_from_declaration_seconds"]} |
| RPO: from the last write that survived to the disruption | {outcome["rpo_seconds"]} |
| from the last acknowledged order that survived to the disruption | {kept_until} |

A bad script destroyed the data. `orch.restore` went back to the second before in
{outcome["restore_seconds"]} s, with all {outcome["restored_orders"]} acknowledged orders. Then the
site was lost:

{outcome["sent"]} orders were sent and {outcome["acknowledged"]} acknowledged,
{outcome["before"]} of them before the site was lost. What MongoDB knows of the acknowledged ones:

| state | orders |
|---|---|
{states}

{"Acknowledged and lost:" if missing else "No acknowledged order is missing."}
{missing}

| step | seconds |
|---|---|
{steps}
| **all** | {time.monotonic() - story.started:.1f} |
"""


if __name__ == "__main__":
    # A demo that is told to stop takes its hosts with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else cache.directory() / "demo-report.md"
    sys.exit(main(target))
