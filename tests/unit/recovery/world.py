"""A small world in which recoveries go wrong: three sites, and everything that happens to them.

What the hosts and the master *decide* is the library's; what the world *does* (crash, cut, elect,
deliver late) is here, and is as unkind as it can be. One site stands for its hosts; only A has two,
because one of them may be fenced and the other not. Time is counted in ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from saltext.openhim.recovery import epochs, gates, leases, steps
from saltext.openhim.recovery.answers import Answer, Refusal, Step
from saltext.openhim.recovery.epochs import Epoch, Known, Minting
from saltext.openhim.recovery.layout import Layout, Member, Reality, reality
from saltext.openhim.recovery.observations import (
    Attestation,
    Evidence,
    Grant,
    Look,
    Report,
    Saw,
)
from saltext.openhim.recovery.verdicts import Request

SITES = ("A", "B", "C")
PAIRS = ((0, 1), (0, 2), (1, 2))
#: A link's place in ``State.links`` is the sum of its two sites, less one.
#: The member of A is on the host that is fenced last.
HOSTS = (("a-db2", "a-main"), ("b-main",), ("c-main",))
MAIN = tuple(hosts[-1] for hosts in HOSTS)
SITE_OF = {host: SITES[i] for i, hosts in enumerate(HOSTS) for host in hosts}
ALL_FENCED = tuple((1 << len(hosts)) - 1 for hosts in HOSTS)


class Place(NamedTuple):
    """One site. fences: a bit per host. records: IDs, with "!" those of completed epochs. config,
    data: the epoch in whose name its member was configured, and whose history its data is. deaf:
    the minion of the main host is dead, and others' are not; side: what those were told meanwhile.
    """

    power: bool = True
    minion: bool = True
    mongod: bool = True
    core: bool = False
    gate: bool = True
    fences: int = 0
    records: frozenset[str] = frozenset()
    admitted: str | None = None
    config: str | None = None
    data: str | None = None
    rejoined: str | None = None
    deaf: bool = False
    side: frozenset[str] = frozenset()


class Command(NamedTuple):
    """A command on its way. payload: the records that it tells, or of a minting the parent."""

    name: str
    sender: int
    host: str
    epoch: str | None
    payload: frozenset[str] | Step


class State(NamedTuple):
    """The whole world. lease: ticks until A's kernel closes it. grants: for the witnesses at B and
    C, ticks until what they granted to A ends, on a perfect clock. clocks: how far each is ahead.
    faults: how many may still happen."""

    places: tuple[Place, Place, Place]
    links: tuple[bool, bool, bool]
    lease: int
    grants: tuple[int, int]
    clocks: tuple[int, int, int]
    flight: tuple[Command, ...]
    faults: int


@dataclass(frozen=True)
class Rules:
    """What a world is like. votes: of each site's member before any recovery. depth: how many epochs
    deep. flight: how many commands may be on their way at once. fault_kinds: what can go wrong.
    clocks: how far ahead a clock can be set, and clock_sites where. fault_sites: to which sites all
    else can happen."""

    votes: tuple[int, int, int] = (2, 1, 0)
    leased: bool = True
    lease: int = 1
    skew: int = 0
    faults: int = 2
    depth: int = 2
    flight: int = 1
    fault_kinds: frozenset[str] = frozenset({"crash", "isolate", "kill", "silence", "repeat"})
    clocks: tuple[int, ...] = ()
    clock_sites: tuple[int, ...] = (1,)
    fault_sites: tuple[int, ...] = (0, 1, 2)
    requests: tuple[tuple[str, str], ...] = (
        *(("failover", "B"), ("failover", "C"), ("failback", "A"), ("rejoin", "A")),
    )
    deciders: tuple[int, ...] = (0, 1, 2)
    cut_links: bool = False


class Mongo(NamedTuple):
    """What MongoDB is like in a state. meets: which members talk to each other. primaries: which
    sites' members may be primary. looks: what each site sees of each member."""

    meets: tuple[tuple[bool, ...], ...]
    primaries: tuple[bool, ...]
    looks: tuple[tuple[Look, ...], ...]


