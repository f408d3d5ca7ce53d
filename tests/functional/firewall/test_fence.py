"""What a fence cuts, seen by real connections between real network stacks, and what is left of it
when a run is broken off."""

import json
import subprocess

import pytest

CORE, DB, STRANGER, MASTER = "10.99.0.21", "10.99.0.11", "10.99.0.99", "10.99.0.10"
ORDER = {"epoch": 1, "by": "Ada", "reason": "north burns"}
LIFTED = {"epoch": 1, "by": "Ada", "reason": "resynchronised"}
FILE = "/etc/openhim-fence/openhim-fence.nft"
RECORD = "/var/lib/saltext-openhim/fence.json"
MASK = "/etc/systemd/system.control/mongod-openhim.service"
#: A number that no user of this machine has.
MONGODB_UID = 64999


@pytest.fixture
def db(minion, network):
    network.listen("db", 27017, 22)
    return minion("db")


@pytest.fixture
def core(minion, network):
    network.listen("db", 27017)
    return minion("core")


def fenced(minion, **order):
    result = minion.state("openhim_fence.fenced", "fence", **{**ORDER, **order})
    assert result["result"] is True, result
    return result


def unfenced(minion, **order):
    result = minion.state("openhim_fence.unfenced", "no fence", **{**LIFTED, **order})
    assert result["result"] is True, result
    return result


def heard(conversation):
    """Whether what one end of a connection says arrives at the other end."""
    client, server = conversation
    client.sendall(b"?")
    server.settimeout(0.5)
    try:
        return server.recv(1) == b"?"
    except TimeoutError:
        return False


def table(network, name="db"):
    return network.nft(name, "-s", "list", "table", "inet", "openhim_fence")


def test_listening_and_established_connections_are_cut_on_every_interface(network, pillar, db):
    # Beside the listener, or the conversations would wait in its queue.
    pillar["openhim"]["mongodb"]["replica_sets"]["other"] = {"port": 27018, "members": {"db": {}}}
    conversations = [
        network.conversation("db", "db", "127.0.0.1", 27018),
        network.conversation("core", "db", DB, 27018),
    ]
    assert all(heard(conversation) for conversation in conversations)
    assert network.connects("core", DB, 27017)
    fenced(db)
    assert not any(heard(conversation) for conversation in conversations)
    assert not network.connects("core", DB, 27017)
    assert not network.connects("db", "127.0.0.1", 27017)
    assert not network.connects("db", DB, 27017)
    unfenced(db)
    assert network.connects("core", DB, 27017)
    assert network.connects("db", "127.0.0.1", 27017)


def test_a_fenced_openhim_does_not_reach_a_mongod_that_lives(network, core):
    conversation = network.conversation("core", "stranger", STRANGER, 27017)
    assert heard(conversation)
    fenced(core)
    assert not heard(conversation)
    assert not network.connects("core", DB, 27017)
    # It is the fenced host that is cut, and nobody else.
    assert network.connects("stranger", DB, 27017)


def test_openhims_routers_and_channels_are_cut(network, pillar, core):
    pillar["openhim"]["objects"] = {"channels": {"lab": {"type": "tcp", "tcpPort": 6100}}}
    network.listen("core", 8080, 5001, 5000, 6000, 6100, 3000)
    core.channels([6000])
    assert core.state("openhim_firewall.applied", "firewall")["result"] is True
    core.openhim_is_down()
    reached = [p for p in (8080, 5001, 5000, 6000, 6100) if network.connects("stranger", CORE, p)]
    assert reached == [8080, 5001, 5000, 6000, 6100]
    fenced(core)
    assert not any(network.connects("stranger", CORE, p) for p in reached)
    assert not any(network.connects("core", "127.0.0.1", p) for p in reached)
    assert network.connects("core", "127.0.0.1", 3000)


def test_ssh_and_salt_stay_open(network, pillar, db):
    # A channel on such a port must not lock people out.
    pillar["openhim"]["objects"] = {"channels": {"odd": {"type": "tcp", "tcpPort": 4506}}}
    conversation = network.conversation("db", "master", MASTER, 4506)
    fenced(db)
    assert heard(conversation)
    assert heard(network.conversation("db", "master", MASTER, 4505))
    assert network.connects("master", DB, 22)


def connects_from(network, source, own_port, address, port):
    """Whether a connection is made that comes from a port of one's choice."""
    script = (
        "import socket, sys; s = socket.socket(); s.settimeout(0.5); "
        f"s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('', {own_port})); "
        f"sys.exit(s.connect_ex(('{address}', {port})))"
    )
    command = ["ip", "netns", "exec", network.namespace(source), "python3", "-c", script]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_coming_from_salts_port_opens_nothing(network, db):
    assert connects_from(network, "core", 4505, DB, 27017)
    fenced(db)
    assert not connects_from(network, "core", 4505, DB, 27017)


