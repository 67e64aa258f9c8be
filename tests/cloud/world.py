"""A real listener with a small application, and a raw HTTP/1.1 client that keeps its connection."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from cloud.http.app import make_app
from cloud.http.guard import (
    ANONYMOUS,
    ENROLLING,
    NODE,
    OPERATOR,
    ClosedAnswer,
    Guard,
    Operator,
    current_credentials,
    current_node,
    current_operator,
    current_peer,
    service,
)
from cloud.http.listener import LIMITS, Limits
from cloud.http.problems import Refusal
from cloud.mtls.key_pair import load_key_pair
from cloud.mtls.peer import NodePeer
from cloud.mtls.server import ServerTls
from cloud.process.serve import CloudServer, Listener, Served, Unit, running
from cloud.storage.errors import OutcomeUnknown
from cloud.tasks.current_request import current_request_id, current_traceparent
from protocol.bounds import limits
from protocol.ids import NodeId, TenantId
from protocol.problems import ProblemDocument
from tests.cloud.pki import Leaf, Pki


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    count: Annotated[int, limits(minimum=0, maximum=1000)]
    label: Annotated[str, limits(maxLength=100)] = ""


AnyRequest = Request[Any, Any, Any]


@get("/open", opt={"peers": (ANONYMOUS,)})
async def open_route(request: AnyRequest) -> str:
    return current_peer(request).kind


@get("/node", opt={"peers": (NODE,)})
async def node_route(request: AnyRequest) -> str:
    return f"{current_node(request).node} {current_node(request).generation}"


@get("/either", opt={"peers": (NODE, ANONYMOUS)})
async def either_route(request: AnyRequest) -> str:
    return current_peer(request).kind


@get("/fabric", opt={"peers": (service("fabric"),)})
async def fabric_route(request: AnyRequest) -> str:
    return str(getattr(current_peer(request), "name", ""))


@get("/operator", opt={"peers": (OPERATOR,)})
async def operator_route(request: AnyRequest) -> str:
    return current_operator(request).name


@get("/enrolling", opt={"peers": (ENROLLING,)})
async def enrolling_route(request: AnyRequest) -> str:
    return f"{current_peer(request).kind} {current_credentials(request).service}"


@get("/trace", opt={"peers": (ANONYMOUS,)})
async def trace_route() -> str:
    return f"{current_request_id()} {current_traceparent()}"


@get("/nobody")
async def nobody_route() -> str:
    return "never"


@get("/oddly-listed", opt={"peers": "anonymous"})
async def oddly_listed_route() -> str:
    return "never"


@post("/orders", opt={"peers": (ANONYMOUS,)}, status_code=200)
async def orders_route(data: JSONBody[Order]) -> Order:
    return data


@post("/fabric-orders", opt={"peers": (service("fabric"),)}, status_code=200)
async def fabric_orders_route(data: JSONBody[Order]) -> Order:
    return data


@get("/things/{number:int}", opt={"peers": (ANONYMOUS,)})
async def things_route(number: FromPath[int], limit: Annotated[int, QueryParameter(ge=0, le=100)] = 3) -> int:
    return number + limit


@get("/refuse", opt={"peers": (ANONYMOUS,)})
async def refuse_route() -> str:
    raise Refusal("code_expired", "it was for last week")


@get("/fault", opt={"peers": (ANONYMOUS,)})
async def fault_route() -> str:
    raise RuntimeError("the passphrase is swordfish")


@get("/away", opt={"peers": (ANONYMOUS,)})
async def away_route() -> str:
    raise OutcomeUnknown("the server at 10.0.0.9 went away")


ROUTES = (
    open_route,
    node_route,
    either_route,
    fabric_route,
    operator_route,
    enrolling_route,
    trace_route,
    nobody_route,
    oddly_listed_route,
    orders_route,
    fabric_orders_route,
    things_route,
    refuse_route,
    fault_route,
    away_route,
)


@dataclass
class World:
    """The state that tests change: open generations, revoked serials, and the clock."""

    pki: Pki = field(default_factory=Pki)
    closed: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)
    judged: asyncio.Event = field(default_factory=asyncio.Event)
    ahead: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self.trust = self.pki.trust
        self.server_leaf = self.pki.service("fabric")
        self.tls = ServerTls(self.server_leaf.chain_pem, self.server_leaf.key, self.pki.ca_pem)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    async def generation_open(self, tenant: TenantId, node: NodeId, generation: int) -> bool:
        return generation not in self.closed

    async def service_revoked(self, serial: int) -> bool:
        self.judged.set()
        return serial in self.revoked

    async def operator_of(self, token: str) -> Operator | None:
        return Operator("tok", "alice") if token == "good" else None

    async def statement_of(self, peer: NodePeer) -> ClosedAnswer:
        return ClosedAnswer(statement=f"signed for {peer.generation}")

    def app(self) -> Litestar:
        guard = Guard(
            trust=lambda: self.trust,
            checks=self,
            now=self.now,
            operator_of=self.operator_of,
            closed=self.statement_of,
        )
        return make_app(ROUTES, guard)

    @asynccontextmanager
    async def serving(self, *, tls: bool = True, limits: Limits = LIMITS) -> AsyncIterator[int]:
        """Return the port of a running listener."""
        listener = Listener(self.app(), "127.0.0.1", 0, self.tls if tls else None, limits=limits)
        async with listening(unit_of(listener)) as servers:
            yield port_of(servers[0])

    def client_context(self, leaf: Leaf | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pki.root.pem.decode())
        if leaf is not None:
            load_key_pair(context, leaf.chain_pem, leaf.key)
        return context


def unit_of(*listeners: Listener) -> Unit:
    """A unit that only listens."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Served]:
        yield Served(listeners)

    return Unit(name="test", open=opened)


@asynccontextmanager
async def listening(unit: Unit) -> AsyncIterator[list[CloudServer]]:
    """A unit that accepts connections. At the end its connections are cut and its listeners closed."""
    async with running(unit) as opened:
        yield opened.servers


def port_of(server: CloudServer) -> int:
    return server.port


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> ProblemDocument:
        assert self.headers["content-type"] == "application/problem+json"
        return msgspec.json.decode(self.body, type=ProblemDocument, strict=True)

    @property
    def said(self) -> bytes:
        """The body without the id of the request."""
        return self.body.replace(self.headers["x-request-id"].encode(), b"")


class Connection:
    """One connection that is kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        sent = dict(headers or {})
        if body is not None:
            sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **sent}
        lines += [f"{key}: {value}" for key, value in sent.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))
        return await self.answer(method)

    async def answer(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in head[1:] if line}
            length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
            return Answer(int(head[0].split()[1]), headers, await self.reader.readexactly(length))


@asynccontextmanager
async def connected(port: int, context: ssl.SSLContext | None) -> AsyncIterator[Connection]:
    name = "localhost" if context is not None else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def ask(path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
    """Return the answer to one request of a client without a certificate."""

    async def asked() -> Answer:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            return await client.ask(path, method, headers, body)

    return asyncio.run(asked())
