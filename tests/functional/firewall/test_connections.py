"""What passes and what does not, seen by real connections between real network stacks."""

import copy

import pytest

CORE, DB, STRANGER, MASTER = "10.99.0.21", "10.99.0.11", "10.99.0.99", "10.99.0.10"
APPLIED = "openhim_firewall.applied"
FILE = "/etc/openhim-firewall/openhim.nft"


@pytest.fixture
def db(minion, network):
    network.listen("db", 27017, 22)
    return minion("db")


@pytest.fixture
def core(minion, network):
    network.listen("core", 8080, 5001, 5000, 6000, 6001, 22)
    return minion("core")


def applied(minion):
    result = minion.state(APPLIED, "firewall")
    assert result["result"] is True, result
    return result


def test_only_core_reaches_mongodb(network, db):
    assert network.connects("stranger", DB, 27017)
    applied(db)
    assert network.connects("core", DB, 27017)
    assert not network.connects("stranger", DB, 27017)


def test_everybody_reaches_the_routers_and_nothing_else_on_core(network, core):
    network.listen("core", 3000)
    applied(core)
    reached = [
        p for p in (8080, 5001, 5000, 6000, 22, 3000) if network.connects("stranger", CORE, p)
    ]
    assert reached == [8080, 5001, 5000]


def test_a_connection_that_was_there_before_goes_on_whoever_speaks_first(network, db):
    """As of a minion, which waits for what its master publishes: it says nothing by itself."""
    waiting, publisher = network.conversation("db", "core", CORE, 4505)
    strange, stranger = network.conversation("db", "master", MASTER, 4505)
    applied(db)
    publisher.sendall(b"a job")
    waiting.settimeout(1)
    assert waiting.recv(16) == b"a job"
    # Of who is no declared host, what was not asked for is dropped, as before.
    stranger.sendall(b"anything")
    strange.settimeout(1)
    with pytest.raises(TimeoutError):
        strange.recv(16)
    assert not network.connects("core", DB, 22)


def test_ssh_is_open_from_the_declared_networks_only(network, db):
    applied(db)
    assert network.connects("master", DB, 22)
    assert not network.connects("core", DB, 22)


def test_the_host_reaches_itself_and_the_world(network, db):
    network.listen("stranger", 9999)
    applied(db)
    assert network.connects("db", "127.0.0.1", 27017)
    assert network.connects("db", DB, 27017)
    assert network.connects("db", STRANGER, 9999)


def test_the_ports_of_live_tcp_channels_are_open_until_the_channel_goes(network, core):
    core.channels([6000])
    applied(core)
    assert network.connects("stranger", CORE, 6000)
    core.channels([6001])
    assert "kernel" in applied(core)["changes"]
    assert network.connects("stranger", CORE, 6001)
    assert not network.connects("stranger", CORE, 6000)


def test_the_last_known_tcp_ports_stay_open_when_openhim_cannot_be_asked(network, core):
    core.channels([6000])
    applied(core)
    core.openhim_is_down()
    result = applied(core)
    assert result["changes"] == {}
    assert "the last known ports stay open: 6000" in result["comment"]
    assert "connection refused" in result["comment"]
    assert network.connects("stranger", CORE, 6000)


def test_a_core_that_was_never_asked_opens_only_the_base_ports_and_says_so(network, core):
    core.openhim_is_down()
    result = applied(core)
    assert "never was before" in result["comment"]
    assert network.connects("stranger", CORE, 5001)
    assert not network.connects("stranger", CORE, 6000)


def test_what_openhim_says_is_not_remembered_in_test_mode(core):
    core.state(APPLIED, "firewall", test=True)
    assert core.asked() == [{"remember": False}]
    applied(core)
    assert core.asked()[-1] == {"remember": True}


def test_what_is_declared_as_extra_is_open(network, pillar, db):
    network.listen("db", 9100)
    pillar["openhim"]["firewall"]["extra"] = [{"port": 9100, "from": [STRANGER]}]
    applied(db)
    assert network.connects("stranger", DB, 9100)
    assert not network.connects("core", DB, 9100)


