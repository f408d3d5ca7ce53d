"""The same declaration with other numbers: five members over three sites, the audit database on a
set of its own, no default port, every write on every site, mongod from a package, certificates
from the pillar.

The tests of this file are one story and run in this order; each begins where the one before ended.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from lab import stack
from tests.lab.fleet import changed, failures, highstate, members, reaches, wait_for

PILLAR = Path(__file__).parent / "pillars" / "five-members"
MAIN, AUDIT = 27117, 27118
WITNESS = "west-db1"  # it has a member of both sets, and its site is never lost

#: What a mistyped declaration changes as well, if anybody took it for allowed.
MISTYPED = {
    "durability: every-site": "durability: every-sight",
    "write_timeout_ms:": "write_timout_ms:",
    "http: 15001": "http: 15011",
    "cache_size_gb: 0.25": "cache_size_gb: 0.5",
    "max_offset_ms: 500": "max_offset_ms: 400",
}


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the pillar: it will be edited."""
    return Path(shutil.copytree(PILLAR, tmp_path_factory.mktemp("five") / "pillar"))


@pytest.fixture(scope="module")
def five(pillar: Path) -> Iterator[stack.Stack]:
    with stack.started(pillar, upstreams=False) as running:
        yield running


def states(running: stack.Stack, host: str = WITNESS) -> dict[str, str]:
    """``set/host`` → what its member answers."""
    return {name.partition(":")[0]: state for name, state in members(running, host).items()}


def primaries(running: stack.Stack) -> list[str]:
    return sorted(name for name, state in states(running).items() if state == "PRIMARY")


def core_config(running: stack.Stack, core: str = "north-core") -> dict:
    """OpenHIM's configuration, as it lies on its host's disk; of a host that is down, too."""
    return json.loads(running.lab.host(core).read("/etc/openhim/core.json"))


def set_config(running: stack.Stack, name: str) -> dict:
    """The configuration of a replica set, as a member of it has it."""
    return running.master.salt([WITNESS], "mongodb_replset.config", set=name)[WITNESS]


def python(running: stack.Stack, host: str, script: str, **asked: str) -> object:
    """Run a script on a host with what it is asked as JSON on standard input."""
    command = ["/opt/salt/bin/python", "-c", script]
    return json.loads(running.lab.host(host).run(command, input=json.dumps(asked)).stdout)


def intervals(running: stack.Stack, host: str) -> Iterator[tuple[str, int, int]]:
    """Each mongod's unit on a host, and from when to when it was last away (microseconds)."""
    names = ("Id", "ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    shown = running.lab.host(host).run(["systemctl", "show", "mongod-*", "-p", ",".join(names)])
    for block in shown.stdout.strip().split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines())
        yield found[names[0]], int(found[names[1]]), int(found[names[2]])


COLLECTIONS = """
import json, sys
from pymongo import MongoClient
with MongoClient(json.load(sys.stdin)["url"], serverSelectionTimeoutMS=10000) as client:
    found = {
        f"{name}.{collection}": client[name][collection].count_documents({})
        for name in client.list_database_names() if name.startswith("him")
        for collection in client[name].list_collection_names()
    }
print(json.dumps(found))
"""

WRITE = """
import json, sys, time
from pymongo import MongoClient, WriteConcern
from pymongo.errors import WTimeoutError
asked = json.load(sys.stdin)
with MongoClient(asked["url"], serverSelectionTimeoutMS=30000) as client:
    client.admin.command("ping")
    collection = client.get_default_database()["story"]
    if asked.get("w"):
        collection = collection.with_options(write_concern=WriteConcern(w=asked["w"], wtimeout=20000))
    begin, said = time.monotonic(), ""
    try:
        collection.insert_one({"_id": asked["text"]})
    except WTimeoutError as error:
        said = str(error)
print(json.dumps({"said": said, "seconds": time.monotonic() - begin}))
"""


def collections(running: stack.Stack, port: int) -> dict[str, int]:
    """What one member of a set really has: ``database.collection`` → number of documents."""
    url = (
        f"mongodb://operator:{quote(running.secret('mongodb_operator'), safe='')}@{WITNESS}:{port}"
        "/?directConnection=true&tls=true&tlsCAFile=/etc/openhim-tls/ca.crt"
    )
    return python(running, WITNESS, COLLECTIONS, url=url)


