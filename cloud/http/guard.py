"""Adapter: the guard of an application. It admits callers by the list of peers beside each route.

    @get("/v1/things", opt={"peers": (NODE, service("fabric"))})

A route without a list refuses every caller. A caller is a TLS peer (`cloud.mtls.peer`), an operator with a bearer
token, or an enrolling service. An enrolling service has no certificate yet and sends a one-time secret (HTTP Basic, RFC
7030 section 3.2.3).

Only this module reads `Authorization`, and only if the list has OPERATOR or ENROLLING. The guard reads no other header.
If the list has ANONYMOUS only, the guard does not read the client certificate. If the list has ENROLLING, the guard
refuses a caller with a certificate. The guard runs before the body is read, and again if the body took long to arrive.
The guard also applies the limits by caller (`cloud.http.admission`).
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Collection, Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope

from cloud.http.admission import Admission, Bucket, Caller, bucket_of, node_caller, operator_caller, service_caller
from cloud.http.problems import Refusal
from cloud.mtls.peer import (
    ANONYMOUS_PEER,
    NodePeer,
    Peer,
    PeerChecks,
    PeerClosed,
    PeerRefused,
    PeerTrust,
    ServicePeer,
    admit,
    peer_of,
)
from protocol.ids import ServiceName
from protocol.problems import KINDS

PEERS = "peers"
"""Key of the list in a route's `opt`."""
_ASKED = "asked"
_JUDGED = "judged"
_QUOTA = "quota"
JUDGED_SECONDS = 0.5
"""Age from which the guard's decision is repeated when the body has arrived. A caller can send a body slowly, over half
a minute, and can be revoked in this time."""


