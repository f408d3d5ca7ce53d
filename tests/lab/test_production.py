"""The whole story of one stack, on real hosts: provisioned, lost, failed over, and back.

The tests of this file are one story and run in this order; each begins where the one before ended.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from lab import demo, stack, traffic
from lab.host import Host
from lab.salt import SaltMaster
from tests.lab import examples, fleet
from tests.lab.fleet import changed, failures, highstate, reaches, wait_for
from tests.unit.docs import written

REQUEST = {
    "to_site": "south",
    "confirm": "example",
    "declared_by": "a test",
    "reason": "north lost power",
}
NORTH_DATABASES = ["north-db1", "north-db2"]


#: Where the master notes every event of the story; root's alone, as events may hold anything.
EVENTS = "/root/events.log"


@pytest.fixture(scope="module")
def pillar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example pillar, as a copy that this story may change."""
    return Path(shutil.copytree(stack.EXAMPLE, tmp_path_factory.mktemp("example") / "pillar"))


@pytest.fixture(scope="module")
def production(pillar: Path) -> Iterator[stack.Stack]:
    with stack.started(pillar) as running:
        note = f"umask 077; exec salt-run state.event >{EVENTS}"
        running.lab.host("master").run(["systemd-run", "--unit=events", "/bin/sh", "-c", note])
        yield running


@pytest.fixture(scope="module", autouse=True)
def commands(production: stack.Stack) -> Iterator[Commands]:
    """The command lines of this story."""
    seen = Commands()
    seen.start()
    yield seen
    seen.stop.set()
    seen.join()


