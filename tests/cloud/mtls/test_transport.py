"""Connections of the client: answers, bounds, reuse, and the end of connections after failures and cancellations."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cloud.mtls.client import (
    CloudClient,
    ServerRefused,
    Unreachable,
    client_context,
)
from cloud.mtls.server import ServerTls
from cloud.mtls.transport import (
    CONNECTIONS_MAX,
    KEEP_ALIVE_SECONDS,
    OVERHEAD_BYTES_MAX,
    Address,
    AnswerTooLarge,
    NotHttp,
    Pool,
    connect_tcp,
    request_bytes,
)
from tests.cloud.mtls.contexts import context_for
from tests.cloud.pki import Pki
from tests.cloud.world import World
from tests.waiting import until


def test_a_call_on_its_way_outlives_another_trust() -> None:
    async def test() -> None:
        pki, asked, go = Pki(), asyncio.Event(), asyncio.Event()
        leaf = pki.service("fabric")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await reader.read()  # until the client closes
            writer.close()

        world = World(pki)
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=ServerTls(leaf.chain_pem, leaf.key, pki.ca_pem).context
        )
        port = server.sockets[0].getsockname()[1]
        async with server, CloudClient(f"https://localhost:{port}", context_for(world)) as client:
            call = asyncio.create_task(client.call("GET", "/open"))
            await asked.wait()
            met = client.server
            assert met == leaf.certificate
            await client.reconnect(context_for(world))
            forgotten = client.server
            assert forgotten is None
            go.set()
            assert (await call).body == b"ok"
            assert (await client.call("GET", "/open")).status == 200
            await client.reconnect(client_context(b"", context_for(world).server_check))
            with pytest.raises(ServerRefused):
                await client.call("GET", "/open")

    asyncio.run(test())


def test_a_handshake_that_is_given_up_leaves_no_connection_behind() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                pass
            ended.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with CloudClient(f"https://127.0.0.1:{port}", context_for(World())) as client:
                with pytest.raises(Unreachable):
                    await client.call("GET", "/open", seconds=0.1)
                async with asyncio.timeout(5):
                    await ended.wait()

    asyncio.run(test())


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Scripted:
    """A TLS server that answers every request with the same bytes. `met` counts its connections."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.met = 0
        self.held: asyncio.Event | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while await reader.readuntil(b"\r\n\r\n"):
                if self.held is not None:
                    await self.held.wait()
                writer.write(self.answer)
        writer.transport.abort()


@asynccontextmanager
async def pool_to(scripted: Scripted) -> AsyncIterator[Pool]:
    """A pool of connections to a scripted server."""
    world = World()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=world.tls.context)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(Address("localhost", port, "localhost"), context_for(world), connect_seconds=5, body_bytes_max=1000)
    async with server:
        try:
            yield pool
        finally:
            await pool.aclose()


def request() -> bytes:
    return request_bytes("GET", "/", {"Host": "localhost"}, None)


@pytest.mark.parametrize(
    ("raw", "status", "body", "header"),
    [
        (OK, 200, b"ok", "2"),
        (b"HTTP/1.1 200 OK\r\nx: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nt: x\r\n\r\n", 200, b"ok", ""),
        (b"HTTP/1.1 100 Continue\r\ncontent-length: 9\r\n\r\n" + OK, 200, b"ok", "2"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", ""),
        (b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n", 404, b"", "0"),
    ],
    ids=["length", "chunks", "interim", "no content", "refused"],
)  # fmt: skip
def test_answers_and_the_connection_that_serves_the_next(raw: bytes, status: int, body: bytes, header: str) -> None:
    async def test() -> None:
        scripted = Scripted(raw)
        async with pool_to(scripted) as pool:
            for _ in range(3):
                answer = await pool.ask(request())
                assert (answer.status, answer.body, answer.headers.get("content-length", "")) == (status, body, header)
            assert scripted.met == 1

    asyncio.run(test())


def test_equal_headers_are_joined() -> None:
    async def test() -> None:
        async with pool_to(Scripted(OK.replace(b"OK\r\n", b"OK\r\nA: 1\r\na: 2\r\n"))) as pool:
            assert (await pool.ask(request())).headers["a"] == "1, 2"

    asyncio.run(test())


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"SSH-2.0-x\r\n", NotHttp),
        (b"HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", NotHttp),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * OVERHEAD_BYTES_MAX, AnswerTooLarge),
        (b"HTTP/1.1 100 x\r\n\r\n" * (OVERHEAD_BYTES_MAX // 18 + 1), AnswerTooLarge),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001, AnswerTooLarge),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"01;" + b"x" * OVERHEAD_BYTES_MAX, AnswerTooLarge),
    ],
    ids=["no HTTP", "upgrade", "header", "interim answers", "body", "frame of a chunk"],
)  # fmt: skip
def test_an_answer_that_is_not_read(raw: bytes, error: type[Exception]) -> None:
    async def test() -> None:
        scripted = Scripted(raw)
        async with pool_to(scripted) as pool:
            with pytest.raises(error):
                await pool.ask(request())
            scripted.answer = OK
            assert (await pool.ask(request())).body == b"ok"
            assert scripted.met == 2, "the connection was closed"

    asyncio.run(test())


