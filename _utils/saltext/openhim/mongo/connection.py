"""How this package talks to a mongod, and how it tells one kind of silence from another.

A :class:`Vantage` is one replica set as one host sees it: the declaration, this host's own member
and the ways in. :func:`probe` looks at one member and puts what it found into words; "unreachable",
"unauthorized" and "not initiated" are different answers, and only positive evidence counts.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from saltext.openhim import secrets
from saltext.openhim.errors import OpenHIMError, Unauthorized, Unreachable
from saltext.openhim.settings import (
    EPOCH_TAG,
    TLS_DIRECTORY,
    Member,
    ReplicaSet,
    Stack,
    from_pillar,
)

CONNECT_TIMEOUT_MS = 2000
#: Why no connection comes about where nobody says anything.
TIMED_OUT = "timed out"
#: How often a connection is tried, and the seconds until it is tried once more. Between continents
#: a packet is there and back in 0.3 s, by satellite in 0.6 s.
ATTEMPTS = 3
TRY_AGAIN = 1 / 3
#: Seconds until nobody is taken to be there.
GIVE_UP = ATTEMPTS * TRY_AGAIN
SOCKET_TIMEOUT_MS = 20000

#: Who we are towards a mongod.
OPERATOR = "operator"
KEYFILE = "keyfile"
NOBODY = "nobody"

#: What :func:`probe` may find.
UNREACHABLE = "unreachable"
#: Something takes connections there and does not speak to us: a frozen mongod, TLS that fails.
SILENT = "silent"
NOT_REPLICA_SET = "not a replica-set mongod"
NOT_INITIATED = "not initiated"
WRONG_KEYFILE = "wrong keyfile"
UNAUTHORIZED = "unauthorized"
REMOVED = "removed"
MEMBER = "member"

_AUTHENTICATION_FAILED = 18
_NOT_ALLOWED = 13
_NOT_YET_INITIALIZED = 94


class MongoError(OpenHIMError):
    """A mongod answered with an error that has no name of its own here; ``code`` is MongoDB's."""

    def __init__(self, message: str, code: int | None = None):
        super().__init__(message)
        self.code = code


class NotPrimary(MongoError):
    """The command needs the primary, and this member is not it (any more)."""


@dataclass(frozen=True)
class Access:
    """What this host knows to get in: never printed, for it holds passwords."""

    operator_user: str | None = None
    operator_password: str | None = field(default=None, repr=False)
    keyfile: str | None = field(default=None, repr=False)
    tls_ca_file: str | None = None

    @classmethod
    def from_pillar(cls, stack: Stack, pillar: Mapping[str, Any]) -> Access:
        """The operator's and the keyfile's secrets, as far as this host's pillar holds them."""
        mongodb = stack.declared["mongodb"]
        known = (pillar.get("openhim") or {}).get("secrets") or {}
        user, secret = operator(stack)
        keyfile = known.get("mongodb_keyfile")
        return cls(
            operator_user=user,
            operator_password=secrets.lookup(pillar, secret)
            if secret and secret in known
            else None,
            # mongod drops all white space from a keyfile; so must who presents it as a password.
            keyfile="".join(keyfile.split()) if keyfile else None,
            tls_ca_file=(
                str(mongodb.get("tls_ca_file", f"{TLS_DIRECTORY}/ca.crt"))
                if mongodb.get("tls")
                else None
            ),
        )

    def options(self, identity: str = OPERATOR) -> dict[str, Any]:
        """The options of ``MongoClient`` for one identity: operator, keyfile or nobody."""
        options: dict[str, Any] = {
            "serverSelectionTimeoutMS": CONNECT_TIMEOUT_MS,
            "connectTimeoutMS": CONNECT_TIMEOUT_MS,
            "socketTimeoutMS": SOCKET_TIMEOUT_MS,
            "appname": "saltext-openhim",
            # Our connections are short: no second one each, only to be told of elections.
            "serverMonitoringMode": "poll",
            "tz_aware": True,
        }
        if self.tls_ca_file:
            options.update(tls=True, tlsCAFile=self.tls_ca_file)
        if identity == OPERATOR:
            if not self.operator_password:
                raise Unauthorized(
                    "this host's pillar has no password of the MongoDB operator: expected a user "
                    "with `operator: true` in openhim:mongodb:users whose secret is in "
                    "openhim:secrets"
                )
            options.update(
                username=self.operator_user, password=self.operator_password, authSource="admin"
            )
        elif identity == KEYFILE:
            if not self.keyfile:
                raise Unauthorized(
                    "this host's pillar has no openhim:secrets:mongodb_keyfile; it is needed to "
                    "prove that a member shares the keyfile"
                )
            options.update(username="__system", password=self.keyfile, authSource="local")
        return options


