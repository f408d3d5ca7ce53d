"""The TLS files of a host, and the certificates that its servers hand out."""

import json
import subprocess

import pytest

from tests import ports
from tests.authority import pem

NAMES = ["db1", "10.99.0.11"]
#: Its user is on every machine, and is not root.
MONGOD = {"user": "nobody", "group": "nogroup"}
FOLDER = "/etc/openhim-tls"


@pytest.fixture
def secrets(pillar, ca):
    certificate, key = ca.issue(NAMES)
    secrets = {
        "tls_ca": pem(ca.certificate).decode(),
        "tls_certificate": certificate.decode(),
        "tls_key": key.decode(),
    }
    pillar["openhim"]["secrets"] = secrets
    return secrets


def tls_files(minion, test=False):
    return minion.state("openhim_host.tls_files", "files", test=test, **MONGOD)


def modes(minion):
    return {path: mode for path, (mode, _) in minion.disk().items()}


def test_the_files_of_the_pillar_are_written_with_their_modes(minion, secrets):
    db = minion()
    result = tls_files(db)
    assert result["result"] is True, result
    assert modes(db) == {
        f"{FOLDER}/ca.crt": "0o644",
        f"{FOLDER}/host.crt": "0o644",
        f"{FOLDER}/host.key": "0o600",
        f"{FOLDER}/mongodb.pem": "0o600",
    }
    disk = db.disk()
    assert disk[f"{FOLDER}/host.key"][1] == secrets["tls_key"]
    assert disk[f"{FOLDER}/mongodb.pem"][1] == secrets["tls_certificate"] + secrets["tls_key"]
    assert db.path(f"{FOLDER}/mongodb.pem").owner() == "nobody"
    assert db.path(f"{FOLDER}/host.key").owner() == "root"
    assert tls_files(db)["changes"] == {}


def test_no_line_of_the_key_is_in_what_the_state_returns(minion, secrets):
    db = minion()
    told = json.dumps([tls_files(db, test=True), tls_files(db), tls_files(db)])
    for line in secrets["tls_key"].splitlines():
        assert line not in told


def test_a_host_without_a_member_gets_no_file_for_mongod(minion, secrets, ca):
    certificate, key = ca.issue(["core", "10.99.0.21"])
    secrets.update(tls_certificate=certificate.decode(), tls_key=key.decode())
    core = minion("core")
    assert tls_files(core)["result"] is True
    assert f"{FOLDER}/mongodb.pem" not in core.disk()


def test_test_mode_tells_what_would_be_written_and_writes_nothing(minion, secrets):
    db = minion()
    result = tls_files(db, test=True)
    assert result["result"] is None
    assert set(result["changes"]) == {f"{FOLDER}/{n}" for n in FILES}
    assert db.disk() == {}


FILES = ("ca.crt", "host.crt", "host.key", "mongodb.pem")


@pytest.mark.parametrize("file", FILES)
def test_a_mode_or_a_content_that_was_changed_is_repaired(minion, secrets, file):
    db = minion()
    tls_files(db)
    disk = db.disk()
    db.path(f"{FOLDER}/{file}").chmod(0o666)
    found = tls_files(db)["changes"]
    assert list(found) == [f"{FOLDER}/{file}"]
    assert found[f"{FOLDER}/{file}"]["mode"]["old"] == "0666"
    db.path(f"{FOLDER}/{file}").write_text("other")
    assert tls_files(db)["changes"] == {f"{FOLDER}/{file}": {"content": "differs"}}
    assert db.disk() == disk


def test_a_key_of_another_certificate_is_refused_before_anything_is_written(minion, secrets, ca):
    db = minion()
    secrets["tls_key"] = ca.issue(NAMES)[1].decode()
    result = tls_files(db)
    assert result["result"] is False
    assert "the key is not the certificate's" in result["comment"]
    assert db.disk() == {}


def test_a_missing_secret_is_named(minion, secrets):
    del secrets["tls_key"]
    result = tls_files(minion())
    assert result["result"] is False
    assert "openhim:secrets:tls_key" in result["comment"]


def test_a_user_that_is_not_there_is_said(minion, secrets):
    result = minion().state("openhim_host.tls_files", "files", user="no-such-user")
    assert result["result"] is False
    assert "no-such-user" in result["comment"]