def test_one_highstate_on_all_hosts_at_once_brings_it_up(five):
    results = highstate(five)
    assert failures(results) == []
    assert set(results) == set(five.managed())
    assert states(five) == {
        "main/north-db1": "PRIMARY",
        "main/north-db2": "SECONDARY",
        "main/south-db1": "SECONDARY",
        "main/south-db2": "SECONDARY",
        "main/west-db1": "SECONDARY",
        "audit/north-db1": "PRIMARY",
        "audit/south-db1": "SECONDARY",
        "audit/west-db1": "SECONDARY",
    }


def test_a_second_highstate_would_change_nothing_and_changes_nothing(five):
    preview = highstate(five, test=True)
    assert failures(preview) == []
    assert changed(preview) == []
    again = highstate(five)
    assert failures(again) == []
    assert changed(again) == []


def test_a_changed_configuration_restarts_the_members_of_a_set_one_after_the_other(five, pillar):
    file = pillar / "openhim" / "production.sls"
    declared = file.read_text()
    line = "      setParameter: {shutdownTimeoutMillisForSignaledShutdown: 1000}\n"
    assert declared.count(line) == 1
    slow = f"{line}      operationProfiling: {{slowOpThresholdMs: 250}}\n"
    before = {host: list(intervals(five, host)) for host in five.managed() if "db" in host}
    file.write_text(declared.replace(line, slow))
    results = highstate(five)
    assert failures(results) == []
    by_set: dict[str, list[tuple[int, int]]] = {}
    for host in before:
        for unit, since, until in intervals(five, host):
            assert (unit, since, until) not in before[host], f"{unit} on {host} was not restarted"
            by_set.setdefault(unit, []).append((since, until))
    assert {unit: len(times) for unit, times in by_set.items()} == {
        "mongod-main.service": 5,
        "mongod-audit.service": 3,
    }
    for unit, times in by_set.items():
        for (_, back), (away, _) in itertools.pairwise(sorted(times)):
            assert back < away, f"{unit}: {times}"
    again = highstate(five)
    assert failures(again) == []
    assert changed(again) == []


SERVED = "/var/tmp/served"
BY_URL = {
    "method": "archive",
    "source": "http://127.0.0.1:8099/mongodb.tgz",
    "source_hash": "http://127.0.0.1:8099/mongodb.tgz.sha256",
}


@pytest.mark.parametrize(
    ("install", "binary"),
    [
        ({"method": "preinstalled", "binary": "/usr/bin/mongod"}, "/usr/bin/mongod"),
        (BY_URL, "/opt/mongodb/6.0.5/bin/mongod"),
    ],
    ids=["preinstalled", "archive by URL"],
)
def test_mongod_is_installed_in_the_other_ways_too(five, install, binary):
    if install is BY_URL:
        for name in ("mongodb.tgz", "mongodb.tgz.sha256"):
            source, target = f"salt://artifacts/{name}", f"{SERVED}/{name}"
            five.master.salt([WITNESS], "cp.get_file", source, target, makedirs=True)
        serve = ["systemd-run", "python3", "-m", "http.server", "--directory", SERVED]
        five.lab.host(WITNESS).run([*serve, "--bind", "127.0.0.1", "8099"])
    pillar = {"openhim": {"mongodb": {"install": install}}}
    results = highstate(five, [WITNESS], pillar=pillar)
    assert failures(results) == []
    running = five.lab.host(WITNESS).run(["sh", "-c", "readlink /proc/$(pgrep -o mongod)/exe"])
    assert running.stdout.strip() == binary
    again = highstate(five, [WITNESS], pillar=pillar)
    assert changed(again) == []


def test_the_declared_way_of_installing_comes_back_without_an_outage(five):
    results = highstate(five, [WITNESS])
    assert failures(results) == []
    running = five.lab.host(WITNESS).run(["sh", "-c", "readlink /proc/$(pgrep -o mongod)/exe"])
    assert running.stdout.strip() == "/usr/bin/mongod"


