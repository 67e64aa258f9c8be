"""Adapter: the cloud's HTTP API. It has one method for each route, and decides nothing.

A call has one of these outcomes:

- It returns an answer of the expected type.
- It raises `CloudRefused` for a problem document with a conclusive code.
- It raises `ServerUnproven` if the server could not prove which service it is. The subclass `ClockWrong` says that only
  a date is wrong, by trusted time and not by the wall clock.
- It raises `CloudUnreachable` in every other case: network, TLS, 5xx, 429, an unreadable answer. `code` names the cause
  where it is known: `dns_failed`, `connection_refused`, `unreachable`, `timed_out`, `tls_failed`, `rate_limited`.

Only the signed statement in a `CloudRefused` can change the state of the licence.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import trio

from node.clock import utc_now
from node.errors import NodeError, Unreachable, VerificationFailed
from node.exits import Exit
from node.link.causes import current, whom
from node.link.certificates import Window
from node.link.connect import CONNECT_SECONDS_MAX, Answer, AnswerTooLong, LinkFailed, NoAnswer, Opened, open_tcp
from node.link.transport import NodeContext, ServerIdentityError, SessionKey, client_context
from node.text import shown
from protocol.encoding import json_decode, json_encode
from protocol.ids import IdError, Prefix, parse_id
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from protocol.messages.activation import Activated, AwaitedApproval, Challenge, StartActivation
from protocol.messages.est import (
    HEADER_REQUEST,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    EstError,
    decode_certs_only,
    encode_base64,
)
from protocol.messages.renewal import PATH_RENEWALS, RenewalChallenge, Renewed, StartRenewal, path_proof
from protocol.messages.sessions import Ask, Events, Nonce, OpenSession, Session, StatementAnswer
from protocol.messages.software import (
    PATH_SOFTWARE_ACTIVATIONS,
    PATH_SOFTWARE_RENEWALS,
    SoftwareChallenge,
    StartSoftwareActivation,
    path_software_proof,
)
from protocol.problems import KINDS, ProblemDocument
from protocol.signed.trust import ServiceUrls, X509Bundle

if TYPE_CHECKING:
    from node.link.http import Client

T = TypeVar("T")

SESSION_PATH = "/v1/node/sessions"
RETRY_AFTER_SECONDS_MAX = 600
"""Longest wait that the node accepts from the cloud's limits: one heartbeat. A wrong answer silences no node for longer."""
ANSWER_SECONDS_MAX = 30.0
"""The answer to an activation proof takes about a second; it waits for two commits and a certificate."""
HTTPS_PORT = 443
EVENT_MARGIN_SECONDS = 20.0
"""A long poll counts as lost this long after the wait that was asked for."""


class CloudUnreachable(Unreachable):
    """The cloud gave no usable answer. The node's standing is unknown."""

    code = "cloud_unreachable"
    next = "Check the network and the cloud's address. A running agent tries again by itself."

    def __init__(self, text: str, *, code: str = "", retry_after_seconds: float = 0.0) -> None:
        super().__init__(text, next_step=_NEXT.get(code, ""))
        self.code = code or self.code
        self.retry_after_seconds = retry_after_seconds
        """Seconds for which the cloud asked this node to wait, 0 if it did not."""


TOO_MANY_REQUESTS = 429
"""Status of a limit: the cloud is there, and answers this node later."""
NO_NETWORK = frozenset({"dns_failed", "unreachable"})
"""Codes of a machine whose network is not up yet."""
_NEXT = {
    "dns_failed": "Check the name servers of this machine (/etc/resolv.conf). A running agent tries again by itself.",
    "connection_refused": "Check that the cloud runs and that its address is right. A running agent tries again by itself.",
    "unreachable": "Check the network of this machine: cable, address, route. A running agent tries again by itself.",
    "timed_out": "Check the network and the firewalls on the way to the cloud. A running agent tries again by itself.",
    "rate_limited": "Nothing is wrong with this machine, and the licence stays as it is. The agent waits and asks again.",
    "tls_failed": "Check that no proxy or portal answers in the cloud's place. A running agent tries again by itself.",
}
"""Next steps by code."""


class ServerUnproven(VerificationFailed):
    """The server could not prove that it is the expected service."""

    code = "server_unproven"
    next = "Check that the activation file is from this cloud, and that nothing intercepts the connection."


