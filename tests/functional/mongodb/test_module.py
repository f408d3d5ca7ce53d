"""The execution module: what a person at ``salt-call`` gets."""

import copy
import ipaddress
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from salt.exceptions import CommandExecutionError

from tests.functional.conftest import PATIENCE


@pytest.fixture
def call(three, loaders):
    """Calls a function of the module as one host."""

    def called(function, *args, host="south-db1", pillar=None, **kwargs):
        modules = loaders(host, pillar or three.pillar).modules
        return modules[f"mongodb_replset.{function}"](*args, **kwargs)

    return called


def test_status_tells_each_member_with_its_site(three, call):
    three.primary()
    found = call("wait_healthy", timeout=PATIENCE)
    assert found["problems"] == []
    by_host = {m["host"]: m for m in found["members"]}
    assert set(by_host) == set(three.members)
    assert by_host["south-db1"]["site"] == "south"
    assert by_host["south-db1"]["state"] == "SECONDARY"
    assert 0 <= by_host["south-db1"]["lag_seconds"] < 15
    assert found["primary"] == three.members[three.primary()].name
    assert found == call("status") | {k: found[k] for k in ("members", "last_committed")}
    sites = call("members_by_site")
    assert {site: len(members) for site, members in sites.items()} == {"north": 2, "south": 1}
    assert set(call("lag")) == {m.name for m in three.members.values()}


def test_the_oplog_window_and_the_last_committed_write_are_told(three, call):
    window = call("oplog_window")
    assert window["max_mb"] == 64
    assert window["first"] < window["last"]
    committed = call("last_committed")
    age = datetime.now(timezone.utc) - datetime.fromisoformat(committed["time"])
    assert age < timedelta(seconds=30)


def test_probe_tells_one_silence_from_another(three, call, cluster_factory):
    uninitiated = cluster_factory({"a": {"site": "north"}}, set_name="other").members["a"]
    foreign = cluster_factory({"a": {"site": "x"}}, keyfiles={"a": "foreignforeign"}).members["a"]
    naked = cluster_factory({"a": {"site": "x"}}, keyfiles={"a": ""}).members["a"]
    alone = cluster_factory({"a": {"site": "x"}}, set_name="").members["a"]
    words = {
        "localhost:1": "unreachable (connection refused)",
        "no-such-name.invalid:27017": "unreachable (the name no-such-name.invalid is unknown)",
        uninitiated.name: "not initiated",
        foreign.name: "wrong keyfile (it does not accept our keyfile)",
        naked.name: "wrong keyfile (it runs without authentication and has no keyfile)",
        alone.name: "not a replica-set mongod",
        three.members["south-db1"].name: "member of the replica set openhim, state SECONDARY",
    }
    for address, expected in words.items():
        assert expected in call("probe", address)[address]["words"]
    assert len(call("probe")) == 3
    for mongod in (uninitiated, foreign, naked, alone):
        mongod.kill()


def test_a_frozen_member_is_silent_and_not_absent(three, call):
    frozen = three.members["north-db2"]
    frozen.signal(19)
    try:
        found = call("probe", frozen.name)[frozen.name]
    finally:
        frozen.signal(18)
    assert found["kind"] == "silent"
    assert "timed out" in found["words"]


