"""Which host does what for the backups by itself."""

import pytest
from saltext.openhim.backup import schedule
from saltext.openhim.backup.declaration import Backups
from saltext.openhim.settings import from_pillar

from tests.unit.recovery.declared import DECLARED

BACKUP = {
    "taken_by": "south-db1",
    "verified_by": "south-core",
    "user": "backup",
    "repositories": {
        "near": {"url": "/near", "secret": "near", "pruned_by": "north-core"},
        "far": {"url": "/far", "secret": "far", "copy_of": "near", "pulled_by": "north-core"},
    },
    "schedule": {"take": 3600, "copy": 1800, "verify": 86400, "prune": 7200},
}


def backups(host, **changes):
    pillar = {"openhim": {**DECLARED, "backup": {**BACKUP, **changes}}}
    return Backups(from_pillar(pillar), host, pillar)


@pytest.mark.parametrize(
    ("host", "tasks"),
    [
        ("south-db1", {"take-near", "status"}),
        ("south-core", {"verify", "status"}),
        ("north-core", {"copy-far", "prune-near", "status"}),
        ("north-db1", set()),
    ],
)
def test_every_task_is_on_its_host_alone(host, tasks):
    found = schedule.wanted(backups(host))
    assert {name.removeprefix(schedule.PREFIX) for name in found} == tasks


def test_tasks_of_one_host_wait_for_each_other_and_a_look_does_not():
    found = schedule.wanted(backups("north-core"))
    waits = {
        name.removeprefix(schedule.PREFIX): e["kwargs"].get("wait") for name, e in found.items()
    }
    assert waits == {"copy-far": 21600, "prune-near": 21600, "status": None}


def test_what_no_schedule_is_declared_for_is_not_scheduled():
    assert schedule.wanted(backups("south-db1", schedule={})) == {}


def test_an_entry_that_differs_or_is_not_declared_changes_and_others_are_left_alone():
    declared = schedule.wanted(backups("south-db1"))
    take = f"{schedule.PREFIX}take-near"
    present = {
        take: {**declared[take], "seconds": 60, "enabled": True},
        f"{schedule.PREFIX}old": {"function": "openhim_backup.take"},
        "somebody else's": {"function": "test.ping"},
    }
    found = schedule.differences(present, declared)
    assert found[take]["old"]["seconds"] == 60
    assert found[take]["new"]["seconds"] == 3600
    assert found[f"{schedule.PREFIX}old"]["new"] is None
    assert "somebody else's" not in found
    assert schedule.differences({**declared}, declared) == {}


def test_the_hosts_with_a_task_are_asked_for_the_status():
    assert schedule.hosts_with_a_task(backups("south-db1").stack) == [
        "north-core",
        "south-core",
        "south-db1",
    ]


def test_the_oplogs_archiver_looks_and_who_prunes_it_does_so_by_schedule():
    archive = {
        "archived_by": "north-db1",
        "repository": {"url": "/oplog", "secret": "near", "pruned_by": "north-core"},
    }
    archive["copy"] = {"url": "/second", "secret": "near", "pulled_by": "south-db1"}
    found = schedule.wanted(backups("south-db1", oplog=archive))
    assert found[f"{schedule.PREFIX}copy-oplog"]["function"] == "openhim_backup.copy_oplog"
    assert "south-db1" in schedule.hosts_with_a_task(backups("north-db1", oplog=archive).stack)
    found = schedule.wanted(backups("north-db1", oplog=archive))
    assert f"{schedule.PREFIX}copy-oplog" not in found
    assert set(found) == {f"{schedule.PREFIX}status"}
    found = schedule.wanted(backups("north-core", oplog=archive))
    assert found[f"{schedule.PREFIX}prune-oplog"]["function"] == "openhim_backup.prune_oplog"
    assert "north-db1" in schedule.hosts_with_a_task(backups("north-db1", oplog=archive).stack)


def test_the_start_bundle_is_stored_and_judged_by_the_host_of_the_master():
    bundle = {"secret": "key", "repositories": {"near": {"url": "/bundle"}}}
    declared = {**DECLARED, "hosts": {**DECLARED["hosts"]}}
    declared["hosts"]["master"] = {"site": "north", "address": "10.0.0.9", "roles": ["master"]}
    schedules = {**BACKUP["schedule"], "bundle": 86400}
    backup = {**BACKUP, "bundle": bundle, "schedule": schedules}
    pillar = {"openhim": {**declared, "backup": backup}}
    stack = from_pillar(pillar)
    found = schedule.wanted(Backups(stack, "master", pillar))
    assert {name: entry["function"] for name, entry in found.items()} == {
        f"{schedule.PREFIX}bundle": "openhim_bundle.store",
        f"{schedule.PREFIX}status": "openhim_backup.status",
    }
    assert "master" in schedule.hosts_with_a_task(stack)
    for host in ("south-db1", "north-db1"):
        found = schedule.wanted(Backups(stack, host, pillar))
        assert f"{schedule.PREFIX}bundle" not in found
