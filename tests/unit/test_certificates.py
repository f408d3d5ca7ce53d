"""Which certificate fits a host, and when one is too old."""

import copy
import socket
import ssl
import threading
from pathlib import Path

import pytest
import yaml
from saltext.openhim import certificates, settings, tls_files
from saltext.openhim.certificates import CertificateError, Finding, Source

from tests.authority import Authority, pem

EXAMPLE = yaml.safe_load(
    Path(__file__).parents[2].joinpath("pillar/openhim/production.sls").read_text()
)
NAMES = ["north-db1", "10.20.1.11"]


@pytest.fixture(scope="module")
def ca():
    return Authority()


def refused(certificate, key, ca):
    with pytest.raises(CertificateError) as caught:
        certificates.require_fit(certificate, key, pem(ca.certificate), NAMES)
    return str(caught.value)


def test_what_belongs_together_fits(ca):
    certificates.require_fit(*ca.issue(NAMES), pem(ca.certificate), NAMES)


def test_a_chain_through_an_intermediate_fits(ca):
    between = Authority("Between", above=ca)
    certificate, key = between.issue(NAMES)
    chain = certificate + pem(between.certificate)
    certificates.require_fit(chain, key, pem(ca.certificate), NAMES)
    assert "not issued by the CA" in refused(certificate, key, ca)


def test_the_key_of_another_certificate_is_refused(ca):
    certificate, _ = ca.issue(NAMES)
    _, other = ca.issue(NAMES)
    assert "the key is not the certificate's" in refused(certificate, other, ca)


def test_another_ca_of_the_same_name_is_refused(ca):
    assert "not issued by the CA" in refused(*Authority().issue(NAMES), ca)


@pytest.mark.parametrize("names", [["north-db1"], ["10.20.1.11"], ["other", "10.20.1.12"], []])
def test_a_certificate_for_other_names_is_refused(ca, names):
    text = refused(*ca.issue(names), ca)
    for name in set(NAMES) - set(names):
        assert name in text or "no subjectAltName" in text


def test_a_wildcard_stands_for_one_label(ca):
    certificate, key = ca.issue(["*.example.org"])
    certificates.require_fit(certificate, key, pem(ca.certificate), ["db1.example.org"])
    for name in ("example.org", "a.db1.example.org"):
        with pytest.raises(CertificateError, match="subjectAltName"):
            certificates.require_fit(certificate, key, pem(ca.certificate), [name])


def test_one_that_expired_or_is_not_valid_yet_is_refused(ca):
    assert "expired on" in refused(*ca.issue(NAMES, days=-1), ca)
    assert "is the clock right?" in refused(*ca.issue(NAMES, starts=2), ca)


@pytest.mark.parametrize("garbage", [b"", b"secret-rubbish", b"-----BEGIN PRIVATE KEY-----\nxx"])
def test_no_word_of_a_broken_key_is_in_the_error(ca, garbage):
    certificate, _ = ca.issue(NAMES)
    text = refused(certificate, garbage, ca)
    assert "not an unencrypted private key" in text
    assert "rubbish" not in text


def test_a_text_without_a_certificate_is_refused(ca):
    _, key = ca.issue(NAMES)
    with pytest.raises(CertificateError, match="found no certificate"):
        certificates.require_fit(b"nothing", key, pem(ca.certificate), NAMES)


def test_the_repr_of_a_file_does_not_show_its_content():
    assert "top secret" not in repr(tls_files.File("/x", b"top secret", 0o600))


@pytest.mark.parametrize(("days", "late"), [(29.9, True), (30.1, False), (-2, True)])
def test_a_certificate_with_too_few_days_left_is_late(ca, tmp_path, days, late):
    path = tmp_path / "host.crt"
    path.write_bytes(ca.issue(NAMES, days=days)[0])
    finding = certificates.read_file("this host's certificate", str(path))
    said = certificates.too_late([finding], 30)
    assert bool(said) is late
    if late:
        assert str(path) in said[0]
        assert ("expired 2.0 days ago" in said[0]) is (days < 0)


def test_of_several_certificates_in_a_file_the_first_to_expire_counts(ca, tmp_path):
    path = tmp_path / "ca.crt"
    path.write_bytes(ca.issue(NAMES, days=300)[0] + ca.issue(NAMES, days=5)[0])
    assert certificates.too_late([certificates.read_file("x", str(path))], 30)


def test_what_cannot_be_read_is_a_problem_and_not_a_valid_certificate(tmp_path):
    (tmp_path / "rubbish").write_text("rubbish")
    for name, word in (("rubbish", "no certificate"), ("absent", "no such file")):
        finding = certificates.read_file("x", str(tmp_path / name))
        assert word in finding.problem
        assert finding.days_left() is None


class Server:
    """A server that answers one connection: by TLS, or with words."""

    def __init__(self, context=None):
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        plain, _ = self._listener.accept()
        with plain:
            if self._context is None:
                plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            with self._context.wrap_socket(plain, server_side=True) as secured:
                secured.recv(1)

    def close(self):
        self._thread.join(5)
        self._listener.close()


def test_the_certificate_that_a_server_hands_out_is_the_one_that_counts(ca, tmp_path):
    certificate, key = ca.issue(NAMES, days=3)
    combined = tmp_path / "mongodb.pem"
    combined.write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(combined)
    combined.write_bytes(ca.issue(NAMES, days=300)[0])  # renewed on disk, not loaded by the server
    server = Server(context)
    (finding,) = certificates.survey([Source("mongod", port=server.port)])
    server.close()
    assert finding.days_left() == pytest.approx(3, abs=0.1)
    assert f"port {server.port}" in certificates.too_late([finding], 30)[0]


def test_a_server_that_speaks_no_tls_and_none_at_all_are_told_apart():
    server = Server()
    (finding,) = certificates.survey([Source("x", port=server.port)])
    server.close()
    assert "not by TLS" in finding.problem
    (finding,) = certificates.survey([Source("x", port=server.port)])
    assert "no server answered" in finding.problem


def test_an_unseen_certificate_is_never_late_nor_valid():
    unseen = Finding("x", problem="no server answered")
    assert certificates.too_late([unseen], 30) == []
    assert unseen.days_left() is None


def sources(pillar, host):
    stack = settings.from_pillar(pillar)
    return [s.path or s.port for s in certificates.in_use(stack, host)]


def test_which_certificates_are_in_use():
    pillar = copy.deepcopy(EXAMPLE)
    pillar["openhim"]["mongodb"]["replica_sets"]["openhim"]["members"]["north-db1"]["port"] = 27100
    files = ["/etc/openhim-tls/ca.crt", "/etc/openhim-tls/host.crt"]
    assert sources(pillar, "north-db1") == [*files, 27100, "/etc/openhim-tls/mongodb.pem"]
    assert sources(pillar, "north-core") == [*files, 8080, 5000]
    # Kept stopped: it serves nothing that could be looked at.
    assert sources(pillar, "south-core") == files
    pillar["openhim"]["mongodb"]["tls"] = False
    assert sources(pillar, "north-db1") == []