#: Every epoch that any schedule minted, by its ID, which says all that it depends on.
MINTED: dict[str, Epoch] = {}


class Wrong(Exception):
    """An answer that must not be given."""


#: What is seen from somewhere, and what was answered upon it.
Sight = tuple[Evidence | None, dict[tuple[str, str], Answer]]


class World:
    """The events of a world with some rules, and what can be asked of its states."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.layout = Layout(
            stack="example",
            active_site="A",
            sites=SITES,
            hosts=tuple(SITE_OF.items()),
            members=tuple(Member(f"rs/{h}", "rs", h, SITE_OF[h]) for h in MAIN),
            cores=MAIN,
            promote=tuple((SITE_OF[host], "rs", f"rs/{host}") for host in MAIN),
            witnesses=MAIN[1:] if rules.leased else (),
            lease_seconds=rules.lease,
            max_skew=rules.skew,
        )
        self.requests = {
            (verb, site): Request(
                verb, site, "example", "fire", "Ada", resync=True,
                host=MAIN[SITES.index(site)] if verb == "core" else "",
            )
            for verb, site in dict.fromkeys(
                (*rules.requests, *((v, s) for v in ("failover", "rejoin", "core", "failback")
                 for s in SITES))
            )
        }  # fmt: skip
        self._sights: dict[object, Sight] = {}
        self._seen: tuple[object, object, Sight] = (None, None, (None, {}))
        self._known: dict[frozenset[str], Known] = {}
        self._admits: dict[object, bool] = {}
        self._mongo: dict[object, Mongo] = {}
        self._diverged: dict[object, bool] = {}
        self._reports: dict[object, Report] = {}
        self._last: tuple[object, object, Mongo] = (None, None, Mongo((), (), ()))

    def start(self) -> State:
        """All is well, and A serves."""
        places = (Place(core=True), Place(), Place())
        granted = (self.rules.lease,) * 2
        lease = self.rules.lease if self.rules.leased else 0
        return State(places, (True,) * 3, lease, granted, (0, 0, 0), (), self.rules.faults)

    # What is so.

    def known(self, records: frozenset[str]) -> Known:
        """What a place's records say together."""
        if records not in self._known:
            self._known[records] = epochs.known(epochs_of(records))
        return self._known[records]

    def reality(self, place: Place) -> Reality:
        """What a place takes for real."""
        return reality(self.layout, self.known(place.records).current)

    def linked(self, state: State, one: int, other: int) -> bool:
        """Whether the network goes between two sites."""
        return one == other or state.links[one + other - 1]

    def hears(self, state: State, one: int, other: int) -> bool:
        """Whether two sites' minions hear each other, or a master at one the other's."""
        up = all(state.places[i].power and state.places[i].minion for i in (one, other))
        return up and self.linked(state, one, other)

    def mongo(self, state: State) -> Mongo:
        """What MongoDB is like in a state."""
        last_places, last_links, last = self._last
        if state.places is last_places and state.links is last_links:
            return last
        found = self._mongo_now(state)
        self._last = (state.places, state.links, found)
        return found

    def _mongo_now(self, state: State) -> Mongo:
        fenced = tuple(_main_fenced(place, i) for i, place in enumerate(state.places))
        up = tuple(p.power and p.mongod for p in state.places)
        configs = tuple(p.config for p in state.places)
        key = (state.links, up, fenced, configs, tuple(p.power for p in state.places))
        if key not in self._mongo:
            self._mongo[key] = self._mongo_of(state, fenced, up, configs)
        return self._mongo[key]

    def _mongo_of(
        self,
        state: State,
        fenced: tuple[bool, ...],
        up: tuple[bool, ...],
        configs: tuple[str | None, ...],
    ) -> Mongo:
        reach = [
            [self.linked(state, i, j) and not fenced[i] and not fenced[j] for j in range(3)]
            for i in range(3)
        ]
        meets = tuple(tuple(reach[i][j] and up[i] and up[j] for j in range(3)) for i in range(3))
        primaries = tuple(self._elected(i, meets, configs) for i in range(3))
        looks = tuple(
            tuple(
                _look(i, j, reach[i][j] and up[j], up[j], primaries[j], configs[j])
                for j in range(3)
            )
            for i in range(3)
        )
        return Mongo(meets, primaries, looks)

    def _elected(
        self, site: int, meets: tuple[tuple[bool, ...], ...], configs: tuple[str | None, ...]
    ) -> bool:
        """Whether a majority of its own configuration makes a member the primary."""
        votes = self.votes(configs[site])
        agree = [i for i in range(3) if meets[site][i] and configs[i] == configs[site] and votes[i]]
        epoch = MINTED[configs[site] or ""] if configs[site] else None
        wanted = SITES.index(epoch.active_site) if epoch else 0
        first = min(agree, key=lambda i: (i != wanted, i), default=None)
        return site == first and sum(votes[i] for i in agree) * 2 > sum(votes)

    def hears_host(self, state: State, one: int, other: int, host: str) -> bool:
        """The same of one host; a site's main host may be deaf alone."""
        deaf = state.places[other].deaf and host == MAIN[other]
        return not deaf and self.hears(state, one, other)

    def votes(self, config: str | None) -> tuple[int, int, int]:
        """Who votes in a configuration: a forced one has a single voter."""
        epoch = MINTED[config] if config else None
        if epoch is None or epoch.kind in ("failback", "switchover"):
            return self.rules.votes
        return tuple(int(site == epoch.active_site) for site in SITES)  # type: ignore[return-value]

    def admits(self, state: State, site: int, host: int | None = None) -> bool:
        """Whether a site's firewall admits clients, by its own belief."""
        place = state.places[site]
        fenced, records = place.fences == ALL_FENCED[site], place.records
        if host is not None:
            fenced = bool(place.fences & (1 << host))
            records = self.told(place, site, host)
        left = state.lease if site == 0 else 0
        key = (site, records, place.gate, place.admitted, fenced, left > 0)
        if key not in self._admits:
            self._admits[key] = not gates.admission_refusals(
                self.layout, SITES[site], self.known(records), gate_open=place.gate,
                fenced=fenced, admitted=place.admitted, lease_left=left,
            )  # fmt: skip
        return place.power and self._admits[key]

    def told(self, place: Place, site: int, host: int) -> frozenset[str]:
        """The records of one host."""
        main = host == len(HOSTS[site]) - 1
        return place.records if main else place.records | place.side

    def vouches(self, state: State, site: int) -> bool:
        """Whether a place knows that its epoch is the newest."""
        place = state.places[site]
        return place.power and gates.vouches(
            self.layout, SITES[site], self.known(place.records), gate_open=place.gate,
            fenced=bool(place.fences), lease_left=state.lease if site == 0 else 0,
        )  # fmt: skip

    def writable(self, state: State) -> list[tuple[str | None, int, int]]:
        """Every way in which a client's write is acknowledged: history, primary's site, core's."""
        primaries = [i for i, may in enumerate(self.mongo(state).primaries) if may]
        return [
            (state.places[site].config, site, core)
            for core in range(3)
            if state.places[core].core and self.admits(state, core)
            for site in primaries
            if self.linked(state, core, site) and self.lets_in(state, site, core)
        ]

    def serving(self, state: State) -> set[str]:
        """By which epochs a site is active that serves."""
        places = (state.places[core] for _, _, core in self.writable(state))
        return {self.reality(place).epoch or "day one" for place in places}

    def lets_in(self, state: State, site: int, core: int) -> bool:
        """Whether a member's host lets in a core, by its own belief."""
        place = state.places[site]
        return site == core or not gates.core_refusals(
            SITES[site], SITES[core], self.reality(place).active_site, self.known(place.records),
            gate_open=place.gate, fenced=_main_fenced(place, site), rejoined=place.rejoined,
        )  # fmt: skip

    def violation(self, state: State) -> str | None:
        """What is wrong with a state; None when nothing is."""
        ways = self.writable(state)
        if len({history for history, _, _ in ways}) > 1:
            return f"two writable epochs at once: {self._told(ways)}"
        if len({core for _, _, core in ways}) > 1:
            return f"two cores serve at once: {self._told(ways)}"
        return self._contradiction(state)

    def _contradiction(self, state: State) -> str | None:
        """Judged without the library: two records of one number, and nobody has decided."""
        everything = frozenset(r for p in state.places for r in p.records if r[-1] != "!")
        minted = [e for one in everything if (e := MINTED[one]).kind != epochs.DECISION]
        if len({(e.parent, e.declared_by) for e in minted}) < len(minted):
            return "a recovery was declared twice from one state, by one master"
        for site, place in enumerate(state.places):
            if contradicts(place.records) and self.admits(state, site):
                return f"{SITES[site]} admits clients, though its records contradict each other"
        return None

    def _told(self, ways: list[tuple[str | None, int, int]]) -> str:
        return "; ".join(
            f"clients of {SITES[core]} write to {SITES[site]} (history of {history or 'day one'})"
            for history, site, core in ways
        )

    # What the master sees, and what it does.

    def answer(self, state: State, decider: int, request: tuple[str, str]) -> Answer:
        """What a master at a site would do next; what it cannot see makes no difference."""
        last_state, last_decider, sight = self._seen
        if last_state is not state or last_decider != decider:
            key = (decider, self._visible(state, decider))
            if key not in self._sights:
                self._sights[key] = (self.evidence(state, decider), {})
            sight = self._sights[key]
            self._seen = (state, decider, sight)
        evidence, answers = sight
        if request not in answers:
            answers[request] = steps.next_step(self.requests[request], evidence)
        return answers[request]

    def _visible(self, state: State, decider: int) -> object:
        heard = tuple(self.hears(state, decider, i) for i in range(3))
        looks = self.mongo(state).looks
        told = tuple(
            (state.places[i], looks[i], self.diverged(state, i), self.caught_up(state, i))
            if heard[i]
            else state.places[i].power
            for i in range(3)
        )
        serving = frozenset(core for _, _, core in self.writable(state))
        return heard, told, serving, state.lease > 0, state.grants, state.clocks

    def evidence(self, state: State, decider: int) -> Evidence:
        """What is seen from a site. A person attests that a site is off, if it is."""
        reports = [
            self._report(state, i, n)
            if self.hears_host(state, decider, i, host)
            else Report(host, False)
            for i, hosts in enumerate(HOSTS)
            for n, host in enumerate(hosts)
        ]
        seen = Evidence(self.layout, tuple(reports), SITES[decider])
        words = tuple(
            Attestation(SITES[i], "Ada", seen.reality.epoch)
            for i, place in enumerate(state.places)
            if not place.power
        )
        return replace(seen, attestations=words)

    def _report(self, state: State, site: int, host: int) -> Report:
        serves = any(core == site for _, _, core in self.writable(state))
        looks = self.mongo(state).looks[site]
        data = (self.diverged(state, site), self.caught_up(state, site))
        times = (state.grants, state.clocks[site], site == 0 and state.lease > 0)
        key = (site, host, state.places[site], looks, data, times, serves)
        if key not in self._reports:
            self._reports[key] = self._report_of(state, site, host, looks, serves)
        return self._reports[key]

    def _report_of(
        self, state: State, site: int, host: int, looks: tuple[Look, ...], serves: bool
    ) -> Report:
        place = state.places[site]
        core = (Look(MAIN[site], Saw.RUNNING if place.core else Saw.NOT_RUNNING),)
        now = self.reality(place)
        return Report(
            host=HOSTS[site][host],
            answered=True,
            site=SITES[site],
            members=looks,
            cores=core if host == len(HOSTS[site]) - 1 else (),
            epochs=epochs_of(self.told(place, site, host)),
            grants=self._grants(state, site),
            gate_open=place.gate,
            fenced=bool(place.fences & (1 << host)),
            admits=self.admits(state, site, host),
            vouches=self.vouches(state, site),
            clock=float(state.clocks[site]),
            diverged=self.diverged(state, site),
            kept=True,
            rejoined=place.rejoined,
            caught_up=self.caught_up(state, site),
            points_to=now.active_site,
            proven=now.epoch if serves else None,
        )

    def _grants(self, state: State, site: int) -> tuple[Grant, ...]:
        if site == 0 or not self.rules.leased:
            return ()
        return (Grant("A", float(state.grants[site - 1] - state.clocks[site])),)

    def diverged(self, state: State, site: int) -> bool:
        """Whether a site that once was active has data of before a promotion elsewhere."""
        place = state.places[site]
        promoted = frozenset(p.data for p in state.places if p.data)
        key = (site, place.records, place.data, promoted)
        if key not in self._diverged:
            line = epochs.ancestry(epochs_of(place.records), self.known(place.records).current)
            later = [e for e in line if e.id in promoted and e.number > number(place.data)]
            was_active = site == 0 or any(e.active_site == SITES[site] for e in line)
            self._diverged[key] = bool(later) and was_active
        return self._diverged[key]

    def caught_up(self, state: State, site: int) -> bool:
        """Whether a member has all that a primary has which it can hear."""
        mongo, data = self.mongo(state), state.places[site].data
        return any(
            mongo.primaries[i] and mongo.meets[site][i] and state.places[i].data == data
            for i in range(3)
        )

    # What happens.

    def events(self, state: State) -> Iterator[tuple[str, State]]:
        """All that may happen next, each with its name and what comes of it."""
        yield from self._network(state)
        for site in range(3):
            yield from self._returns(state, site)
            if state.faults:
                yield from self._faults(state, site)
        yield from self._mongodb(state)
        yield from self._time(state)
        yield from self._orders(state)
        yield from self._deliveries(state)

    def _network(self, state: State) -> Iterator[tuple[str, State]]:
        for i, (one, other) in enumerate(PAIRS):
            name = f"the network {SITES[one]}-{SITES[other]}"
            if not state.links[i]:
                yield f"{name} heals", state._replace(links=_put(state.links, i, True))
            elif self.rules.cut_links and state.faults:
                cut = state._replace(links=_put(state.links, i, False))
                yield f"{name} is cut", cut._replace(faults=state.faults - 1)

    def _returns(self, state: State, site: int) -> Iterator[tuple[str, State]]:
        place, name = state.places[site], SITES[site]
        if state.clocks[site]:
            right = _put(state.clocks, site, 0)
            yield f"{name}'s clock is set right", state._replace(clocks=right)
        if not place.power:
            yield f"{name} boots, closed", put(state, site, power=True)
            return
        if not place.minion:
            yield f"{name}'s minion starts", put(state, site, minion=True)
        if place.deaf:
            yield f"the minion of {MAIN[site]} starts", put(state, site, deaf=False)
        if not place.gate:
            yield from self._gate(state, site)
        elif not place.mongod:
            yield f"{name}'s mongod starts", put(state, site, mongod=True)

    def _gate(self, state: State, site: int) -> Iterator[tuple[str, State]]:
        for other in range(3):
            if other != site and self.linked(state, site, other) and state.places[other].power:
                opened = self.opened(state, site, (other,))
                if opened:
                    yield f"{SITES[site]}'s gate opens, on the word of {SITES[other]}", opened
        word = self.opened(state, site, (), by_word=True)
        if word:
            yield f"{SITES[site]}'s gate opens: a person who knows attests the epoch there", word

    def opened(
        self, state: State, site: int, others: tuple[int, ...], by_word: bool = False
    ) -> State | None:
        """With a site's gate open, if it opens; with what it learned in any case."""
        place = state.places[site]
        vouchers = [
            gates.Voucher(
                MAIN[i], SITES[i], epochs_of(state.places[i].records), self.vouches(state, i)
            )
            for i in others
        ]
        word = gates.HostAttestation("Ada", self.truth(state)) if by_word else None
        if by_word and self.truth(state) == "?":
            return None
        found = gates.gate(SITES[site], epochs_of(place.records), vouchers, word, place.rejoined)
        learned = place.records | records_of(found.learned)
        if not found.opens:
            return put(state, site, records=learned) if learned != place.records else None
        runs = reality(self.layout, self.known(learned).current).active_site == SITES[site]
        return put(state, site, gate=True, core=runs or place.core, records=learned)

    def truth(self, state: State) -> str | None:
        """The newest epoch of all, as a person who asks everybody would know it; "?" if none."""
        everything = frozenset(r for p in state.places for r in p.records)
        found = self.known(everything)
        return "?" if found.conflict else found.current.id if found.current else None

    def _faults(self, state: State, site: int) -> Iterator[tuple[str, State]]:
        place, name, kinds = state.places[site], SITES[site], self.rules.fault_kinds
        less = state._replace(faults=state.faults - 1)
        yield from self._clock_faults(state, less, site)
        if site not in self.rules.fault_sites:
            return
        if "crash" in kinds and place.power:
            off = dict.fromkeys(("power", "minion", "mongod", "core", "gate", "deaf"), False)
            dead = put(less, site, **off)
            yield f"{name} loses power", dead._replace(lease=0) if site == 0 else dead
        if "isolate" in kinds and any(self.linked(state, site, i) for i in range(3) if i != site):
            links = tuple(up and site not in PAIRS[i] for i, up in enumerate(state.links))
            yield f"{name} is cut off", less._replace(links=links)
        if "kill" in kinds and place.mongod:
            yield f"{name}'s mongod dies", put(less, site, mongod=False)
        if "deafen" in kinds and len(HOSTS[site]) > 1 and place.minion and not place.deaf:
            yield f"the minion of {MAIN[site]} dies", put(less, site, deaf=True)
        if "silence" in kinds and place.minion:
            yield f"{name}'s minion dies", put(less, site, minion=False)

    def _clock_faults(self, state: State, less: State, site: int) -> Iterator[tuple[str, State]]:
        for ahead in self.rules.clocks if site in self.rules.clock_sites else ():
            if ahead and state.clocks[site] != ahead:
                clocks = _put(state.clocks, site, ahead)
                yield f"{SITES[site]}'s clock is set {ahead:+d}", less._replace(clocks=clocks)

    def _mongodb(self, state: State) -> Iterator[tuple[str, State]]:
        """A member hears of a newer configuration; its data follows the primary's, unless it has
        diverged."""
        mongo = self.mongo(state)
        for site, place in enumerate(state.places):
            for other, newer in enumerate(state.places):
                if other == site or not mongo.meets[site][other]:
                    continue
                if number(newer.config) > number(place.config):
                    yield (
                        f"{SITES[site]}'s mongod hears of {SITES[other]}'s configuration",
                        put(state, site, config=newer.config),
                    )
                behind = newer.config == place.config and newer.data != place.data
                if behind and mongo.primaries[other] and not self.diverged(state, site):
                    yield (
                        f"{SITES[site]}'s data follows {SITES[other]}'s",
                        put(state, site, data=newer.data),
                    )

    def _time(self, state: State) -> Iterator[tuple[str, State]]:
        if not self.rules.leased:
            return
        floor = -self.rules.skew - max((abs(c) for c in self.rules.clocks), default=0)
        grants = tuple(max(left - 1, floor) for left in state.grants)
        later = state._replace(lease=max(state.lease - 1, 0), grants=grants)
        if later != state:
            yield "time passes", later
        for witness in (1, 2):
            renewed = self.renewed(state, witness)
            if renewed and renewed != state:
                yield f"{SITES[witness]} renews A's lease", renewed

    def renewed(self, state: State, witness: int) -> State | None:
        """With A's lease renewed by a witness; None when it does not do it."""
        holder = state.places[0]
        if not self.hears(state, 0, witness) or not holder.gate:
            return None
        if leases.renewal_refusals(
            self.layout, "A", self.known(holder.records), self._report(state, witness, 0),
            float(state.clocks[witness] - state.clocks[0]),
        ):  # fmt: skip
            return None
        until = self.rules.lease + state.clocks[witness]
        grants = _put(state.grants, witness - 1, until)
        return state._replace(lease=self.rules.lease, grants=grants)

    def _orders(self, state: State) -> Iterator[tuple[str, State]]:
        """A master takes one step of a recovery: it looks, decides, and sends."""
        if len(state.flight) >= self.rules.flight:
            return
        for decider in self.rules.deciders:
            place = state.places[decider]
            if not (place.power and place.minion):
                continue
            for request in self.rules.requests:
                command = self.command(state, decider, request)
                if command and command not in state.flight:
                    yield (
                        f"a master at {SITES[decider]}, asked for {' to '.join(request)}, sends "
                        f"{command.name!r} to {command.host}",
                        state._replace(flight=_sorted((*state.flight, command))),
                    )

    def command(self, state: State, decider: int, request: tuple[str, str]) -> Command | None:
        """What a master would send now; None when it waits, has finished, or refuses."""
        answer = self.answer(state, decider, request)
        self._judge(state, decider, request, answer)
        if not isinstance(answer, Step):
            return None
        if answer.name == steps.MINT:
            return Command(steps.MINT, decider, MAIN[decider], None, answer)
        heard = [i for i in range(3) if self.hears(state, decider, i)]
        payload = frozenset(r for i in heard for r in state.places[i].records)
        host = answer.hosts[0] if answer.hosts else MAIN[decider]
        told = payload if answer.name == steps.TELL else frozenset()
        return Command(answer.name, decider, host, answer.epoch, told)

    def _judge(self, state: State, decider: int, request: tuple[str, str], answer: Answer) -> None:
        """An answer is a way forward or a reason; where records contradict, only a reason."""
        heard = [i for i in range(3) if self.hears(state, decider, i)]
        records = frozenset(r for i in heard for r in state.places[i].records)
        if contradicts(records) and not isinstance(answer, Refusal):
            raise Wrong(f"{request} goes on with {answer}, though records contradict each other")
        if isinstance(answer, Refusal) and not all(len(r) > 20 for r in answer.reasons or ("",)):
            raise Wrong(f"{request} is refused without a reason: {answer}")

    def _deliveries(self, state: State) -> Iterator[tuple[str, State]]:
        for i, command in enumerate(state.flight):
            rest = state._replace(flight=state.flight[:i] + state.flight[i + 1 :])
            words = f"{command.name!r} for {command.host}"
            yield f"{words} is lost", rest
            site = SITES.index(SITE_OF[command.host])
            if not self.hears_host(state, command.sender, site, command.host):
                continue
            done = self.done(rest, command)
            if done != rest:
                yield f"{words} arrives", done
            if state.faults and "repeat" in self.rules.fault_kinds:
                again = self.done(state, command)._replace(faults=state.faults - 1)
                yield f"{words} arrives, and will arrive once more", again

    def done(self, state: State, command: Command) -> State:
        """What a command does where it arrives; nothing, if its host must not obey."""
        site = SITES.index(SITE_OF[command.host])
        place = state.places[site]
        if command.name == steps.MINT:
            return self._mint(state, site, command.payload)
        if command.name == steps.TELL and place.deaf:
            return put(state, site, side=place.side | command.payload)
        if command.name == steps.TELL:
            return put(state, site, records=place.records | command.payload)
        if command.epoch is not None:
            told = self.told(place, site, HOSTS[site].index(command.host))
            if epochs.disobedience(epochs_of(told), command.epoch):
                return state
        elif self.known(place.records) != Known(None):
            return state
        return self._obeyed(state, site, command)

    def _mint(self, state: State, site: int, step: object) -> State:
        assert isinstance(step, Step)
        place, details = state.places[site], step.details
        records = epochs_of(place.records)
        made = mint(self, records, details, SITES[site])
        if isinstance(made, Refusal) or made.number > self.rules.depth:
            return state
        return put(state, site, records=place.records | {register(made)})

    def _obeyed(self, state: State, site: int, command: Command) -> State:
        place, name, epoch = state.places[site], command.name, command.epoch
        bit = 1 << HOSTS[site].index(command.host)
        if name == steps.FENCE:
            return put(state, site, fences=place.fences | bit)
        if name == steps.UNFENCE:
            return put(state, site, fences=place.fences & ~bit)
        if name == steps.PROMOTE and place.mongod and place.gate:
            return put(state, site, config=epoch, data=epoch)
        if name == steps.HAND_OVER and self.mongo(state).primaries[site]:
            return put(state, site, config=epoch)
        if name == steps.ADMIT:
            return put(state, site, admitted=epoch)
        if name == steps.START_CORE and place.gate:
            return put(state, site, core=True)
        if name == steps.OPEN:
            noted = put(state, site, rejoined=epoch)
            return noted if place.gate else self.opened(noted, site, (command.sender,)) or noted
        if name == steps.COMPLETE and epoch:
            return put(state, site, records=place.records | {f"{epoch}!"})
        if name == steps.RESYNC:
            return self._resynced(state, site)
        return state

    def _resynced(self, state: State, site: int) -> State:
        for i, other in enumerate(state.places):
            if i != site and self.mongo(state).primaries[i] and self.linked(state, site, i):
                return put(state, site, config=other.config, data=other.data)
        return state


