"""The TLS files of a host: which they are, what is in them, and who may read them.

Nothing is written that does not fit: key and certificate belong together, the names are the host's,
and the CA has signed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saltext.openhim import certificates, files
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.settings import Stack


@dataclass(frozen=True)
class File:
    """One file as it should be."""

    path: str
    content: bytes
    mode: int
    user: str = "root"
    group: str = "root"

    def __repr__(self) -> str:
        # The content may be a key, and a repr ends in tracebacks.
        return f"File({self.path!r})"

    def differences(self) -> dict[str, Any]:
        """What differs on disk: :func:`saltext.openhim.files.differences`."""
        return files.differences(self.path, self.content, self.mode, self.user, self.group)


def from_secrets(
    stack: Stack, minion_id: str, ca: str, certificate: str, key: str, user: str, group: str
) -> list[File]:
    """The files of a host whose certificate and key come from the pillar, all in PEM form.

    user, group: who runs mongod, on hosts that have a member.

    Raises :class:`~saltext.openhim.certificates.CertificateError` when they do not fit.
    """
    ca_pem, certificate_pem, key_pem = (_text(value) for value in (ca, certificate, key))
    certificates.require_fit(certificate_pem, key_pem, ca_pem, _names(stack, minion_id))
    wanted = [
        File(certificates.CA_FILE, ca_pem, 0o644),
        File(certificates.CERTIFICATE_FILE, certificate_pem, 0o644),
        File(certificates.KEY_FILE, key_pem, 0o600),
    ]
    if stack.sets_on(minion_id):
        wanted.append(_combined(certificate_pem, key_pem, user, group))
    return wanted


def from_disk(stack: Stack, minion_id: str, user: str, group: str) -> list[File]:
    """``mongodb.pem``, made of the certificate and the key that are on this host already.

    Raises :class:`~saltext.openhim.certificates.CertificateError` when they do not fit, and
    :class:`~saltext.openhim.errors.OpenHIMError` when one is missing (see :func:`missing`).
    """
    absent = missing()
    if absent:
        raise OpenHIMError(
            f"{', '.join(absent)}: there is no such file; the state that issues the host's "
            "certificate must come first"
        )
    ca, certificate, key = (
        Path(path).read_bytes()
        for path in (
            certificates.CA_FILE,
            certificates.CERTIFICATE_FILE,
            certificates.KEY_FILE,
        )
    )
    certificates.require_fit(certificate, key, ca, _names(stack, minion_id))
    return [_combined(_text(certificate.decode()), _text(key.decode()), user, group)]


def misfit(stack: Stack, minion_id: str, days_remaining: float) -> str:
    """Why this host's certificate must be issued (again), in words; empty when it need not be.

    days_remaining: it must be valid for longer than this.
    """
    try:
        from_disk(stack, minion_id, "root", "root")
    except OpenHIMError as error:
        return str(error)
    found = certificates.read_file("this host's certificate", certificates.CERTIFICATE_FILE)
    return "; ".join(certificates.too_late([found], days_remaining))


def missing() -> list[str]:
    """Which of the CA's certificate, the host's certificate and its key are not on this host."""
    paths = (certificates.CA_FILE, certificates.CERTIFICATE_FILE, certificates.KEY_FILE)
    return [path for path in paths if not Path(path).exists()]


def differences(wanted: Iterable[File]) -> dict[str, Any]:
    """What differs on disk, by path; empty when nothing does. Contents are never told."""
    return {file.path: found for file in wanted if (found := file.differences())}


def write(wanted: Iterable[File]) -> None:
    """Writes the files that differ, each in one step."""
    for file in wanted:
        if file.differences():
            files.write(file.path, file.content, file.mode, file.user, file.group)


def _names(stack: Stack, minion_id: str) -> list[str]:
    host = stack.host(minion_id)
    return [host.name, host.address]


def _combined(certificate: bytes, key: bytes, user: str, group: str) -> File:
    # mongod wants one file: https://www.mongodb.com/docs/manual/tutorial/configure-ssl/
    return File(certificates.COMBINED_FILE, certificate + key, 0o600, user, group)


def _text(pem: str) -> bytes:
    return pem.strip().encode() + b"\n"
