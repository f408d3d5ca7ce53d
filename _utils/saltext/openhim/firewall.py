"""Which connections a host accepts, as the text of one nftables table of our own.

Pure: a declaration and the TCP ports of OpenHIM's channels in, the text for ``nft -f`` out. Loading
it, comparing it with the kernel and taking it back are :mod:`saltext.openhim.nftables`.

The order of the rules is the order of this file, sources and ports are sorted, and every rule says
in its comment why it is there, so that ``nft list table inet openhim`` explains itself.

Only incoming connections are filtered. What leaves a host is decided by where it may arrive: an
output filter would have to know every upstream, name server, package mirror and backup repository,
and would cut a recovery off from the one that somebody forgot.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from saltext.openhim import clock
from saltext.openhim.errors import PillarError
from saltext.openhim.lease import declared
from saltext.openhim.settings import Host, Stack

FAMILY = "inet"
TABLE = "openhim"

#: Loads the table in place of the one that is there, in one transaction: ``add`` makes the
#: ``delete`` succeed where there is none, and no packet is ever seen by half of the rules.
REPLACE = f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"

#: The file that is loaded at boot, and the unit that loads it.
FILE = "/etc/openhim-firewall/openhim.nft"
UNIT = "openhim-firewall.service"

SSH_PORT = 22
#: Salt's publish port and request port.
SALT_PORTS = (4505, 4506)
NTP_PORT = 123

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_PORT = 65535
#: The kernel refuses a longer comment.
_MAX_COMMENT = 120

_PREAMBLE = """\
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "lo" accept comment "the host itself"
\t\tct state { established, related } accept comment "replies to what was allowed or asked for"
\t\tct state invalid drop comment "belongs to no connection"
\t\ticmp type { destination-unreachable, time-exceeded, parameter-problem, echo-request } accept \
comment "path MTU, errors and ping"
\t\ticmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, \
echo-request, mld-listener-query, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } \
accept comment "IPv6 does not work without these"
"""
_CLOSING = '\t\tcounter comment "counts what the policy drops"\n\t}\n'

_LOADING_UNIT = """\
[Unit]
Description={description}
Documentation=man:nft(8)
DefaultDependencies=no
# The distribution's own file usually begins with "flush ruleset": come after it, at the boot and
# whenever it is loaded again.
After=local-fs.target nftables.service
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service
Before=network-pre.target shutdown.target{before}
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists={file}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {file}
ExecReload=/usr/sbin/nft -f {file}

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Opening:
    """One thing that a host accepts.

    ports: numbers, or texts such as ``8000-8010``. sources: networks or addresses; None is
    everybody.
    """

    why: str
    ports: tuple[int | str, ...]
    sources: tuple[str, ...] | None = None
    protocol: str = "tcp"


def ruleset(stack: Stack, minion_id: str, tcp_ports: Iterable[int] = ()) -> str:
    """The text that replaces our table on one host, for ``nft -f``.

    tcp_ports: the ports of OpenHIM's TCP channels; used on hosts with the role ``core``.

    Raises :class:`~saltext.openhim.errors.PillarError` for a source that is no address, a port that
    is none, and a master that would cut off declared minions.
    """
    rules = _going_on(stack, stack.host(minion_id))
    rules += [line for opening in openings(stack, minion_id, tcp_ports) for line in _rules(opening)]
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    return f"{REPLACE}table {FAMILY} {TABLE} {{\n{_PREAMBLE}{body}{_CLOSING}}}\n"


def openings(stack: Stack, minion_id: str, tcp_ports: Iterable[int] = ()) -> list[Opening]:
    """What one host accepts, in the order of its rules. Parameters and errors: :func:`ruleset`."""
    host = stack.host(minion_id)
    found = []
    if "core" in host.roles:
        found += _core(stack, tcp_ports)
    found += _mongodb(stack, host)
    found += _management(stack, host)
    if clock.serves(stack, minion_id):
        others = tuple(h.address for h in stack.hosts.values() if h.address != host.address)
        found.append(Opening("the stack's clocks follow this host", (NTP_PORT,), others, "udp"))
    found += _witness(stack, host)
    found += _extra(stack, host)
    # Nothing is opened to nobody: an empty list of sources leaves the policy, which drops.
    return [opening for opening in found if opening.ports and opening.sources != ()]


