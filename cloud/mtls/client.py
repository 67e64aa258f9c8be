"""Adapter: an HTTP client over TLS 1.3. Services use it to call services, and `cascade` uses it to call Fabric.

The server is checked inside the handshake, before the first byte of a request is sent. OpenSSL checks the host name.
This module checks the SPIFFE id, the issuing CA and the revocation. Time and size of an exchange are limited. The
client never retries, because only the caller knows whether a repeat is safe.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.crypto.keyfile import PrivateKey
from cloud.crypto.validity import outside
from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.peer import PeerRefused, PeerTrust, require_issuer, require_usage, spiffe_of
from cloud.mtls.transport import Address, AnswerTooLarge, NotHttp, Pool, request_bytes
from cloud.tasks.current_request import current_traceparent
from protocol.ids import ServiceName, ServiceSpiffeId
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from protocol.problems import CONTENT_TYPE, ProblemDocument

T = TypeVar("T")

HTTPS_PORT = 443
CONNECT_SECONDS = 5.0
"""Seconds for the TCP connection, and as many for the TLS handshake."""
ANSWER_SECONDS = 30.0
"""Seconds for a whole exchange. Issuing takes milliseconds. Half a minute covers a database that waits for another
writer."""


class CallError(Exception):
    """A call has no usable answer."""


class Unreachable(CallError):
    """No connection, a broken connection, or no answer in time.

    The server may or may not have carried out the request.
    """


class ServerRefused(CallError):
    """The server did not prove its identity. No request was sent to it."""


class AnswerUnusable(CallError):
    """The answer is too large, or does not have the form that the API specifies."""


class ProblemAnswer(CallError):
    """The server refused the request with a problem document."""

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(f"{problem.code}: {problem.detail or problem.title}")
        self.problem = problem


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def into(self, kind: type[T]) -> T:
        """Return the body of a successful answer, strictly decoded into a `kind`.

        Raises:
            ProblemAnswer: the status is 400 or above.
            AnswerUnusable: the body is not a `kind`, or a refusal has no problem document.
        """
        media_type = self.headers.get("content-type", "").partition(";")[0]
        try:
            if self.status < 400:
                return msgspec.json.decode(self.body, type=kind, strict=True)
            if media_type != CONTENT_TYPE:
                raise AnswerUnusable(f"cannot use the server's answer: status {self.status} without a problem document")
            problem = msgspec.json.decode(self.body, type=ProblemDocument)
        except msgspec.DecodeError as error:
            raise AnswerUnusable(f"cannot use the server's answer: its body cannot be read: {error}") from error
        raise ProblemAnswer(problem)


class ServerCheck(msgspec.Struct, frozen=True):
    """The identity that the server must prove.

    `revoked` tells whether the serial of a service is in the revoked set.
    """

    spiffe: ServiceSpiffeId
    trust: PeerTrust
    now: Callable[[], datetime]
    revoked: Callable[[int], bool]

    def check(self, certificate: x509.Certificate) -> None:
        """Check the server's certificate. Raises PeerRefused, whose detail names the broken rule."""
        if spiffe_of(certificate) != self.spiffe:
            raise PeerRefused(f"the certificate of the server is not for {self.spiffe}")
        require_usage(certificate, ExtendedKeyUsageOID.SERVER_AUTH)
        require_issuer(certificate, self.trust.service_issuers)
        self.check_still(certificate)

    def check_still(self, certificate: x509.Certificate) -> None:
        """Check the properties that can change while a connection is open: dates and revocation.

        Raises PeerRefused.
        """
        fault = outside(certificate.not_valid_before_utc, certificate.not_valid_after_utc, self.now())
        if fault:
            raise PeerRefused(f"the server's certificate {fault}")
        if self.revoked(certificate.serial_number):
            raise PeerRefused("the server's certificate is revoked")


class CheckedContext(ssl.SSLContext):
    """A client context whose handshakes succeed with the expected server only. `server_seen` has its certificates."""

    server_check: ServerCheck
    server_seen: list[x509.Certificate]