class Commands(threading.Thread):
    """Every command line that was seen: all hosts' processes are this machine's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        known: set[str] = set()
        young: set[str] = set()
        while not self.stop.wait(0.05):
            now = {entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()}
            # One that is just starting still shows its parent's command: look at it once more.
            for name in (now - known) | (now & young):
                with contextlib.suppress(OSError):
                    self.seen.add(Path(f"/proc/{name}/cmdline").read_bytes())
            known, young = now, now - known


@pytest.fixture(scope="module")
def first(production: stack.Stack) -> dict[str, dict]:
    """The returns of the highstate that makes everything."""
    return highstate(production)


def members(running: stack.Stack, host: str) -> dict[str, str]:
    """What every member of the set answers to one host."""
    seen = fleet.members(running, host)
    return {name.removeprefix("openhim/").removesuffix(":27017"): s for name, s in seen.items()}


def moment_of(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_one_highstate_on_all_hosts_at_once_brings_production_up(production, first):
    assert failures(first) == []
    assert set(first) == set(production.managed())
    assert members(production, "south-db1") == {
        "north-db1": "PRIMARY",
        "north-db2": "SECONDARY",
        "south-db1": "SECONDARY",
    }


def test_a_second_highstate_would_change_nothing_and_changes_nothing(production):
    preview = highstate(production, test=True)
    assert failures(preview) == []
    assert changed(preview) == []
    again = highstate(production)
    assert failures(again) == []
    assert changed(again) == []


def test_a_transaction_goes_through_and_is_found_again(production):
    found = production.master.salt(["north-core"], "openhim.synthetic")["north-core"]
    assert found["status"] == "Successful"


def test_the_core_of_the_other_site_is_ready_and_stopped(production):
    unit = production.lab.host("south-core")
    assert unit.run(["systemctl", "is-active", "openhim-core"], check=False).stdout == "inactive\n"
    assert unit.run(["test", "-e", "/opt/openhim/current/package.json"]).returncode == 0


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        ("south-core", "north-core", 5001, True),
        ("south-core", "north-core", 5000, True),
        ("south-core", "north-core", 8080, True),
        ("south-core", "north-core", 7786, False),  # OpenHIM's own rerun port
        ("north-core", "north-db1", 27017, True),
        ("south-core", "north-db1", 27017, True),  # takes over after a failover
        ("south-db1", "north-db1", 27017, True),
        ("master", "north-db1", 27017, False),
        ("north-core", "north-db1", 4506, False),
        ("north-db1", "master", 4506, True),
    ],
)
def test_only_declared_ports_are_open_to_declared_hosts(production, source, target, port, expected):
    address = production.declared["hosts"][target]["address"]
    assert reaches(production.lab.host(source), address, port) is expected


def test_no_secret_is_in_a_log_a_return_a_process_list_or_a_readable_file(production, first):
    """The canary: every secret of the pillar, searched for where it must not be."""
    results = json.dumps([first, highstate(production)])
    needles = _needles(production)
    leaks = [f"highstate's return: {name}" for name, value in needles.items() if value in results]
    for host in production.managed():
        leaks += [f"{host}: {leak}" for leak in _leaks(production.lab.host(host), needles)]
    assert leaks == []
    # And it sings: what is planted is found.
    host = production.lab.host("north-core")
    host.write("/var/tmp/planted", f"password: {needles['mongodb_openhim']}\n", mode=0o644)
    assert _leaks(host, needles) == ["/var/tmp/planted0644: mongodb_openhim"]
    host.run(["rm", "/var/tmp/planted"])


def _needles(running: stack.Stack) -> dict[str, str]:
    """What to search for, by the secret's name."""
    values = {}
    for file in (running.folder / "secrets" / "secrets").glob("*.sls"):
        values |= json.loads(file.read_text())["openhim"]["secrets"]
    values.pop("tls_ca")  # a certificate is no secret
    # The key is searched for by a line from its middle: a file may break its lines elsewhere.
    needles = {
        name: value.splitlines()[len(value.splitlines()) // 2] for name, value in values.items()
    }
    assert len(needles) >= 6
    return needles


def _leaks(host, needles: dict[str, str]) -> list[str]:
    """Runs on the host: journal, logs, process list, and files that others may read."""
    script = """
import json, os, subprocess, sys
needles = {name: value.encode() for name, value in json.load(sys.stdin).items()}
def search(where, data):
    for name, value in needles.items():
        if value in data:
            print(f"{where}: {name}")
search("journal", subprocess.run(["journalctl", "-o", "cat"], capture_output=True).stdout)
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        search(f"argv of {pid}", open(f"/proc/{pid}/cmdline", "rb").read())
    except OSError:
        pass
for top in ("/etc", "/var", "/opt/openhim", "/run", "/tmp", "/root", "/home", "/usr/local"):
    for folder, folders, files in os.walk(top):
        folders[:] = [f for f in folders if not (folder.endswith("/releases") or f == "node_modules")]
        for file in files:
            path = os.path.join(folder, file)
            try:
                status = os.lstat(path)
                if not os.path.isfile(path) or os.path.islink(path) or status.st_size > 1 << 26:
                    continue
                open_to_others = status.st_mode & 0o077 and _reachable(path)
                if open_to_others or path.startswith("/var/log/"):
                    search(path + oct(status.st_mode)[-4:], open(path, "rb").read())
            except OSError:
                pass
"""
    # A file in a folder that only its owner may enter is not readable by others.
    reachable = """

def _reachable(path):
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o011:
            return False
    return True
"""
    done = host.run(["python3", "-c", reachable + script], input=json.dumps(needles), timeout=120)
    return done.stdout.splitlines()


def asked(running: stack.Stack, host: str, function: str, *arguments, **named):
    """What a module's function answers on one host; fails with its words when it refuses."""
    answer = running.master.salt([host], function, *arguments, **named)[host]
    assert running.master.retcodes[host] == 0, answer
    return answer


def test_before_the_first_restore_point_the_status_is_a_failure_and_says_why(production):
    found = production.master.run("openhim_dr.status", "example")
    assert production.master.retcodes["run"] == 1
    assert found["state"] == "failing"
    assert "south-db1: store: it holds no restore point" in found["reasons"]
    assert set(found["hosts"]) == {"south-db1", "west-backup", "master"}
    assert found["hosts"]["master"]["state"] == "ok", found["hosts"]["master"]


def test_a_person_sees_a_table_and_the_exit_code_says_the_same(production):
    done = production.master.host.run(["salt-run", "openhim_dr.status", "example"], check=False)
    assert done.returncode == 1
    assert "south-db1" in done.stdout
    assert "it holds no restore point" in done.stdout
    assert "{" not in done.stdout


def test_a_restore_point_is_taken_and_pulled_and_the_minions_say_so(production):
    request = {"stack": "exmaple", "reason": "a test"}
    refused = production.master.orchestrate("orch.backup", {"backup": request}, check=False)
    assert production.master.retcodes["run"] != 0
    assert "Refused: stack: found 'exmaple'" in json.dumps(refused)
    request = {"stack": "example", "reason": "a test"}
    production.master.orchestrate("orch.backup", {"backup": request})
    (taken,) = asked(production, "south-db1", "openhim_backup.list", "store")["points"]
    (copied,) = asked(production, "west-backup", "openhim_backup.list", "copy")["points"]
    assert copied["id"] == taken["id"]
    assert taken["documents"] > 10
    verified = asked(production, "west-backup", "openhim_backup.verify", taken["id"])
    assert verified["ok"] is True
    found = production.master.run("openhim_dr.status", "example")
    assert found["hosts"]["south-db1"]["state"] == "ok", found
    asked(production, "south-db1", "openhim_backup.status")
    events = production.lab.host("master")
    wait_for(
        lambda: "salt/beacon/south-db1/openhim_backup/ok" in events.read(EVENTS),
        120,
        "the event of the minion that its backups are well",
    )


def test_a_drill_is_passed_and_the_report_has_evidence_or_a_named_gap_for_every_clause(production):
    request = {"stack": "example", "declared_by": "a test"}
    shown = production.master.orchestrate("orch.drill", {"drill": request}, test=True)
    assert "Would hold a drill of the restore point" in json.dumps(shown)
    assert asked(production, "west-backup", "openhim_drill.list") == []
    production.master.orchestrate("orch.drill", {"drill": request})
    (held,) = asked(production, "west-backup", "openhim_drill.list")
    assert (held["verdict"], held["denied"]) == ("passed", 0), held
    print(f"drill: RTO {held['rto_seconds']} s, RPO {held['rpo_seconds']} s, {held['steps']}")
    collected = production.master.run("openhim_dr.evidence_collect", "example")
    assert any(one.endswith(": drill") for one in collected["added"]), collected
    done = production.master.run("openhim_dr.report", "example")
    model = json.loads(production.lab.host("master").read(_one(done["files"], ".json")))
    for clause in model["clauses"]:
        assert clause["findings"], clause["id"]
        assert all(finding["text"] for finding in clause["findings"])
    print(json.dumps(done["gaps"], indent=1))
    assert f'"rto_seconds": {held["rto_seconds"]}' in json.dumps(model)
    assert any(finding["state"] == "shown" for c in model["clauses"] for finding in c["findings"])
    assert "<svg" in production.lab.host("master").read(_one(done["files"], ".html"))


def _one(files: list[str], ending: str) -> str:
    (found,) = [file for file in files if file.endswith(ending)]
    return found


#: Removes every file of the repository that the store lists, and says what the store answers.
ATTACK = """
v2='Accept: application/vnd.x.restic.rest.v2'
for kind in snapshots index keys data; do
  for name in $(echo "url = {url}/$kind/" | curl -s -H "$v2" -K - | grep -oE '[0-9a-f]{{64}}'); do
    echo "url = {url}/$kind/$name" | curl -s -o /dev/null -w '%{{http_code}}\\n' -X DELETE -K -
  done
done
"""


def test_root_on_the_host_that_takes_backups_cannot_delete_them(production):
    """With all that is on that host: its whole pillar holds nothing that the store lets remove."""
    held = asked(production, "south-db1", "pillar.items")["openhim"]["secrets"]
    assert "backup_store_keeper" not in held
    host = production.lab.host("south-db1")
    url = f"http://producer:{production.secret('backup_store_producer')}@10.20.0.40:8000"
    host.write("/root/attack", ATTACK.format(url=url), mode=0o600)
    tried = host.run(["/bin/sh", "/root/attack"], timeout=120).stdout.split()
    host.run(["rm", "/root/attack"])
    assert len(tried) > 5
    assert set(tried) == {"403"}
    listed = asked(production, "south-db1", "openhim_backup.list", "store")
    assert len(listed["points"]) == 1
    assert listed["broken"] == []


DESTROY = """
import json, sys
from pymongo import MongoClient
with MongoClient(json.load(sys.stdin)["url"]) as client:
    database = client.get_default_database()
    database.drop_collection("channels")
    database.transactions.update_many({}, {"$set": {"status": "corrupted"}})
"""


#: Since when OpenHIM runs.
SINCE = ["systemctl", "show", "openhim-core", "-p", "ActiveState,ActiveEnterTimestampMonotonic"]


@contextlib.contextmanager
def _openhim_does_not_stop(host: Host) -> Iterator[None]:
    folder = "/run/systemd/system/openhim-core.service.d"
    host.run(["mkdir", "-p", folder])
    host.write(f"{folder}/stays.conf", "[Unit]\nRefuseManualStop=yes\n")
    host.run(["systemctl", "daemon-reload"])
    try:
        yield
    finally:
        host.run(["rm", "-r", folder])
        host.run(["systemctl", "daemon-reload"])


def test_corrupted_data_is_restored_and_openhim_serves_it(production):
    """And nothing else happens before it was asked for by the stack's name."""
    (point,) = asked(production, "south-db1", "openhim_backup.list", "store")["points"]
    config = json.loads(production.lab.host("north-core").read("/etc/openhim/core.json"))
    command = ["/opt/salt/bin/python", "-c", DESTROY]
    script = json.dumps({"url": config["mongo"]["url"]})
    production.lab.host("north-core").run(command, input=script)
    request = {"point": point["id"], "reason": "a bad script", "declared_by": "a test"}
    refused = production.master.orchestrate("orch.restore", {"restore": request}, check=False)
    assert "Refused: confirm: found ''" in json.dumps(refused)
    request |= {"confirm": "example", "point": "20200101T000000Z-0000"}
    serving = production.lab.host("north-core").run(SINCE).stdout
    refused = production.master.orchestrate("orch.restore", {"restore": request}, check=False)
    assert "no restore point '20200101T000000Z-0000' was found" in json.dumps(refused)
    assert production.lab.host("north-core").run(SINCE).stdout == serving, "OpenHIM was stopped"
    request["point"] = point["id"]
    preview = production.master.orchestrate("orch.restore", {"restore": request}, test=True)
    assert f"Would restore {point['id']} from store." in json.dumps(preview)
    assert "Would take the present data into store." in json.dumps(preview)
    assert asked(production, "south-db1", "openhim_backup.restored") == []
    with _openhim_does_not_stop(production.lab.host("north-core")):
        refused = production.master.orchestrate("orch.restore", {"restore": request}, check=False)
        assert production.master.retcodes["run"] != 0
        assert production.lab.host("north-core").run(SINCE).stdout == serving, "it was stopped"
    assert production.master.run("openhim_dr.history", stack="example") == []
    begun = time.monotonic()
    production.master.orchestrate("orch.restore", {"restore": request})
    print(f"the restore took {time.monotonic() - begun:.1f} s")
    (epoch,) = production.master.run("openhim_dr.history", stack="example")
    assert (epoch["kind"], epoch["active_site"], epoch["lost_sites"]) == ("restore", "north", [])
    assert epoch["completed_at"]
    result = epoch["result"]
    print(json.dumps(result))
    assert result["synthetic"]["north-core"]["status"] == "Successful"
    assert result["rto_from_declaration_seconds"] > 0
    assert result["rpo_seconds"] > 0
    listed = asked(production, "south-db1", "openhim_backup.list", "store")["points"]
    assert [one["id"] for one in listed if one["aside"]] == [result["aside"]["point"]]
    (marker,) = asked(production, "south-db1", "openhim_backup.restored")
    assert (marker["point"], marker["why"]) == (point["id"], "a bad script")
    assert (marker["epoch"], marker["epoch_id"]) == (1, epoch["id"])
    assert asked(production, "north-core", "openhim.synthetic")["status"] == "Successful"
    results = highstate(production)
    assert failures(results) == []
    assert changed(results) == []


#: Of the plan: a contact's phone, a tier's target, the address of a host.
CHANGES = {
    "+1 202 555 0101": "+1 202 555 0177",
    "rto_seconds: 900": "rto_seconds: 1140",
    "address: 10.20.0.31": "address: 10.20.0.99",
}
RUNBOOK = "/var/lib/saltext-openhim/runbook"


def test_a_changed_contact_target_or_host_is_in_the_runbook_at_both_sites(production, pillar):
    """And the runbook before is kept. Of the highstate, only the part that writes it is run: the
    host does not really have another address."""
    hosts = ["north-core", "south-core"]
    before = {host: _runbook(production, host) for host in hosts}
    declared = pillar / "openhim" / "production.sls"
    as_it_was = declared.read_text()
    try:
        text = as_it_was
        for old, new in CHANGES.items():
            assert old in text
            text = text.replace(old, new)
        declared.write_text(text)
        _apply_plan(production, hosts)
        for host in hosts:
            held, text, older = _runbook(production, host)
            for said in ("+1 202 555 0177", "19 minutes", "10.20.0.99"):
                assert said in text, f"{host}: {said}"
                assert said not in before[host][1], f"{host}: {said}"
            assert "+1 202 555 0101" not in text
            assert held["older"] == before[host][0]["older"] + 1
            assert before[host][1] in older, f"{host}: the runbook before is not there any more"
    finally:
        declared.write_text(as_it_was)
    _apply_plan(production, hosts)
    for host in hosts:
        assert _runbook(production, host)[0]["digest"] == before[host][0]["digest"]


def _apply_plan(running: stack.Stack, hosts: list[str]) -> None:
    results = running.master.salt(hosts, "state.apply", "plan")
    assert failures(results) == []
    assert len(changed(results)) == len(hosts), results


def _runbook(running: stack.Stack, host: str) -> tuple[dict, str, list[str]]:
    """What a host says of its runbook, the runbook, and those before it."""
    held = asked(running, host, "openhim_plan.runbook")
    there = running.lab.host(host)
    older = there.run(["find", f"{RUNBOOK}/older", "-name", "*.md"], check=False).stdout.split()
    return held, there.read(f"{RUNBOOK}/runbook.md"), [there.read(one) for one in older]


@pytest.mark.nightly  # minutes, for every single example
def test_every_example_of_the_documentation_can_be_typed_here(production):
    """As it is written, and previewed where it would act; what differs is in the table, with why."""
    shown = written.examples()
    assert len(shown) > 70
    values: dict[str, str] = {}
    wrong = []
    for example in shown:
        if examples.otherwise(example).left_out:
            continue
        found = examples.problem(production, example, values)
        wrong += [found] if found else []
        if "corrective_action=" in example.typed:
            values["{action}"] = _newest_action(production)
    assert wrong == [], "\n\n".join(wrong)


def _newest_action(running: stack.Stack) -> str:
    """The number of the record of the corrective action that was put on record last."""
    reports = running.master.run("openhim_dr.after_action", "example")
    return f"done={reports[-1]['corrective_actions'][-1]['record']}"


def _recoveries(running: stack.Stack) -> list[str]:
    """What is on record, by kind."""
    return [one["kind"] for one in running.master.run("openhim_dr.history", stack="example")]


def test_a_failover_while_production_lives_is_refused_with_every_reason(production):
    plan = production.master.run("openhim_dr.failover_plan", **REQUEST)
    text = "\n".join(plan["refusals"])
    assert re.search(r"openhim/north-db1:27017: PRIMARY \(seen from .* MongoDB takes writes", text)
    assert "openhim/north-db2:27017: SECONDARY" in text
    assert "the site north is not lost" in text
    result = production.master.orchestrate("orch.failover", {"failover": REQUEST}, check=False)
    assert "Refused: openhim/north-db1:27017: PRIMARY" in json.dumps(result)
    assert members(production, "south-db1")["north-db1"] == "PRIMARY"
    assert _recoveries(production) == ["restore"]


def test_a_failover_after_the_site_is_lost_serves_at_the_other(production):
    log = production.folder / "orders.jsonl"
    clinics = demo.start_clinics(production, log)
    wait_for(lambda: len(traffic.acknowledged(traffic.read(log))) >= 50, 60, "50 orders")
    disrupted = time.time()
    production.lab.kill_site("north")
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(disrupted))
    request = {**REQUEST, "disrupted_at": moment}
    refused = production.master.orchestrate("orch.failover", {"failover": request}, check=False)
    assert "Refused: north is not proven closed" in json.dumps(refused)
    assert _recoveries(production) == ["restore"]
    request["attest"] = {"north": "the test took its power away"}

    preview = production.master.orchestrate("orch.failover", {"failover": request}, test=True)
    assert "Would promote openhim here." in json.dumps(preview)
    assert members(production, "south-db1")["south-db1"] == "SECONDARY"
    assert _recoveries(production) == ["restore"]

    # As if the first try had died right after the decision: the next run goes on from there.
    assert production.master.run("openhim_dr.failover_declare", **request)["resumed"] is False
    done = production.master.orchestrate("orch.failover", {"failover": request})
    told = json.dumps([preview, done])
    assert [name for name, value in _needles(production).items() if value in told] == []
    _, epoch = production.master.run("openhim_dr.history", stack="example")
    assert epoch["active_site"] == "south"
    assert epoch["result"]["rto_seconds"] > epoch["result"]["rto_from_declaration_seconds"] > 0
    assert epoch["result"]["rpo_seconds"] is not None
    wait_for(
        lambda: len(demo.acknowledged_at(log, production, "south")) >= 20, 60, "orders at south"
    )
    clinics.stop()
    assert epoch["completed_at"]
    (word,) = epoch["attestations"]
    assert (word["site"], word["by"], word["words"]) == (
        "north",
        "a test",
        request["attest"]["north"],
    )
    outcome = demo.reckon(production, log, disrupted)
    survived = moment_of(epoch["result"]["survived_until"])
    kept = [order for order in outcome["missing"] if order["answered"] < survived]
    assert kept == [], "acknowledged before the time up to which all is said to have survived"