def test_the_minion_reaches_its_master_from_a_port_that_is_cut(network, pillar, db):
    """The kernel may give it one: channels listen where connections begin, too."""
    pillar["openhim"]["objects"] = {"channels": {"high": {"type": "tcp", "tcpPort": 40000}}}
    network.listen("master", 4506)
    network.listen("stranger", 9999)
    fenced(db)
    assert connects_from(network, "db", 40000, MASTER, 4506)
    assert not connects_from(network, "db", 40000, STRANGER, 9999)


def test_what_the_services_send_is_cut_wherever_it_goes(network, db):
    with open("/etc/passwd") as file:  # noqa: PTH123
        users = file.read() + f"mongodb:x:{MONGODB_UID}:{MONGODB_UID}::/:/usr/sbin/nologin\n"
    db.path("/etc/passwd").parent.mkdir(parents=True, exist_ok=True)
    db.path("/etc/passwd").write_text(users)
    network.listen("stranger", 9999)
    assert network.connects_as(MONGODB_UID, "db", STRANGER, 9999)
    fenced(db)
    assert not network.connects_as(MONGODB_UID, "db", STRANGER, 9999)
    assert network.connects("db", STRANGER, 9999)


def test_the_firewalls_rollback_does_not_touch_the_fence(network, db):
    assert db.state("openhim_firewall.applied", "firewall")["result"] is True
    fenced(db)
    before = network.nft("db", "-a", "-s", "list", "table", "inet", "openhim_fence")
    network.listen("master", 4505, 4506)
    db.opts = {"file_client": "remote", "master": MASTER}
    cutting = db.module("openhim_firewall.rules").replace("established, related", "related")
    said = db.module("openhim_firewall.apply", text=cutting)
    assert "previous rules are back" in said["error"]
    # With handles: a table that was taken away and put back has new ones.
    assert network.nft("db", "-a", "-s", "list", "table", "inet", "openhim_fence") == before
    assert not network.connects("core", DB, 27017)
    assert db.state("openhim_firewall.absent", "no firewall")["result"] is True
    assert not network.connects("core", DB, 27017)


def test_who_why_and_the_epoch_are_recorded_for_root_alone(db):
    fenced(db)
    mode, text = db.disk()[RECORD]
    assert mode == "0o600"
    (order,) = json.loads(text)["orders"]
    assert {key: order[key] for key in ORDER} == ORDER
    status = db.module("openhim_fence.status")
    assert (status["fenced"], status["missing"]) == (True, {})
    assert {key: status[key] for key in ORDER} == ORDER


def test_the_file_for_the_boot_makes_the_same_fence(network, db):
    fenced(db)
    wanted = table(network)
    mode, text = db.disk()[FILE]
    assert mode == "0o600"
    network.nft("db", "flush", "ruleset")
    network.nft("db", "-f", "-", text=text)
    assert table(network) == wanted


def test_test_mode_tells_what_is_missing_and_writes_nothing(network, db):
    result = db.state("openhim_fence.fenced", "fence", **ORDER, test=True)
    assert result["result"] is None
    assert set(result["changes"]) == {"record", "kernel", "file", "unit", "masks"}
    assert db.disk() == {}
    assert network.nft("db", "list", "ruleset") == ""


def test_a_second_run_changes_nothing(network, db):
    assert set(fenced(db)["changes"]) == {"record", "kernel", "file", "unit", "masks"}
    disk, before = db.disk(), network.nft("db", "-a", "list", "ruleset")
    assert fenced(db, by="Grace", reason="to be sure")["changes"] == {}
    assert db.state("openhim_fence.fenced", "fence", **ORDER, test=True)["result"] is True
    assert (db.disk(), network.nft("db", "-a", "list", "ruleset")) == (disk, before)


def test_what_was_undone_by_hand_is_noticed_and_put_right(network, db):
    fenced(db)
    wanted = table(network)
    network.nft("db", "flush", "ruleset")
    db.path(MASK).unlink()
    left = db.module("openhim_fence.status")["missing"]
    assert set(left) == {"kernel", "masks"}
    assert set(fenced(db)["changes"]) == {"kernel", "masks"}
    network.nft("db", "insert", "rule", "inet", "openhim_fence", "input", "accept")
    assert set(fenced(db)["changes"]) == {"kernel"}
    assert table(network) == wanted


