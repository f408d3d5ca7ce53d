"""``up_to_date``: members have what is on their disks, one after the other, and the set stays up."""

import copy
import hashlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from saltext.openhim.errors import OpenHIMError, Refused
from saltext.openhim.mongo import config, restart
from saltext.openhim.mongo.connection import vantage

from tests.authority import Authority, pem
from tests.functional.conftest import PATIENCE
from tests.functional.mongodb.conftest import THREE


class Unit:
    """What systemd does for one mongod of a test: it starts it, and notes with what."""

    def __init__(self, cluster, host):
        self.mongod = cluster.members[host]
        self.vantage = vantage(cluster.pillar, host, cluster.set_name)
        self.file = self.mongod.folder / "mongod.conf"
        self.file.write_text("as it was\n")
        known = config.instances(self.vantage.stack, host)
        tls = self.mongod.folder / "mongodb.pem"
        self.instance = {
            **known[0],
            "binary": str(self.mongod.binary),
            "started_with": str(self.mongod.folder / "started-with"),
            "certificate": str(tls) if tls.exists() else None,
        }
        self.away = []
        self.note()

    def note(self):
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        (self.mongod.folder / "started-with").write_text(f"{digest}  {self.file}\n")

    def restart(self):
        begin = time.monotonic()
        self.mongod.signal(15)
        self.mongod.process.wait()
        self.note()
        self.mongod.start().wait()
        self.away.append((begin, time.monotonic()))

    def bring_up_to_date(self, timeout=PATIENCE):
        return restart.bring_up_to_date(self.vantage, self.instance, self.restart, timeout)


@pytest.fixture
def units(three):
    # The one with the highest priority: it would take over in the middle of a test.
    three.eventually(lambda: three.primary() == "north-db1", what="the primary that stays")
    return {host: Unit(three, host) for host in three.members}


def change(units):
    for unit in units.values():
        unit.file.write_text("as it shall be\n")


def at_once(units):
    with ThreadPoolExecutor(len(units)) as pool:
        done = pool.map(lambda unit: unit.bring_up_to_date(), units.values())
        return dict(zip(units, done, strict=True))


def test_a_mongod_that_has_everything_is_left_alone(units):
    assert at_once(units) == {host: [] for host in units}
    assert not any(unit.away for unit in units.values())


def test_all_hosts_at_once_restart_one_after_the_other_and_every_write_is_taken(three, units):
    before = three.primary()
    change(units)
    stop, taken = threading.Event(), []

    def write():
        with units["north-db1"].vantage.primary() as client:
            while not stop.is_set():
                try:
                    client.openhim.story.insert_one({"_id": len(taken)})
                    taken.append(time.monotonic())
                except Exception:
                    time.sleep(0.05)  # an election

    writer = threading.Thread(target=write)
    writer.start()
    done = at_once(units)
    stop.set()
    writer.join()
    for host, unit in units.items():
        assert len(unit.away) == 1, (host, unit.away)
        assert any(f"{unit.file} has changed" in what for what in done[host])
    assert any("stepped down for" in what for what in done[before])
    times = sorted(unit.away[0] for unit in units.values())
    for (_, back), (begin, _) in itertools.pairwise(times):
        assert back < begin, times
    with units["north-db1"].vantage.primary() as client:
        assert client.openhim.story.count_documents({}) >= len(taken)
        assert client[restart.LEASE_DATABASE][restart.LEASE_COLLECTION].count_documents({}) == 0
        client.openhim.story.drop()
    assert at_once(units) == {host: [] for host in units}


def test_a_set_that_cannot_do_without_the_member_keeps_it(three, units):
    primary = three.primary()
    away, other = [host for host in three.members if host != primary]
    change(units)
    three.members[away].kill()
    # It judges by what its own member sees, which hears of a loss later than the primary at times.
    three.eventually(lambda: _unwell(units[other]), what="the loss is seen")
    with pytest.raises(Refused, match="could not do without it") as refused:
        units[other].bring_up_to_date(timeout=2)
    assert three.members[away].name in str(refused.value)
    assert not units[other].away
    three.members[away].start().wait()
    three.eventually(
        lambda: not _unwell(units[primary]) and not _unwell(units[other]), what="it is back"
    )