def operator(stack: Stack) -> tuple[str | None, str | None]:
    """The name of the declared user with ``operator: true`` and its secret's; or None, None."""
    for name, entry in (stack.declared["mongodb"].get("users") or {}).items():
        if entry.get("operator"):
            return name, entry["secret"]
    return None, None


@dataclass(frozen=True)
class Vantage:
    """One replica set as one host sees it; ``member`` is None where the host has none in it."""

    stack: Stack
    replica_set: ReplicaSet
    member: Member | None
    access: Access = field(repr=False)

    @property
    def local(self) -> str:
        """The address of this host's own member: loopback, where the localhost exception holds."""
        if self.member is None:
            raise OpenHIMError(
                f"this host has no member of the replica set {self.replica_set.name}; its members "
                f"are {', '.join(m.name for m in self.replica_set.members)}. Run this on one of "
                "them."
            )
        return f"127.0.0.1:{self.member.port}"

    def own(self, identity: str = OPERATOR) -> Any:
        """A connection to this host's own member and no other."""
        return connected(self.local, self.access, identity)

    def any(self) -> Any:
        """A connection to this host's own member, or to the set where the host has none."""
        return self.own() if self.member else self.primary(read_preference="primaryPreferred")

    @contextmanager
    def primary(self, read_preference: str = "primary", **overrides: Any) -> Iterator[MongoClient]:
        """A connection to whichever member is primary now.

        overrides: further options of ``MongoClient``.
        """
        names = [member.name for member in self.replica_set.members]
        with explained(f"the replica set {self.replica_set.name}"):
            client = MongoClient(
                names,
                replicaSet=self.replica_set.name,
                readPreference=read_preference,
                **{**self.access.options(), "w": "majority", **overrides},
            )
            try:
                yield client
            finally:
                client.close()

    def member_named(self, name: str) -> Member | None:
        """The declared member ``host:port``, or None."""
        return next((m for m in self.replica_set.members if m.name == name), None)


def vantage(pillar: Mapping[str, Any], minion_id: str, set_name: str | None = None) -> Vantage:
    """The replica set ``set_name`` as the host ``minion_id`` sees it.

    set_name may be left out where this host has members of one set only, or only one is declared.
    """
    stack = from_pillar(pillar)
    if set_name is None:
        here = stack.sets_on(minion_id) or list(stack.replica_sets.values())
        if len(here) != 1:
            raise OpenHIMError(
                f"which replica set is meant? Here are {', '.join(sorted(s.name for s in here))}; "
                "name one with set=NAME"
            )
        set_name = here[0].name
    if set_name not in stack.replica_sets:
        raise OpenHIMError(
            f"the replica set {set_name!r} is not in openhim:mongodb:replica_sets; declared are "
            f"{', '.join(sorted(stack.replica_sets))}"
        )
    replica_set = stack.replica_sets[set_name]
    return Vantage(
        stack, replica_set, replica_set.member_on(minion_id), Access.from_pillar(stack, pillar)
    )


