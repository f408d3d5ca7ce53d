"""An account for the emergency ends where systemd is PID 1, with neither master nor minion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lab import HostSpec, Lab, artifacts
from lab.host import Host
from lab.salt import SaltMaster
from tests.lab.fleet import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "north-a"
ADDRESS = "10.20.1.11"
KEYFILE = "/etc/mongod/keyfile"
ASK = {"by": "Ben", "reason": "orders are stuck", "roles": ["readAnyDatabase"]}

PILLAR = {
    "openhim": {
        "stack": "test",
        "active_site": "north",
        "sites": {"north": {}},
        "hosts": {NAME: {"site": "north", "address": ADDRESS, "roles": ["mongodb"]}},
        "mongodb": {
            "replica_sets": {"openhim": {"port": 27017, "members": {NAME: {}}}},
            "databases": {
                "main": {"name": "openhim", "replica_set": "openhim"},
                "audit": {"name": "openhim_audit", "replica_set": "openhim"},
            },
        },
    }
}

MONGOD = f"""\
[Service]
ExecStart=/srv/mongodb/mongod --replSet openhim --bind_ip 127.0.0.1,{ADDRESS} --dbpath /srv/data \\
  --keyFile {KEYFILE} --wiredTigerCacheSizeGB 0.25 --oplogSize 64

[Install]
WantedBy=multi-user.target
"""

INITIATE = f"""\
import pymongo, time
client = pymongo.MongoClient("127.0.0.1", directConnection=True)
client.admin.command("replSetInitiate",
    {{"_id": "openhim", "members": [{{"_id": 0, "host": "{NAME}:27017"}}]}})
while not client.admin.command("hello")["isWritablePrimary"]:
    time.sleep(0.1)
"""

#: Which users there are, as who holds the keyfile.
USERS = f"""\
import json, pymongo
password = "".join(open("{KEYFILE}").read().split())
client = pymongo.MongoClient("127.0.0.1", directConnection=True, username="__system",
    password=password, authSource="local", serverSelectionTimeoutMS=3000)
print(json.dumps([user["user"] for user in client.admin.command("usersInfo", 1)["users"]]))
"""


@pytest.fixture(scope="module")
def salt() -> Iterator[SaltMaster]:
    """One host with a master, a minion and a mongod."""
    hosts = [HostSpec(NAME, "north", ADDRESS)]
    share = {"/srv/saltext-openhim": REPOSITORY, "/srv/mongodb": artifacts.mongod().parent}
    with Lab.start(hosts=hosts, share=share) as lab:
        host = lab.host(NAME)
        host.write("/srv/pillar/top.sls", json.dumps({"base": {"*": ["stack"]}}))
        host.write("/srv/pillar/stack.sls", json.dumps(PILLAR))
        host.run(["mkdir", "-p", "/srv/data", "/etc/mongod"])
        host.write(KEYFILE, "a" * 64, 0o400)
        host.write("/etc/systemd/system/mongod-openhim.service", MONGOD)
        host.run(["systemctl", "enable", "--now", "mongod-openhim"])
        master = SaltMaster(lab, NAME, file_roots=["/srv/saltext-openhim/salt"])
        master.start()
        master.run("saltutil.sync_all")
        master.salt(NAME, "saltutil.sync_all", refresh=True)
        wait_for(lambda: "error" not in python(host, INITIATE), 60, "the set is initiated")
        yield master


def python(host: Host, script: str) -> str:
    """What a script says in Salt's Python; the word ``error`` when it failed."""
    interpreter = host.run(["sh", "-c", "head -1 $(command -v salt-call) | cut -c3-"]).stdout
    done = host.run([*interpreter.split(), "-c", script], check=False)
    return done.stdout if done.returncode == 0 else f"error: {done.stderr}"


def present(salt: SaltMaster, **arguments: object) -> dict:
    """What the state returns that opens the account ``ada``."""
    asked = {**ASK, **arguments}
    (found,) = salt.salt(
        NAME, "state.single", "openhim_break_glass.present", name="ada", **asked
    )[NAME].values()  # fmt: skip
    return found


def timers(host: Host) -> str:
    """The timers of accounts that systemd knows."""
    listed = ["systemctl", "list-timers", "--all", "--no-legend", "openhim-break-glass@*"]
    return host.run(listed).stdout


def test_the_timer_ends_it_without_master_and_minion(salt: SaltMaster) -> None:
    host = salt.host
    done = present(salt, valid_for=60)
    assert done["result"] is True, done["comment"]
    assert json.loads(python(host, USERS)) == ["ada"]
    assert "openhim-break-glass@ada-" in timers(host)
    host.run(["systemctl", "stop", "salt-minion", "salt-master"])
    try:
        wait_for(lambda: python(host, USERS).strip() == "[]", 180, "the account ends")
        wait_for(lambda: timers(host) == "", 30, "the timer ends")
    finally:
        host.run(["systemctl", "start", "salt-master", "salt-minion"])
        salt.wait_for([NAME])
    entry = salt.salt(NAME, "openhim_break_glass.history")[NAME][-1]
    assert (entry["what"], entry["closed_because"]) == ("closed", "its time is over")


def test_what_came_due_while_the_host_was_off_ends_when_it_is_back(salt: SaltMaster) -> None:
    host = salt.host
    done = present(salt, valid_for=45, reason="orders are stuck again")
    assert done["result"] is True, done["comment"]
    host.run(["systemctl", "disable", "salt-master", "salt-minion"], check=False)
    (account,) = salt.salt(NAME, "openhim_break_glass.status")[NAME]
    assert account["problems"] == []
    host.kill()
    wait_for(lambda: _over(account["until"]), 90, "the time is over")
    host.boot()
    wait_for(lambda: python(host, USERS).strip() == "[]", 180, "the account ends")
    wait_for(lambda: timers(host) == "", 30, "the timer ends")


def _over(until: str) -> bool:
    return datetime.now(timezone.utc) > datetime.fromisoformat(until)