class ClockWrong(ServerUnproven):
    """The server's certificate is valid at the time of the wall clock, and is out of its dates at trusted time."""

    exit = Exit.CLOCK
    code = "clock_wrong"
    next = (
        "Restart the machine with a right clock (see `timedatectl`). If the error stays, activate the machine again with a "
        "new activation file, which begins trusted time again."
    )


class CloudRefused(NodeError):
    """A problem document with a conclusive code. `problem.statement` and `problem.freshness` are signed, or empty."""

    exit = Exit.REFUSED

    def __init__(self, problem: ProblemDocument) -> None:
        text = f"the cloud refused: {problem.title.lower()}" + (f" ({problem.detail})" if problem.detail else "")
        super().__init__(text)
        self.code = problem.code
        self.next = shown(problem.next)
        self.problem = problem


async def _load_http() -> None:
    """Import `node.link.http`. The first import takes a tenth of a second, so a thread makes it, and the loop goes on."""
    name = "node.link.http"
    if name not in sys.modules:
        await trio.to_thread.run_sync(importlib.import_module, name)


def _retry_after(text: str) -> float:
    """The seconds of a `Retry-After` header (RFC 9110 section 10.2.3), at most RETRY_AFTER_SECONDS_MAX; 0 for a date."""
    return (
        float(min(int(text), RETRY_AFTER_SECONDS_MAX)) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
    )


def _refusal(answer: Answer) -> NodeError:
    try:
        problem = json_decode(answer.body, ProblemDocument)
    except msgspec.MsgspecError:
        reason = f"status {answer.status} without a reason"
    else:
        kind = KINDS.get(problem.code)
        if kind is not None and kind.conclusive:
            return CloudRefused(problem)
        reason = problem.title.lower()
    wait = _retry_after(answer.headers.get("retry-after", ""))
    text = f"cannot use the cloud's answer: {reason}" + (f"; it asks to wait {wait:g} s" if wait else "")
    if answer.status == TOO_MANY_REQUESTS:
        return CloudUnreachable(text, code="rate_limited", retry_after_seconds=wait)
    return CloudUnreachable(text, retry_after_seconds=wait)


def _unreachable(base_url: str, error: Exception) -> CloudUnreachable:
    """The cause of an exchange without an answer."""
    if isinstance(error, LinkFailed):
        return CloudUnreachable(f"cannot reach {base_url}: {error.text}", code=error.code)
    if isinstance(error, trio.TooSlowError | TimeoutError):
        return CloudUnreachable(f"cannot reach {base_url}: its answer did not come in time", code="timed_out")
    if isinstance(error, AnswerTooLong):
        return CloudUnreachable(f"cannot use the answer of {base_url}: it is too long")
    return CloudUnreachable(
        f"cannot reach {base_url}: the connection ended before its answer ({shown(str(error), 200)})"
    )


def _unproven(base_url: str, error: ServerIdentityError) -> ServerUnproven:
    """The cause of a failed verification."""
    text = f"cannot trust the server at {base_url}: {error}"
    return (
        ClockWrong(f"{text}.")
        if error.by_dates and current(error.chain, utc_now())
        else ServerUnproven(f"{text}. {whom(error.chain)}")
    )