@contextmanager
def connected(
    address: str, access: Access, identity: str = OPERATOR, **overrides: Any
) -> Iterator[MongoClient]:
    """A direct connection to the one mongod at ``address`` (``host:port``), errors explained.

    overrides: further options of ``MongoClient``, such as another ``authSource``.
    """
    # PyMongo asks a closed port again and again until its timeout; one look is enough.
    reason = reach(address)
    if reason:
        raise Unreachable(f"{address} does not answer: {reason}")
    with explained(address):
        options = {**access.options(identity), "w": "majority", **overrides}
        client = MongoClient(f"mongodb://{address}/", directConnection=True, **options)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns PyMongo's errors into this package's, naming the server."""
    try:
        yield
    except NotPrimaryError as error:
        raise NotPrimary(f"{where} is not the primary: {_message(error)}", 10107) from None
    except AutoReconnect as error:
        raise Unreachable(f"{where} does not answer: {_silence(error)}") from None
    except OperationFailure as error:
        raise _failure(where, error) from None
    except (PyMongoError, ConfigurationError) as error:
        raise MongoError(f"{where}: {_message(error)}") from None


def _failure(where: str, error: OperationFailure) -> OpenHIMError:
    if error.code == _AUTHENTICATION_FAILED:
        return Unauthorized(
            f"{where} answers and does not accept the credentials. Compare the password in "
            "openhim:secrets with the user's, and the keyfile with the member's."
        )
    if error.code == _NOT_ALLOWED:
        return Unauthorized(f"{where} does not allow it: {_message(error)}")
    return MongoError(f"{where}: {_message(error)} (MongoDB's code {error.code})", error.code)


def _message(error: PyMongoError) -> str:
    details = getattr(error, "details", None)
    if isinstance(details, Mapping) and details.get("errmsg"):
        return str(details["errmsg"])
    return str(error).split(", full error:")[0].split(", Timeout:")[0]


def _silence(error: PyMongoError) -> str:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not trusted ({_message(error)})"
    if "No servers found yet" in text:
        return "timed out; it takes connections and says nothing"
    return _message(error)


def reach(address: str) -> str | None:
    """Why no TCP connection to ``host:port`` comes about, in words; None when one does.

    What is there answers as soon as a packet has gone there and back. If the first packet is lost,
    the system sends it again after a second. Here another connection is tried every
    :data:`TRY_AGAIN` seconds, and the first that comes about counts: what is gone is known after
    :data:`GIVE_UP` seconds, and two packets in a row may be lost.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return f"the name {host} is unknown"
    except OSError as error:
        return error.strerror or str(error)
    places = list({place[4]: place for place in found}.values())
    told: dict[Any, int] = {}
    with ExitStack() as opened, selectors.DefaultSelector() as waiting:
        until = time.monotonic()
        for _ in range(ATTEMPTS):
            until += TRY_AGAIN
            for place in (one for one in places if one[4] not in told):
                _try(place, opened, waiting, told)
            left = TRY_AGAIN
            while len(told) < len(places) and left > 0:
                # Once more when the time is over: what came while we were kept from looking counts.
                left = max(0.0, until - time.monotonic())
                _listen(waiting, left, told)
                if 0 in told.values():
                    return None
    return _why_not(list(told.values()), silent=len(told) < len(places))


def _why_not(codes: list[int], silent: bool) -> str:
    """A refusal is an answer, and counts most; then silence, whatever is wrong with other ways
    there, such as IPv6 without a route."""
    if errno.ECONNREFUSED in codes:
        return os.strerror(errno.ECONNREFUSED).lower()
    return TIMED_OUT if silent else os.strerror(codes[0]).lower()


def _try(
    place: Any, opened: ExitStack, waiting: selectors.BaseSelector, told: dict[Any, int]
) -> None:
    """Begins one connection. told: place → the system's last word, an error or 0."""
    try:
        attempt = opened.enter_context(socket.socket(*place[:3]))
    except OSError as error:  # such as IPv6 where this host has none
        told[place[4]] = error.errno or errno.EIO
        return
    attempt.setblocking(False)
    code = attempt.connect_ex(place[4])
    if code in (0, errno.EINPROGRESS):
        waiting.register(attempt, selectors.EVENT_WRITE, place[4])
    else:
        told[place[4]] = code


def _listen(waiting: selectors.BaseSelector, seconds: float, told: dict[Any, int]) -> None:
    """Waits for the system's word on any connection that was begun."""
    for key, _ in waiting.select(seconds):
        attempt: Any = key.fileobj
        told[key.data] = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        waiting.unregister(attempt)


@dataclass(frozen=True)
class Observation:
    """What one look at one mongod showed.

    epoch: the ID of the epoch in whose name its configuration was made; None for one from before
    any recovery. committed: its last majority-committed time, in seconds since 1970. lag: seconds
    that it is behind the primary, by its own account; None where it does not know.
    """

    name: str
    kind: str
    detail: str = ""
    set_name: str | None = None
    set_id: str | None = None
    state: str | None = None
    primary: str | None = None
    hosts: tuple[str, ...] = ()
    epoch: str | None = None
    committed: float | None = None
    lag: float | None = None

    @property
    def is_primary(self) -> bool:
        """Whether it answered, a moment ago, as a writable primary."""
        return self.state == "PRIMARY"

    @property
    def words(self) -> str:
        """The finding as one clause."""
        if self.kind == MEMBER:
            text = f"member of the replica set {self.set_name}, state {self.state or 'unknown'}"
        else:
            text = self.kind
        return f"{self.name}: {text}" + (f" ({self.detail})" if self.detail else "")


def probe(address: str, access: Access, name: str | None = None) -> Observation:
    """Looks at one mongod; never raises for what it finds.

    address: where to connect. name: how to call it, when that differs (the set's name of a member).

    The keyfile is proved by authenticating as ``__system``, which only members that share it
    accept.
    """
    name = name or address
    reason = reach(address)
    if reason:
        return Observation(name, UNREACHABLE, reason)
    try:
        with connected(address, access, NOBODY) as client:
            hello = client.admin.command("hello")
            keyless = _without_authentication(client)
    except OpenHIMError as error:
        return Observation(name, SILENT, str(error))
    if hello.get("setName"):
        return _observed_member(name, address, access, hello)
    if not hello.get("isreplicaset"):
        return Observation(name, NOT_REPLICA_SET, "it runs without replication.replSetName")
    if keyless:
        return Observation(name, WRONG_KEYFILE, "it runs without authentication and has no keyfile")
    return _observed_outsider(name, address, access)


