"""Adapter: outgoing HTTP over TLS 1.3. A service calls a service with it, an operator's command line calls Fabric.

The server is checked inside the handshake, before the first byte of a request can leave: its host name by OpenSSL, its
SPIFFE id, issuing CA and revocation here. Time and size of an exchange are bounded. It retries nothing: only the caller
knows whether a repeat is safe.
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
ANSWER_SECONDS = 30.0
"""Issuing takes milliseconds; half a minute covers a database that waits for another writer."""


class CallError(Exception):
    """A call got no usable answer."""


class Unreachable(CallError):
    """No connection, a broken one, or no answer in time. The call may or may not have had its effect."""


class ServerRefused(CallError):
    """The server is not who it should be; nothing was sent to it."""


class AnswerUnusable(CallError):
    """The answer is too large or not what the API promises."""


class ProblemAnswer(CallError):
    """The server refused with a problem document."""

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(f"{problem.code}: {problem.detail or problem.title}")
        self.problem = problem


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def into(self, kind: type[T]) -> T:
        """The body of a successful answer, strictly decoded.

        Raises:
            ProblemAnswer: the status is 400 or above.
            AnswerUnusable: the body is not a `kind`, or a refusal is no problem document.
        """
        media_type = self.headers.get("content-type", "").partition(";")[0]
        try:
            if self.status < 400:
                return msgspec.json.decode(self.body, type=kind, strict=True)
            if media_type != CONTENT_TYPE:
                raise AnswerUnusable(f"the server answered {self.status} without a problem document")
            problem = msgspec.json.decode(self.body, type=ProblemDocument)
        except msgspec.DecodeError as error:
            raise AnswerUnusable(f"the server's answer cannot be read: {error}") from error
        raise ProblemAnswer(problem)


class ServerCheck(msgspec.Struct, frozen=True):
    """Who the server has to be. `revoked` says whether a service serial is in the revoked set."""

    spiffe: ServiceSpiffeId
    trust: PeerTrust
    now: Callable[[], datetime]
    revoked: Callable[[int], bool]

    def check(self, certificate: x509.Certificate) -> None:
        """Raises PeerRefused, naming the rule."""
        if spiffe_of(certificate) != self.spiffe:
            raise PeerRefused(f"the server is not {self.spiffe}")
        require_usage(certificate, ExtendedKeyUsageOID.SERVER_AUTH)
        require_issuer(certificate, self.trust.service_issuers)
        self.check_still(certificate)

    def check_still(self, certificate: x509.Certificate) -> None:
        """What can change while a connection lives. Raises PeerRefused."""
        if self.now() >= certificate.not_valid_after_utc:
            raise PeerRefused("the server's certificate has expired")
        if self.revoked(certificate.serial_number):
            raise PeerRefused("the server's certificate is revoked")


class CheckedContext(ssl.SSLContext):
    """A client context whose handshakes end only at the expected server."""

    server_check: ServerCheck
    server_seen: list[x509.Certificate]


class CheckedHandshake(ssl.SSLObject):
    """The TLS session of one connection; `do_handshake` succeeds after the check and never without."""

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
    """A context that trusts `ca_pem` only; with certificate and key for a service, without for an operator.

    An empty `ca_pem` trusts no server.
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
    """The SPIFFE id of a service."""
    return ServiceSpiffeId(trust_domain, name)


class CloudClient:
    """Calls one server. Connections are kept alive. With `token` the client is an operator's.

    A connection outlives its handshake. So before each call the certificates that the server has shown are checked
    again: if one has expired or been revoked since, all connections are dropped and the next handshake decides.
    """

    def __init__(self, base_url: str, context: CheckedContext, *, token: str = "") -> None:
        self._base_url = base_url
        self._context = context
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "cascade"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
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
        """Use another certificate or trust from the next call on. Calls that run end on their old connections."""
        old, self._context = self._connections, context
        self._connections = self._connect()
        await old.retire()

    @property
    def server(self) -> x509.Certificate | None:
        """The certificate that the server has shown last, since the last `reconnect`."""
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

        `body` is encoded as JSON; bytes go as they are, under the Content-Type in `headers`; None is no body.

        Raises:
            ServerRefused: the server is not who it should be; nothing was sent.
            Unreachable: no answer within `seconds`.
            AnswerUnusable: more than `RESPONSE_BODY_BYTES_MAX`.
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
            raise Unreachable(f"no answer from {self._base_url} in time") from error
        except httpx.HTTPError as error:
            if refused := _verification_error(error):
                raise ServerRefused(f"cannot trust {self._base_url}: {refused}") from error
            raise Unreachable(f"cannot reach {self._base_url}: {str(error) or type(error).__name__}") from error

    async def _drop_stale(self) -> None:
        """Drop all connections if one of the server's certificates is no longer trusted."""
        check = self._context.server_check
        for certificate in self._context.server_seen:
            try:
                check.check_still(certificate)
            except PeerRefused:
                self._context.server_seen.clear()
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
    """The body, or AnswerUnusable as soon as it is too long."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > RESPONSE_BODY_BYTES_MAX:
            raise AnswerUnusable(f"the answer is larger than {RESPONSE_BODY_BYTES_MAX} bytes")
    return bytes(body)


def _verification_error(error: BaseException) -> str:
    """The reason of a failed server check somewhere below an HTTP error, or nothing."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return str(below.args[-1] if below.args else below)
        below = below.__cause__ or below.__context__
    return ""