class TestCombined:
    """``mongodb.pem`` of a certificate that other states issued."""

    @pytest.fixture
    def db(self, minion, ca):
        db = minion()
        folder = db.path(f"{FOLDER}/ca.crt").parent
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(pem(ca.certificate))
        self.renew(db, ca)
        return db

    @staticmethod
    def renew(db, ca):
        certificate, key = ca.issue(NAMES)
        db.path(f"{FOLDER}/host.crt").write_bytes(certificate)
        db.path(f"{FOLDER}/host.key").write_bytes(key)
        return (certificate + key).decode()

    def combined(self, db, test=False):
        return db.state("openhim_host.combined_pem", "pem", test=test, **MONGOD)

    def test_it_is_made_once_and_again_after_a_renewal(self, db, ca):
        assert set(self.combined(db)["changes"]) == {f"{FOLDER}/mongodb.pem"}
        assert self.combined(db)["changes"] == {}
        renewed = self.renew(db, ca)
        assert self.combined(db, test=True)["result"] is None
        assert db.disk()[f"{FOLDER}/mongodb.pem"][1] != renewed
        assert self.combined(db)["result"] is True
        assert db.disk()[f"{FOLDER}/mongodb.pem"] == ("0o600", renewed)

    def test_a_half_renewed_pair_is_refused_and_the_old_file_stays(self, db, ca):
        self.combined(db)
        before = db.disk()[f"{FOLDER}/mongodb.pem"]
        db.path(f"{FOLDER}/host.key").write_bytes(ca.issue(NAMES)[1])
        result = self.combined(db)
        assert result["result"] is False
        assert "the key is not the certificate's" in result["comment"]
        assert db.disk()[f"{FOLDER}/mongodb.pem"] == before

    def test_without_a_certificate_it_fails_and_in_test_mode_leaves_it_open(self, db):
        db.path(f"{FOLDER}/host.crt").unlink()
        result = self.combined(db, test=True)
        assert result["result"] is None
        assert f"{FOLDER}/host.crt" in result["comment"]
        assert self.combined(db)["result"] is False
        assert f"{FOLDER}/mongodb.pem" not in db.disk()


class TestValidity:
    """Certificates in files, and the one that a real mongod hands out."""

    @pytest.fixture
    def db(self, minion, secrets, pillar):
        db = minion()
        tls_files(db)
        return db

    @pytest.fixture
    def mongod(self, db, mongod_binary, tmp_path, pillar):
        """A mongod with the host's certificate, stopped afterwards."""
        started = []

        def start():
            port = ports.free()
            pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["port"] = port
            data = tmp_path / "mongod"
            data.mkdir()
            command = [str(mongod_binary), "--dbpath", str(data), "--port", str(port), "--fork"]
            command += ["--logpath", str(data / "log"), "--tlsMode", "requireTLS"]
            for option, name in (("tlsCertificateKeyFile", "mongodb.pem"), ("tlsCAFile", "ca.crt")):
                command += [f"--{option}", str(db.path(f"{FOLDER}/{name}"))]
            command += ["--tlsAllowConnectionsWithoutCertificates"]
            subprocess.run(command, check=True, capture_output=True, text=True)
            started.append((command[0], "--dbpath", str(data), "--shutdown"))
            return port

        yield start
        for command in started:
            subprocess.run(command, check=True, capture_output=True)

    def valid(self, db, test=False, **arguments):
        return db.state("openhim_host.certificates_valid", "valid", test=test, **arguments)

    def test_valid_certificates_in_files_and_served_are_fine(self, db, mongod):
        port = mongod()
        result = self.valid(db)
        assert result["result"] is True, result
        assert result["comment"].startswith("4 certificates")
        assert f"port {port}" in json.dumps(db.module("openhim_host.certificates"))

    def test_a_renewed_file_that_mongod_has_not_loaded_still_counts_as_old(
        self, db, mongod, secrets, ca
    ):
        certificate, key = ca.issue(NAMES, days=10)
        secrets.update(tls_certificate=certificate.decode(), tls_key=key.decode())
        tls_files(db)
        port = mongod()
        certificate, key = ca.issue(NAMES, days=90)
        secrets.update(tls_certificate=certificate.decode(), tls_key=key.decode())
        tls_files(db)
        result = self.valid(db)
        assert result["result"] is False
        assert f"mongod of set openhim (port {port})" in result["comment"]
        assert "host.crt" not in result["comment"]
        assert self.valid(db, days_remaining=5)["result"] is True

    def test_a_server_that_does_not_answer_is_not_valid(self, db):
        result = self.valid(db)
        assert result["result"] is False
        assert "no server answered" in result["comment"]
        assert self.valid(db, test=True)["result"] is None

    def test_one_that_expires_fails_in_test_mode_as_well(self, db):
        result = self.valid(db, test=True, days_remaining=400)
        assert result["result"] is False
        assert "at least 400 days are wanted" in result["comment"]
