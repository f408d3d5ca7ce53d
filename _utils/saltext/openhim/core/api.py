"""A client of OpenHIM core's API, on the standard library.

The API answers on the host where OpenHIM runs, with a certificate that is usually self-signed. The
client trusts the certificates that it is given and no other, and never those of the environment
(``REQUESTS_CA_BUNDLE``, proxies): whoever answers with another certificate gets no password.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from saltext.openhim.errors import OpenHIMError, Unauthorized, Unreachable

#: Seconds for one request; a write that waits for another site needs several.
TIMEOUT = 30.0

#: Seconds between two looks at something that is expected to change soon.
PAUSE = 0.1


class ApiError(OpenHIMError):
    """OpenHIM answered and refused; ``status`` is the HTTP status, the message OpenHIM's text."""

    def __init__(self, message: str, status: int):
        self.status = status
        super().__init__(message)


class Api:
    """OpenHIM's API as one user.

    protocol: ``https`` or ``http``. host, port: where it answers. user: an e-mail address.
    password: the user's password. basic: authenticate with user and password; otherwise with a
    token, the only way of versions before 7.1. certificates: PEM texts that are trusted. timeout:
    seconds per request.
    """

    def __init__(
        self,
        protocol: str,
        host: str,
        port: int,
        user: str,
        password: str,
        *,
        basic: bool,
        certificates: Iterable[str] = (),
        timeout: float = TIMEOUT,
    ):
        self.protocol, self.host, self.port = protocol, host, port
        self.user, self.basic, self.timeout = user, basic, timeout
        self._password = password
        self._certificates = tuple(certificates)

    @property
    def url(self) -> str:
        """Where the API answers, for people to read."""
        return f"{self.protocol}://{self.host}:{self.port}"

    def as_user(self, user: str, password: str) -> Api:
        """The same API, as another user."""
        return Api(
            self.protocol,
            self.host,
            self.port,
            user,
            password,
            basic=self.basic,
            certificates=self._certificates,
            timeout=self.timeout,
        )

    def get(self, *path: str) -> Any:
        """The answer to GET, parsed; None when OpenHIM says 404. path: parts, quoted here."""
        try:
            return self._authorized("GET", path, None)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def post(self, *path: str, body: Any = None) -> Any:
        """The answer to POST of a JSON body."""
        return self._authorized("POST", path, body)

    def put(self, *path: str, body: Any) -> Any:
        """The answer to PUT of a JSON body."""
        return self._authorized("PUT", path, body)

    def delete(self, *path: str) -> Any:
        """The answer to DELETE."""
        return self._authorized("DELETE", path, None)

    def heartbeat(self) -> dict[str, Any]:
        """OpenHIM's uptime and mediators; needs no user. OpenHIM reads its database for it."""
        return self._request("GET", ("heartbeat",), None, {})

    def authenticates(self) -> bool:
        """Whether OpenHIM accepts this user and password."""
        try:
            self.get("about")
        except Unauthorized:
            return False
        return True

    def wait(self, timeout: float) -> float:
        """Wait until the API answers; the seconds that it took.

        timeout: seconds. Raises :class:`~saltext.openhim.errors.Unreachable` after that.
        """
        begin = time.monotonic()
        while True:
            try:
                self.heartbeat()
                return time.monotonic() - begin
            except (Unreachable, ApiError) as error:
                if time.monotonic() - begin + PAUSE > timeout:
                    raise Unreachable(
                        f"OpenHIM's API did not answer within {timeout:g} s. {error}"
                    ) from None
                time.sleep(PAUSE)

    def restart(self, timeout: float = 60.0) -> float:
        """Restart OpenHIM's servers through the API and wait until they are back; the seconds.

        OpenHIM begins about two seconds after it was asked and closes all connections then, so a
        connection that is held open tells when it begins. timeout: seconds for the whole of it.
        """
        begin = time.monotonic()
        self.heartbeat()  # says in words when it does not run
        watched = self._connection(timeout)
        try:
            self._open(watched)
            self.post("restart")
            try:
                watched.sock.settimeout(timeout)
                watched.sock.recv(1)
            except TimeoutError:
                raise Unreachable(
                    f"OpenHIM accepted the restart and did not begin it within {timeout:g} s. "
                    "Look at its log."
                ) from None
            except OSError:
                pass  # A reset is an end too.
        finally:
            watched.close()
        self.wait(max(1.0, timeout - (time.monotonic() - begin)))
        return time.monotonic() - begin

    def _authorized(self, method: str, path: tuple[str, ...], body: Any) -> Any:
        headers = self._basic() if self.basic else self._token()
        return self._request(method, path, body, headers)

    def _basic(self) -> dict[str, str]:
        pair = base64.b64encode(f"{self.user}:{self._password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}

    def _token(self) -> dict[str, str]:
        """The token of versions before 7.1.

        https://github.com/jembi/openhim-core-js/blob/v4.0.5/src/api/authentication.js
        """
        try:
            given = self._request("GET", ("authenticate", self.user), None, {})
        except ApiError as error:
            if error.status == 404:
                raise self._unauthorized() from None
            raise
        hashed = hashlib.sha512(f"{given.get('salt')}{self._password}".encode()).hexdigest()
        salt = secrets.token_hex(16)
        token = hashlib.sha512(f"{hashed}{salt}{given['ts']}".encode()).hexdigest()
        return {
            "auth-username": self.user,
            "auth-ts": given["ts"],
            "auth-salt": salt,
            "auth-token": token,
        }

    def _request(
        self, method: str, path: tuple[str, ...], body: Any, headers: Mapping[str, str]
    ) -> Any:
        target = "/" + "/".join(quote(part, safe="") for part in path)
        connection = self._connection(self.timeout)
        payload = None if body is None else json.dumps(body)
        content = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._open(connection)
            connection.request(method, target, payload, {**headers, **content})
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            reason = (
                "it timed out" if isinstance(error, TimeoutError) else str(error) or repr(error)
            )
            raise Unreachable(
                f"OpenHIM's API at {self.url} did not answer {method} {target}: {reason}. "
                "It must run on this host and listen there; look at the service and its log."
            ) from None
        finally:
            connection.close()
        return self._answer(method, target, response, text)

    def _answer(self, method: str, target: str, response: http.client.HTTPResponse, text: str):
        if response.status == 401:
            raise self._unauthorized()
        if response.status >= 300:
            raise ApiError(
                f"OpenHIM refused {method} {target} with status {response.status}: "
                f"{text.strip() or response.reason or 'no text'}",
                response.status,
            )
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    def _unauthorized(self) -> Unauthorized:
        return Unauthorized(
            f"OpenHIM's API at {self.url} does not accept the user {self.user} with the declared "
            "password. Declare the password that it has, or set it to the declared one."
        )

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self.protocol == "http":
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        return http.client.HTTPSConnection(
            self.host, self.port, timeout=timeout, context=self._trust()
        )

    def _open(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise OpenHIMError(
                f"OpenHIM's API at {self.url} shows a certificate that is not known here "
                f"(SHA-256 {self._shown_fingerprint()}): {error.verify_message}. Known are the "
                "one that "
                "OpenHIM ships, this host's own, those that this host's CA issued, the declared "
                "keystore certificate, and the file openhim:core:api_certificate."
            ) from None

    def _trust(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The certificate itself is the identity: it is pinned, and its names mean nothing here.
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        for certificate in self._certificates:
            context.load_verify_locations(cadata=certificate)
        return context

    def _shown_fingerprint(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((self.host, self.port), self.timeout) as plain,
                context.wrap_socket(plain) as secured,
            ):
                return hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
        except OSError:
            return "unknown"
