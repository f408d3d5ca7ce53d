"""Runs a world through every order of events, and finds what must not be."""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import dataclass, replace

from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.answers import Done, Refusal, Step, Wait
from saltext.openhim.recovery.epochs import Epoch

from tests.unit.recovery.world import SITES, Command, State, World, Wrong, epochs_of, put, register
from tests.unit.recovery.worlds import LATE, WORLDS


@dataclass(frozen=True)
class Finding:
    """What was found to be wrong, and how it came to that."""

    what: str
    schedule: tuple[str, ...]

    def __str__(self) -> str:
        steps = "\n".join(f"  {n}. {event}" for n, event in enumerate(self.schedule, 1))
        return f"{self.what}\n{steps}"


@dataclass
class Exploration:
    """How far it came. finding: the first fault, by a shortest schedule; None when there is none.
    served: the histories that were writable at some time, "day one" for that of before any."""

    states: int
    transitions: int
    complete: bool
    finding: Finding | None
    deepest: int = 0
    served: frozenset[str] = frozenset()


def explore(
    world: World,
    limit: int = 1_000_000,
    ways_forward: bool = True,
    start: State | None = None,
) -> Exploration:
    """Breadth first from the start, each state once, until a fault is found or all is seen."""
    gc.disable()  # millions of tuples, none of them in a cycle
    try:
        return _explored(world, limit, ways_forward, start or world.start())
    finally:
        gc.enable()


def _explored(world: World, limit: int, ways_forward: bool, start: State) -> Exploration:
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue: deque[State] = deque([start])
    calm = Calm(world)
    transitions = 0
    served: set[str] = set()
    while queue:
        state = queue.popleft()
        wrong = world.violation(state) or (ways_forward and calm.stuck(state))
        try:
            happens = [] if wrong else list(world.events(state))
        except Wrong as error:
            happens, wrong = [], str(error)
        served.update(world.serving(state))
        if wrong:
            found = Finding(wrong, schedule(came, state))
            return Exploration(len(came), transitions, False, found, len(found.schedule))
        for event, after in happens:
            transitions += 1
            if after not in came:
                if len(came) >= limit:
                    return Exploration(
                        len(came), transitions, False, None, served=frozenset(served)
                    )
                came[after] = (state, event)
                queue.append(after)
    deepest = len(schedule(came, state))
    return Exploration(len(came), transitions, True, None, deepest, frozenset(served))


def explore_named(name: str, limit: int = 1_000_000, ways_forward: bool = True) -> Exploration:
    """Explore one of :data:`tests.unit.recovery.worlds.WORLDS`, from where its schedules begin."""
    world = World(WORLDS[name])
    late = LATE.get(name)
    start = None if late is None else Calm(world).failed_over(*late)
    if start is not None:
        start = start._replace(faults=world.rules.faults)
    return explore(world, limit, ways_forward, start)