@pytest.mark.parametrize(
    ("name", "port", "sites"),
    [
        ("main", MAIN, {"north": 2, "south": 2, "west": 1}),
        ("audit", AUDIT, {"north": 1, "south": 1, "west": 1}),
    ],
)
def test_each_set_counts_its_sites_and_its_voters_for_a_write(five, name, port, sites):
    config = set_config(five, name)
    members = config["members"]
    assert all(member["host"].endswith(f":{port}") for member in members)
    tagged = [member["tags"]["site"] for member in members]
    assert {site: tagged.count(site) for site in tagged} == sites
    assert sorted(member["tags"]["voter"] for member in members) == sorted(
        member["host"].partition(":")[0] for member in members
    )
    mode = {"site": 3, "voter": len(members) // 2 + 1}
    assert config["settings"]["getLastErrorModes"] == {"everySite": mode}


def test_every_host_has_a_certificate_of_its_own_and_no_other_hosts_key(five):
    """The key is on the host that the pillar gives it to, and in no other host's pillar."""
    held = five.master.salt("*", "openhim_host.certificates")
    assert set(held) == set(five.managed())
    for host, found in held.items():
        assert any(f"CN={host}" in json.dumps(one) for one in found), f"{host}: {found}"
    fingerprints = five.master.salt("*", "file.get_hash", "/etc/openhim-tls/host.key")
    assert len(set(fingerprints.values())) == len(five.managed())


def test_openhims_two_urls_lead_to_the_two_sets_and_ask_for_every_site(five):
    mongo = core_config(five)["mongo"]
    for url, name, hosts in (
        (mongo["url"], "him", "north-db1 north-db2 south-db1 south-db2 west-db1"),
        (mongo["atnaUrl"], "him_audit", "north-db1 south-db1 west-db1"),
    ):
        parts = urlsplit(url)
        replica_set, port = ("main", MAIN) if name == "him" else ("audit", AUDIT)
        options = {key: value for key, (value,) in parse_qs(parts.query).items()}
        assert parts.path == f"/{name}"
        named = parts.netloc.rpartition("@")[2].split(",")
        assert sorted(named) == [f"{host}:{port}" for host in hosts.split()]
        assert options["replicaSet"] == replica_set
        assert (options["w"], options["journal"]) == ("everySite", "true")
        assert options["wtimeoutMS"] == "5000"
    assert mongo["openHIMApiWriteConcern"] == "everySite"


def test_a_transaction_is_found_in_the_main_set_and_its_login_in_the_audit_set(five):
    audits = collections(five, AUDIT).get("him_audit.audits", 0)
    assert five.master.salt(["north-core"], "openhim.synthetic")["north-core"]["status"] == (
        "Successful"
    )
    five.master.salt(["north-core"], "openhim.about")  # it logs in, which OpenHIM audits
    wait_for(lambda: collections(five, AUDIT)["him_audit.audits"] > audits, 30, "a new audit")
    main, audit = collections(five, MAIN), collections(five, AUDIT)
    assert main["him.transactions"] >= 1
    assert not [name for name in main if name.startswith("him_audit.")]
    assert not [name for name in audit if name.startswith("him.")]


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        (WITNESS, "north-core", 18080, True),
        (WITNESS, "north-core", 15001, True),
        (WITNESS, "north-core", 15000, True),
        (WITNESS, "north-core", 8080, False),
        (WITNESS, "north-core", 5001, False),
        (WITNESS, "north-core", 5000, False),
        ("north-core", "south-db1", MAIN, True),
        ("north-core", "south-db1", AUDIT, True),
        ("north-core", "south-db1", 27017, False),
        ("south-db2", "south-db1", MAIN, True),
        ("south-db2", "south-db1", AUDIT, False),  # it has no member of that set
        ("master", "south-db1", MAIN, False),
    ],
)
def test_the_declared_ports_are_open_to_those_who_need_them(five, source, target, port, expected):
    address = five.declared["hosts"][target]["address"]
    assert reaches(five.lab.host(source), address, port) is expected


SNAPSHOT = """
find /etc /usr/lib/systemd /opt/openhim/current/config -xdev -path /etc/salt -prune \\
    -o -type f -print0 -o -type l -print0 | sort -z | xargs -0 sha256sum 2>&1
systemctl show 'mongod-*' openhim-core chrony openhim-firewall \\
    -p Id,ActiveState,SubState,MainPID,UnitFileState,ActiveEnterTimestampMonotonic
nft --stateless list ruleset
"""


def test_a_pillar_that_is_not_allowed_touches_nothing_on_any_host_and_says_why(five, pillar):
    def snapshots() -> dict[str, list[str]]:
        hosts = [five.lab.host(name) for name in five.managed()]
        return {host.name: host.run(["sh", "-c", SNAPSHOT]).stdout.splitlines() for host in hosts}

    file = pillar / "openhim" / "production.sls"
    declared = file.read_text()
    mistyped = declared
    for right, wrong in MISTYPED.items():
        assert mistyped.count(right) == 1
        mistyped = mistyped.replace(right, wrong)
    before = snapshots()
    file.write_text(mistyped)
    try:
        results = highstate(five)
        retcodes = dict(five.master.retcodes)
    finally:
        file.write_text(declared)
    assert snapshots() == before
    assert set(results) == set(five.managed())
    assert all(retcodes[host] != 0 for host in five.managed())
    for host, ran in results.items():
        (check,) = (state for state in ran.values() if state["__sls__"] == "openhim.checked")
        assert check["result"] is False
        assert "openhim:mongodb:durability: found 'every-sight'" in check["comment"], host
        assert "openhim:mongodb:write_timout_ms" in check["comment"]
        assert "did you mean 'write_timeout_ms'" in check["comment"]
        assert changed({host: ran}) == []