class CheckedHandshake(ssl.SSLObject):
    """The TLS session of one connection. `do_handshake` succeeds only after the check of the server."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        if not isinstance(context, CheckedContext):
            raise ssl.SSLCertVerificationError("this context has no server check")
        der = self.getpeercert(binary_form=True)
        try:
            certificate = x509.load_der_x509_certificate(der or b"")
            context.server_check.check(certificate)
        except (PeerRefused, ValueError) as error:
            raise ssl.SSLCertVerificationError(f"server refused: {error}") from error
        if certificate not in context.server_seen:
            context.server_seen.append(certificate)


def client_context(
    ca_pem: bytes, server_check: ServerCheck, chain_pem: bytes = b"", key: PrivateKey | None = None
) -> CheckedContext:
    """Make a context that trusts the CAs of `ca_pem` only. An empty `ca_pem` trusts no server.

    A service gives its chain and key. An operator gives none, and sends a token instead.
    """
    context = CheckedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca_pem:
        context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    context.sslobject_class = CheckedHandshake
    context.server_check = server_check
    context.server_seen = []
    if key is not None:
        load_key_pair(context, chain_pem, key)
    return context


def expected_service(trust_domain: str, name: ServiceName) -> ServiceSpiffeId:
    """Return the SPIFFE id of a service."""
    return ServiceSpiffeId(trust_domain, name)


class CloudClient:
    """Calls one server over connections that are kept alive. With `token`, the client acts as an operator.

    Before each call, the client checks again the certificates that the server has shown, because a connection outlives
    its handshake. If a certificate has expired or has been revoked, the client drops all connections, and the next
    handshake decides.
    """

    def __init__(self, base_url: str, context: CheckedContext, *, token: str = "") -> None:
        self._base_url = base_url
        self._address, self._prefix = _parsed(base_url)
        self._context = context
        self._headers = {
            "Host": self._address.authority,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "cascade",
        }
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self.server_forgotten = asyncio.Event()
        """Set when no certificate of the server is known. The task that waits for the event clears it."""
        self.server_forgotten.set()
        self._pool = self._connect()

    def _connect(self) -> Pool:
        return Pool(
            self._address, self._context, connect_seconds=CONNECT_SECONDS, body_bytes_max=RESPONSE_BODY_BYTES_MAX
        )

    async def reconnect(self, context: CheckedContext) -> None:
        """Use another certificate or trust from the next call on. Running calls end on their old connections."""
        old, self._context = self._pool, context
        self._pool = self._connect()
        self.server_forgotten.set()
        await old.retire()

    @property
    def server(self) -> x509.Certificate | None:
        """The last certificate that the server has shown since the last `reconnect`, or None."""
        return self._context.server_seen[-1] if self._context.server_seen else None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """Send one request and return the whole answer.

        `body` is encoded as JSON, unless it is bytes: those are sent unchanged, with the Content-Type in `headers`.
        None means that there is no body. `seconds` limits the whole exchange.

        Raises:
            ServerRefused: the server did not prove its identity; no request was sent.
            Unreachable: no answer within `seconds`.
            AnswerUnusable: the answer is larger than `RESPONSE_BODY_BYTES_MAX`, or is not HTTP.
            ValueError: the path or a header has characters that are not printable ASCII.
        """
        await self._drop_stale()
        sent = {**self._headers, **(headers or {})}
        if traceparent := current_traceparent():
            sent["traceparent"] = traceparent
        content = body if isinstance(body, bytes) else None
        if body is not None and content is None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        request = request_bytes(method, self._prefix + path, sent, content)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._pool.ask(request)
        except ssl.SSLCertVerificationError as error:
            raise ServerRefused(f"cannot trust {self._base_url}: {error.args[-1] if error.args else error}") from error
        except TimeoutError as error:
            raise Unreachable(f"cannot reach {self._base_url}: no answer within {seconds:g} s") from error
        except OSError as error:
            raise Unreachable(f"cannot reach {self._base_url}: {str(error) or type(error).__name__}") from error
        except (AnswerTooLarge, NotHttp) as error:
            raise AnswerUnusable(f"cannot use the server's answer: {error}") from error
        return Answer(answer.status, answer.headers, answer.body)

    async def _drop_stale(self) -> None:
        """Drop all connections if a certificate that the server has shown has expired or is revoked."""
        check = self._context.server_check
        for certificate in self._context.server_seen:
            try:
                check.check_still(certificate)
            except PeerRefused:
                self._context.server_seen.clear()
                self.server_forgotten.set()
                old, self._pool = self._pool, self._connect()
                await old.retire()
                return

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _parsed(base_url: str) -> tuple[Address, str]:
    """Split a URL into the address of its server and the prefix of all paths.

    Raises:
        ValueError: the URL is not `https` with a host name, or has a user, a query or a fragment.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"cannot use {base_url}: it is not of the form https://HOST:PORT")
    return Address(parts.hostname, parts.port or HTTPS_PORT, parts.netloc), parts.path.rstrip("/")
