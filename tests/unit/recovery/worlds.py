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
    # One site is lost, and another is cut off.
    "a third site": Rules(
        faults=2, deciders=(1,), requests=(("failover", "B"),), leased=False, depth=1,
        fault_kinds=frozenset({"crash", "isolate"}),
    ),
    # The site that took over is lost too.
    "twice": Rules(
        faults=2, deciders=(2,), requests=TWICE, leased=False, fault_kinds=frozenset({"crash"})
    ),
    # Minions and mongods die one by one.
    "host by host": Rules(
        faults=2, deciders=(1,), requests=(("failover", "B"), ("rejoin", "A")), depth=1,
        fault_kinds=frozenset({"kill", "silence"}),
    ),
    # What is told to one host of a site is not told to the other.
    "half deaf": Rules(
        faults=2, deciders=(1,), requests=(("failover", "B"),), leased=False, depth=1,
        fault_kinds=frozenset({"kill", "deafen"}),
    ),
    # Two people, two masters, two sites to go to.
    "two masters": Rules(
        faults=1, flight=2, deciders=(1, 2), depth=1, requests=TWICE, leased=False,
        fault_kinds=frozenset({"crash"}),
    ),
    # Commands that arrive twice, and late.
    "repeated": Rules(
        faults=2, flight=2, deciders=(1,), requests=(("failover", "B"),), leased=False, depth=1,
        fault_kinds=frozenset({"crash", "repeat"}),
    ),
    "late promotion": Rules(faults=0, flight=2, deciders=(1,), requests=AND_BACK, leased=False),
    "late fence": Rules(faults=0, flight=2, deciders=(1,), requests=AND_BACK, leased=False),
    # The way back, while things go on to fail.
    "back": Rules(
        faults=1, deciders=(1,), requests=(*AND_BACK, ("failover", "A")), leased=False,
        fault_kinds=frozenset({"crash", "isolate"}),
    ),
    # Clocks that differ as much as they may, and more.
    "clocks": Rules(
        faults=2, clocks=(1,), skew=1, deciders=(1,), requests=(("failover", "B"),), depth=1,
        fault_kinds=frozenset({"isolate"}), fault_sites=(0,),
    ),
    "slow clock": Rules(
        faults=2, clocks=(-3,), skew=1, deciders=(1,), requests=(("failover", "B"),), depth=1,
        fault_kinds=frozenset({"isolate"}), fault_sites=(0,),
    ),
    "wrong clocks": Rules(
        faults=2, clocks=(3,), skew=1, deciders=(1,), requests=(("failover", "B"),), depth=1,
        fault_kinds=frozenset({"isolate"}), fault_sites=(0,),
    ),
    # MongoDB elects by itself, and only OpenHIM has to follow.
    "elected": Rules(
        faults=1, votes=(1, 1, 1), deciders=(1,), leased=False,
        requests=(("failover", "B"), ("core", "B"), ("failback", "A"), ("rejoin", "A")),
        fault_kinds=frozenset({"crash", "isolate"}),
    ),
}  # fmt: skip

#: Worlds that begin after a failover to B and the rejoin of A, and what of it is still on its way.
LATE: dict[str, tuple[tuple[str, str], ...]] = {
    "late promotion": (("promote", "b-main"),),
    "late fence": (("fence", "a-db2"),),
    "back": (),
}