def test_while_a_site_is_cut_off_openhim_acknowledges_nothing_and_it_is_told_why(five):
    def asked(function: str, *arguments: int) -> tuple[int, object]:
        answer = five.master.salt(["north-core"], function, *arguments)["north-core"]
        return five.master.retcodes["north-core"], answer

    five.lab.isolate_host(WITNESS)  # the only one of its site that votes
    try:
        failed, said = asked("openhim.database_writable", 10)
        assert failed
        assert "main database him on the replica set main cannot take a write now" in said
        assert "waiting for replication timed out" in said
        failed, said = asked("openhim.synthetic")
        assert failed, said
    finally:
        five.lab.rejoin_host(WITNESS)
    five.master.wait_for([WITNESS])
    assert asked("openhim.database_writable", 60)[0] == 0
    # OpenHIM 4 may have ended over the write that it could not make; its master starts it again.
    wait_for(lambda: asked("openhim.synthetic")[0] == 0, 60, "a transaction is taken again")


def test_without_the_primarys_site_both_sets_elect_another_by_themselves(five):
    five.lab.kill_site("north")

    # Whoever is elected first hands over to the highest priority that is left.
    left = ["audit/south-db1", "main/south-db1"]
    wait_for(lambda: primaries(five) == left, 120, "a primary of each set at south")
    lost = {name for name, state in states(five).items() if state == "unreachable"}
    assert lost == {"main/north-db1", "main/north-db2", "audit/north-db1"}


def test_a_forced_failover_is_refused_while_mongodb_helps_itself(five):
    plan = five.master.run(
        "openhim_dr.failover_plan",
        to_site="south",
        confirm="five",
        reason="north lost power",
        declared_by="a test",
    )
    reasons = "\n".join(plan["refusals"])
    for member in (f"main/south-db1:{MAIN}", f"audit/south-db1:{AUDIT}"):
        assert f"{member}: PRIMARY (seen from " in reasons
    assert "MongoDB takes writes there. Use orch.core or orch.switchover" in reasons
    assert {"north-core", "north-db1", "north-db2"} == set(plan["unseen"])


@pytest.mark.parametrize("kind", ["url", "atnaUrl"])
def test_a_write_that_cannot_be_on_every_site_ends_in_the_declared_time_and_says_so(five, kind):
    url = core_config(five)["mongo"][kind]
    possible = python(five, "south-db1", WRITE, url=url, text="on a majority", w="majority")
    assert possible["said"] == ""
    refused = python(five, "south-db1", WRITE, url=url, text="not on every site")
    assert "waiting for replication timed out" in refused["said"]
    assert 5 <= refused["seconds"] < 20


def test_a_site_that_returns_makes_it_whole_again_without_changing_anything(five):
    five.lab.boot_site("north")
    five.master.wait_for(["north-db1", "north-db2", "north-core"])
    wait_for(
        lambda: primaries(five) == ["audit/north-db1", "main/north-db1"],
        180,
        "the primaries where they are declared",
    )
    results = highstate(five)
    assert failures(results) == []
    assert changed(results) == []
    found = five.master.salt(["north-core"], "openhim.synthetic")["north-core"]
    assert found["status"] == "Successful"
    url = core_config(five)["mongo"]["url"]
    assert python(five, "north-core", WRITE, url=url, text="on every site again")["said"] == ""
    assert collections(five, MAIN)["him.story"] == 3  # what was not acknowledged was not undone


MOVED = {
    "to_site": "south",
    "confirm": "five",
    "reason": "north lost power",
    "declared_by": "a test",
}
LEFT = ["master", "south-core", "south-db1", "south-db2", WITNESS]


def recoveries(running: stack.Stack) -> list[dict]:
    return running.master.run("openhim_dr.history", stack="five")


def versions(running: stack.Stack) -> dict[str, int]:
    return {name: set_config(running, name)["version"] for name in ("main", "audit")}


def openhim_runs(running: stack.Stack, core: str) -> bool:
    done = running.lab.host(core).run(["systemctl", "is-active", "openhim-core"], check=False)
    return done.stdout == "active\n"