def _without_authentication(client: MongoClient) -> bool:
    try:
        client.admin.command("getCmdLineOpts")
    except OperationFailure:
        return False
    return True


def _observed_outsider(name: str, address: str, access: Access) -> Observation:
    """A replica-set mongod without a valid configuration: never initiated, or removed."""
    try:
        with connected(address, access, KEYFILE) as client:
            kept = client.local["system.replset"].find_one() or {}
    except Unauthorized as error:
        kind = WRONG_KEYFILE if access.keyfile else UNAUTHORIZED
        detail = "it does not accept our keyfile" if access.keyfile else str(error)
        return Observation(name, kind, detail)
    except OpenHIMError as error:
        return Observation(name, SILENT, str(error))
    if not kept:
        return Observation(name, NOT_INITIATED)
    return Observation(
        name,
        REMOVED,
        f"it keeps a configuration of {kept['_id']} that does not list it",
        set_name=kept["_id"],
        set_id=_set_id(kept),
        state="REMOVED",
        hosts=tuple(member["host"] for member in kept.get("members", ())),
    )


def _observed_member(
    name: str, address: str, access: Access, hello: Mapping[str, Any]
) -> Observation:
    state = "PRIMARY" if hello.get("isWritablePrimary") else None
    state = state or ("SECONDARY" if hello.get("secondary") else None)
    found = dict(
        set_name=hello["setName"],
        primary=hello.get("primary"),
        hosts=tuple(hello.get("hosts", ())) + tuple(hello.get("passives", ())),
        epoch=(hello.get("tags") or {}).get(EPOCH_TAG),
        committed=_committed(hello),
    )
    if not (access.keyfile or access.operator_password):
        # Who has no key cannot be turned away with it, and so says nothing of whose member it is.
        return Observation(name, MEMBER, state=state, **found)
    try:
        with connected(address, access, KEYFILE if access.keyfile else OPERATOR) as client:
            status = client.admin.command("replSetGetStatus")
            kept = client.local["system.replset"].find_one() or {}
        mine = next((m["stateStr"] for m in status["members"] if m.get("self")), None)
        # hello alone says whether it is writable; between the two looks it may have changed.
        state = state if state == "PRIMARY" else (mine or state)
        lag = _lag(status["members"])
        return Observation(name, MEMBER, state=state, set_id=_set_id(kept), lag=lag, **found)
    except Unauthorized:
        detail = "it does not accept our keyfile" if access.keyfile else "it does not let us in"
        return Observation(name, MEMBER, detail, state=state, set_id="not ours", **found)
    except OpenHIMError as error:
        return Observation(name, MEMBER, str(error), state=state, **found)


def _committed(hello: Mapping[str, Any]) -> float | None:
    """The last time of which a member knows that it is on a majority; it tells that to anybody."""
    written = (hello.get("lastWrite") or {}).get("majorityWriteDate")
    return written.timestamp() if written else None


def _lag(members: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds between what a member has and what its primary has, as it heard last."""
    applied = {"self": None, "primary": None}
    for member in members:
        written = member.get("lastAppliedWallTime") or member.get("optimeDate")
        if member.get("self"):
            applied["self"] = written
        if member["state"] == 1 and member["health"] == 1:
            applied["primary"] = written
    if not applied["self"] or not applied["primary"]:
        return None
    return max(0.0, (applied["primary"] - applied["self"]).total_seconds())


def _set_id(config: Mapping[str, Any]) -> str | None:
    value = (config.get("settings") or {}).get("replicaSetId")
    return str(value) if value else None


def probe_all(members: Iterable[str], access: Access) -> dict[str, Observation]:
    """Looks at several mongods at the same time; by name, in the order given."""
    names = list(dict.fromkeys(members))
    if not names:
        return {}
    with ThreadPoolExecutor(max_workers=min(8, len(names))) as pool:
        return dict(zip(names, pool.map(lambda name: probe(name, access), names), strict=True))


def raises(exception: type[Exception]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: what the library raises on purpose comes out as ``exception``, message kept."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                with explained("MongoDB"):
                    return function(*args, **kwargs)
            except OpenHIMError as error:
                raise exception(str(error)) from error

        return wrapper

    return decorate