def test_a_highstate_after_the_failover_keeps_the_new_reality(production):
    south = ["south-db1", "south-core"]
    preview = highstate(production, south, test=True)
    assert changed(preview) == []
    results = highstate(production, south)
    assert failures(results) == []
    assert changed(results) == []
    assert members(production, "south-db1")["south-db1"] == "PRIMARY"


def test_the_same_failover_again_is_refused_because_it_is_done(production):
    plan = production.master.run("openhim_dr.failover_plan", **REQUEST)
    assert re.search(
        r"epoch 2 \(failover to south .* was completed at", "\n".join(plan["refusals"])
    )


def test_a_lost_site_that_returns_finds_itself_without_a_vote(production):
    """Its mongods learn the newer configuration, and a highstate keeps its OpenHIM stopped."""
    production.lab.boot_site("north")
    expected = {"north-db1": "SECONDARY", "north-db2": "SECONDARY", "south-db1": "PRIMARY"}
    wait_for(lambda: members(production, "south-db1") == expected, 120, "one primary, at south")
    production.master.wait_for([*NORTH_DATABASES, "north-core"])
    results = highstate(production, [*NORTH_DATABASES, "north-core"])
    assert failures(results) == []
    core = production.lab.host("north-core")
    assert core.run(["systemctl", "is-active", "openhim-core"], check=False).stdout == "inactive\n"
    assert members(production, "south-db1") == expected