class Admitted(msgspec.Struct, frozen=True):
    """One entry of a route's list of peers. `name` is the service's name for the kind `service`, otherwise empty."""

    kind: Literal["anonymous", "node", "service", "operator", "enrolling"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind


ANONYMOUS = Admitted("anonymous")
NODE = Admitted("node")
OPERATOR = Admitted("operator")
ENROLLING = Admitted("enrolling")
CREDENTIALS_CHARS_MAX = 512
"""Maximum length of the value in an `Authorization: Basic` header. A service's name and a secret have less than 100
characters."""
BASIC = {"WWW-Authenticate": 'Basic realm="est"'}


def service(name: ServiceName) -> Admitted:
    """Return the entry that admits one service."""
    return Admitted("service", name)


class Operator(msgspec.Struct, frozen=True):
    """A person or program that operates the cloud. `id` is the id of the token.

    `name` is its name, which the audit shows.
    """

    id: str
    name: str


class Credentials(msgspec.Struct, frozen=True):
    """Credentials of an enrolling service. The route checks them, because it also needs the request's body for it."""

    service: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(service={self.service!r})"


class ClosedAnswer(msgspec.Struct, frozen=True):
    """Signed documents for a node of a closed generation, sent with the refusal. Both are empty if there are none."""

    statement: str = ""
    freshness: str = ""


Waits = Callable[[Bucket | None], str]
"""Returns why the routes with a bucket refuse every caller at the moment; empty if they do not."""
OperatorOf = Callable[[str], Awaitable[Operator | None]]
ClosedHook = Callable[[NodePeer], Awaitable[ClosedAnswer]]


async def no_operators(_token: str) -> Operator | None:
    """Refuse every token. For a service without operators' routes."""
    return None


async def no_statement(_peer: NodePeer) -> ClosedAnswer:
    """Return no documents. For a service that signs no statements."""
    return ClosedAnswer()


def never_waits(_bucket: Bucket | None) -> str:
    """Serve every route. For a service that is ready as soon as it listens."""
    return ""


class Guard:
    """The guard of one service's application.

    `trust` is called for every request, so that a rotated CA is used at once. It should return the same object until
    the trust changes, because parsed certificates are cached by this object. `operator_of` returns the operator of a
    token, or None. `closed` returns the documents for a node of a closed generation. `admission` has the limits by
    caller; without it there are none. `waits` says which routes refuse every caller for now.
    """

    def __init__(
        self,
        *,
        trust: Callable[[], PeerTrust],
        checks: PeerChecks,
        now: Callable[[], datetime],
        operator_of: OperatorOf = no_operators,
        closed: ClosedHook = no_statement,
        admission: Admission | None = None,
        waits: Waits = never_waits,
    ) -> None:
        self._trust = trust
        self._checks = checks
        self._now = now
        self._operator_of = operator_of
        self._closed = closed
        self._admission = admission
        self._waits = waits

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Admit the caller, and store the peer or operator in the request's state. Raises Refusal."""
        connection.scope["state"][_ASKED] = True
        try:
            await self._judge(connection, handler)
        except Refusal as refusal:
            if self._admission is not None and refusal.code not in ("rate_limited", "unavailable"):
                await self._admission.refused(host_of(connection))
            raise
        connection.scope["state"][_JUDGED] = (self, handler, asyncio.get_running_loop().time())

    async def before_answer(self, message: Message, scope: Scope) -> None:
        """Litestar's hook before each message of an answer.

        It tells the caller what is left of its limit, and delays the refusals that the guard itself does not delay.
        These are the answers to requests without a route (404, 405), which Litestar gives without the guard, and the
        refusals of limits in use cases (429).
        """
        if message["type"] != "http.response.start" or self._admission is None:
            return
        client, state = scope["client"], scope["state"]
        if (quota := state.get(_QUOTA)) is not None:
            left = [(name.lower().encode(), value.encode()) for name, value in quota.headers.items()]
            message["headers"] = [*message["headers"], *left]
        try:
            if _ASKED not in state:
                await self._admission.refused(client[0] if client is not None else "")
            elif _JUDGED in state and message["status"] == KINDS["rate_limited"].status:
                await self._admission.refused_in_use_case(bucket_of(scope["route_handler"]), _kind_of(state))
        except Refusal:
            # Too many refusals wait already, so this answer ends its connection.
            message["headers"] = [*message["headers"], (b"connection", b"close")]

    async def _judge(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        admitted = peers_of(handler)
        if not admitted:
            raise Refusal("peer_refused", "this route admits no caller")
        if cause := self._waits(bucket_of(handler)):
            raise Refusal("unavailable", cause, headers={"Retry-After": "5"})
        state = connection.scope["state"]
        if OPERATOR in admitted and (token := _bearer(connection)):
            operator = await self._operator_of(token)
            if operator is None:
                raise Refusal("operator_required", headers={"WWW-Authenticate": "Bearer"})
            await self._limit(connection, handler, operator_caller(operator.id))
            state["operator"] = operator
            return
        state["peer"] = await self._peer(connection, handler, admitted)
        if ENROLLING in admitted:
            state["credentials"] = _basic(connection)

    async def _limit(
        self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler, caller: Caller | None
    ) -> None:
        """Take a permit of the caller for the route, once for each request. Raises Refusal."""
        if self._admission is None or _JUDGED in connection.scope["state"]:
            return
        host = host_of(connection)
        quota = await self._admission.check(bucket_of(handler), caller, host)
        if quota is not None:
            connection.scope["state"][_QUOTA] = quota
        if caller is not None:
            self._admission.note_known(host)

    async def _peer(
        self,
        connection: ASGIConnection[Any, Any, Any, Any],
        handler: BaseRouteHandler,
        admitted: tuple[Admitted, ...],
    ) -> Peer:
        kinds = {entry.kind for entry in admitted}
        if kinds == {"anonymous"}:
            await self._limit(connection, handler, None)
            return ANONYMOUS_PEER
        if kinds == {"operator"}:
            raise Refusal("operator_required", headers={"WWW-Authenticate": "Bearer"})
        try:
            peer = peer_of(connection.scope, self._trust(), self._now())
            if not _is_listed(peer, admitted):
                raise _not_listed(peer, kinds)
            await self._limit(connection, handler, _caller_of(peer))
            await admit(peer, self._checks)
        except PeerClosed as closed:
            answer = await self._closed(closed.peer)
            raise Refusal(
                "generation_closed", closed.detail, statement=answer.statement, freshness=answer.freshness
            ) from closed
        except PeerRefused as refused:
            raise Refusal("peer_refused", refused.detail) from refused
        return peer


async def judge_again(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Repeat the guard's check after the body has arrived, if the first check is older than `JUDGED_SECONDS`.

    Raises Refusal.
    """
    judged = connection.scope["state"].get(_JUDGED)
    if judged is None:
        return
    guard, handler, at = judged
    if asyncio.get_running_loop().time() > at + JUDGED_SECONDS:
        await guard(connection, handler)


def peers_of(handler: BaseRouteHandler) -> tuple[Admitted, ...]:
    """Return the list of peers of a route. It is empty if there is none, or if it has anything but entries."""
    listed = handler.opt.get(PEERS, ())
    if not isinstance(listed, tuple) or not all(isinstance(entry, Admitted) for entry in listed):
        return ()
    return listed


def host_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Return the address of the caller, or an empty text if the connection has none."""
    return connection.client.host if connection.client is not None else ""


def _kind_of(state: dict[str, Any]) -> str:
    """Return the kind of the caller that the guard has admitted."""
    if "operator" in state:
        return "operator"
    peer: Peer = state.get("peer", ANONYMOUS_PEER)
    return peer.kind


def _caller_of(peer: Peer) -> Caller | None:
    if isinstance(peer, NodePeer):
        return node_caller(peer)
    return service_caller(peer) if isinstance(peer, ServicePeer) else None


def _bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _basic(connection: ASGIConnection[Any, Any, Any, Any]) -> Credentials:
    """Return user and password of HTTP Basic (RFC 7617). Raises Refusal if they are missing or malformed."""
    scheme, _, encoded = connection.headers.get("authorization", "").partition(" ")
    missing = Refusal("enrolment_refused", "send HTTP Basic: the service's name and its one-time secret", headers=BASIC)
    if scheme.lower() != "basic" or len(encoded) > CREDENTIALS_CHARS_MAX:
        raise missing
    try:
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise missing from None
    if not colon:
        raise missing
    return Credentials(name, secret)


def _is_listed(peer: Peer, admitted: tuple[Admitted, ...]) -> bool:
    if isinstance(peer, ServicePeer):
        return Admitted("service", peer.name) in admitted
    if isinstance(peer, NodePeer):
        return NODE in admitted
    return ANONYMOUS in admitted or ENROLLING in admitted


def _not_listed(peer: Peer, kinds: Collection[str]) -> Refusal:
    if peer is not ANONYMOUS_PEER:
        return Refusal("peer_refused", f"a {peer.kind} is not admitted here")
    if "operator" in kinds:
        return Refusal("operator_required", headers={"WWW-Authenticate": "Bearer"})
    return Refusal("peer_required")


def current_peer(connection: ASGIConnection[Any, Any, Any, Any]) -> Peer:
    """Return the peer that the guard admitted. It is anonymous if an operator called."""
    peer: Peer = connection.scope["state"].get("peer", ANONYMOUS_PEER)
    return peer


def current_node(connection: ASGIConnection[Any, Any, Any, Any]) -> NodePeer:
    """Return the node that calls. Raises Refusal for any other caller."""
    peer = current_peer(connection)
    if not isinstance(peer, NodePeer):
        raise Refusal("peer_required")
    return peer


def current_service(connection: ASGIConnection[Any, Any, Any, Any]) -> ServicePeer:
    """Return the service that calls. Raises Refusal for any other caller."""
    peer = current_peer(connection)
    if not isinstance(peer, ServicePeer):
        raise Refusal("peer_required")
    return peer


def current_operator(connection: ASGIConnection[Any, Any, Any, Any]) -> Operator:
    """Return the operator who calls. Raises Refusal for any other caller."""
    operator = connection.scope["state"].get("operator")
    if not isinstance(operator, Operator):
        raise Refusal("operator_required")
    return operator


def current_credentials(connection: ASGIConnection[Any, Any, Any, Any]) -> Credentials:
    """Return the credentials of the enrolling service that calls. Raises Refusal for any other caller."""
    credentials = connection.scope["state"].get("credentials")
    if not isinstance(credentials, Credentials):
        raise Refusal("enrolment_refused", headers=BASIC)
    return credentials


class RouteEntry(msgspec.Struct, frozen=True):
    """One method of one path, the callers that it admits, and the bucket of their limits."""

    method: str
    path: str
    peers: tuple[Admitted, ...]
    handler: str
    bucket: Bucket | None = None


def routes_of(app: Litestar) -> Iterator[RouteEntry]:
    """Yield every route of an application, mounted ASGI applications included (method `*`).

    Litestar's own OPTIONS answers are not included. They have no list, so the guard refuses them.
    """
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            handler = getattr(route, "route_handler", None)
            listed = peers_of(handler) if isinstance(handler, BaseRouteHandler) else ()
            bucket = bucket_of(handler) if isinstance(handler, BaseRouteHandler) else None
            yield RouteEntry("*", route.path, listed, type(route).__name__, bucket)
            continue
        for method, (handler, _) in sorted(route.route_handler_map.items()):
            if method != "OPTIONS" or PEERS in handler.opt:
                yield RouteEntry(
                    str(method), route.path_format, peers_of(handler), handler.handler_name, bucket_of(handler)
                )