def contradicts(records: frozenset[str]) -> bool:
    """Whether there are two epochs of one number, and no decision."""
    found = [MINTED[one] for one in records if one[-1] != "!"]
    numbers = {epoch.number for epoch in found}
    return len(numbers) < len(found) and not any(e.kind == epochs.DECISION for e in found)


def _main_fenced(place: Place, site: int) -> bool:
    """Whether the host with a site's member is fenced."""
    return bool(place.fences & (1 << len(HOSTS[site]) - 1))


def _look(
    site: int, other: int, reached: bool, up: bool, primary: bool, config: str | None
) -> Look:
    name = f"rs/{MAIN[other]}"
    if reached:
        return Look(name, Saw.RUNNING, "PRIMARY" if primary else "SECONDARY", config)
    return Look(name, Saw.NOT_RUNNING if site == other and not up else Saw.UNREACHABLE)


def mint(
    world: World, records: tuple[Epoch, ...], details: object, decider: str
) -> Epoch | Refusal:
    """The next epoch, with an ID that says all that it depends on."""
    assert isinstance(details, dict)
    kind, site = details["kind"], details["site"]
    lost = tuple(filter(None, details["lost_sites"].split(",")))
    planned = kind in ("failback", "switchover")
    request = Minting(
        parent=details["parent"] or None, stack="example", kind=kind, active_site=site,
        profile="production" if planned else "reduced", lost_sites=lost, declared_by=decider,
        reason="fire", declared_at="2026-01-31T12:00:00+00:00",
        # The reduced environment has no lease: a witness that goes must not take it along.
        witnesses=world.layout.witnesses if planned and site == "A" else (),
    )  # fmt: skip
    made = epochs.minted(records, request, "")
    if isinstance(made, Refusal):
        return made
    given = f" without {'+'.join(lost)}" if lost else ""
    given += " with a lease" if made.witnesses else ""
    upon = f" upon {made.parent}" if made.parent else ""
    return replace(made, id=f"[{made.number}: {kind} to {site} by {decider}{given}{upon}]")


