"""The lab's network on paper: which topologies it takes, and the rules that it writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.errors import LabError
from lab.network import Faults, Node, check_topology, gateway, hosts_file, rules

NODES = [
    Node("a", "north", "10.20.1.11"),
    Node("b", "north", "10.20.1.12"),
    Node("c", "south", "10.20.2.11"),
    Node("d", "west-coast", "10.20.3.11"),
]


def test_a_good_topology_is_taken() -> None:
    check_topology(NODES)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (Node("a", "north", "10.20.9.9"), "a is already used by host a"),
        (Node("e", "north", "10.20.1.11"), "10.20.1.11 is already used by host a"),
        (Node("e", "north", "10.21.1.11"), "host e: address 10.21.1.11 is not free"),
        (Node("e", "north", "10.20.1.254"), "10.20.1.254 is not free for a host"),
        (Node("e", "north", "10.20.1"), "'10.20.1' is no IP address"),
        (Node("e/../f", "north", "10.20.1.13"), "a name is up to 40 letters"),
        (Node("", "north", "10.20.1.13"), "a name is up to 40 letters"),
    ],
)
def test_a_bad_node_is_refused_by_name(node: Node, says: str) -> None:
    with pytest.raises(LabError, match=says):
        check_topology([*NODES, node])


def test_the_gateway_is_in_the_hosts_own_network() -> None:
    assert gateway("10.20.7.33") == "10.20.7.254"


def test_a_whole_network_drops_nothing() -> None:
    assert " drop" not in rules(NODES, Faults())


def test_an_isolated_site_is_dropped_both_ways_but_not_within() -> None:
    text = rules(NODES, Faults(isolated_sites=["north"]))
    assert "set site0 { type ipv4_addr; elements = { 10.20.1.11, 10.20.1.12 } }" in text
    assert "ip saddr @site0 ip daddr != @site0 drop" in text
    assert "ip saddr != @site0 ip daddr @site0 drop" in text
    assert text.count(" drop") == 2


def test_a_partition_is_dropped_both_ways() -> None:
    text = rules(NODES, Faults(partitions=[["north", "south"]]))
    assert "ip saddr @site0 ip daddr @site1 drop" in text
    assert "ip saddr @site1 ip daddr @site0 drop" in text


def test_no_packet_takes_a_detour_twice() -> None:
    text = rules(NODES, Faults(slow={"south": [5, 0], "north": [5, 0]}))
    first = [line.strip() for line in text.splitlines() if "mark set 1000" in line]
    second = [line.strip() for line in text.splitlines() if "mark set 1001" in line]
    assert all('iifname != { "slow0", "slow1" }' in line for line in first)
    assert all('iifname != { "slow1" }' in line for line in second)
    assert (len(first), len(second)) == (2, 2)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(
            isolated_sites=["west-coast"], isolated_hosts=["a"], partitions=[["north", "south"]]
        ),
        Faults(slow={"north": [5, 1], "west-coast": [1, 0]}),
    ],
)
def test_nftables_takes_the_rules(faults: Faults, tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text(rules(NODES, faults))
    done = subprocess.run(["nft", "-c", "-f", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_host_and_name_is_in_the_hosts_file() -> None:
    lines = hosts_file(NODES[:1], {"him.example": "10.20.1.12"}).splitlines()
    assert "10.20.1.11 a" in lines
    assert "10.20.1.12 him.example" in lines
    assert "127.0.0.1 localhost" in lines