def test_a_second_run_changes_nothing(db):
    assert set(applied(db)["changes"]) == {"kernel", "file", "unit"}
    disk = db.disk()
    second = applied(db)
    assert second["changes"] == {}
    assert db.disk() == disk
    assert db.state(APPLIED, "firewall", test=True)["result"] is True


def test_test_mode_tells_the_changes_and_writes_nothing(network, db):
    result = db.state(APPLIED, "firewall", test=True)
    assert result["result"] is None
    assert set(result["changes"]) == {"kernel", "file", "unit"}
    assert db.disk() == {}
    assert network.nft("db", "list", "ruleset") == ""
    assert network.connects("stranger", DB, 27017)


def test_test_mode_does_not_repair_drift(network, db):
    applied(db)
    network.nft("db", "add", "rule", "inet", "openhim", "input", "tcp dport 1 accept")
    before, disk = network.nft("db", "list", "ruleset"), db.disk()
    result = db.state(APPLIED, "firewall", test=True)
    assert result["result"] is None
    assert "tcp dport 1 accept" in result["changes"]["kernel"]
    assert network.nft("db", "list", "ruleset") == before
    assert db.disk() == disk


@pytest.mark.parametrize("kind", ["added", "deleted", "flushed", "policy", "table"])
def test_drift_in_the_kernel_is_noticed_and_repaired(network, db, kind):
    applied(db)
    wanted = network.nft("db", "-s", "list", "ruleset")
    if kind == "added":
        network.nft("db", "insert", "rule", "inet", "openhim", "input", "tcp dport 27017 accept")
        assert network.connects("stranger", DB, 27017)
    elif kind == "deleted":
        handle = network.nft("db", "-a", "list", "table", "inet", "openhim")
        line = next(line for line in handle.splitlines() if "OpenHIM core" in line)
        network.nft("db", "delete", "rule", "inet", "openhim", "input", "handle", line.split()[-1])
        assert not network.connects("core", DB, 27017)
    elif kind == "flushed":
        network.nft("db", "flush", "table", "inet", "openhim")
    elif kind == "policy":
        network.nft("db", "chain", "inet", "openhim", "input", "{ policy accept ; }")
        assert network.connects("stranger", DB, 27017)
    else:
        network.nft("db", "delete", "table", "inet", "openhim")
    assert set(applied(db)["changes"]) == {"kernel"}
    assert network.nft("db", "-s", "list", "ruleset") == wanted
    assert network.connects("core", DB, 27017)
    assert not network.connects("stranger", DB, 27017)


def test_drift_in_the_files_is_repaired(db):
    applied(db)
    disk = db.disk()
    db.path(FILE).chmod(0o644)
    db.path("/etc/systemd/system/openhim-firewall.service").unlink()
    assert set(applied(db)["changes"]) == {"file", "unit"}
    assert db.disk() == disk


def test_the_file_for_the_boot_restores_the_same_table(network, db):
    applied(db)
    wanted = network.nft("db", "-s", "list", "ruleset")
    mode, text = db.disk()[FILE]
    assert mode == "0o600"
    network.nft("db", "flush", "ruleset")
    network.nft("db", "-f", "-", text=text)
    assert network.nft("db", "-s", "list", "ruleset") == wanted
    assert applied(db)["changes"] == {}


def test_other_tables_survive_our_apply_and_remove(network, db):
    network.nft("db", "-f", "-", text="table ip other { chain c { tcp dport 9 drop; }; }")
    other = network.nft("db", "list", "ruleset")
    applied(db)
    assert network.nft("db", "list", "table", "ip", "other") == other
    removed = db.state("openhim_firewall.absent", "no firewall")
    assert removed["result"] is True
    assert set(removed["changes"]) == {"kernel", "file", "unit"}
    assert network.nft("db", "list", "ruleset") == other
    assert network.connects("stranger", DB, 27017)
    assert db.state("openhim_firewall.absent", "no firewall")["changes"] == {}