def _steps(orchestrated: dict) -> list[dict]:
    """What each step of an orchestration says."""
    ((steps),) = orchestrated["data"].values()
    return list(steps.values())


BACK = {"confirm": "example", "declared_by": "a test", "reason": "north has power again"}


def test_a_site_that_is_back_rejoins_and_its_members_vote_again(production):
    """One of its hosts was fenced meanwhile, and mongod there does not run: it is looked into."""
    fence = {"epoch": 2, "by": "a test", "reason": "to be sure"}
    assert asked(production, "north-db2", "openhim_fence.fence", **fence)["fenced"] is True
    found = production.master.run("openhim_dr.preflight", "example", repositories=False)
    seen = found["members"]["openhim/north-db2:27017"]
    assert (seen["status"], seen["seen_by"]) == ("dead", ["north-db2"])
    assert found["hosts"]["north-db2"]["fenced"] is True
    request = {**BACK, "site": "north"}
    plan = production.master.run("openhim_dr.rejoin_plan", **request)
    assert (plan["refusals"], plan["diverged"]) == ([], [])
    assert plan["fenced"] == ["north-db2"]
    done = production.master.orchestrate("orch.rejoin", {"rejoin": request})
    ledger = next(step for step in _steps(done) if step.get("name") == "openhim_dr.ledger")
    told = ledger["changes"]["return"]
    # They joined by themselves, as soon as they had power: what they had deleted alone is gone.
    assert told["state"] == "not known"
    assert all("has undone its writes" in one for one in told["sets"]["openhim"]["doubts"]), told
    _, epoch = production.master.run("openhim_dr.history", stack="example")
    assert [(one["site"], one["by"]) for one in epoch["rejoins"]] == [("north", "a test")]
    assert epoch["lost_sites"] == []
    assert members(production, "south-db1") == {
        "north-db1": "SECONDARY",
        "north-db2": "SECONDARY",
        "south-db1": "PRIMARY",
    }
    assert priorities(production) == {
        "north-db1": (10, 1),
        "north-db2": (9, 1),
        "south-db1": (11, 1),
    }
    results = highstate(production)
    assert failures(results) == []
    assert changed(results) == []


