"""The network between the hosts: one router in a network namespace of its own.

Every host has a link to the router and to nothing else, so whatever passes between two hosts passes
the router, where a site is cut off by a rule and slowed by a detour. Nothing appears in the
machine's own network, and two labs can use the same addresses.

Hosts see an ordinary network: those of one /24 reach each other directly (the router answers ARP
for all of them), others through the gateway ``x.y.z.254``. What goes to a host that is down is
dropped in silence, as after a power loss. There is no way to the outside.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import cache, kernel
from lab.errors import LabError

RANGE = ipaddress.ip_network("10.20.0.0/16")
REPOSITORY = Path(__file__).resolve().parent.parent

ROUTER_SETTINGS = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.conf.default.proxy_arp=1",
]


@dataclass
class Faults:
    """What is wrong with the network at the moment."""

    isolated_sites: list[str] = field(default_factory=list)
    isolated_hosts: list[str] = field(default_factory=list)
    partitions: list[list[str]] = field(default_factory=list)
    slow: dict[str, list[float]] = field(default_factory=dict)  # site: [delay ms, loss percent]


@dataclass(frozen=True)
class Node:
    """A host or a process with an address of its own."""

    name: str
    site: str
    address: str


def check_topology(nodes: Sequence[Node]) -> None:
    """Refuse names and addresses that cannot live beside each other.

    :raises LabError: naming the node, what was found and what is allowed
    """
    seen: dict[str, str] = {}
    for node in nodes:
        if not node.name.replace("-", "").isalnum() or len(node.name) > 40:
            raise LabError(f"host {node.name!r}: a name is up to 40 letters, digits and hyphens")
        try:
            address = ipaddress.ip_address(node.address)
        except ValueError as error:
            raise LabError(f"host {node.name}: {node.address!r} is no IP address") from error
        if address not in RANGE or address.packed[-1] in (0, 254, 255):
            raise LabError(
                f"host {node.name}: address {node.address} is not free for a host; "
                f"use one of {RANGE} that does not end with 0, 254 or 255"
            )
        for key in (node.name, str(address)):
            if key in seen:
                raise LabError(f"host {node.name}: {key} is already used by host {seen[key]}")
            seen[key] = node.name


def gateway(address: str) -> str:
    """Return the router's address in the /24 of a host's address."""
    return f"{address.rpartition('.')[0]}.254"


def rules(nodes: Sequence[Node], faults: Faults) -> str:
    """Return the router's rules, as nftables reads them, for what is wrong at the moment."""
    sites = sorted({node.site for node in nodes})
    number = {site: index for index, site in enumerate(sites)}
    lines = ["table inet lab {}", "delete table inet lab", "table inet lab {"]
    for site in sites:
        members = ", ".join(sorted(node.address for node in nodes if node.site == site))
        lines.append(f"  set site{number[site]} {{ type ipv4_addr; elements = {{ {members} }} }}")
    lines.append("  chain forward {")
    lines.append("    type filter hook forward priority filter; policy accept;")
    for site in faults.isolated_sites:
        members = f"@site{number[site]}"
        lines.append(f"    ip saddr {members} ip daddr != {members} drop")
        lines.append(f"    ip saddr != {members} ip daddr {members} drop")
    for one, other in faults.partitions:
        lines.append(f"    ip saddr @site{number[one]} ip daddr @site{number[other]} drop")
        lines.append(f"    ip saddr @site{number[other]} ip daddr @site{number[one]} drop")
    addresses = {node.name: node.address for node in nodes}
    for name in faults.isolated_hosts:
        lines.append(f"    ip saddr {addresses[name]} drop")
        lines.append(f"    ip daddr {addresses[name]} drop")
    lines += ["  }", "  chain detour {"]
    lines.append("    type filter hook prerouting priority mangle; policy accept;")
    slow = [number[site] for site in sorted(faults.slow, key=number.__getitem__)]
    for position, site_number in enumerate(slow):
        # A packet between two slow sites takes both detours, each once and in this order.
        done = ", ".join(f'"slow{later}"' for later in slow[position:])
        members, mark = f"@site{site_number}", detour_table(site_number)
        for match in (
            f"ip saddr {members} ip daddr != {members}",
            f"ip saddr != {members} ip daddr {members}",
        ):
            lines.append(f"    iifname != {{ {done} }} {match} meta mark set {mark} accept")
    lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def detour_table(site_number: int) -> int:
    """Return the mark and the routing table that lead through a slow site's device."""
    return 1000 + site_number


