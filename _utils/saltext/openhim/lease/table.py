"""The lease in the kernel: a table of nftables, and a set whose element admits clients. Pure.

The element is an interval of the wall clock with a timeout, so it ends by two clocks, whichever is
first: by the kernel's own (jiffies), which nobody can set and which stands still while a host is
suspended; and by the wall clock, which goes on then. The second also ends a lease that a program
adds late, because it was frozen between its decision and the call.

The table comes after the fence's and before the firewall's. It drops, which is final, and what it
lets pass is for the firewall to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saltext.openhim import firewall
from saltext.openhim.settings import DEFAULT_MONGODB_PORT, Stack

FAMILY = firewall.FAMILY
TABLE = "openhim_lease"
#: Renewed in turn: the other one still admits while a set is being changed. A kernel without the
#: commit 7e43e0a1141d (2026) may find nothing in a set of intervals while one is committed.
SETS = ("odd", "even")

#: Removes the table; succeeds where there is none.
REMOVE = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"

_BEFORE_THE_FIREWALL = "filter - 5"


@dataclass(frozen=True)
class Scope:
    """What the lease covers on one host.

    members: TCP ports of mongod, of all members of all sets. core: TCP ports of OpenHIM, with its
    channels. without: addresses that reach mongod without a lease. runs_core: whether OpenHIM may
    run here, and so connect to mongod.
    """

    members: tuple[int, ...]
    core: tuple[int, ...]
    without: tuple[str, ...]
    runs_core: bool


def scope(stack: Stack, minion_id: str, channel_ports: Iterable[int] = ()) -> Scope:
    """What the lease covers on a host.

    channel_ports: the TCP ports of OpenHIM's channels, as far as they are known; those of
    mongod may be among them.

    Without a lease mongod is reached by the other members, who replicate and vote, and by the
    backup hosts, who read. Where another site is the active one its cores are let in: their own
    kernel knows whether they hold the lease.
    """
    host = stack.host(minion_id)
    others = [member.host for one in stack.replica_sets.values() for member in one.members]
    others += stack.hosts_with("backup")
    if stack.active_site != host.site:
        others += [core for core in stack.hosts_with("core") if core.site == stack.active_site]
    runs_core = "core" in host.roles
    members = _member_ports(stack)
    core = {*stack.core_ports.values(), *channel_ports, *firewall.declared_tcp_ports(stack)}
    return Scope(
        members=tuple(sorted(members)),
        core=tuple(sorted(core - members)) if runs_core else (),
        without=tuple(sorted({other.address for other in others})),
        runs_core=runs_core,
    )


def _member_ports(stack: Stack) -> set[int]:
    """The declaration's, and not what a recovery has made of it: a lost member has clients too."""
    found = set()
    for entry in stack.declared["mongodb"]["replica_sets"].values():
        port = int(entry.get("port", DEFAULT_MONGODB_PORT))
        found |= {int((values or {}).get("port", port)) for values in entry["members"].values()}
    return found


def closed(covered: Scope, mongod_user: int | None = None) -> str:
    """The text that puts the table in place of the one that is there, with nobody admitted.

    mongod_user: the number of the user as whom mongod runs, on a host that runs OpenHIM too.
    """
    chains = {
        "input": ['iifname "lo" accept comment "judged where it was sent"', *_incoming(covered)],
        "forward": [*_incoming(covered), *_outgoing(covered)],
        "output": [
            *_from_here(covered, mongod_user),
            'oifname "lo" accept comment "the host itself"',
            *_outgoing(covered),
        ],
    }
    sets = "".join(
        f"\tset {one} {{\n\t\ttypeof meta time\n\t\tflags interval, timeout\n\t}}\n" for one in SETS
    )
    admitted = "".join(f'\t\tmeta time @{one} accept comment "the lease is held"\n' for one in SETS)
    hooks = "".join(_hook(name, lines) for name, lines in chains.items())
    return (
        f"{REMOVE}table {FAMILY} {TABLE} {{\n"
        f"{sets}\tchain lease {{\n{admitted}"
        '\t\tcounter drop comment "the lease has run out"\n\t}\n'
        f"{hooks}}}\n"
    )


def element(until: int, left: float, which: str = SETS[0]) -> str:
    """The text that makes clients admitted.

    until: by the wall clock, whole seconds since 1970. left: seconds by the kernel's clock. which:
    the set that it goes into.
    """
    milliseconds = int(left * 1000)
    return f"add element {FAMILY} {TABLE} {which} {{ 0-{until} timeout {milliseconds}ms }}\n"


def renewal(until: int, left: float, which: str) -> str:
    """The text that puts a new element in place of the old one of a set, in one transaction.

    Parameters: :func:`element`.
    """
    return f"flush set {FAMILY} {TABLE} {which}\n{element(until, left, which)}"


def _incoming(covered: Scope) -> list[str]:
    return _judged("saddr", "dport", covered)


def _outgoing(covered: Scope) -> list[str]:
    """Replies: what was asked before the lease ran out is not acknowledged after it."""
    return _judged("daddr", "sport", covered)


def _judged(address: str, port: str, covered: Scope) -> list[str]:
    members = f"tcp {port} {_of(covered.members)}"
    exempt = [
        f'{family} {address} {_of(addresses)} {members} accept comment "members and backup hosts"'
        for family, addresses in (("ip", _v4(covered)), ("ip6", _v6(covered)))
        if addresses
    ]
    ports = sorted({*covered.members, *covered.core})
    return [*exempt, f'tcp {port} {_of(ports)} jump lease comment "clients"']


def _from_here(covered: Scope, mongod_user: int | None) -> list[str]:
    """OpenHIM of this host writes nowhere without the lease; root administers, a mongod replicates.

    Told by not being these two: no name of a user must be looked up, who may not exist yet.
    """
    if not covered.runs_core:
        return []
    users = _of(sorted({0} | ({mongod_user} if mongod_user is not None else set())))
    members = f"tcp dport {_of(covered.members)}"
    return [
        f'meta skuid {users} {members} accept comment "administration and replication"',
        f'{members} jump lease comment "OpenHIM to mongod, wherever that is"',
    ]


def _v4(covered: Scope) -> list[str]:
    return [address for address in covered.without if ":" not in address]


def _v6(covered: Scope) -> list[str]:
    return [address for address in covered.without if ":" in address]


def _of(values: Iterable[int | str]) -> str:
    return f"{{ {', '.join(str(value) for value in values)} }}"


def _hook(name: str, lines: Iterable[str]) -> str:
    body = "".join(f"\t\t{line}\n" for line in lines)
    return (
        f"\tchain {name} {{\n\t\ttype filter hook {name} priority {_BEFORE_THE_FIREWALL}; "
        f"policy accept;\n{body}\t}}\n"
    )
