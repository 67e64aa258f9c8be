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

import httpx
import msgspec
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloud.crypto.keyfile import PrivateKey
from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.peer import PeerRefused, PeerTrust, require_issuer, require_usage, spiffe_of
from cloud.mtls.transport import ClosingTransport, ConnectionSet
from protocol.ids import ServiceName, ServiceSpiffeId
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from protocol.problems import CONTENT_TYPE, ProblemDocument

T = TypeVar("T")

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
        """Check the properties that can change while a connection is open: expiry and revocation.

        Raises PeerRefused.
        """
        if self.now() >= certificate.not_valid_after_utc:
            raise PeerRefused("the server's certificate has expired")
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
        self._context = context
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "cascade"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self.server_forgotten = asyncio.Event()
        """Set when no certificate of the server is known. The task that waits for the event clears it."""
        self.server_forgotten.set()
        self._connections = self._connect()

    def _connect(self) -> ConnectionSet:
        http = httpx.AsyncClient(
            base_url=self._base_url,
            headers=self._headers,
            transport=ClosingTransport(self._context),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )
        return ConnectionSet(http)

    async def reconnect(self, context: CheckedContext) -> None:
        """Use another certificate or trust from the next call on. Running calls end on their old connections."""
        old, self._context = self._connections, context
        self._connections = self._connect()
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
            AnswerUnusable: the answer is larger than `RESPONSE_BODY_BYTES_MAX`.
        """
        await self._drop_stale()
        sent = dict(headers or {})
        content = body if isinstance(body, bytes) else None
        if body is not None and content is None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        connections = self._connections
        try:
            async with (
                asyncio.timeout(seconds),
                connections,
                connections.http.stream(
                    method, path, content=content, headers=sent, timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS)
                ) as response,
            ):
                return Answer(response.status_code, dict(response.headers), await _bounded(response))
        except TimeoutError as error:
            raise Unreachable(f"cannot reach {self._base_url}: no answer within {seconds:g} s") from error
        except (httpx.HTTPError, ssl.SSLError) as error:  # The library passes on an alert while it reads.
            if refused := _verification_error(error):
                raise ServerRefused(f"cannot trust {self._base_url}: {refused}") from error
            raise Unreachable(f"cannot reach {self._base_url}: {str(error) or type(error).__name__}") from error

    async def _drop_stale(self) -> None:
        """Drop all connections if a certificate that the server has shown has expired or is revoked."""
        check = self._context.server_check
        for certificate in self._context.server_seen:
            try:
                check.check_still(certificate)
            except PeerRefused:
                self._context.server_seen.clear()
                self.server_forgotten.set()
                old, self._connections = self._connections, self._connect()
                await old.retire()
                return

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connections.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _bounded(response: httpx.Response) -> bytes:
    """Return the body. Raises AnswerUnusable as soon as the body is too long."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > RESPONSE_BODY_BYTES_MAX:
            raise AnswerUnusable(f"cannot use the server's answer: it is larger than {RESPONSE_BODY_BYTES_MAX} bytes")
    return bytes(body)


def _verification_error(error: BaseException) -> str:
    """Return the reason of a failed server check that caused an HTTP error, or an empty text."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return str(below.args[-1] if below.args else below)
        below = below.__cause__ or below.__context__
    return ""
