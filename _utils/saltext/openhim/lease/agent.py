"""Renews the lease of this host, and tells the kernel for how long it holds. A program.

It decides nothing but when to ask. That clients are cut when nobody renews is the kernel's doing,
so this program may be frozen, killed or wrong about the time of day.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saltext.openhim import gate, nftables, told
from saltext.openhim.errors import OpenHIMError
from saltext.openhim.lease import table, words
from saltext.openhim.lease.book import boot, now
from saltext.openhim.lease.words import Answer, Request

#: What the agent found last, in this boot.
STATUS = "/run/saltext-openhim/lease.json"
#: The table with nobody admitted; there from the first lease on, so that the host boots closed.
BOOT_FILE = "/var/lib/saltext-openhim/lease.nft"

HELD = "held"
REFUSED = "refused"
GIVEN_UP = "given up"
UNNEEDED = "unneeded"
UNANSWERED = "no answer"

#: Seconds until it asks again where it got no lease.
_AGAIN = 1.0


class Kernel:
    """The table of this host. closed: its text, with nobody admitted."""

    def __init__(self, closed: str):
        self._closed = closed
        self._sets = itertools.cycle(table.SETS)

    def hold(self, until: int, end: float) -> bool:
        """Admits clients until a time by both clocks; False when that is over already.

        until: by the wall clock, whole seconds since 1970. end: by :func:`now`.
        """
        if not leased():
            # Before anything is loaded: a host that was leased once boots closed.
            gate.write(Path(BOOT_FILE), self._closed)
        if self._is_current() and end > now():
            try:
                text = table.renewal(until, end - now(), next(self._sets))
                nftables.nft("--file", "-", stdin=text)
                return True
            except nftables.NftMissing:
                raise
            except nftables.NftError:
                pass  # the table is not there yet, or somebody took it away
        if end <= now():
            return False
        self._load(table.element(until, end - now()))
        return True

    def close(self) -> bool:
        """Admits nobody; False where nobody was ever admitted by a lease."""
        if not leased():
            return False
        self._load()
        return True

    def keep(self) -> None:
        """Lets a lease run out as it was; loads the table where it is gone, or another one."""
        if leased() and (not _is_loaded() or (not self._is_current() and held() is None)):
            self._load()

    def remove(self) -> None:
        """This host needs no lease, now and after a boot."""
        if leased() or _is_loaded():
            Path(BOOT_FILE).unlink(missing_ok=True)
            nftables.nft("--file", "-", stdin=table.REMOVE)

    def _load(self, element: str = "") -> None:
        nftables.nft("--file", "-", stdin=self._closed + element)
        if not self._is_current():
            # Only now: what is in the file is what is loaded.
            gate.write(Path(BOOT_FILE), self._closed)

    def _is_current(self) -> bool:
        try:
            return Path(BOOT_FILE).read_text(encoding="utf-8") == self._closed
        except FileNotFoundError:
            return False


def _is_loaded() -> bool:
    return nftables.listing(table.TABLE) is not None


def leased() -> bool:
    """Whether this host has ever held a lease, so that it is closed without one."""
    return Path(BOOT_FILE).exists()


def held() -> float | None:
    """Seconds for which the kernel admits clients by both of its clocks; None when it does not.

    Raises :class:`~saltext.openhim.nftables.NftError` when nobody can tell.
    """
    if not _is_loaded():
        return None
    left = []
    for name in table.SETS:
        text = nftables.nft("--json", "list", "set", table.FAMILY, table.TABLE, name)
        (found,) = (one["set"] for one in json.loads(text)["nftables"] if "set" in one)
        left += [
            min(float(one["elem"]["expires"]), _end(one["elem"]["val"]) - time.time())
            for one in found.get("elem", ())
        ]
    return max((one for one in left if one > 0), default=None)


def _end(value: Any) -> float:
    end = value["range"][1]
    if isinstance(end, (int, float)):
        return float(end)
    # nft prints times of the local zone.
    return time.mktime(time.strptime(str(end), "%Y-%m-%d %H:%M:%S"))


class Agent:
    """Asks, again and again."""

    def __init__(self, config: Mapping[str, Any]):
        self._config = config
        self._kernel = Kernel(config["closed"])
        self._stop = threading.Event()
        self._said = ""

    def run(self) -> None:
        """Renews until SIGTERM; the lease then runs out as it was."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        while not self._stop.is_set():
            asked = now()
            state = self.renew()
            _notify("WATCHDOG=1")
            again = _AGAIN if state in (REFUSED, UNANSWERED) else self._config["renew_every"]
            self._stop.wait(max(0.0, asked + float(again) - now()))

    def renew(self) -> str:
        """Asks once and does what is answered; the state that this host is in then."""
        asked, wall = now(), time.time()
        try:
            answer = self._ask(words.RENEW)
            if answer.records and self._learn(answer):
                answer = self._ask(words.RENEW)
            state, reasons, epoch = self._done(answer, asked, wall), answer.reasons, answer.epoch
        except (OSError, http.client.HTTPException, ValueError, OpenHIMError) as error:
            state, reasons, epoch = UNANSWERED, (str(error) or repr(error),), None
            self._keep()
        self._tell(state, reasons, epoch, asked)
        return state

    def _done(self, answer: Answer, asked: float, wall: float) -> str:
        if answer.granted:
            if self._kernel.hold(int(wall + answer.seconds), asked + answer.seconds):
                return HELD
            raise OpenHIMError("the answer came when its lease had already run out")
        if answer.given_up:
            if self._said == GIVEN_UP:
                self._keep()
            elif self._kernel.close():
                self._ask(words.GIVE_BACK)
            return GIVEN_UP
        if answer.unneeded:
            self._kernel.remove()
            return UNNEEDED
        self._keep()
        return REFUSED

    def _keep(self) -> None:
        try:
            self._kernel.keep()
        except OpenHIMError as error:
            gate.tell(f"whether this host closes when its lease runs out is not known: {error}")

    def _learn(self, answer: Answer) -> bool:
        """Writes down what the witness knows beside what is known; whether that was any news."""
        before = told.read()
        return told.tell(answer.records) != before

    def _ask(self, verb: str) -> Answer:
        config, records = self._config, tuple(told.read())
        connection = _Connection(config)
        try:
            connection.connect()
            # Now: what the connection took is no difference of clocks.
            request = Request(verb, config["stack"], config["host"], time.time(), records)
            body = json.dumps(request.plain())
            connection.request("POST", words.PATH, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read(words.LIMIT))
        finally:
            connection.close()
        if response.status != 200:
            raise OpenHIMError(f"{config['witness']} refused to answer: {content.get('error')}")
        return words.answer(content)

    def _tell(self, state: str, reasons: tuple[str, ...], epoch: int | None, asked: float) -> None:
        kept = {"state": state, "reasons": list(reasons), "epoch": epoch, "asked": asked}
        gate.write(Path(STATUS), json.dumps({**kept, "boot": boot()}) + "\n")
        if state != self._said:
            self._said = state
            why = f": {'; '.join(reasons)}" if reasons else ""
            gate.tell(f"the lease of {self._config['host']}: {state}{why}")


class _Connection(http.client.HTTPSConnection):
    """To the witness' address, where it must show a certificate of its name."""

    def __init__(self, config: Mapping[str, Any]):
        context = words.context(config, server=False)
        timeout = float(config["timeout"])
        super().__init__(config["address"], int(config["port"]), timeout=timeout, context=context)
        self._name = str(config["name"])
        self._tls: ssl.SSLContext = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        # An abstract socket's name begins with a zero byte.
        address = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told_to:
            told_to.sendto(message.encode(), address)


def main(arguments: list[str]) -> int:
    """The program. Arguments: the path of its configuration."""
    Agent(json.loads(Path(arguments[0]).read_text(encoding="utf-8"))).run()
    return 0