def schedule(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    """The events that led to a state."""
    events = []
    step = came[state]
    while step is not None:
        state, event = step
        events.append(event)
        step = came[state]
    return tuple(reversed(events))


class Calm:
    """What comes of a state once nothing goes wrong any more, and people do what they are told.

    Then every recovery that was begun must end, and every site be in its place again.
    """

    #: More steps than any recovery takes; who needs more goes round in circles.
    PATIENCE = 120

    def __init__(self, world: World):
        rules = replace(world.rules, depth=world.rules.depth + 4, faults=0, flight=1)
        self.world = type(world)(rules)
        self.good: set[State] = set()
        self.begun: set[State] = set()

    def stuck(self, state: State) -> str | None:
        """Why there is no way forward from a state; None when there is one."""
        seen = []
        state = self.restored(state)
        if state in self.begun:
            return None
        self.begun.add(state)
        state = self.settled(state)
        for _ in range(self.PATIENCE):
            if state in self.good:
                break
            seen.append(state)
            wrong = self.world.violation(state)
            after = None if wrong else self.onwards(state)
            if wrong or after is None:
                return wrong or self._why(state)
            if after == state:
                break
            state = self.settled(after)
        else:
            return "no way forward: it goes round in circles\n" + self._why(state)
        self.good.update(seen)
        return None

    def failed_over(self, *late: tuple[str, str]) -> State:
        """A was lost, B serves, and A is back and has rejoined: where the way back begins.

        late: commands (name, host) of the failover that were sent twice and are still on their way.
        """
        state = self.world.start()
        lost = put(state, 0, power=False, minion=False, mongod=False, core=False, gate=False)
        state = lost._replace(lease=0)
        while not isinstance(self.world.answer(state, 1, ("failover", "B")), Done):
            command = self.world.command(state, 1, ("failover", "B"))
            assert command, self._why(state)
            state = self.settled(self.world.done(state, command))
        state = self.settled(self.restored(state))
        while (after := self.onwards(state)) and after != state:
            state = self.settled(after)
        epoch = state.places[1].admitted
        flight = tuple(Command(name, 1, host, epoch, frozenset()) for name, host in late)
        return state._replace(flight=flight)

    def restored(self, state: State) -> State:
        """With power, network and clocks back, and nothing on its way any more."""
        places = tuple(p._replace(power=True, minion=True, deaf=False) for p in state.places)
        return State(places, (True,) * 3, state.lease, state.grants, (0, 0, 0), (), 0)

    def settled(self, state: State) -> State:
        """After all that hosts do by themselves: gates, mongods, heartbeats, leases."""
        while True:
            events = [after for site in range(3) for _, after in self.world._returns(state, site)]
            events += [after for _, after in self.world._mongodb(state)]
            events += [after for w in (1, 2) if (after := self.world.renewed(state, w))]
            state, before = next((one for one in events if one != state), state), state
            if state == before:
                return state

    def onwards(self, state: State) -> State | None:
        """After what the person on call does next; the same where all is well, None if stuck."""
        found = self.world.known(frozenset(r for p in state.places for r in p.records))
        if found.conflict:
            return self._decided(state, found.conflict)
        for request in self.wishes(found.current):
            answer = self.world.answer(state, 1, request)
            if isinstance(answer, Wait):
                return self._later(state)
            if isinstance(answer, Step):
                command = self.world.command(state, 1, request)
                after = self.world.done(state, command) if command else state
                return after if after != state else None
        return state if self.world.writable(state) else None

    def wishes(self, newest: Epoch | None) -> list[tuple[str, str]]:
        """What to ask for, in the order of what one would rather have."""
        active = newest.active_site if newest else "A"
        wishes = []
        if newest and newest.completed_at is None:
            kind = "failover" if newest.kind == epochs.DECISION else newest.kind
            wishes = [(kind, active), ("failover", active)]
        return wishes + [("rejoin", site) for site in SITES if site != active]

    def _later(self, state: State) -> State | None:
        """Time passes, and who can renews; a wait that changes nothing must not be asked for."""
        after = next((s for event, s in self.world._time(state) if event == "time passes"), None)
        return after

    def _decided(self, state: State, conflict: tuple[Epoch, ...]) -> State:
        records = epochs_of(frozenset(r for p in state.places for r in p.records))
        made = epochs.decided(
            records, conflict[0].id, declared_by="Ada", reason="it was carried out",
            declared_at="2026-01-31T12:30:00+00:00", epoch_id="",
        )  # fmt: skip
        assert not isinstance(made, Refusal)
        made = replace(made, id=f"[{made.number}: decision for {made.parent}]")
        learned = frozenset(r for p in state.places for r in p.records) | {register(made)}
        return put(state, 1, records=learned)

    def _why(self, state: State) -> str:
        lines = [f"no way forward: {self._where(state)}"]
        for request in self.world.requests:
            answer = self.world.answer(state, 1, request)
            if not isinstance(answer, Done):
                lines.append(f"    {' to '.join(request)}: {answer}")
        return "\n".join(lines)

    def _where(self, state: State) -> str:
        return "; ".join(f"{SITES[i]} {place}" for i, place in enumerate(state.places))