def test_who_does_not_come_back_keeps_the_others_from_the_same(three, units, monkeypatch):
    """Mocked: that the set could do without one more, as one of five members can."""
    monkeypatch.setattr(restart, "needed_members", lambda *_: None)
    ill, well = [host for host in three.members if host != three.primary()]
    change(units)

    def fail():
        three.members[ill].kill()
        raise OpenHIMError("it does not start")

    with pytest.raises(OpenHIMError, match="does not start"):
        restart.bring_up_to_date(units[ill].vantage, units[ill].instance, fail, PATIENCE)
    three.eventually(lambda: _unwell(units[well]), what="the loss is seen")
    with pytest.raises(Refused, match=f"{three.members[ill].name} was the last to be restarted"):
        units[well].bring_up_to_date(timeout=2)
    assert not units[well].away
    three.members[ill].start().wait()
    three.eventually(lambda: not _unwell(units[well]), what="it is back")
    units[well].restart = units[well].note
    assert units[well].bring_up_to_date()
    with units[well].vantage.primary() as client:
        assert client[restart.LEASE_DATABASE][restart.LEASE_COLLECTION].count_documents({}) == 0


def test_an_election_is_waited_out_and_no_reason_to_restart_at_once(three, units):
    """Nobody knows a primary then, and a set without one seems to have nothing to lose."""
    primary = three.primary()
    unit = next(unit for host, unit in units.items() if host != primary)
    unit.file.write_text("as it shall be\n")
    knew = []

    def restart_it():
        knew.append(any(state == "primary" for state in three.states().values()))
        unit.note()

    for host, mongod in three.members.items():
        with mongod.client() as client:
            if host != primary:
                client.admin.command("replSetFreeze", 5)
    with three.members[primary].client() as client:
        client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=0, force=True)
    assert "primary" not in three.states().values()
    assert restart.bring_up_to_date(unit.vantage, unit.instance, restart_it, PATIENCE)
    assert knew == [True]


def test_who_is_lost_while_the_primary_steps_down_is_noticed(three, units, monkeypatch):
    """Mocked: no member can be lost in just those seconds."""
    unit = units[three.primary()]
    unit.file.write_text("as it shall be\n")
    needed = [None]
    monkeypatch.setattr(restart, "needed_members", lambda *_: needed[-1])

    def step_down(*_, **__):
        needed.append("another one is lost")
        return {"after": "another one"}

    monkeypatch.setattr(restart.change, "step_down", step_down)
    with pytest.raises(Refused, match="another one is lost"):
        unit.bring_up_to_date(timeout=10)
    assert not unit.away


def _unwell(unit):
    with unit.vantage.own() as client:
        members = client.admin.command("replSetGetStatus")["members"]
    return [m["name"] for m in members if m["stateStr"] not in ("PRIMARY", "SECONDARY")]


def test_who_died_with_the_turn_loses_it_and_who_lives_keeps_it(three, units, monkeypatch):
    primary = three.primary()
    other = next(host for host in three.members if host != primary)
    change(units)
    with units[primary].vantage.primary() as client:
        assert restart._take(client, units[primary].vantage)[0] == three.members[primary].name
        with pytest.raises(Refused, match=f"the turn of {three.members[primary].name}"):
            units[other].bring_up_to_date(timeout=2)
        monkeypatch.setattr(restart, "LEASE_SECONDS", -1)
        restart._take(client, units[primary].vantage)
    monkeypatch.undo()
    assert units[other].bring_up_to_date()


def test_a_new_keyfile_waits_for_no_turn(three, units, monkeypatch):
    """The others would not let it in, nor it them: the turn would never end."""
    unit = units["south-db1"]
    change(units)
    monkeypatch.setattr(restart, "KEYFILE_PATH", str(unit.file))
    with unit.vantage.primary() as client:
        restart._take(client, units["north-db1"].vantage)
        assert unit.bring_up_to_date(timeout=5)
        restart._give_back(client, units["north-db1"].vantage)
    three.eventually(lambda: not _unwell(unit), what="it is back")


def test_what_it_was_started_with_is_unknown_is_a_reason_to_restart(units):
    unit = units["south-db1"]
    (unit.mongod.folder / "started-with").unlink()
    (reason,) = restart.pending(unit.vantage, unit.instance).reasons
    assert "not on record" in reason