def test_the_primary_steps_down_and_a_frozen_member_does_not_stand(replica_set, loaders):
    cluster = replica_set({f"db{n}": {"site": "north", "priority": 1} for n in (1, 2, 3)})
    first = cluster.primary()
    frozen, heir = (host for host in cluster.members if host != first)
    loaders(frozen, cluster.pillar).modules["mongodb_replset.freeze"](60)
    stepped = loaders(heir, cluster.pillar).modules["mongodb_replset.step_down"](seconds=30)
    assert stepped == {"before": cluster.members[first].name, "after": cluster.members[heir].name}
    assert loaders(heir, cluster.pillar).modules["mongodb_replset.is_primary"]() is True
    cluster.stop()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("status", {}),
        ("config", {}),
        ("pending", {}),
        ("lag", {}),
        ("last_committed", {}),
        ("oplog_window", {}),
        ("members_by_site", {}),
        ("wait_healthy", {"timeout": 0}),
        ("add", {"member": "north-db2", "timeout": 0}),
        ("remove", {"member": "localhost:99", "timeout": 0}),
        ("reconfigure", {"timeout": 0}),
        ("step_down", {}),
        ("freeze", {"seconds": 1}),
        ("initiate", {"timeout": 0}),
        ("promotion", {}),
        ("user_logs_in", {"name": "openhim", "secret": "mongodb_openhim"}),
    ],
)
def test_every_function_says_in_words_that_the_member_is_down(three, call, function, arguments):
    pillar = copy.deepcopy(three.pillar)
    members = pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]
    for port, values in enumerate(members.values(), start=1):
        values["port"] = port
    with pytest.raises(CommandExecutionError) as error:
        call(function, pillar=pillar, **arguments)
    assert "refused" in str(error.value)
    assert pillar["openhim"]["secrets"]["mongodb_operator"] not in str(error.value)


def test_a_foreign_operator_password_is_unauthorized_and_not_absent(three, call):
    pillar = copy.deepcopy(three.pillar)
    pillar["openhim"]["secrets"]["mongodb_operator"] = "wrong"
    with pytest.raises(CommandExecutionError, match="does not accept the credentials"):
        call("status", pillar=pillar)
    del pillar["openhim"]["secrets"]["mongodb_operator"]
    with pytest.raises(CommandExecutionError, match="no password of the MongoDB operator"):
        call("status", pillar=pillar)


def test_two_sets_on_one_host_must_be_named(three, call):
    pillar = copy.deepcopy(three.pillar)
    sets = pillar["openhim"]["mongodb"]["replica_sets"]
    sets["audit"] = {"members": {"south-db1": {"port": 27117}}}
    with pytest.raises(CommandExecutionError, match=r"audit, openhim; name one with set=NAME"):
        call("status", pillar=pillar)
    assert call("status", set="openhim", pillar=pillar)["set"] == "openhim"
    found = {i["set"]: (i["port"], i["unit"]) for i in call("instances", pillar=pillar)}
    assert found["audit"] == (27117, "mongod-audit.service")
    assert call("mongod_config", "audit", pillar=pillar)["replication"]["replSetName"] == "audit"
    with pytest.raises(CommandExecutionError, match="'reports' is not in openhim:mongodb"):
        call("status", set="reports", pillar=pillar)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority and one certificate of it, for this machine."""
    folder = tmp_path_factory.mktemp("tls")
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
        for text in ("test authority", "localhost")
    )
    now = datetime.now(timezone.utc)

    def build(subject, public_key):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name)
        builder = builder.public_key(public_key).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))

    ca = build(ca_name, ca_key.public_key())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    host = build(name, key.public_key())
    host = host.add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    key_bytes = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    host_bytes = host.sign(ca_key, hashes.SHA256()).public_bytes(pem)
    (folder / "mongodb.pem").write_bytes(host_bytes + key_bytes)
    return folder


def test_a_set_with_tls_is_initiated_and_read(replica_set, certificates, loaders):
    tls = ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", certificates / "mongodb.pem"]
    tls += ["--tlsCAFile", certificates / "ca.crt", "--tlsAllowConnectionsWithoutCertificates"]
    cluster = replica_set(
        {"north-db1": {"site": "north", "priority": 2}, "south-db1": {"site": "south"}},
        extra=tls,
        ca=certificates / "ca.crt",
        tls=True,
        tls_ca_file=str(certificates / "ca.crt"),
    )
    modules = loaders("south-db1", cluster.pillar).modules
    assert modules["mongodb_replset.wait_healthy"](timeout=PATIENCE)["problems"] == []
    plain = copy.deepcopy(cluster.pillar)
    plain["openhim"]["mongodb"]["tls"] = False
    with pytest.raises(CommandExecutionError, match="does not answer"):
        loaders("south-db1", plain).modules["mongodb_replset.status"]()
    cluster.stop()
