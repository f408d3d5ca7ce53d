"""The worlds that are explored: small enough to see all of each, different enough to matter."""

from __future__ import annotations

from tests.unit.recovery.world import Rules

AND_BACK = (("failover", "B"), ("failback", "A"), ("rejoin", "A"))
TWICE = (("failover", "B"), ("failover", "C"))

#: Of each of these every schedule is run.
WORLDS: dict[str, Rules] = {
    # A partition, the lease, and the way back: two epochs deep.
    "cut off": Rules(
        faults=1, deciders=(1,), requests=AND_BACK, fault_kinds=frozenset({"isolate"})
    ),
    "cut off without a lease": Rules(
        faults=1, deciders=(1, 2), requests=AND_BACK, leased=False,
        fault_kinds=frozenset({"isolate"}),
    ),
    # A site loses power, returns in every order, and the master runs elsewhere or inside.
    "power": Rules(
        faults=1, deciders=(0, 2), requests=AND_BACK, leased=False,
        fault_kinds=frozenset({"crash"}),
    ),
    "a master in each site": Rules(
        faults=1, requests=(("failover", "B"),), fault_kinds=frozenset({"isolate"})
    ),
    # The site that took over is lost too.
    "twice": Rules(
        faults=2, deciders=(2,), requests=TWICE, leased=False, fault_kinds=frozenset({"crash"})
    ),
    # Minions and mongods die one by one, and what is told to one host is not told to the other.
    "half silent": Rules(
        faults=1, deciders=(1,), requests=AND_BACK, leased=False,
        fault_kinds=frozenset({"kill", "silence"}),
    ),
    # Two people, two masters, two sites to go to.
    "two masters": Rules(
        faults=1, flight=2, deciders=(1, 2), depth=1, requests=TWICE, leased=False,
        fault_kinds=frozenset({"crash"}),
    ),
    # Commands that arrive twice, and late.
    "late": Rules(
        faults=2, flight=2, deciders=(1,), requests=AND_BACK, leased=False,
        fault_kinds=frozenset({"crash", "repeat"}),
    ),
    # Clocks that differ as much as they may, and more.
    "clocks": Rules(
        faults=2, clocks=(0, 1), skew=1, deciders=(1,), requests=(("failover", "B"),), depth=1,
        fault_kinds=frozenset({"isolate"}),
    ),
    "wrong clocks": Rules(
        faults=2, clocks=(-3, 0, 3), skew=1, deciders=(1,), requests=(("failover", "B"),), depth=1,
        fault_kinds=frozenset({"isolate"}),
    ),
    # MongoDB elects by itself, and only OpenHIM has to follow.
    "elected": Rules(
        faults=1, votes=(1, 1, 1), deciders=(1,), leased=False,
        requests=(("failover", "B"), ("core", "B"), ("failback", "A"), ("rejoin", "A")),
        fault_kinds=frozenset({"crash", "isolate"}),
    ),
}  # fmt: skip