def test_a_newer_epoch_is_recorded_and_an_older_one_refused(db):
    fenced(db, epoch=3)
    assert fenced(db, epoch=4)["changes"] == {"epoch": {"old": 3, "new": 4}}
    said = db.module("openhim_fence.fence", epoch=2, by="Ada", reason="an old master")
    assert "epoch: found 2; this host knows of epoch 4" in said["error"]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"epoch": 0}, "epoch: found 0; this host knows of epoch 1"),
        ({"epoch": 2}, "epoch: found 2; the newest one that this host knows is 1"),
        ({"reason": " "}, "reason: found nothing"),
        ({"by": ""}, "by: found nothing"),
    ],
)
def test_a_fence_is_lifted_only_with_a_reason_and_the_current_epoch(network, db, order, words):
    fenced(db)
    disk, before = db.disk(), network.nft("db", "-a", "list", "ruleset")
    result = db.state("openhim_fence.unfenced", "no fence", **{**LIFTED, **order})
    assert result["result"] is False
    assert words in result["comment"]
    assert (db.disk(), network.nft("db", "-a", "list", "ruleset")) == (disk, before)


def test_a_lifted_fence_leaves_its_record_and_nothing_else(network, db):
    fenced(db)
    before = db.disk()
    foreseen = db.state("openhim_fence.unfenced", "no fence", **LIFTED, test=True)
    assert (foreseen["result"], db.disk()) == (None, before)
    assert unfenced(db)["changes"] == {"fence": "lifted"}
    status = db.module("openhim_fence.status")
    assert (status["fenced"], status["remains"]) == (False, [])
    assert status["last_order"]["reason"] == "resynchronised"
    assert network.nft("db", "list", "ruleset") == ""
    assert not {FILE, MASK} & set(db.disk())
    assert unfenced(db, epoch=0, reason="")["changes"] == {}


def test_a_record_that_cannot_be_read_counts_as_a_fence_and_is_written_anew(network, db):
    fenced(db)
    db.path(RECORD).write_text("half a fi")
    status = db.module("openhim_fence.status")
    assert status["fenced"] is True
    assert "cannot be read" in status["missing"]["record"]
    assert "record" in fenced(db)["changes"]
    assert json.loads(db.disk()[RECORD][1])["orders"][-1]["by"] == "Ada"
    db.path(RECORD).write_text("half a fi")
    # The order is lost with the record; this host knows its epoch from elsewhere.
    db.path("/var/lib/saltext-openhim/epoch").write_text("1\n")
    unfenced(db)
    assert network.connects("core", DB, 27017)


def test_an_epoch_that_cannot_be_read_allows_a_fence_and_no_lifting(db):
    fenced(db)
    db.path("/var/lib/saltext-openhim/epoch").write_text("half")
    assert db.module("openhim_fence.fence", **{**ORDER, "epoch": 2})["epoch"] == 2
    said = db.module("openhim_fence.unfence", epoch=2, by="Ada", reason="resynchronised")
    assert "cannot be read" in said["error"]


#: Loaded into the minion: ends its process where a step begins, as a power loss would.
BREAKING = """\
import os
from saltext.openhim import fence_host, nftables, systemd
PLACES = {"fence_host": fence_host, "nftables": nftables, "systemd": systemd}
def before(verb, step):
    place, name = step.split(".")
    setattr(PLACES[place], name, lambda *_, **__: os._exit(9))
    __salt__["openhim_fence." + verb](epoch=1, by="Ada", reason="broken off")
"""


def broken_off(minion, verb, step):
    (minion.folder / "modules" / "breaking.py").write_text(BREAKING)
    with pytest.raises(AssertionError, match="ended with"):
        minion.module("breaking.before", verb, step)


@pytest.mark.parametrize(
    "step",
    [
        "nftables.nft",
        "fence_host._persist",
        "systemd.mask",
        "systemd.stop",
        "fence_host._close_gate",
    ],
)
def test_a_fence_that_was_broken_off_is_finished_by_the_next_run(network, db, step):
    broken_off(db, "fence", step)
    status = db.module("openhim_fence.status")
    # The gate reads the same record: from the first step on the host does not start its services.
    assert status["fenced"] is True
    if step != "nftables.nft":
        assert not network.connects("core", DB, 27017)
    fenced(db)
    assert db.module("openhim_fence.status")["missing"] == {}
    assert not network.connects("core", DB, 27017)


@pytest.mark.parametrize(
    "step", ["nftables.nft", "fence_host._remove_unit", "systemd.unmask", "fence_host.remains"]
)
def test_a_lifting_that_was_broken_off_leaves_a_host_that_cannot_write(network, db, step):
    fenced(db)
    broken_off(db, "unfence", step)
    status = db.module("openhim_fence.status")
    assert (status["fenced"], status["lifting"]) == (True, True)
    if step != "fence_host.remains":
        assert db.path(MASK).is_symlink()
    assert unfenced(db)["changes"] == {"fence": "lifted"}
    assert db.module("openhim_fence.status")["remains"] == []
    assert network.connects("core", DB, 27017)