@pytest.mark.parametrize(
    "raw", [OK + OK, OK + b"HTTP", OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")], ids=["two", "begun", "close"]
)
def test_a_connection_that_may_not_serve_again(raw: bytes) -> None:
    async def test() -> None:
        scripted = Scripted(raw)
        async with pool_to(scripted) as pool:
            for _ in range(2):
                assert (await pool.ask(request())).body == b"ok"
            assert scripted.met == 2

    asyncio.run(test())


def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    async def test() -> None:
        scripted = Scripted(OK)
        async with pool_to(scripted) as pool:
            await pool.ask(request())
            (connection,) = pool._idle
            now = connection.idle_since
            assert connection.is_usable(now + KEEP_ALIVE_SECONDS)
            assert not connection.is_usable(now + KEEP_ALIVE_SECONDS + 1)
            scripted.writers[0].transport.abort()
            await asyncio.wait_for(connection.closed, 5)
            assert pool._idle == []
            assert (await pool.ask(request())).body == b"ok"
            assert scripted.met == 2

    asyncio.run(test())


def test_more_requests_than_connections_wait() -> None:
    async def test() -> None:
        scripted = Scripted(OK)
        scripted.held = asyncio.Event()
        async with pool_to(scripted) as pool, asyncio.TaskGroup() as group:
            asks = [group.create_task(pool.ask(request())) for _ in range(CONNECTIONS_MAX + 3)]
            await until("the last connection", lambda: scripted.met == CONNECTIONS_MAX)
            asks[-1].cancel()
            scripted.held.set()
            await asyncio.wait(asks)
            assert [ask.cancelled() for ask in asks].count(True) == 1
            assert scripted.met == CONNECTIONS_MAX

    asyncio.run(test())


def test_a_request_that_is_given_up_closes_its_connection() -> None:
    async def test() -> None:
        scripted = Scripted(OK)
        scripted.held = asyncio.Event()
        async with pool_to(scripted) as pool:
            ask = asyncio.create_task(pool.ask(request()))
            await until("the request", lambda: scripted.met == 1)
            ask.cancel()
            await asyncio.wait([ask])
            scripted.held.set()
            assert (await pool.ask(request())).body == b"ok"
            assert scripted.met == 2

    asyncio.run(test())


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        listening, closed = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
        good, bad = listening.getsockname(), closed.getsockname()
        closed.close()

        async def found(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        addresses = [bad, good]
        with listening, await connect_tcp("two.example", 1) as plain:
            assert plain.getpeername() == good
        addresses = [bad]
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1: Connection refused"):
            await connect_tcp("one.example", 1)

    asyncio.run(test())


@pytest.mark.parametrize(
    ("method", "target", "value"),
    [
        ("GET", "/a b", "x"),
        ("GET", "/a\r\nX: y", "x"),
        ("GET", "a", "x"),
        ("GET", "/ä", "x"),
        ("GET /x", "/", "x"),
        ("GET", "/", "x\r\nY: z"),
        ("GET", "/", "x\ny"),
        ("GET", "/", "x\0"),
    ],
)
def test_a_request_has_no_characters_that_end_a_field(method: str, target: str, value: str) -> None:
    with pytest.raises(ValueError, match="a request's"):
        request_bytes(method, target, {"A": value}, None)


def test_the_bytes_of_a_request() -> None:
    assert request_bytes("POST", "/p?q=1", {"Host": "h:1"}, b"{}") == (
        b"POST /p?q=1 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\n\r\n{}"
    )