def register(epoch: Epoch) -> str:
    """Keep an epoch, and return its ID."""
    MINTED.setdefault(epoch.id, epoch)
    return epoch.id


@cache
def epochs_of(records: frozenset[str]) -> tuple[Epoch, ...]:
    """The epochs of a place's records, with what is known of their completion."""
    return tuple(
        replace(MINTED[one], completed_at="2026-01-31T13:00:00+00:00")
        if f"{one}!" in records
        else MINTED[one]
        for one in sorted(records)
        if not one.endswith("!")
    )


def records_of(found: tuple[Epoch, ...]) -> frozenset[str]:
    """The records that have some epochs, the other way round."""
    return frozenset(e.id for e in found) | frozenset(f"{e.id}!" for e in found if e.completed_at)


def number(epoch_id: str | None) -> int:
    """The number of an epoch; 0 for what was before all of them."""
    return MINTED[epoch_id].number if epoch_id else 0


def put(state: State, site: int, **changes: object) -> State:
    """A state with one place changed."""
    place = state.places[site]._replace(**changes)  # type: ignore[arg-type]
    return state._replace(places=_put(state.places, site, place))


def _put(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


def _sorted(flight: tuple[Command, ...]) -> tuple[Command, ...]:
    return tuple(sorted(flight, key=lambda c: (c.name, c.sender, c.host, str(c.epoch))))