def test_openhim_alone_moves_where_mongodb_has_elected_a_primary(five):
    disrupted = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    five.lab.kill_site("north")
    left = ["audit/south-db1", "main/south-db1"]
    wait_for(lambda: primaries(five) == left, 120, "a primary of each set at south")
    request = {**MOVED, "disrupted_at": disrupted}
    refused = five.master.orchestrate("orch.failover", {"failover": request}, check=False)
    assert "MongoDB takes writes there. Use orch.core" in json.dumps(refused)
    refused = five.master.orchestrate("orch.core", {"core": request}, check=False)
    assert "Refused: north is not proven closed" in json.dumps(refused)
    request["attest"] = {"north": "the test took its power away"}

    before = versions(five)
    preview = five.master.orchestrate("orch.core", {"core": request}, test=True)
    assert "OpenHIM serves at south" in json.dumps(preview)
    assert (recoveries(five), versions(five)) == ([], before)
    assert not openhim_runs(five, "south-core")

    # As if the first try had died right after the decision: the next run goes on from there.
    assert five.master.run("openhim_dr.core_declare", **request)["resumed"] is False
    five.master.orchestrate("orch.core", {"core": request})
    (epoch,) = recoveries(five)
    assert (epoch["kind"], epoch["profile"]) == ("core", "production")
    assert (epoch["active_site"], epoch["lost_sites"]) == ("south", ["north"])
    assert epoch["completed_at"]
    result = epoch["result"]
    print(f"RTO {result['rto_seconds']} s, from the declaration "
          f"{result['rto_from_declaration_seconds']} s; {result['notes']}")  # fmt: skip
    assert result["rto_seconds"] > result["rto_from_declaration_seconds"] > 0
    assert result["rpo_seconds"] is None
    assert f"nobody can ask audit/north-db1:{AUDIT}" in " ".join(result["notes"])
    assert openhim_runs(five, "south-core")
    assert primaries(five) == left
    again = five.master.run("openhim_dr.core_plan", **request)
    assert "epoch 1 (core to south by a test) was completed" in again["refusals"][0]


@pytest.mark.parametrize(
    ("name", "voters"),
    [("main", ["south-db1", "south-db2", WITNESS]), ("audit", ["south-db1", WITNESS])],
)
def test_the_sets_count_on_those_who_are_left_and_no_write_waits_for_the_lost(five, name, voters):
    config = set_config(five, name)
    with_a_vote = [m["host"].partition(":")[0] for m in config["members"] if m["votes"]]
    assert sorted(with_a_vote) == voters
    assert len(config["members"]) == (5 if name == "main" else 3), "the lost ones stay in it"
    mode = {"site": 2, "voter": 2}
    assert config["settings"]["getLastErrorModes"] == {"everySite": mode}
    kind = "url" if name == "main" else "atnaUrl"
    url = core_config(five, "south-core")["mongo"][kind]
    assert "north" not in url
    assert python(five, "south-core", WRITE, url=url, text="on those who are left")["said"] == ""


def test_a_highstate_after_the_move_confirms_it_and_changes_nothing(five):
    before = versions(five)
    results = highstate(five, LEFT)
    assert failures(results) == []
    assert changed(results) == []
    assert versions(five) == before
    found = five.master.salt(["south-core"], "openhim.synthetic")["south-core"]
    assert found["status"] == "Successful"


def test_the_site_that_is_back_rejoins_and_its_members_vote_again(five):
    north = ["north-core", "north-db1", "north-db2"]
    five.lab.boot_site("north")
    five.master.wait_for(north)
    request = {
        "site": "north",
        "confirm": "five",
        "declared_by": "a test",
        "reason": "north has power again",
    }
    five.master.orchestrate("orch.rejoin", {"rejoin": request})
    (epoch,) = recoveries(five)
    assert [one["site"] for one in epoch["rejoins"]] == ["north"]
    assert epoch["lost_sites"] == []
    for name in ("main", "audit"):
        config = set_config(five, name)
        assert all(member["votes"] for member in config["members"]), name
    # OpenHIM stays where it went, and so do the writes: back is a move of its own.
    assert primaries(five) == ["audit/south-db1", "main/south-db1"]
    assert openhim_runs(five, "south-core")
    assert not openhim_runs(five, "north-core")
    results = highstate(five)
    assert failures(results) == []
    assert changed(results) == []
    url = core_config(five, "south-core")["mongo"]["url"]
    assert python(five, "south-core", WRITE, url=url, text="with north again")["said"] == ""
