"""What the pillar may say about the cut-over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.openhim import schema

EXAMPLES = Path(__file__).parents[3] / "pillar" / "openhim"
KEY = {"dns_update": "c2VjcmV0LW9mLWEta2V5"}


@pytest.fixture
def openhim() -> dict[str, Any]:
    """The example's declaration with the cut-over's example."""
    declared = yaml.safe_load((EXAMPLES / "production.sls").read_text())["openhim"]
    return {**declared, **yaml.safe_load((EXAMPLES / "cut_over.sls").read_text())["openhim"]}


COMMAND = {"run": {"north": ["/usr/local/sbin/lead", "north"], "south": ["/bin/lead", "south"]}}

BAD = [
    ("dns:naem", "x", "openhim:cut_over:dns:naem: found an unknown key; allowed addresses, key, "
     "name, port, server, timeout_seconds, ttl, zone (did you mean 'name'?)"),
    ("dns:key:algorithm", "hmac-sha265", "openhim:cut_over:dns:key:algorithm: found 'hmac-sha265'; "
     "allowed hmac-sha224 or hmac-sha256 or hmac-sha384 or hmac-sha512 (did you mean "
     "'hmac-sha256'?)"),
    ("dns:server", "ns.example.org", "openhim:cut_over:dns:server: found 'ns.example.org'; allowed "
     "an IP address"),
    ("dns:name", "him..example.org", "openhim:cut_over:dns:name: found 'him..example.org'; allowed "
     "a domain name such as 'him.example.org'"),
    ("dns:name", "him.example.net", "openhim:cut_over:dns:name: found 'him.example.net'; allowed "
     "a name in the zone 'example.org'"),
    ("dns:name", "himexample.org", "openhim:cut_over:dns:name: found 'himexample.org'; allowed "
     "a name in the zone 'example.org'"),
    ("dns:ttl", 0, "openhim:cut_over:dns:ttl: found the number 0; allowed a whole number from 1 to "
     "86400"),
    ("dns:addresses:south", [], "openhim:cut_over:dns:addresses:south: found an empty list; "
     "allowed a list with at least 1 item, each item an IP address"),
    ("dns:addresses:sotuh", ["192.0.2.9"], "openhim:cut_over:dns:addresses:sotuh: found 'sotuh'; "
     "allowed north, south, west (did you mean 'south'?)"),
    ("dns:addresses:south", ["192.0.2.22", "2001:DB8:1:0::21"],
     "openhim:cut_over:dns:addresses:south: found '2001:DB8:1:0::21', which is north's too; "
     "allowed addresses of its own, for they tell where the name points"),
    ("command", COMMAND, "openhim:cut_over: found command and dns; allowed either dns or command"),
]  # fmt: skip


def test_the_example_is_allowed(openhim: dict[str, Any]) -> None:
    """For every host; only the master's needs the key."""
    assert schema.check({"openhim": openhim}) == []
    problems = {host: schema.check({"openhim": openhim}, host) for host in openhim["hosts"]}
    wants = {host for host, told in problems.items() if "dns_update" in "".join(told)}
    assert wants == {"master"}


@pytest.mark.parametrize(("path", "value", "expected"), BAD)
def test_what_is_not_allowed_is_told_once(
    openhim: dict[str, Any], path: str, value: Any, expected: str
) -> None:
    """With where it is, what was found and what is allowed."""
    place = openhim = copy.deepcopy(openhim)
    place = place["cut_over"]
    *parents, last = path.split(":")
    for key in parents:
        place = place[key]
    place[last] = value
    assert schema.check({"openhim": openhim}) == [expected]


def test_every_site_with_a_core_has_its_place(openhim: dict[str, Any]) -> None:
    """A failover must not find out in its last step that it leads nowhere."""
    expected = (
        "{}:south: found nothing; allowed a list: OpenHIM can run at this site"
    )  # fmt: skip
    del openhim["cut_over"]["dns"]["addresses"]["south"]
    (problem,) = schema.check({"openhim": openhim})
    assert problem == expected.format("openhim:cut_over:dns:addresses")
    openhim["cut_over"] = {"command": {"run": {"north": ["/bin/lead"]}}}
    (problem,) = schema.check({"openhim": openhim})
    assert problem == expected.format("openhim:cut_over:command:run")


def test_without_a_master_nobody_has_the_secret(openhim: dict[str, Any]) -> None:
    """Its pillar is the one that the runner reads."""
    openhim["hosts"]["master"]["roles"] = ["backup"]
    del openhim["backup"]["bundle"]
    (problem,) = schema.check({"openhim": openhim})
    assert problem.startswith("openhim:cut_over: found no host with the role master")


def test_neither_way_is_no_way(openhim: dict[str, Any]) -> None:
    """An empty block is not a declaration."""
    (problem,) = schema.check({"openhim": {**openhim, "cut_over": {}}})
    assert problem == "openhim:cut_over: found neither; allowed either dns or command"


@pytest.mark.parametrize("where", ["run", "points_to"])
def test_a_secret_as_an_argument_is_refused(openhim: dict[str, Any], where: str) -> None:
    """Everybody on the master could read it; and it is not shown here either."""
    command = copy.deepcopy(COMMAND)
    command["points_to"] = ["/bin/where"]
    argument = f"--password={KEY['dns_update']}"
    (command["run"]["south"] if where == "run" else command["points_to"]).append(argument)
    openhim |= {"cut_over": {"command": command}, "secrets": KEY}
    (problem,) = schema.check({"openhim": openhim})
    assert f"openhim:cut_over:command:{where}" in problem
    assert KEY["dns_update"] not in problem


def test_a_key_that_is_not_base64_is_told_before_it_is_needed(openhim: dict[str, Any]) -> None:
    """Without the key."""
    assert schema.check({"openhim": {**openhim, "secrets": KEY}}) == []
    (problem,) = schema.check({"openhim": {**openhim, "secrets": {"dns_update": "not-told!"}}})
    assert problem.startswith("openhim:secrets:dns_update: found a text that is not base64")
    assert "not-told" not in problem