def priorities(running: stack.Stack) -> dict[str, tuple[float, int]]:
    """Member → its priority and votes, as the set is configured."""
    config = asked(running, "south-db1", "mongodb_replset.config")
    return {m["host"].split(":")[0]: (m["priority"], m["votes"]) for m in config["members"]}


def test_openhim_fails_back_and_nothing_is_lost(production):
    request = {**BACK, "to_site": "north"}
    preview = production.master.orchestrate("orch.failback", {"failback": request}, test=True)
    assert "hands over to north-db1:27017" in json.dumps(preview)
    assert members(production, "south-db1")["south-db1"] == "PRIMARY"
    assert _recoveries(production) == ["restore", "failover"]
    production.master.orchestrate("orch.failback", {"failback": request})
    *_, epoch = production.master.run("openhim_dr.history", stack="example")
    assert (epoch["kind"], epoch["active_site"]) == ("failback", "north")
    assert epoch["completed_at"]
    assert epoch["result"]["rpo_seconds"] == 0.0, epoch["result"]
    assert 0 < epoch["result"]["rto_seconds"] < epoch["result"]["rto_from_declaration_seconds"]
    print(json.dumps(epoch["timeline"], indent=1))
    assert [one["step"] for one in epoch["timeline"]] == [
        "every host knows it",
        "OpenHIM is stopped elsewhere, and north has all writes",
        "the primaries have handed over",
        "OpenHIM runs at north",
        "every host has confirmed it",
    ]
    assert members(production, "south-db1")["north-db1"] == "PRIMARY"
    assert priorities(production)["south-db1"] == (1, 1)
    assert asked(production, "north-core", "openhim.synthetic")["status"] == "Successful"
    south = production.lab.host("south-core")
    assert south.run(["systemctl", "is-enabled", "openhim-core"], check=False).returncode != 0


