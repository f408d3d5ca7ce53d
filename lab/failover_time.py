"""One failover after a loss of power, without load, and whose its seconds were.

``python -m lab.failover_time`` (or ``make failover-time``): clinics wait for all of them, of which
the lease, OpenHIM's own start and MongoDB's election are not ours.
"""

from __future__ import annotations

import signal
import sys
import time
from datetime import datetime, timezone

from lab.demo import Story
from lab.demo_full import NORTH, SOUTH, Told, production, started


def main() -> int:
    """Lose a site's power, fail over, and tell the seconds."""
    story = Story()
    with started() as running:
        told = Told(story, running)
        production(told)
        with story.step(f"The power of {NORTH} is lost, and OpenHIM fails over to {SOUTH}"):
            running.lab.kill_site(NORTH)
            request = {
                "to_site": SOUTH,
                "confirm": "example",
                "declared_by": "the one on call",
                "reason": "its power is lost",
                "disrupted_at": datetime.now(timezone.utc).isoformat(),
            }
            begun = time.time()
            # Without its progress: who watches takes from who acts, on two cores.
            running.master.orchestrate("orch.failover", {"failover": request})
            told.measure("failover", begun)
    print("\n" + "\n".join(f"{value:6.1f} s  {name}" for name, value in told.measured.items()))
    return 0


if __name__ == "__main__":
    # Whoever is told to stop takes its hosts along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
