"""Guard of an application: it admits callers by the list beside each route.

    @get("/v1/things", opt={"peers": (NODE, service("fabric"))})

A route without a list refuses everyone. A caller is a TLS peer (`cloud.mtls.peer`), an operator with a bearer token, or a
service that enrols: it has no certificate yet and shows a one-time secret (HTTP Basic, RFC 7030 section 3.2.3).
`Authorization` is read in this module only, where OPERATOR or ENROLLING is listed; no other header is read. Where only
ANONYMOUS is listed the client certificate is not read; where ENROLLING is, a caller with a certificate is refused. The
guard runs before the body is read, and once more after a body that took long to arrive.
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

PEERS = "peers"
"""The key of the list in a route's `opt`."""
_JUDGED = "judged"
JUDGED_SECONDS = 0.5
"""How old a judgement may be when the body is there. A caller may dribble a body for half a minute, in which it may
have been revoked."""


class Admitted(msgspec.Struct, frozen=True):
    """One entry of a route's list."""

    kind: Literal["anonymous", "node", "service", "operator", "enrolling"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind


ANONYMOUS = Admitted("anonymous")
NODE = Admitted("node")
OPERATOR = Admitted("operator")
ENROLLING = Admitted("enrolling")
CREDENTIALS_CHARS_MAX = 512
"""Of a whole `Authorization: Basic`: a service's name and a secret are below 100."""
BASIC = {"WWW-Authenticate": 'Basic realm="est"'}


def service(name: ServiceName) -> Admitted:
    """The entry that admits one service."""
    return Admitted("service", name)


class Operator(msgspec.Struct, frozen=True):
    """A person or program that operates the cloud; `id` is the token's, `name` what the audit shows."""

    id: str
    name: str


class Credentials(msgspec.Struct, frozen=True):
    """What a service that enrols has shown; the route judges it, for only the request's body completes it."""

    service: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(service={self.service!r})"


class ClosedAnswer(msgspec.Struct, frozen=True):
    """What a node of a closed generation gets with the refusal: signed documents, or nothing."""

    statement: str = ""
    freshness: str = ""


OperatorOf = Callable[[str], Awaitable[Operator | None]]
ClosedHook = Callable[[NodePeer], Awaitable[ClosedAnswer]]


async def no_operators(_token: str) -> Operator | None:
    """For a service that has no operators' routes."""
    return None


async def no_statement(_peer: NodePeer) -> ClosedAnswer:
    """For a service that signs no statements."""
    return ClosedAnswer()


class Guard:
    """The guard of one service's application.

    `trust` is asked at every request, so that a rotated CA counts at once; it should return the same object while
    nothing has changed: parsed certificates are cached by it.
    """

    def __init__(
        self,
        *,
        trust: Callable[[], PeerTrust],
        checks: PeerChecks,
        now: Callable[[], datetime],
        operator_of: OperatorOf = no_operators,
        closed: ClosedHook = no_statement,
    ) -> None:
        self._trust = trust
        self._checks = checks
        self._now = now
        self._operator_of = operator_of
        self._closed = closed

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Admit the caller or raise `Refusal`; the peer or operator is left in the request's state."""
        await self._judge(connection, handler)
        connection.scope["state"][_JUDGED] = (self, handler, asyncio.get_running_loop().time())

    async def _judge(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        admitted = peers_of(handler)
        if not admitted:
            raise Refusal("peer_refused", "this route admits nobody")
        state = connection.scope["state"]
        if OPERATOR in admitted and (token := _bearer(connection)):
            operator = await self._operator_of(token)
            if operator is None:
                raise Refusal("operator_required", headers={"WWW-Authenticate": "Bearer"})
            state["operator"] = operator
            return
        state["peer"] = await self._peer(connection, admitted)
        if ENROLLING in admitted:
            state["credentials"] = _basic(connection)

    async def _peer(self, connection: ASGIConnection[Any, Any, Any, Any], admitted: tuple[Admitted, ...]) -> Peer:
        kinds = {entry.kind for entry in admitted}
        if kinds == {"anonymous"}:
            return ANONYMOUS_PEER
        if kinds == {"operator"}:
            raise Refusal("operator_required", headers={"WWW-Authenticate": "Bearer"})
        try:
            peer = peer_of(connection.scope, self._trust(), self._now())
            if not _is_listed(peer, admitted):
                raise _not_listed(peer, kinds)
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
    """Once the body is there: the guard's look again, if the first is old. Raises Refusal."""
    judged = connection.scope["state"].get(_JUDGED)
    if judged is None:
        return
    guard, handler, at = judged
    if asyncio.get_running_loop().time() > at + JUDGED_SECONDS:
        await guard(connection, handler)


def peers_of(handler: BaseRouteHandler) -> tuple[Admitted, ...]:
    """The list beside a route; empty if there is none, or if it has anything but entries."""
    listed = handler.opt.get(PEERS, ())
    if not isinstance(listed, tuple) or not all(isinstance(entry, Admitted) for entry in listed):
        return ()
    return listed


def _bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _basic(connection: ASGIConnection[Any, Any, Any, Any]) -> Credentials:
    """User and password of HTTP Basic (RFC 7617). Raises Refusal when there are none that can be read."""
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
    """The peer that the guard admitted; anonymous where an operator called."""
    peer: Peer = connection.scope["state"].get("peer", ANONYMOUS_PEER)
    return peer


def current_node(connection: ASGIConnection[Any, Any, Any, Any]) -> NodePeer:
    """The node that calls. Raises Refusal for any other caller."""
    peer = current_peer(connection)
    if not isinstance(peer, NodePeer):
        raise Refusal("peer_required")
    return peer


def current_service(connection: ASGIConnection[Any, Any, Any, Any]) -> ServicePeer:
    """The service that calls. Raises Refusal for any other caller."""
    peer = current_peer(connection)
    if not isinstance(peer, ServicePeer):
        raise Refusal("peer_required")
    return peer


def current_operator(connection: ASGIConnection[Any, Any, Any, Any]) -> Operator:
    """The operator who calls. Raises Refusal for any other caller."""
    operator = connection.scope["state"].get("operator")
    if not isinstance(operator, Operator):
        raise Refusal("operator_required")
    return operator


def current_credentials(connection: ASGIConnection[Any, Any, Any, Any]) -> Credentials:
    """What the enrolling service that calls has shown. Raises Refusal for any other caller."""
    credentials = connection.scope["state"].get("credentials")
    if not isinstance(credentials, Credentials):
        raise Refusal("enrolment_refused", headers=BASIC)
    return credentials


class RouteEntry(msgspec.Struct, frozen=True):
    """One method of one path, and whom it admits (nobody: the guard refuses everyone)."""

    method: str
    path: str
    peers: tuple[Admitted, ...]
    handler: str


def routes_of(app: Litestar) -> Iterator[RouteEntry]:
    """Every route of an application, mounted ASGI applications included (method `*`).

    Litestar's own OPTIONS answers are left out: they have no list, so the guard refuses them.
    """
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            handler = getattr(route, "route_handler", None)
            listed = peers_of(handler) if isinstance(handler, BaseRouteHandler) else ()
            yield RouteEntry("*", route.path, listed, type(route).__name__)
            continue
        for method, (handler, _) in sorted(route.route_handler_map.items()):
            if method != "OPTIONS" or PEERS in handler.opt:
                yield RouteEntry(str(method), route.path_format, peers_of(handler), handler.handler_name)