class Service:
    """One service of the cloud, over one HTTP client, which is made when the first connection is open.

    A service with a session certificate in its context acts as the node. A service without one is anonymous.
    `make_context` is called once, when the first connection is open: a start without the cloud needs no TLS.
    """

    def __init__(self, make_context: Callable[[], NodeContext], base_url: str) -> None:
        self._make_context = make_context
        self._client: Client | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._closed = False
        self.base_url = base_url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the running requests, then close the connections.

        The order matters: a connection whose handshake still runs would outlive its client.
        """
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def _request_json(
        self, method: str, path: str, answer: type[T], body: bytes | None = None, wait_seconds: float | None = None
    ) -> T:
        """Send JSON and decode the answer.

        Raises CloudUnreachable, also when the service was closed meanwhile; ServerUnproven; CloudRefused.
        """
        headers = {"content-type": "application/json"} if body is not None else {}
        content = await self._request(method, path, headers, body, wait_seconds)
        return _read(lambda: json_decode(content, answer))

    async def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        wait_seconds: float | None = None,
    ) -> bytes:
        """The body of an answer with a 2xx status. Raises as `_request_json`."""
        if not self._closed:
            with trio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    return await self._exchange(method, path, headers, body, wait_seconds)
                finally:
                    self._scopes.discard(scope)
        raise CloudUnreachable(f"cannot reach {self.base_url}: the agent has closed the connection")

    async def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, wait_seconds: float | None
    ) -> bytes:
        """One request and its answer, with a bound on the bytes and on the total time. Raises as `_request_json`."""
        seconds_max = ANSWER_SECONDS_MAX if wait_seconds is None else wait_seconds + EVENT_MARGIN_SECONDS
        try:
            # The client's time-outs apply to each read. A server that sends a byte now and then would never exceed one.
            with trio.fail_after(CONNECT_SECONDS_MAX + seconds_max):
                answer = await self._answer(method, path, headers, body, seconds_max)
        except ServerIdentityError as error:
            raise _unproven(self.base_url, error) from error
        except (LinkFailed, NoAnswer, trio.TooSlowError, TimeoutError) as error:
            raise _unreachable(self.base_url, error) from error
        if not 200 <= answer.status < 300:
            raise _refusal(answer)
        return answer.body

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, seconds_max: float
    ) -> Answer:
        """One request and its answer. Without a connection to the cloud the HTTP client is not even imported.

        Raises as `node.link.http.Client.exchange`.
        """
        opened = None
        if self._client is None:
            parts = urlsplit(self.base_url)
            opened = Opened(await open_tcp(parts.hostname or "", parts.port or HTTPS_PORT, CONNECT_SECONDS_MAX))
        try:
            await _load_http()
            from node.link import http

            if self._client is None:
                self._client = http.Client(self._make_context(), self.base_url, opened)
            return await self._client.exchange(
                method,
                path,
                headers,
                body,
                connect_seconds_max=CONNECT_SECONDS_MAX,
                seconds_max=seconds_max,
                bytes_max=RESPONSE_BODY_BYTES_MAX,
            )
        finally:
            if opened is not None:
                await opened.aclose()

    async def start_activation(self, request: StartActivation) -> Challenge:
        """`POST /v1/activations`. Raises as `_request_json`, as every method below."""
        challenge = await self._request_json("POST", "/v1/activations", Challenge, json_encode(request))
        _check_ids(("act", challenge.activation))
        return challenge

    async def prove_activation(
        self, activation: str, body: bytes, *, in_software: bool = False
    ) -> Activated | AwaitedApproval:
        """`POST /v1/activations/{id}/proof`; `in_software`: `POST /v1/software-activations/{id}/proof`.

        `body` is an encoded `ProveActivation` or `ProveSoftwareActivation`, byte for byte as stored, so that a repeat
        gets the same answer.
        """
        path = path_software_proof(activation) if in_software else f"/v1/activations/{activation}/proof"
        content = await self._request("POST", path, {"content-type": "application/json"}, body)
        answer = _read(lambda: _proved(content))
        if isinstance(answer, Activated):
            _check_ids(("ten", answer.tenant), ("node", answer.node))
        else:
            _check_ids(("act", answer.activation))
        return answer

    async def start_software_activation(self, request: StartSoftwareActivation) -> SoftwareChallenge:
        """`POST /v1/software-activations`, of a machine without a TPM."""
        challenge = await self._request_json("POST", PATH_SOFTWARE_ACTIVATIONS, SoftwareChallenge, json_encode(request))
        _check_ids(("act", challenge.activation))
        return challenge

    async def renew_software(self, body: bytes) -> Renewed:
        """`POST /v1/node/software-renewals`. `body` is an encoded `RenewSoftware`, byte for byte as stored."""
        return await self._request_json("POST", PATH_SOFTWARE_RENEWALS, Renewed, body)

    async def nonce(self) -> Nonce:
        """`POST /v1/node/nonces`."""
        return await self._request_json("POST", "/v1/node/nonces", Nonce, b"{}")

    async def open_session(self, request: OpenSession) -> Session:
        """`POST /v1/node/sessions`."""
        return await self._request_json("POST", SESSION_PATH, Session, json_encode(request))

    async def confirm(self, request: Ask) -> StatementAnswer:
        """`POST /v1/node/confirm`, over a session."""
        return await self._request_json("POST", "/v1/node/confirm", StatementAnswer, json_encode(request))

    async def statement(self, request: Ask) -> StatementAnswer:
        """`POST /v1/node/statement`, over a session."""
        return await self._request_json("POST", "/v1/node/statement", StatementAnswer, json_encode(request))

    async def release(self, request: Ask) -> StatementAnswer:
        """`POST /v1/node/release`, over a session."""
        return await self._request_json("POST", "/v1/node/release", StatementAnswer, json_encode(request))

    async def events(self, cursor: int, wait_seconds: int) -> Events:
        """`GET /v1/node/events`, over a session: a long poll that the cloud answers after at most `wait_seconds`."""
        path = f"/v1/node/events?cursor={cursor}&wait={wait_seconds}"
        return await self._request_json("GET", path, Events, wait_seconds=wait_seconds)

    async def reenroll(self, csr_der: bytes, request: str) -> bytes:
        """EST `simplereenroll` (RFC 7030 section 4.2.2) at Breakwater, over a session.

        Returns the certificate in DER, without its chain. A repeat with the same `request` gets the same certificate.
        """
        headers = {"content-type": TYPE_PKCS10, HEADER_REQUEST: request}
        content = await self._request("POST", PATH_SIMPLEREENROLL, headers, encode_base64(csr_der))
        certificates = _read(lambda: decode_certs_only(content))
        if len(certificates) != 1:
            raise CloudUnreachable(f"cannot use the cloud's answer: it has {len(certificates)} certificates, not one")
        return certificates[0]

    async def start_renewal(self, request: StartRenewal) -> RenewalChallenge:
        """`POST /v1/node/renewals`."""
        challenge = await self._request_json("POST", PATH_RENEWALS, RenewalChallenge, json_encode(request))
        _check_ids(("ren", challenge.renewal))
        return challenge

    async def prove_renewal(self, renewal: str, body: bytes) -> Renewed:
        """`POST /v1/node/renewals/{id}/proof`.

        `body` is an encoded `ProveRenewal`, byte for byte as stored, so that a repeat gets the same answer.
        """
        return await self._request_json("POST", path_proof(renewal), Renewed, body)


def _proved(content: bytes) -> Activated | AwaitedApproval:
    """The answer to a proof: a device certificate, or the wait for an operator. Each has fields that the other lacks.

    Raises msgspec.MsgspecError.
    """
    try:
        return json_decode(content, Activated)
    except msgspec.ValidationError:
        waiting = json_decode(content, AwaitedApproval)
        if waiting.asked_at.tzinfo is None or waiting.expires_at.tzinfo is None:
            raise msgspec.ValidationError("a date has no time zone") from None
        return waiting


def _check_ids(*ids: tuple[Prefix, str]) -> None:
    """Check the form of an answer's ids, each against its prefix. Raises CloudUnreachable."""
    for prefix, value in ids:
        try:
            parse_id(prefix, value)
        except IdError as error:
            raise CloudUnreachable(f"cannot use the cloud's answer: {error}") from error


def _read(decode: Callable[[], T]) -> T:
    try:
        return decode()
    except (msgspec.MsgspecError, EstError) as error:
        raise CloudUnreachable(f"cannot read the cloud's answer: {error}") from error


def connect(
    bundle: X509Bundle,
    urls: ServiceUrls,
    name: str,
    window: Callable[[], Window],
    session: tuple[SessionKey, tuple[bytes, ...]] | None = None,
) -> Service:
    """A `Service` at the published URL.

    Args:
        bundle: the roots and issuing CAs to trust.
        urls: the published URLs.
        name: `fabric` or `breakwater`.
        window: the times at which the dates of the server's certificates are judged.
        session: session key and certificate chain (DER, leaf first) for TLS client authentication; None for an
            anonymous client.
    """
    base_url = urls.fabric if name == "fabric" else urls.breakwater
    if session is None:
        return Service(partial(client_context, bundle, name, window), base_url)
    context = client_context(bundle, name, window)
    key, chain = session
    key.use(context, chain)
    return Service(lambda: context, base_url)
