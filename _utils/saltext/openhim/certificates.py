"""The certificates that a host uses: when they expire, and whether they fit.

What is read is what counts: the files of this host, and what its servers really hand out when one
connects (a renewed file that nobody loaded protects nothing). A server that does not answer is
never taken for one whose certificate is valid.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import TLS_DIRECTORY, Stack

#: Seconds for one connection, from the first packet to the certificate.
TIMEOUT = 5.0

#: Days that must be left when ``openhim:certificates:days_remaining`` is left out.
DAYS_REMAINING = 30

CA_FILE = f"{TLS_DIRECTORY}/ca.crt"
CERTIFICATE_FILE = f"{TLS_DIRECTORY}/host.crt"
KEY_FILE = f"{TLS_DIRECTORY}/host.key"
COMBINED_FILE = f"{TLS_DIRECTORY}/mongodb.pem"

_LONGEST_CHAIN = 8


class CertificateError(OpenHIMError):
    """A certificate, a key and a CA do not belong together, or do not fit the host."""


@dataclass(frozen=True)
class Source:
    """Where a certificate is found: a file's path, or a port of this host."""

    what: str
    path: str = ""
    port: int = 0


@dataclass(frozen=True)
class Finding:
    """What was found at one source: a certificate's dates, or the problem that hides them."""

    source: str
    subject: str = ""
    not_after: datetime.datetime | None = None
    problem: str = ""

    def days_left(self, now: datetime.datetime | None = None) -> float | None:
        """Days until it expires; negative when it has; None when there is no certificate."""
        if self.not_after is None:
            return None
        now = now or datetime.datetime.now(datetime.timezone.utc)
        return (self.not_after - now).total_seconds() / 86400


def in_use(stack: Stack, minion_id: str) -> list[Source]:
    """Every certificate that the declared services of one host use.

    A core that is kept stopped serves none.
    """
    host = stack.host(minion_id)
    found = []
    if (stack.declared.get("mongodb") or {}).get("tls"):
        found.append(Source("the CA", path=CA_FILE))
        found.append(Source("this host's certificate", path=CERTIFICATE_FILE))
        for replica_set in stack.sets_on(minion_id):
            member = replica_set.member_on(minion_id)
            if member is not None:
                found.append(Source(f"mongod of set {replica_set.name}", port=member.port))
        if stack.sets_on(minion_id):
            found.append(Source("mongod's certificate with its key", path=COMBINED_FILE))
    if "core" in host.roles and stack.core_is_active(minion_id):
        found.append(Source("OpenHIM's API", port=int(stack.core_ports["api"])))
        found.append(Source("OpenHIM's HTTPS router", port=int(stack.core_ports["https"])))
    return found


def wanted_names(stack: Stack, minion_id: str) -> list[str]:
    """What a certificate of this host must be good for, as X.509's text form writes it.

    Its name and address for the others; localhost for itself.
    """
    host = stack.host(minion_id)
    dns = dict.fromkeys((host.name, host.id, "localhost"))
    addresses = dict.fromkeys((host.address, "127.0.0.1"))
    return [f"DNS:{name}" for name in dns] + [f"IP:{address}" for address in addresses]


def survey(sources: Iterable[Source], address: str = "127.0.0.1") -> list[Finding]:
    """Looks at every source.

    address: where the host's own servers answer.
    """
    return [
        read_file(source.what, source.path)
        if source.path
        else read_server(source.what, address, source.port)
        for source in sources
    ]


def too_late(findings: Iterable[Finding], days_remaining: float) -> list[str]:
    """A sentence for each certificate that expires sooner than in ``days_remaining`` days."""
    said = []
    for finding in findings:
        days = finding.days_left()
        if days is not None and days < 0:
            said.append(
                f"{finding.source}: the certificate {finding.subject} expired "
                f"{-days:.1f} days ago, on {finding.not_after:%Y-%m-%d}; renew it now"
            )
        elif days is not None and days < days_remaining:
            said.append(
                f"{finding.source}: the certificate {finding.subject} expires in {days:.1f} days, "
                f"on {finding.not_after:%Y-%m-%d}; at least {days_remaining:g} days are wanted, "
                "renew it"
            )
    return said


def read_file(what: str, path: str) -> Finding:
    """The certificate in a PEM file; of several, the one that expires first."""
    source = f"{what} ({path})"
    try:
        certificates = load_certificates(Path(path).read_bytes(), source)
    except FileNotFoundError:
        return Finding(source, problem="there is no such file")
    except (OSError, CertificateError) as error:
        return Finding(source, problem=str(error))
    return _finding(source, min(certificates, key=_not_after))


def read_server(what: str, address: str, port: int, timeout: float = TIMEOUT) -> Finding:
    """The certificate that a server hands out to whoever connects by TLS.

    timeout: seconds for the whole of it.
    """
    source = f"{what} (port {port})"
    try:
        encoded = _handed_out(address, port, timeout)
    except ssl.SSLError as error:
        return Finding(source, problem=f"the server answered, but not by TLS ({error.reason})")
    except OSError as error:
        return Finding(source, problem=f"no server answered ({error.strerror or error})")
    if not encoded:
        return Finding(source, problem="the server handed out no certificate")
    return _finding(source, x509.load_der_x509_certificate(encoded))