def test_openhim_moves_in_order_though_the_first_run_died_on_the_way(production):
    """It stopped OpenHIM, and then its master died; the next run goes on."""
    request = {**BACK, "to_site": "south", "reason": "work on the power supply"}
    declared = production.master.run("openhim_dr.move_declare", verb="switchover", **request)
    assert declared == {"epoch": 4, "resumed": False}
    done = production.master.run("openhim_dr.secure", verb="switchover", **request)
    assert (done["next"], "close: north-core" in done["done"]) == ("hand over", True)
    production.master.orchestrate("orch.switchover", {"switchover": request})
    *_, epoch = production.master.run("openhim_dr.history", stack="example")
    assert (epoch["epoch"], epoch["kind"], epoch["active_site"]) == (4, "switchover", "south")
    assert epoch["result"]["rpo_seconds"] == 0.0, epoch["result"]
    assert members(production, "south-db1")["south-db1"] == "PRIMARY"
    again = production.master.run("openhim_dr.move_plan", verb="switchover", **request)
    assert "was completed at" in again["refusals"][0]


def test_no_secret_was_in_a_command_line_an_event_or_a_log_in_all_of_this(production, commands):
    """The canary once more, now that a site was lost, another took over, and it came back."""
    needles = _needles(production)

    def passed_by() -> dict[str, str]:
        places = {"event": production.lab.host("master").read(EVENTS)}
        places |= {
            command.decode(errors="replace").replace("\0", " "): command.decode(errors="replace")
            for command in set(commands.seen)
        }
        return {
            where: name
            for where, text in places.items()
            for name, v in needles.items()
            if v in text
        }

    assert passed_by() == {}
    for host in production.managed():
        assert _leaks(production.lab.host(host), needles) == [], host
    # And it sings.
    secret = needles["mongodb_operator"]
    production.master.run("event.send", "planted", data={"password": secret})
    production.lab.host("north-core").run(["/bin/sh", "-c", "sleep 0.3", secret])
    wait_for(lambda: "event" in passed_by(), 30, "the event that was planted")
    assert any(where.startswith("/bin/sh -c sleep") for where in passed_by())


