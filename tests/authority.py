"""A CA for tests: it issues certificates that fit, and ones that do not."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime.now(datetime.timezone.utc)


class Authority:
    """A CA, or one below another."""

    def __init__(self, name="Test CA", above=None, days=3650):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        issuer = above or self
        self.certificate = _sign(self.name, self.key, issuer, days, [(constraint, True)])

    def issue(self, names, days=90.0, key=None, starts=-1):
        """A certificate and its key, both in PEM form."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        general = [_general(name) for name in names]
        extensions = [(x509.SubjectAlternativeName(general), False)] if general else []
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "host")])
        certificate = _sign(subject, key, self, days, extensions, starts)
        return pem(certificate), key_pem(key)


def _general(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _sign(subject, key, issuer, days, extensions, starts=-1):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + datetime.timedelta(days=min(starts, days - 1)))
        .not_valid_after(NOW + datetime.timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA256())


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
