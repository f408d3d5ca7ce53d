"""What the rules say, for every role and every shape of declaration."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from saltext.openhim import firewall, settings
from saltext.openhim.errors import OpenHIMError, PillarError

EXAMPLE = yaml.safe_load(
    Path(__file__).parents[2].joinpath("pillar/openhim/production.sls").read_text()
)


@pytest.fixture
def declared():
    pillar = copy.deepcopy(EXAMPLE)
    pillar["openhim"]["hosts"]["console"] = {
        "site": "north",
        "address": "10.20.1.5",
        "roles": ["master"],
    }
    return pillar["openhim"]


def rules(declared, host, ports=()):
    """The rules by their comment, without the preamble."""
    text = firewall.ruleset(settings.from_pillar({"openhim": declared}), host, ports)
    lines = [line.strip() for line in text.splitlines() if " accept comment " in line]
    return {line.split('comment "')[1].rstrip('"'): line.split(" comment ")[0] for line in lines}


def test_a_core_opens_its_declared_ports_and_the_channels(declared):
    declared["core"]["ports"] = {"api": 18080, "http": 15001, "https": 15000}
    found = rules(declared, "north-core", [7000, 6000, 7000])
    assert found["OpenHIM's API"] == "tcp dport { 18080 } accept"
    assert found["OpenHIM's HTTP router"] == "tcp dport { 15001 } accept"
    assert found["OpenHIM's HTTPS router"] == "tcp dport { 15000 } accept"
    assert found["OpenHIM's TCP channels"] == "tcp dport { 6000, 7000 } accept"


def test_a_declared_tcp_channel_is_open_before_openhim_reports_it(declared):
    declared["objects"]["channels"] = {
        "analysers": {"type": "tcp", "tcpPort": 6100},
        "old": {"type": "tls", "tcpPort": 6200, "status": "disabled"},
        "orders": {"type": "http"},
    }
    assert rules(declared, "south-core")["OpenHIM's TCP channels"] == "tcp dport { 6100 } accept"


def test_a_database_host_opens_nothing_of_core(declared):
    found = rules(declared, "north-db1", [6000])
    assert not [why for why in found if "OpenHIM's" in why]


def test_mongodb_is_open_to_the_cores_of_all_sites_the_members_and_backup_hosts(declared):
    found = rules(declared, "north-db1")
    assert "{ 10.20.1.21, 10.20.2.21 }" in found["replica set openhim: OpenHIM core"]
    assert "{ 10.20.1.12, 10.20.2.11 }" in found["replica set openhim: the other members"]
    assert "{ 10.20.0.31 }" in found["replica set openhim: backup hosts"]


def test_each_replica_set_has_the_port_of_the_member_here(declared):
    declared["mongodb"]["replica_sets"]["audit"] = {
        "port": 27117,
        "members": {"north-db1": {"port": 27200}, "south-core": {}},
    }
    found = rules(declared, "north-db1")
    assert "tcp dport { 27200 }" in found["replica set audit: the other members"]
    assert "{ 10.20.2.21 }" in found["replica set audit: the other members"]
    assert "tcp dport { 27017 }" in found["replica set openhim: the other members"]
    # On the host that is core and member, both.
    both = rules(declared, "south-core")
    assert "tcp dport { 27117 }" in both["replica set audit: OpenHIM core"]
    assert "OpenHIM's API" in both


def test_salt_is_open_on_a_master_only(declared):
    assert rules(declared, "console")["Salt's minions"] == (
        "ip saddr { 10.20.0.0/16 } tcp dport { 4505, 4506 } accept"
    )
    assert "Salt's minions" not in rules(declared, "north-core")


def test_a_master_that_would_cut_declared_minions_is_refused(declared):
    declared["firewall"]["salt_from"] = ["10.20.1.0/24"]
    with pytest.raises(PillarError, match=r"south-core \(10\.20\.2\.21\)"):
        rules(declared, "console")


@pytest.mark.parametrize("server", ["10.20.1.5", "console"])
def test_a_host_that_is_a_clock_server_answers_the_declared_hosts(declared, server):
    declared["clock"]["servers"] = [server]
    found = rules(declared, "console")["the stack's clocks follow this host"]
    assert found.endswith("udp dport { 123 } accept")
    assert "10.20.2.21" in found
    assert "the stack's clocks follow this host" not in rules(declared, "north-core")


def test_ipv6_sources_get_a_rule_of_their_own(declared):
    declared["firewall"]["ssh_from"] = ["fd00::/64", "10.20.0.0/16", "2001:db8::1"]
    text = firewall.ruleset(settings.from_pillar({"openhim": declared}), "north-db1")
    assert "ip saddr { 10.20.0.0/16 } tcp dport { 22 } accept" in text
    assert "ip6 saddr { 2001:db8::1, fd00::/64 } tcp dport { 22 } accept" in text


def test_older_connections_of_all_other_hosts_of_the_stack_go_on(declared):
    def older():
        text = firewall.ruleset(settings.from_pillar({"openhim": declared}), "north-db1")
        return [line.strip() for line in text.splitlines() if "older than these rules" in line]

    declared["hosts"]["south-core"]["address"] = "fd00:20::21"
    others = {host["address"] for name, host in declared["hosts"].items() if name != "north-db1"}
    ipv4, ipv6 = older()
    assert ipv6.startswith("ip6 saddr { fd00:20::21 } tcp flags & (syn | ack) == ack ct state new ")
    named = set(ipv4.split("{ ")[1].split(" }")[0].split(", "))
    assert named == others - {"fd00:20::21"}


def test_overlapping_networks_become_one():
    # nft refuses them in one set.
    opening = firewall.Opening("x", (22,), ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3"))
    assert firewall._rules(opening) == [
        'ip saddr { 10.0.0.0/8 } tcp dport { 22 } accept comment "x"'
    ]


def test_ssh_from_must_be_said(declared):
    del declared["firewall"]["ssh_from"]
    with pytest.raises(PillarError, match="openhim:firewall:ssh_from"):
        rules(declared, "north-db1")


def test_an_empty_list_opens_to_nobody_and_not_to_everybody(declared):
    declared["firewall"]["ssh_from"] = []
    declared["firewall"]["extra"] = [{"port": 9100, "from": [], "comment": "metrics"}]
    found = rules(declared, "north-db1")
    assert "SSH" not in found
    assert "metrics" not in found


def test_extra_rules(declared):
    declared["firewall"]["extra"] = [
        {"port": "8000-8010", "protocol": "udp", "from": "10.20.9.9", "comment": "mediators"},
        {"port": 9100, "roles": ["core"], "comment": "metrics of core"},
    ]
    found = rules(declared, "north-db1")
    assert found["mediators"] == "ip saddr { 10.20.9.9 } udp dport { 8000-8010 } accept"
    assert "metrics of core" not in found
    assert rules(declared, "north-core")["metrics of core"] == "tcp dport { 9100 } accept"


@pytest.mark.parametrize(
    "extra",
    [
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"port": None},
        {"port": "ssh"},
        {"port": "10-5"},
        {"port": "1-70000"},
        {"port": "22 } accept; tcp dport { 23"},
        {"port": 22, "protocol": "icmp"},
        {"port": 22, "from": ["bastion.example.org"]},
        {"port": 22, "from": ["10.0.0.0/33"]},
    ],
)
def test_a_wrong_extra_rule_is_refused(declared, extra):
    declared["firewall"]["extra"] = [extra]
    with pytest.raises(PillarError):
        rules(declared, "north-db1")


def test_a_minion_that_is_not_declared_is_refused(declared):
    with pytest.raises(OpenHIMError, match="elsewhere"):
        rules(declared, "elsewhere")


def test_a_comment_cannot_end_its_quotation(declared):
    declared["firewall"]["extra"] = [{"port": 1, "comment": 'a" \n drop \\ ' + "x" * 200}]
    text = firewall.ruleset(settings.from_pillar({"openhim": declared}), "north-db1")
    line = next(line for line in text.splitlines() if "tcp dport { 1 }" in line)
    assert line.count('"') == 2
    assert len(line.split('"')[1]) <= 120


@given(st.permutations(list(EXAMPLE["openhim"]["hosts"])), st.permutations([6000, 6001, 6002]))
def test_the_text_does_not_depend_on_the_order_of_the_declaration(order, ports):
    pillar = copy.deepcopy(EXAMPLE)
    hosts = pillar["openhim"]["hosts"]
    pillar["openhim"]["hosts"] = {host: hosts[host] for host in order}
    for host in ("north-core", "north-db1"):
        plain = firewall.ruleset(settings.from_pillar(EXAMPLE), host, [6000, 6001, 6002])
        assert firewall.ruleset(settings.from_pillar(pillar), host, ports) == plain


def test_only_our_own_table_is_named(declared):
    text = firewall.ruleset(settings.from_pillar({"openhim": declared}), "north-core")
    assert "flush" not in text
    assert {line for line in text.splitlines() if "table" in line} == {
        "add table inet openhim",
        "delete table inet openhim",
        "table inet openhim {",
    }
