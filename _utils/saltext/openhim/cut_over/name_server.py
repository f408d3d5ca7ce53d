"""The public name on its authoritative name server: asked, and changed by RFC 2136 updates.

Every message is signed with the TSIG key (RFC 8945) and goes over TCP: so an answer is the
server's own, a refusal by the key shows before anything is changed, and a server that is not there
is told from one that is silent.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
from saltext.openhim.cut_over import decision
from saltext.openhim.cut_over.decision import Moved, Pointing, Records, Seen
from saltext.openhim.errors import OpenHIMError, Refused, Unauthorized, Unreachable

#: Seconds between two looks whether the server has what it accepted.
PAUSE = 0.2

#: What a server means with an answer, and what to do.
_MEANINGS = {
    dns.rcode.REFUSED: "it does not have the zone, or this key may not do this: see its log",
    dns.rcode.NOTAUTH: "it is not the zone's primary server, or this key may not do this",
    dns.rcode.NOTZONE: "the name is not in the zone that it has",
    dns.rcode.SERVFAIL: "it failed: see its log",
    dns.rcode.NOTIMP: "it takes no updates",
}

#: The record had changed when the update arrived: the two answers of RFC 2136 that say so.
_CHANGED_MEANWHILE = (dns.rcode.NXRRSET, dns.rcode.YXRRSET)


@dataclass(frozen=True)
class Key:
    """A TSIG key: its name, its algorithm (``hmac-sha256``), and its secret in base64."""

    name: str
    algorithm: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class NameServer:
    """One public name, and the server that has it.

    name, zone: domain names. address, port: of the zone's primary server. ttl: seconds. sites: the
    addresses of each site. timeout: seconds for one answer, and for the server to show what it
    accepted.
    """

    name: str
    zone: str
    address: str
    port: int
    ttl: int
    key: Key
    sites: Mapping[str, tuple[str, ...]]
    timeout: float

    def points_to(self) -> Pointing:
        """Which site's addresses the name has; ``unknown`` with the reason when nobody can say."""
        try:
            return decision.pointing(self.look(), self.sites)
        except OpenHIMError as error:
            return Pointing(decision.UNKNOWN, because=str(error))

    def move(self, site: str, test: bool = False) -> Moved:
        """Give the name a site's addresses and no others.

        The server is asked first; one update does all of it or nothing, and only while the name
        still has what was seen; then the server is asked again.

        Raises :class:`~saltext.openhim.errors.Refused`, ``Unauthorized``, ``Unreachable`` or
        ``OpenHIMError``, with the reason.
        """
        path = "openhim:cut_over:dns:addresses"
        decision.require_site(site, self.sites, path, "addresses")
        target = decision.wanted(self.sites[site], self.ttl)
        seen = self.look()
        changes = decision.changes(seen, target)
        after = Seen(target, seen.negative_ttl)
        if not changes:
            comment = f"{self.name} has the addresses of {site} already"
            return Moved(False, seen.told(), seen.told(), 0, True, comment)
        kept = decision.old_answer_kept_for(seen, target)
        if test:
            comment = f"{self.name} would get the addresses of {site}"
            return Moved(False, seen.told(), after.told(), kept, False, comment)
        silence = self._update(seen, changes)
        self._read_back(target, silence)
        comment = (
            f"{self.name} has the addresses of {site}; whoever asked before may keep the old "
            f"answer for {kept} s"
        )
        return Moved(True, seen.told(), after.told(), kept, True, comment)

    def look(self) -> Seen:
        """What the server has for the name.

        Raises Refused when it has the name otherwise than as an address of the declared zone.
        """
        negative_ttl = self._zone()
        records = {}
        for kind in decision.TYPES.values():
            answer = self._ask(kind)
            found = [one for one in answer.answer if one.rdtype == dns.rdatatype.from_text(kind)]
            records[kind] = Records(
                frozenset(decision.canonical(data.to_text()) for one in found for data in one),
                max((one.ttl for one in found), default=None),
            )
        return Seen(records, negative_ttl)

    def _zone(self) -> int:
        """Check that the name is where it is declared; return how long its absence is kept.

        The owner of the SOA record that comes with an answer is the zone that the name is in.
        https://www.rfc-editor.org/rfc/rfc2308#section-3
        """
        answer = self._ask("SOA")
        for one in answer.answer:
            if one.rdtype in (dns.rdatatype.CNAME, dns.rdatatype.DNAME):
                raise Refused(
                    f"{self.name} is an alias ({dns.rdatatype.to_text(one.rdtype)}) on "
                    f"{self._server}, and a name that is one cannot have addresses: name the "
                    "alias's target in openhim:cut_over:dns:name, or remove the alias"
                )
        soas = [one for one in (*answer.answer, *answer.authority) if one.rdtype == _SOA]
        if not soas:
            raise Refused(f"{self._server} answers for {self.name} without saying in which zone")
        if soas[0].name != _absolute(self.zone):
            raise Refused(
                f"{self._server} has {self.name} in the zone {soas[0].name.to_text(True)}, and not "
                f"in {self.zone}: correct openhim:cut_over:dns:zone"
            )
        return min(soas[0].ttl, soas[0][0].minimum)

    def _ask(self, kind: str) -> dns.message.Message:
        """The server's own answer about the name."""
        query = dns.message.make_query(_absolute(self.name), kind)
        query.flags &= ~dns.flags.RD
        query.use_tsig(self._key, algorithm=self._key.algorithm)
        answer = self._exchange(query)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise self._refusal(answer, f"a question for {self.name}")
        if not answer.flags & dns.flags.AA:
            raise Refused(
                f"{self._server} is not authoritative for {self.name}: name the primary server of "
                f"the zone {self.zone} in openhim:cut_over:dns:server"
            )
        return answer

    def _update(self, seen: Seen, changes: Mapping[str, Records]) -> str:
        """Send the one update. Returns why no answer came, or "" when it was accepted."""
        name = _absolute(self.name)
        update = dns.update.UpdateMessage(
            _absolute(self.zone), keyring=self._key, keyalgorithm=self._key.algorithm
        )
        for kind in changes:
            before = sorted(seen.records[kind].addresses)
            if before:
                update.present(name, kind, *before)
            else:
                update.absent(name, kind)
        for kind, records in changes.items():
            update.delete(name, kind)
            if records.addresses:
                update.add(name, records.ttl, kind, *sorted(records.addresses))
        try:
            answer = self._exchange(update)
        except Unreachable as error:
            # It may have arrived all the same: only the server knows.
            return str(error)
        if answer.rcode() in _CHANGED_MEANWHILE:
            raise Refused(
                f"{self.name} has not what {self._server} said that it has, so nothing was "
                "changed: somebody else changes it too, or the answer comes from a wildcard or "
                "another view. See what it has (openhim_dr.points_to), then run this again"
            )
        if answer.rcode() != dns.rcode.NOERROR:
            raise self._refusal(answer, f"the update of {self.name}")
        return ""

    def _read_back(self, target: Mapping[str, Records], silence: str) -> None:
        """Wait until the server shows what it was told. silence: why it did not answer to that."""
        deadline = time.monotonic() + self.timeout
        while True:
            seen = self.look()
            if not decision.changes(seen, target):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(PAUSE)
        has = ", ".join(sorted(seen.addresses)) or "no address"
        if silence:
            raise Unreachable(f"the update of {self.name} was sent, and {silence}; it has {has}")
        raise OpenHIMError(
            f"{self._server} accepted the update of {self.name}, and {self.timeout:g} s later it "
            f"still has {has}: see its log, and whether several servers answer at this address; "
            "then run this again"
        )

    def _exchange(self, message: dns.message.Message) -> dns.message.Message:
        """Send one signed message; return the answer, whose signature is right."""
        with self._failures():
            try:
                answer = dns.query.tcp(message, self.address, self.timeout, self.port)
            except dns.exception.FormError:
                # What an unsigned answer is to dnspython, since 2.8.
                raise self._unsigned() from None
        if answer.rcode() == dns.rcode.NOERROR and not answer.had_tsig:
            raise self._unsigned()
        return answer

    def _unsigned(self) -> OpenHIMError:
        """Why an answer had no signature: a server that does not have the zone gives none."""
        with self._failures():
            question = dns.message.make_query(_absolute(self.name), "SOA")
            answer = dns.query.tcp(question, self.address, self.timeout, self.port)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return self._refusal(answer, f"a question for {self.name}")
        return Unauthorized(
            f"{self._server} answered without a signature, so anybody may have: it must know the "
            f"key {self.key.name}"
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What goes wrong between two hosts, in words and without the secret."""
        key = f"the key {self.key.name} ({self.key.algorithm})"
        try:
            yield
        except dns.exception.Timeout:
            raise Unreachable(f"{self._server} gave no answer within {self.timeout:g} s") from None
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or "it closed the connection"
            raise Unreachable(f"{self._server} is not reached over TCP: {reason}") from None
        except dns.tsig.PeerBadKey:
            raise Unauthorized(
                f"{self._server} does not know {key}, or does not let it do this in {self.zone}"
            ) from None
        except (dns.tsig.PeerBadSignature, dns.tsig.BadSignature, dns.tsig.PeerBadTruncation):
            raise Unauthorized(
                f"{self._server} has another secret, or another algorithm, for {key}"
            ) from None
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            raise Unauthorized(
                f"the clocks of this host and of {self._server} differ too much for {key}"
            ) from None
        except dns.exception.DNSException as error:
            told = f"{type(error).__name__}: {error}"
            raise OpenHIMError(f"{self._server} gave no usable answer ({told})") from None

    def _refusal(self, answer: dns.message.Message, what: str) -> OpenHIMError:
        rcode = answer.rcode()
        meaning = _MEANINGS.get(rcode, "see its log")
        return Refused(
            f"{self._server} answered {dns.rcode.to_text(rcode)} to {what} in the zone "
            f"{self.zone}, signed with the key {self.key.name}: {meaning}"
        )

    @property
    def _key(self) -> dns.tsig.Key:
        try:
            secret = base64.b64decode(self.key.secret.strip(), validate=True)
        except ValueError:
            raise OpenHIMError(
                f"the secret of the TSIG key {self.key.name} is not base64: give it as the name "
                "server's own configuration has it"
            ) from None
        return dns.tsig.Key(self.key.name, secret, self.key.algorithm)

    @property
    def _server(self) -> str:
        return f"the name server {self.address} (port {self.port})"


_SOA = dns.rdatatype.SOA


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name)