def test_absent_removes_nothing_in_test_mode(network, db):
    applied(db)
    before, disk = network.nft("db", "list", "ruleset"), db.disk()
    result = db.state("openhim_firewall.absent", "no firewall", test=True)
    assert result["result"] is None
    assert set(result["changes"]) == {"kernel", "file", "unit"}
    assert network.nft("db", "list", "ruleset") == before
    assert db.disk() == disk


def test_invalid_rules_are_refused_before_anything_changes(network, db):
    applied(db)
    # With handles: a table that was taken away and put back has new ones.
    before, disk = network.nft("db", "-a", "list", "ruleset"), db.disk()
    # The first half is valid, and would leave the host without a firewall.
    text = "delete table inet openhim\ntable inet openhim { chain input { nonsense } }\n"
    assert "refused" in db.module("openhim_firewall.apply", text=text)["error"]
    assert network.nft("db", "-a", "list", "ruleset") == before
    assert db.disk() == disk


def test_a_name_in_place_of_an_address_is_refused_before_anything_changes(network, pillar, db):
    pillar["openhim"]["firewall"]["ssh_from"] = ["bastion.example.org"]
    result = db.state(APPLIED, "firewall")
    assert result["result"] is False
    assert "bastion.example.org" in result["comment"]
    assert network.nft("db", "list", "ruleset") == ""


class TestWithAMaster:
    """The minion reaches a real listener on the master's ports before the rules are loaded."""

    @pytest.fixture
    def db(self, db, network):
        network.listen("master", 4505, 4506)
        db.opts = {"file_client": "remote", "master": "10.99.0.10"}
        return db

    @pytest.fixture
    def cut(self, network):
        """Connections are not tracked, so no reply is known as one: our policy drops them all."""
        text = "table inet other {\n"
        for hook in ("prerouting", "output"):
            text += f"chain {hook} {{ type filter hook {hook} priority raw; notrack; }}\n"
        network.nft("db", "-f", "-", text=text + "}\n")

    def test_rules_that_keep_the_master_are_kept(self, network, db):
        applied(db)
        assert network.connects("db", "10.99.0.10", 4506)
        assert not network.connects("stranger", DB, 27017)

    def test_rules_that_cut_the_master_are_taken_back(self, network, db, cut):
        before = network.nft("db", "list", "ruleset")
        result = db.state(APPLIED, "firewall")
        assert result["result"] is False
        assert "10.99.0.10:4505" in result["comment"]
        assert "previous rules are back" in result["comment"]
        assert result["changes"] == {}
        assert network.nft("db", "list", "ruleset") == before
        assert network.connects("db", "10.99.0.10", 4506)
        assert FILE not in db.disk()

    def test_the_previous_rules_come_back_and_not_an_open_host(self, network, db):
        applied(db)
        before, file = network.nft("db", "-s", "list", "ruleset"), db.disk()[FILE]
        text = db.module("openhim_firewall.rules").replace("established, related", "related")
        assert "previous rules are back" in db.module("openhim_firewall.apply", text=text)["error"]
        assert network.nft("db", "-s", "list", "ruleset") == before
        assert db.disk()[FILE] == file
        assert applied(db)["changes"] == {}

    def test_a_master_that_was_not_reached_before_is_not_asked_for(self, network, db, cut):
        db.opts["master"] = "10.99.0.77"
        applied(db)

    def test_a_minion_without_a_master_is_not_rolled_back(self, network, db, cut):
        db.opts["file_client"] = "local"
        applied(db)
        assert not network.connects("db", "10.99.0.10", 4506)


def test_a_set_on_another_port_moves_the_opening(network, pillar, db):
    network.listen("db", 27100)
    moved = copy.deepcopy(pillar)
    moved["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"] = {"db": {"port": 27100}}
    db.pillar = moved
    applied(db)
    assert network.connects("core", DB, 27100)
    assert not network.connects("core", DB, 27017)