def declared_tcp_ports(stack: Stack) -> list[int]:
    """The ports of the TCP channels that the pillar declares and does not disable.

    They are opened beside those that OpenHIM reports: a declared channel is opened by the run that
    makes it, and is open already where the core is kept stopped for a failover.
    """
    channels = (stack.declared.get("objects") or {}).get("channels") or {}
    return sorted(
        {
            int(channel["tcpPort"])
            for channel in channels.values()
            if channel
            and channel.get("type") in ("tcp", "tls")
            and channel.get("tcpPort")
            and channel.get("status", "enabled") == "enabled"
        }
    )


def boot_unit() -> str:
    """The text of the systemd unit that loads the file before the network comes up."""
    return loading_unit("Firewall of the OpenHIM stack", FILE)


def loading_unit(description: str, file: str, before: Iterable[str] = ()) -> str:
    """The text of a unit that loads a file of nftables before the network comes up.

    before: further units that it comes before.
    """
    others = "".join(f" {unit}" for unit in before)
    return _LOADING_UNIT.format(description=description, file=file, before=others)


def _declared(stack: Stack) -> Mapping[str, Any]:
    return stack.declared.get("firewall") or {}


def _core(stack: Stack, tcp_ports: Iterable[int]) -> list[Opening]:
    # Open on a core that is kept stopped as well: a failover must not wait for a firewall.
    ports = stack.core_ports
    channels = sorted({int(port) for port in tcp_ports} | set(declared_tcp_ports(stack)))
    return [
        Opening("OpenHIM's API", (ports["api"],)),
        Opening("OpenHIM's HTTP router", (ports["http"],)),
        Opening("OpenHIM's HTTPS router", (ports["https"],)),
        Opening("OpenHIM's TCP channels", tuple(channels)),
    ]


def _mongodb(stack: Stack, host: Host) -> list[Opening]:
    """Each replica set's port, for those who have business with it.

    Core hosts of all sites: after a failover it is another site's core that connects.
    """
    found = []
    for replica_set in stack.sets_on(host.id):
        member = replica_set.member_on(host.id)
        if member is None:
            continue
        for why, hosts in (
            ("OpenHIM core", stack.hosts_with("core")),
            ("the other members", [m.host for m in replica_set.members]),
            ("backup hosts", stack.hosts_with("backup")),
        ):
            sources = tuple(h.address for h in hosts if h.id != host.id)
            found.append(Opening(f"replica set {replica_set.name}: {why}", (member.port,), sources))
    return found


def _management(stack: Stack, host: Host) -> list[Opening]:
    entry = _declared(stack)
    if "ssh_from" not in entry:
        raise PillarError(
            [
                "openhim:firewall:ssh_from: found nothing; the networks that administer the hosts "
                "by SSH are needed ([] closes SSH everywhere)"
            ]
        )
    ssh_from = tuple(entry["ssh_from"] or ())
    found = [Opening("SSH", (SSH_PORT,), ssh_from)]
    if "master" in host.roles:
        salt_from = tuple(entry.get("salt_from") or ())
        _require_all_minions(stack, host, salt_from)
        found.append(Opening("Salt's minions", SALT_PORTS, salt_from))
    return found


def _require_all_minions(stack: Stack, master: Host, salt_from: tuple[str, ...]) -> None:
    """The master's own minion talks over loopback: it would never notice that it cut the rest."""
    path = "openhim:firewall:salt_from"
    networks = [_network(source, path) for source in salt_from]
    cut = [
        f"{host.id} ({host.address})"
        for _, host in sorted(stack.hosts.items())
        if host.id != master.id and not _inside(host, networks)
    ]
    if cut:
        raise PillarError(
            [
                f"{path}: found {', '.join(salt_from) or 'nothing'}; it must contain the minions "
                f"that are declared, or the master on {master.id} cuts them off: {', '.join(cut)}"
            ]
        )


def _inside(host: Host, networks: list[Network]) -> bool:
    address = _network(host.address, f"openhim:hosts:{host.id}:address").network_address
    return any(address in network for network in networks)