HISTORY = ["salt-run", "--out=json", "openhim_dr.history", "example"]
START = """
export RESTIC_REPOSITORY_FILE=/root/bundle.url RESTIC_PASSWORD_FILE=/root/recovery.key
umount /srv/saltext-openhim /srv/artifacts /srv/secrets /srv/pillar
restic dump latest /etc/salt/openhim-start.sh | sh
"""


def test_when_the_master_is_lost_another_machine_begins_from_the_start_bundle(production):
    """Which knows of the failover; and the hosts trust it, for it has the master's key."""
    production.lab.host("master").kill()
    new = production.lab.host("north-core")
    new.destroy()
    new.create(production.lab.hosts_file())
    new.boot()
    new.write("/root/recovery.key", production.secret("recovery_key"), mode=0o600)
    password = production.secret("backup_store_producer")
    url = f"rest:http://producer:{password}@10.20.0.40:8000/start-bundle/"
    new.write("/root/bundle.url", url, mode=0o600)
    done = new.run(["/bin/sh", "-c", START], timeout=180)
    assert "The master of example is back" in done.stderr
    *_, epoch = json.loads(new.run(HISTORY).stdout)
    assert (epoch["kind"], epoch["active_site"]) == ("switchover", "south")
    survivor = production.lab.host("south-core")
    address = production.declared["hosts"]["north-core"]["address"]
    survivor.run(["sed", "-i", rf"s/^\S*\(\s.*\bmaster\b\)/{address}\1/", "/etc/hosts"])
    survivor.run(["systemctl", "restart", "salt-minion"])
    SaltMaster(production.lab, "north-core").wait_for(["south-core"])
