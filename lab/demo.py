"""The main job, on real hosts: production stands up, loses its primary site under load, and serves
from the other site.

``python -m lab.demo [REPORT]`` (or ``make demo``) shows each step with its time, and leaves a report.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lab import cache, stack, traffic
from lab.errors import LabError

LOST, SURVIVOR = "north", "south"
WRITERS, PER_SECOND = 4, 20
ORDERS_BEFORE, ORDERS_AFTER = 200, 50
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
    """Run the demo; 0 when every acknowledged order was found or is listed."""
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
    return 0 if not outcome["unaccounted"] else 1


def _play(story: Story, running: stack.Stack) -> dict[str, Any]:
    with story.step("Production by highstate: `salt '*' state.highstate`, all hosts at once"):
        _highstate(story, running)
    log = running.folder / "orders.jsonl"
    with story.step(f"Clinics send laboratory orders to {LOST} until {ORDERS_BEFORE} are acknowledged"):
        clinics = _start_clinics(running, log)
        _wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= ORDERS_BEFORE, 120)
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
    with story.step("A failover without the stack's name is refused"):
        refused = running.master.run("openhim_dr.failover_plan", **{**request, "confirm": "yes"})
        raise_unless(refused, "a failover with a wrong confirmation was not refused")
    with story.step(f"The failover: `salt-run state.orchestrate orch.failover`, to {SURVIVOR}"):
        result = _failover(running, request)
    with story.step(f"The clinics go on at {SURVIVOR}, until {ORDERS_AFTER} more are acknowledged"):
        _wait_for(lambda: len(_acknowledged_at(log, running, SURVIVOR)) >= ORDERS_AFTER, 120)
        clinics.terminate()
        clinics.wait(30)
    with story.step("Every acknowledged order is looked up in MongoDB"):
        outcome = _reckon(running, log, disrupted)
    return {**outcome, **result}


def raise_unless(condition: Any, message: str) -> None:
    """Stop the demo with a reason: what it shows must be true."""
    if not condition:
        raise LabError(message)


def _highstate(story: Story, running: stack.Stack) -> None:
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