class Network:
    """The router of one lab, and the links of its hosts.

    All it knows is in files below ``state``, so that another process can go on where one stopped.
    """

    def __init__(self, prefix: str, state: Path) -> None:
        self.prefix = prefix
        self.router = f"{prefix}-net"
        self._file = state / "network.json"

    def create(self, nodes: Sequence[Node]) -> None:
        """Make the router; hosts are attached one by one."""
        check_topology(nodes)
        cache.call(["ip", "netns", "add", self.router])
        kernel.make_cgroup(self.router)
        self._set(*ROUTER_SETTINGS)
        self._ip(self.router, "link set lo up", f"route add blackhole {RANGE}")
        self._write(list(nodes), Faults())
        self._apply(list(nodes), Faults())

    def nodes(self) -> list[Node]:
        """Return every host and process that has an address."""
        return self._read()[0]

    def faults(self) -> Faults:
        """Return what is wrong with the network at the moment."""
        return self._read()[1]

    def add(self, node: Node) -> None:
        """Let one more node in; nothing changes when it is already known."""
        with self._changing() as (nodes, _):
            if node not in nodes:
                check_topology([*nodes, node])
                nodes.append(node)

    def namespace(self, name: str) -> str:
        """Return the name of a host's network namespace."""
        return f"{self.prefix}-{name}"

    def attach(self, name: str) -> Path:
        """Make a host's network namespace with a link to the router; return its path."""
        nodes = self.nodes()
        (node,) = [node for node in nodes if node.name == name]
        here, link = self.namespace(name), f"h{nodes.index(node)}"
        way_out = gateway(node.address)
        cache.call(["ip", "netns", "add", here])
        cache.call(
            [
                *("ip", "link", "add", link, "netns", self.router),
                *("type", "veth", "peer", "name", "eth0", "netns", here),
            ]
        )
        # Otherwise it ponders up to 0.8 s over each answer that it gives for another host.
        self._set(f"net.ipv4.neigh.{link}.proxy_delay=0")
        self._ip(
            self.router,
            f"address replace {way_out}/32 dev lo",
            f"link set {link} up",
            f"route replace {node.address}/32 dev {link} src {way_out}",
        )
        self._ip(
            here,
            "link set lo up",
            "link set eth0 up",
            f"address add {node.address}/24 dev eth0",
            f"route add default via {way_out}",
        )
        return Path("/run/netns") / here

    def cut(self, name: str) -> None:
        """Pull a host's plug: nothing that it still sends arrives anywhere."""
        if link := self._link(name):
            self._ip(self.router, f"link set {link} down")

    def detach(self, name: str) -> None:
        """Remove a host's network namespace, its link and every connection in it."""
        # The kernel clears a namespace some time after it was removed, and then the link's name
        # would still be taken at the next boot.
        if link := self._link(name):
            self._ip(self.router, f"link delete {link}")
        remove_namespace(self.namespace(name))

    def _link(self, name: str) -> str | None:
        """Return the router's end of a host's link; None while the host has none."""
        (index,) = [index for index, node in enumerate(self.nodes()) if node.name == name]
        present = f" h{index}@" in cache.call(["ip", "-n", self.router, "-o", "link"])
        return f"h{index}" if present else None

    def isolate_site(self, site: str) -> None:
        """Drop everything between a site and all others; within the site all goes on."""
        with self._changing(site) as (_, faults):
            _include(faults.isolated_sites, site)

    def isolate_host(self, name: str) -> None:
        """Drop everything from and to one host."""
        with self._changing() as (nodes, faults):
            if name not in [node.name for node in nodes]:
                raise LabError(f"there is no host {name!r}")
            _include(faults.isolated_hosts, name)

    def partition(self, one: str, other: str) -> None:
        """Drop everything between two sites; both still reach the others."""
        with self._changing(one, other) as (_, faults):
            _include(faults.partitions, sorted([one, other]))

    def rejoin_site(self, site: str) -> None:
        """Lift the isolation and every partition of a site, and those of its hosts."""
        with self._changing(site) as (nodes, faults):
            ours = {node.name for node in nodes if node.site == site}
            faults.isolated_sites = [name for name in faults.isolated_sites if name != site]
            faults.partitions = [pair for pair in faults.partitions if site not in pair]
            faults.isolated_hosts = [name for name in faults.isolated_hosts if name not in ours]

    def rejoin_host(self, name: str) -> None:
        """Lift the isolation of one host."""
        with self._changing() as (_, faults):
            faults.isolated_hosts = [other for other in faults.isolated_hosts if other != name]

    def slow_site(self, site: str, delay_ms: float, loss_percent: float = 0) -> None:
        """Hold back every packet that enters or leaves a site; no delay and no loss ends it.

        :param delay_ms: one way, in milliseconds; a round trip takes twice as much longer
        :param loss_percent: share of the packets that never arrive, 0 to 100
        """
        if delay_ms < 0 or not 0 <= loss_percent <= 100:
            raise LabError("a delay is 0 ms or more, and a loss from 0 to 100 percent")
        with self._changing(site) as (nodes, faults):
            number = sorted({node.site for node in nodes}).index(site)
            self._end_detour(number)
            faults.slow.pop(site, None)
            if delay_ms or loss_percent:
                self._begin_detour(number, delay_ms, loss_percent)
                faults.slow[site] = [delay_ms, loss_percent]

    def _begin_detour(self, number: int, delay_ms: float, loss_percent: float) -> None:
        group = f"{self.router}/slow{number}"
        kernel.make_cgroup(group)
        words = [sys.executable, "-m", "lab.slow_link", f"slow{number}", delay_ms, loss_percent]
        process = subprocess.Popen(
            kernel.in_cgroup(
                group, ["nsenter", f"--net=/run/netns/{self.router}", *map(str, words)]
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        with process.stdout as said:
            if said.readline().strip() != "ready":
                raise LabError("the slow link did not start; see the message above")
        table = detour_table(number)
        self._ip(
            self.router,
            f"link set slow{number} up",
            f"route add default dev slow{number} table {table}",
            f"rule add fwmark {table} lookup {table}",
        )

    def _end_detour(self, number: int) -> None:
        kernel.clear_cgroup(f"{self.router}/slow{number}")
        table = detour_table(number)
        if f"lookup {table}" in cache.call(["ip", "-n", self.router, "rule"]):
            self._ip(self.router, f"rule del fwmark {table} lookup {table}")

    @contextmanager
    def _changing(self, *sites: str) -> Iterator[tuple[list[Node], Faults]]:
        """Give the state out for a change, then apply and store it; one change at a time."""
        with self._file.with_suffix(".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            nodes, faults = self._read()
            known = {node.site for node in nodes}
            for site in sites:
                if site not in known:
                    raise LabError(f"there is no site {site!r}; there are {sorted(known)}")
            yield nodes, faults
            self._apply(nodes, faults)
            self._write(nodes, faults)

    def _read(self) -> tuple[list[Node], Faults]:
        stored = json.loads(self._file.read_text(encoding="utf-8"))
        return [Node(**node) for node in stored["nodes"]], Faults(**stored["faults"])

    def _write(self, nodes: Sequence[Node], faults: Faults) -> None:
        stored = {"nodes": [asdict(node) for node in nodes], "faults": asdict(faults)}
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(stored), encoding="utf-8")
        unfinished.rename(self._file)

    def _apply(self, nodes: Sequence[Node], faults: Faults) -> None:
        self._feed(["ip", "netns", "exec", self.router, "nft", "-f", "-"], rules(nodes, faults))

    def _set(self, *settings: str) -> None:
        cache.call(["ip", "netns", "exec", self.router, "sysctl", "-q", "-w", *settings])

    def _ip(self, namespace: str, *commands: str) -> None:
        self._feed(["ip", "-n", namespace, "-batch", "-"], "\n".join(commands) + "\n")

    @staticmethod
    def _feed(argv: list[str], text: str) -> None:
        done = subprocess.run(argv, input=text, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{' '.join(argv)} refused:\n{text}{done.stderr.strip()}")


def _include(items: list, item: object) -> None:
    if item not in items:
        items.append(item)


def namespaces(prefix: str) -> list[str]:
    """Return the names of the network namespaces that start with ``prefix``."""
    return sorted(path.name for path in Path("/run/netns").glob(f"{prefix}*"))


def remove_namespace(name: str) -> None:
    """Remove a network namespace; nothing happens when there is none."""
    if (Path("/run/netns") / name).exists():
        cache.call(["ip", "netns", "del", name])


def hosts_file(nodes: Sequence[Node], names: Mapping[str, str]) -> str:
    """Return the text of /etc/hosts with every node, and further names with their addresses."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{node.address} {node.name}" for node in nodes]
    lines += [f"{address} {name}" for name, address in names.items()]
    return "\n".join(lines) + "\n"
