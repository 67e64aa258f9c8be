"""The HTTP client on real connections: framing, bounds, and which connection carries the next request."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from node.link.http import (
    CONNECTIONS_MAX,
    IDLE_CONNECTIONS_MAX,
    KEEPALIVE_SECONDS,
    Answer,
    AnswerTooLong,
    Client,
    ExchangeFailed,
    Request,
)

EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
ASKED = Request("POST", "/x?y=1", {"accept-encoding": "identity"}, b"body")


class Server:
    """Answers each request with `answer`. `opened` counts connections, `heads` has the head of each request."""

    def __init__(self, answer: bytes = EMPTY) -> None:
        self.answer = answer
        self.opened = 0
        self.ended = 0
        self.heads: list[bytes] = []
        self.hold = trio.Event()
        self.hold.set()
        self.streams: list[trio.SocketStream] = []
        self.once = False

    async def serve(self, stream: trio.SocketStream) -> None:
        self.opened += 1
        self.streams.append(stream)
        # The client resets a connection that it closes with unread bytes.
        with suppress(trio.BrokenResourceError):
            await self._answer_all(stream)
        await stream.aclose()
        self.ended += 1

    async def _answer_all(self, stream: trio.SocketStream) -> None:
        received = b""
        async for data in stream:
            received += data
            head, end, body = received.partition(b"\r\n\r\n")
            if end and (b"content-length: 4" not in head or len(body) >= 4):
                self.heads.append(head)
                received = b""
                await self.hold.wait()
                await stream.send_all(self.answer)
                if self.once:
                    break


@asynccontextmanager
async def asked(server: Server) -> AsyncIterator[Client]:
    """A client of the server."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]

    async def connect(seconds_max: float) -> trio.SocketStream:
        with trio.fail_after(seconds_max):
            return await trio.open_tcp_stream("127.0.0.1", port)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        async with Client(connect, "cloud.example:8440") as client:
            yield client
        nursery.cancel_scope.cancel()


async def ask(client: Client, request: Request = ASKED, body_bytes_max: int = 100) -> Answer:
    return await client.request(request, connect_seconds_max=5, answer_seconds_max=5, body_bytes_max=body_bytes_max)


async def test_a_request_and_its_answer() -> None:
    server = Server(b"HTTP/1.1 201 Created\r\nX-Name: \xe4\r\ncontent-length: 2\r\n\r\n{}")
    async with asked(server) as client:
        assert await ask(client) == Answer(201, {"x-name": "ä", "content-length": "2"}, b"{}")
    assert server.heads[0].split(b"\r\n") == [
        b"POST /x?y=1 HTTP/1.1", b"host: cloud.example:8440", b"accept-encoding: identity", b"content-length: 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" + EMPTY, b""),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", b"a"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_a_complete_answer_leaves_the_connection_open(answer: bytes, body: bytes) -> None:
    server = Server(answer)
    async with asked(server) as client:
        for _ in range(3):
            assert (await ask(client)).body == body
    assert server.opened == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_connection_that_the_server_ends_is_not_used_again(answer: bytes) -> None:
    server = Server(answer)
    async with asked(server) as client:
        for _ in range(2):
            assert (await ask(client)).status == 200
    assert server.opened == 2


async def test_an_answer_to_head_has_no_body() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\n\r\n")
    async with asked(server) as client:
        for _ in range(2):
            assert (await ask(client, Request("HEAD", "/"))).headers["date"] == "now"
    assert server.opened == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200", "without an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na", "closed connection"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab", "closed connection"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, "Receive buffer too long|too many headers"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + EMPTY, "."),
    ],
)
async def test_an_answer_that_is_cut_or_no_http_fails_and_ends_the_connection(answer: bytes, error: str) -> None:
    server = Server(answer)
    server.once = True
    async with asked(server) as client:
        with pytest.raises(ExchangeFailed, match=error):
            await ask(client)
        server.answer, server.once = EMPTY, False
        assert (await ask(client)).status == 200
    assert server.opened == 2


async def test_a_long_answer_is_cut_off_at_the_bound() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100)
    async with asked(server) as client:
        assert len((await ask(client)).body) == 100
        with pytest.raises(AnswerTooLong):
            await ask(client, body_bytes_max=99)


async def _closed(server: Server, _clock: trio.testing.MockClock) -> None:
    await server.streams[0].send_eof()


async def _talks(server: Server, _clock: trio.testing.MockClock) -> None:
    """Bytes that no request asked for."""
    await server.streams[0].send_all(EMPTY)


async def _late(_server: Server, clock: trio.testing.MockClock) -> None:
    clock.jump(KEEPALIVE_SECONDS)


@pytest.mark.parametrize("happens", [_closed, _talks, _late])
async def test_an_idle_connection_that_cannot_be_used_is_replaced(
    happens: Callable[[Server, trio.testing.MockClock], Awaitable[None]], mock_clock: trio.testing.MockClock
) -> None:
    server = Server()
    async with asked(server) as client:
        await ask(client)
        await trio.testing.wait_all_tasks_blocked()
        await happens(server, mock_clock)
        assert (await ask(client)).status == 200
    assert server.opened == 2


async def test_a_silent_server_has_its_time_and_a_cancelled_request_leaves_nothing() -> None:
    server = Server()
    server.hold = trio.Event()
    async with asked(server) as client:
        with pytest.raises(trio.TooSlowError):
            await client.request(ASKED, connect_seconds_max=5, answer_seconds_max=0.05, body_bytes_max=1)
        with trio.move_on_after(0.05) as scope:
            await ask(client)
        assert scope.cancelled_caught
        server.hold.set()
        assert (await ask(client)).status == 200
        with trio.fail_after(5):
            while server.ended < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.opened == 3


async def test_requests_and_idle_connections_have_a_bound() -> None:
    server = Server()
    server.hold = trio.Event()
    async with asked(server) as client, trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS_MAX + 2):
            nursery.start_soon(ask, client)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.opened == CONNECTIONS_MAX
        server.hold.set()
        with trio.fail_after(5):
            while len(server.heads) < CONNECTIONS_MAX + 2 or len(client._idle) != IDLE_CONNECTIONS_MAX:
                await trio.testing.wait_all_tasks_blocked(0.01)
