"""What hosts say of real members, and what that is evidence of: one answer for each way to be ill."""

import copy
import signal
import time

import pytest
from saltext.openhim import settings, told
from saltext.openhim.recovery import layout, reports
from saltext.openhim.recovery.epochs import plain
from saltext.openhim.recovery.observations import PRIMARY, SECONDARY, Evidence, Saw, Status
from saltext.openhim.recovery.verdicts import Request, verdict
from saltext.openhim.settings import EPOCH_TAG

from tests.functional.mongodb.conftest import THREE
from tests.unit.recovery.reported import epoch

#: Somebody else's password: of a host whose pillar is not the members'.
FOREIGN = {"mongodb_keyfile": "an0therKeyfile" * 4, "mongodb_operator": "another"}


@pytest.fixture(scope="module")
def ill(replica_set):
    """A set whose members the tests of this file make ill."""
    cluster = replica_set(THREE)
    yield cluster
    cluster.stop()


@pytest.fixture(autouse=True)
def own_records(tmp_path, monkeypatch):
    """All hosts of these tests are this one, and its own folders are not theirs."""
    monkeypatch.setattr(told, "FILE", str(tmp_path / "record.json"))
    monkeypatch.setattr("saltext.openhim.gate.HIGHEST", str(tmp_path / "epoch"))


def evidence(cluster, loaders, pillars=None):
    """The evidence as a master has it that asked every host."""
    stack = settings.from_pillar(cluster.pillar)
    plan = layout.from_stack(stack)
    found = []
    for host, site in plan.hosts:
        pillar = (pillars or {}).get(host, cluster.pillar)
        answer = loaders(host, pillar).modules["openhim_dr.sighting"]()
        found.append(reports.heard(host, site, answer, time.time(), ()))
    assert [one.error for one in found] == [""] * len(found)
    return Evidence(plan, tuple(found), "")


def name(cluster, host):
    return f"openhim/{cluster.members[host].name}"


def test_a_healthy_set_is_seen_alike_from_everywhere(ill, loaders):
    ill.eventually(lambda: ill.states().get("north-db1") == "primary", what="the primary")
    ill.eventually(lambda: all(r.caught_up for r in evidence(ill, loaders).heard.values()))
    found = evidence(ill, loaders)
    assert [one.subject for one in found.primaries] == [name(ill, "north-db1")]
    states = {one.state for one in found.members.values()}
    assert states == {PRIMARY, SECONDARY}
    assert {one.status for one in found.members.values()} == {Status.ALIVE}
    assert all(len(one.seen_by) == 3 for one in found.members.values())
    times = [one.committed for one in found.members.values()]
    assert all(abs(time.time() - each) < 60 for each in times)
    ids = {look.set_id for r in found.heard.values() for look in r.members}
    assert len(ids) == 1 and None not in ids
    for report in found.heard.values():
        assert (report.gate_open, report.fenced, report.epochs) == (True, False, ())
        assert abs(report.clock) < 30


def test_whose_site_is_the_active_one_says_so_and_no_other(ill, loaders):
    found = evidence(ill, loaders)
    admits = {host: report.admits for host, report in found.heard.items()}
    assert admits == {"north-db1": True, "north-db2": True, "south-db1": False}


def test_who_was_told_of_an_epoch_knows_it_and_serves_accordingly(ill, loaders):
    modules = loaders("south-db1", ill.pillar).modules
    first = epoch(1, evidence={"seen": {"a": [1.5]}}, attestations=({"site": "north"},))
    own = modules["openhim_dr.tell"](plain([first]))
    assert own["admits"] is True, "its site is the active one now"
    found = evidence(ill, loaders)
    assert found.knows("south-db1", "1")
    assert found.known.current == first
    assert found.heard["north-db1"].admits is False, "by its record its site was given up"
    # What is known is not forgotten, whatever an old master says.
    modules["openhim_dr.tell"]([])
    assert evidence(ill, loaders).knows("south-db1", "1")


def test_credentials_that_are_refused_are_no_absence(ill, loaders):
    """The host with the wrong keyfile sees a member that lives and is not ours."""
    foreign = copy.deepcopy(ill.pillar)
    foreign["openhim"]["secrets"] |= FOREIGN
    found = evidence(ill, loaders, {"south-db1": foreign})
    seen = {look.subject: look for look in found.heard["south-db1"].members}
    assert {look.set_id for look in seen.values()} == {"not ours"}
    assert found.members[name(ill, "north-db1")].alive


def test_who_has_no_key_says_nothing_of_whose_members_they_are(ill, loaders):
    """Such as a host of OpenHIM: it would make a healthy stack look like two."""
    without = copy.deepcopy(ill.pillar)
    for key in FOREIGN:
        without["openhim"]["secrets"].pop(key, None)
    found = evidence(ill, loaders, {"south-db1": without})
    seen = {look.subject: look for look in found.heard["south-db1"].members}
    assert {look.set_id for look in seen.values()} == {None}
    assert verdict(found, Request("provision", "")).reasons == ()


def test_a_frozen_member_is_silent_and_alive_and_a_killed_one_is_unknown(ill, loaders):
    frozen, killed = ill.members["north-db2"], ill.members["south-db1"]
    frozen.signal(signal.SIGSTOP)
    killed.kill()
    try:
        found = evidence(ill, loaders)
        one = found.members[name(ill, "north-db2")]
        assert (one.status, one.alive) == (Status.SLOW, True)
        other = found.members[name(ill, "south-db1")]
        # No systemd here says that its unit does not run, so nobody may say that it is gone.
        assert (other.status, other.alive) == (Status.UNKNOWN, False)
        looks = [look for r in found.heard.values() for look in r.members]
        assert {k.saw for k in looks if k.subject == other.subject} == {Saw.UNREACHABLE}
    finally:
        frozen.signal(signal.SIGCONT)
        killed.start().wait()


def test_only_its_own_host_says_that_a_member_does_not_run(ill, loaders, monkeypatch):
    """Mocked: systemd, which knows the unit; a host of the lab has a real one."""
    ill.members["south-db1"].kill()
    monkeypatch.setattr("saltext.openhim.sighting._stopped", lambda unit: "openhim" in unit)
    try:
        found = evidence(ill, loaders)
        one = found.members[name(ill, "south-db1")]
        assert (one.status, one.seen_by) == (Status.DEAD, ("south-db1",))
    finally:
        ill.members["south-db1"].start().wait()


def test_a_configuration_says_in_which_epoch_it_was_made(ill, loaders):
    """By a tag, which every member tells to anybody."""
    with ill.members[ill.primary()].client() as client:
        config = client.admin.command("replSetGetConfig")["config"]
        for member in config["members"]:
            member["tags"] |= {EPOCH_TAG: "the id"}
        client.admin.command("replSetReconfig", {**config, "version": config["version"] + 1})
    ill.eventually(
        lambda: {one.epoch for one in evidence(ill, loaders).members.values()} == {"the id"},
        what="the tag at every member",
    )
