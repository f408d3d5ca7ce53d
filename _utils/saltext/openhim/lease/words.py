"""What a host asks and what its witness answers, as plain values.

One request, one answer, by HTTP over mutual TLS: who asks is who its certificate says.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saltext.openhim.errors import OpenHIMError
from saltext.openhim.recovery import epochs
from saltext.openhim.recovery.epochs import Epoch

PATH = "/lease"

#: More than that many bytes are no question and no answer.
LIMIT = 4 << 20

RENEW = "renew"
GIVE_BACK = "give back"


@dataclass(frozen=True)
class Request:
    """verb: ``renew`` or ``give back``. host: a minion ID. time: seconds since 1970, by the host's
    clock. records: all epochs that the host was told of."""

    verb: str
    stack: str
    host: str
    time: float
    records: tuple[Epoch, ...]

    def plain(self) -> dict[str, Any]:
        """As it travels."""
        return {**asdict(self), "records": epochs.plain(self.records)}


@dataclass(frozen=True)
class Answer:
    """granted: for so many ``seconds``, counted from before it was asked for. reasons: why not.

    given_up: the newest epoch says that another site is the active one, so the host must close.
    unneeded: it says that the host's site is, without a lease. epoch: its number, 0 where nothing
    was recovered. records: the epochs that the witness knows, where the host knows others.
    """

    granted: bool
    seconds: float
    epoch: int
    reasons: tuple[str, ...] = ()
    given_up: bool = False
    unneeded: bool = False
    records: tuple[Epoch, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As it travels."""
        return {**asdict(self), "records": epochs.plain(self.records)}


def request(entry: Mapping[str, Any]) -> Request:
    """A request that has arrived; raises :class:`~saltext.openhim.errors.OpenHIMError`."""
    try:
        if entry["verb"] not in (RENEW, GIVE_BACK):
            raise ValueError(f"verb: found {entry['verb']!r}")
        return Request(
            verb=str(entry["verb"]),
            stack=str(entry["stack"]),
            host=str(entry["host"]),
            time=float(entry["time"]),
            records=tuple(epochs.parsed(entry["records"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise OpenHIMError(f"this is no request for a lease: {error!r}") from error


def answer(entry: Mapping[str, Any]) -> Answer:
    """An answer that has arrived; raises :class:`~saltext.openhim.errors.OpenHIMError`."""
    try:
        return Answer(
            granted=entry["granted"] is True,
            seconds=float(entry["seconds"]),
            epoch=int(entry["epoch"]),
            reasons=tuple(str(reason) for reason in entry["reasons"]),
            given_up=entry["given_up"] is True,
            unneeded=entry["unneeded"] is True,
            records=tuple(epochs.parsed(entry["records"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise OpenHIMError(f"the witness answered what is no answer: {error!r}") from error


def context(told: Mapping[str, Any], server: bool) -> ssl.SSLContext:
    """TLS in which both ends show a certificate of the stack's authority.

    told: paths, as ``ca``, ``certificate`` and ``key``. Made anew for each connection, so that a
    renewed certificate counts at once.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_verify_locations(told["ca"])
    made.load_cert_chain(told["certificate"], told["key"])
    made.verify_mode = ssl.CERT_REQUIRED
    return made