def test_another_version_is_pending_and_is_refused_until_its_binary_is_there(three, units):
    pillar = copy.deepcopy(three.pillar)
    pillar["openhim"]["mongodb"]["version"] = "6.0.27"
    unit = units["south-db1"]
    unit.vantage = vantage(pillar, "south-db1", three.set_name)
    running = three.members["south-db1"]
    assert restart.pending(unit.vantage, unit.instance).words == [
        "it runs version 6.0.5, declared is 6.0.27"
    ]
    with pytest.raises(Refused, match=f"{running.binary} is version 6.0.5, declared is 6.0.27"):
        unit.bring_up_to_date()
    assert not unit.away


def test_a_restart_that_changes_nothing_is_no_success(units):
    unit = units["south-db1"]
    unit.file.write_text("as it shall be\n")
    with pytest.raises(OpenHIMError, match=r"still lacks: .*has changed since"):
        restart.bring_up_to_date(unit.vantage, unit.instance, lambda: None, PATIENCE)


def test_the_state_previews_in_test_mode_and_writes_nothing(three, units, loaders):
    states = loaders("south-db1", three.pillar, test=True).states
    before = three.members["south-db1"].process.pid
    ret = states["mongodb_replset.up_to_date"](name="openhim")
    # This machine's mongods have no unit: what they were started with is not on record.
    assert ret["result"] is None
    assert "not on record" in str(ret["changes"])
    watched = states["mongodb_replset.mod_watch"](name="openhim", sfun="up_to_date")
    assert (watched["result"], watched["changes"]) == (None, {})
    assert three.members["south-db1"].process.pid == before
    assert three.members["south-db1"].process.poll() is None
    with units["south-db1"].vantage.primary() as client:
        assert restart.LEASE_DATABASE not in client.list_database_names() or not client[
            restart.LEASE_DATABASE
        ][restart.LEASE_COLLECTION].count_documents({})


@pytest.fixture
def secured(replica_set, tmp_path):
    """A set with TLS whose certificates can be renewed."""
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(pem(authority.certificate))

    def renew():
        certificate, key = authority.issue(["localhost", "127.0.0.1"])
        (tmp_path / "mongodb.pem").write_bytes(certificate + key)

    renew()
    tls = ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", tmp_path / "mongodb.pem"]
    tls += ["--tlsCAFile", tmp_path / "ca.crt", "--tlsAllowConnectionsWithoutCertificates"]
    one = {"north-db1": dict(THREE["north-db1"])}
    ca = tmp_path / "ca.crt"
    cluster = replica_set(one, extra=tls, ca=ca, tls=True, tls_ca_file=str(ca))
    cluster.renew = renew
    cluster.certificate = tmp_path / "mongodb.pem"
    yield cluster
    cluster.stop()


def test_a_new_certificate_is_taken_without_a_restart(secured):
    unit = Unit(secured, "north-db1")
    unit.instance["certificate"] = str(secured.certificate)
    assert unit.bring_up_to_date() == []
    secured.renew()
    assert restart.pending(unit.vantage, unit.instance).certificate == str(secured.certificate)
    (done,) = unit.bring_up_to_date()
    assert "without a restart" in done
    assert not unit.away
    assert not restart.pending(unit.vantage, unit.instance)


def test_a_certificate_that_is_not_taken_restarts_into_no_other_version(secured, tmp_path):
    """A package's update may have replaced the binary under the mongod that runs."""
    unit = Unit(secured, "north-db1")
    unit.instance["certificate"] = str(secured.certificate)
    newer = tmp_path / "mongod"
    newer.write_text("#!/bin/sh\necho 'db version v6.0.27'\n")
    newer.chmod(0o755)
    unit.instance["binary"] = str(newer)
    secured.renew()
    whole = secured.certificate.read_bytes()
    secured.certificate.write_bytes(whole[: whole.index(b"-----BEGIN PRIVATE KEY")])
    with pytest.raises(Refused, match=f"{newer} is version 6.0.27, declared is 6.0.5; nothing was"):
        unit.bring_up_to_date()
    assert not unit.away