def _witness(stack: Stack, host: Host) -> list[Opening]:
    lease = declared.lease(stack)
    if lease is None or lease.witness != host.id:
        return []
    holders = [one for _, one in sorted(stack.hosts.items()) if declared.holds(stack, one.id)]
    sources = tuple(one.address for one in holders if one.id != host.id)
    return [Opening("the lease's holders ask their witness", (lease.port,), sources)]


def _extra(stack: Stack, host: Host) -> list[Opening]:
    found = []
    for number, entry in enumerate(_declared(stack).get("extra") or ()):
        roles = entry.get("roles")
        if roles is not None and not set(roles) & set(host.roles):
            continue
        path = f"openhim:firewall:extra:{number}"
        sources = entry.get("from")
        if isinstance(sources, str):
            sources = [sources]
        protocol = entry.get("protocol", "tcp")
        if protocol not in ("tcp", "udp"):
            raise PillarError([f"{path}:protocol: found {protocol!r}; allowed are tcp and udp"])
        found.append(
            Opening(
                entry.get("comment", "declared as extra"),
                (entry.get("port"),),
                None if sources is None else tuple(sources),
                protocol,
            )
        )
    return found


def _going_on(stack: Stack, host: Host) -> list[str]:
    """The rules for connections between hosts of the stack that are older than the table.

    The kernel follows connections from the first packet on that it sees once there is a table that
    asks for them. Where that one comes in, as a job that Salt's master publishes or a heartbeat of
    MongoDB, it would belong to nothing and be dropped, and what is sent again after 0.2 s, 0.4 s
    and so on too, until this host says something itself: a new minion was deaf for 12 to 25 s.
    Nobody can begin a connection by this: a first packet has SYN, and no ACK.
    """
    others = tuple(h.address for _, h in sorted(stack.hosts.items()) if h.address != host.address)
    why = "connections of the stack that are older than these rules"
    accept = f'tcp flags & (syn | ack) == ack ct state new accept comment "{why}"'
    return _from(others, accept, why)


def _rules(opening: Opening) -> list[str]:
    """The rules of one opening: one, or one for IPv4 and one for IPv6 sources."""
    ports = ", ".join(str(port) for port in _ports(opening))
    accept = f'{opening.protocol} dport {{ {ports} }} accept comment "{_comment(opening.why)}"'
    return [accept] if opening.sources is None else _from(opening.sources, accept, opening.why)


def _from(sources: Iterable[str], accept: str, why: str) -> list[str]:
    """A rule for IPv4 sources, for IPv6 ones, or one for each."""
    networks = [_network(source, f"openhim ({why})") for source in sources]
    rules = []
    for version, field in ((4, "ip"), (6, "ip6")):
        # Overlapping networks in one set are refused by the kernel.
        of_version: list[Any] = [n for n in networks if n.version == version]
        if wanted := list(ipaddress.collapse_addresses(of_version)):
            addresses = ", ".join(_address(network) for network in wanted)
            rules.append(f"{field} saddr {{ {addresses} }} {accept}")
    return rules


def _network(source: Any, path: str) -> Network:
    try:
        return ipaddress.ip_network(str(source), strict=False)
    except ValueError:
        # A name would be resolved once, by whatever answers at that moment.
        raise PillarError(
            [
                f"{path}: found {source!r}; an address or a network such as 10.20.0.0/16 or "
                "fd00::/64 is needed. A firewall cannot rely on names."
            ]
        ) from None


def _address(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def _ports(opening: Opening) -> list[int | str]:
    for port in opening.ports:
        if not _is_port(port):
            raise PillarError(
                [
                    f"openhim:firewall ({opening.why}): found the port {port!r}; a number from 1 "
                    f"to {_MAX_PORT}, or a range such as 8000-8010, is needed"
                ]
            )
    # dict: once each, in the order that was sorted or declared.
    return list(dict.fromkeys(opening.ports))


def _is_port(port: Any) -> bool:
    if isinstance(port, int) and not isinstance(port, bool):
        return 1 <= port <= _MAX_PORT
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", port) if isinstance(port, str) else None
    return match is not None and 1 <= int(match[1]) < int(match[2]) <= _MAX_PORT


def _comment(text: str) -> str:
    """The text without what would end a quoted text of nft, and not longer than it may be."""
    return re.sub(r'["\\\s]+', " ", text)[:_MAX_COMMENT].strip()