def _handed_out(address: str, port: int, timeout: float) -> bytes | None:
    """A server's certificate (DER)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # We look at the certificate and trust nobody with anything: a self-signed, expired or weak one
    # must be seen to be reported.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with (
        socket.create_connection((address, port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=address) as secured,
    ):
        return secured.getpeercert(binary_form=True)


def served_is_another(path: str, address: str, port: int, timeout: float = TIMEOUT) -> bool:
    """Whether a server hands out another certificate than the first one in the PEM file ``path``.

    A server that does not answer hands out none: False. timeout: seconds for the whole of it.
    """
    try:
        encoded = _handed_out(address, port, timeout)
    except OSError:  # an SSLError is one as well
        return False
    try:
        wanted = load_certificates(Path(path).read_bytes(), path)[0]
    except FileNotFoundError:
        raise CertificateError(f"{path}: there is no such file, and port {port} uses TLS") from None
    return encoded != wanted.public_bytes(serialization.Encoding.DER)


def load_certificates(pem: bytes, source: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, in its order.

    Raises :class:`CertificateError` naming ``source`` when there is none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise CertificateError(
            f"{source}: found no certificate; one in PEM form (BEGIN CERTIFICATE) is needed"
        ) from None


def require_fit(certificate: bytes, key: bytes, ca: bytes, names: Iterable[str]) -> None:
    """Checks that a certificate, its key and its CA belong together and fit a host.

    All in PEM form; intermediate certificates may follow the host's own. names: the host names and
    addresses that the certificate must be good for.

    Raises :class:`CertificateError` with everything that does not fit. Nothing of the key is in it.
    """
    chain = load_certificates(certificate, "the host's certificate")
    authorities = load_certificates(ca, "the CA's certificate")
    problems = [
        *_key_problems(chain[0], key),
        *_name_problems(chain[0], names),
        *_chain_problems(chain, authorities),
        *_date_problems([chain[0], *authorities]),
    ]
    if problems:
        raise CertificateError(
            f"the certificate {chain[0].subject.rfc4514_string()} cannot be used on this host: "
            + "; ".join(problems)
        )


def _finding(source: str, certificate: x509.Certificate) -> Finding:
    subject = certificate.subject.rfc4514_string() or "without a subject"
    return Finding(source, subject=subject, not_after=_not_after(certificate))


def _not_after(certificate: x509.Certificate) -> datetime.datetime:
    return certificate.not_valid_after_utc


def _key_problems(certificate: x509.Certificate, key: bytes) -> list[str]:
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        # The library's own message may quote what it was given.
        return ["the key is not an unencrypted private key in PEM form"]
    if _encoded(private.public_key()) != _encoded(certificate.public_key()):
        return ["the key is not the certificate's (their public keys differ)"]
    return []


def _encoded(public_key) -> bytes:
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _name_problems(certificate: x509.Certificate, names: Iterable[str]) -> list[str]:
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ["it has no subjectAltName, which clients compare with the host's name"]
    dns = {name.lower() for name in alternative.value.get_values_for_type(x509.DNSName)}
    addresses = set(alternative.value.get_values_for_type(x509.IPAddress))
    missing = [name for name in names if not _covered(name, dns, addresses)]
    if not missing:
        return []
    found = ", ".join(sorted(dns) + sorted(str(address) for address in addresses))
    return [f"its subjectAltName has {found}, and not {', '.join(missing)}"]


def _covered(name: str, dns: set[str], addresses: set) -> bool:
    try:
        return ipaddress.ip_address(name) in addresses
    except ValueError:
        name = name.lower()
        # A wildcard stands for one label (RFC 6125).
        return name in dns or f"*.{name.partition('.')[2]}" in dns


def _chain_problems(
    chain: list[x509.Certificate], authorities: list[x509.Certificate]
) -> list[str]:
    current = chain[0]
    for _ in range(_LONGEST_CHAIN):
        if any(_issued(current, authority) for authority in authorities):
            return []
        above = next((c for c in chain[1:] if c != current and _issued(current, c)), None)
        if above is None:
            break
        current = above
    return [
        f"it is not issued by the CA ({', '.join(a.subject.rfc4514_string() for a in authorities)})"
    ]


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # InvalidSignature, ValueError for names, TypeError for kinds of keys
        return False
    return True


def _date_problems(certificates: Iterable[x509.Certificate]) -> list[str]:
    now = datetime.datetime.now(datetime.timezone.utc)
    problems = []
    for certificate in certificates:
        subject = certificate.subject.rfc4514_string()
        if _not_after(certificate) < now:
            problems.append(f"{subject} expired on {_not_after(certificate):%Y-%m-%d}")
        if certificate.not_valid_before_utc > now:
            start = certificate.not_valid_before_utc
            problems.append(
                f"{subject} is not valid before {start:%Y-%m-%d %H:%M} UTC; is the clock right?"
            )
    return problems
