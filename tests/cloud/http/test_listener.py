"""`cloud.http.listener`: one request in work, one deadline, one end of a connection."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import msgspec
import pytest

from cloud.http.exchange import long_poll
from cloud.http.listener import LIMITS, TLS_BYTES_MAX, Limits, Shared
from cloud.http.listener import Connection as Protocol
from cloud.http.places import Places
from cloud.mtls.server_stream import BARE_RECORDS_MAX
from cloud.process.serve import CloudServer, Listener
from tests.cloud.pki import Pki, authority
from tests.cloud.world import Answer, Connection, World, connected, listening, port_of, unit_of
from tests.simulators.tls_records import APPLICATION_DATA, shake_hands
from tests.waiting import stays

BIG = b"x" * 500_000
QUICK = Limits(handshake=0.2, request=0.2, idle=0.2, linger=0.1)
POSTS = ("/read", "/refuse", "/command")


class App:
    """A small ASGI application that notes how its requests end."""

    def __init__(self) -> None:
        self.in_work = self.most_in_work = 0
        self.began, self.ended, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.ends: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.in_work += 1
        self.most_in_work = max(self.most_in_work, self.in_work)
        self.began.set()
        try:
            body = await self.work(scope, receive)
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", str(len(body)).encode())],
                }
            )
            await send({"type": "http.response.body", "body": body})
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise
        else:
            self.ends.append("done")
        finally:
            self.in_work -= 1
            self.ended.set()

    async def work(self, scope: Any, receive: Any) -> bytes:
        match scope["path"]:
            case "/read":
                body = b""
                more = True
                while more:
                    event = await receive()
                    body += event["body"]
                    more = event["more_body"]
                return body
            case "/poll":
                with long_poll(scope, 60):
                    await asyncio.Event().wait()
            case "/command":
                await self.go.wait()
            case "/big":
                return BIG
            case "/fault":
                raise RuntimeError("a bug")
            case _:
                pass
        return str(scope["path"]).encode()


@asynccontextmanager
async def served(app: App, limits: Limits = LIMITS) -> AsyncIterator[CloudServer]:
    listener = Listener(app, "127.0.0.1", 0, None, posts=POSTS, limits=limits)
    async with listening(unit_of(listener)) as servers:
        yield servers[0]


def post(path: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode() + body


async def rest(client: Connection) -> bytes:
    """All that the server still sends, until it closes the connection."""
    async with asyncio.timeout(5):
        return await client.reader.read()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\n",
    ],
    ids=["noise", "bad header", "connect", "HTTP/0.9"],
)
def test_what_is_not_http_gets_a_problem_and_an_end(request_bytes: bytes) -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            client.writer.write(request_bytes)
            assert (await client.answer()).problem.code == "malformed"
            assert await rest(client) == b""

    asyncio.run(test())


def test_an_endless_head_is_cut() -> None:
    async def test() -> None:
        async with served(App()) as server, connected(server.port, None) as client:
            client.writer.write(b"GET /open HTTP/1.1\r\n" + b"X-Filler: " + b"x" * 20_000)
            assert (await client.answer()).problem.code == "too_large"
            assert await rest(client) == b""

    asyncio.run(test())


def test_an_upgrade_is_not_taken() -> None:
    async def test() -> None:
        async with served(App()) as server, connected(server.port, None) as client:
            for upgrade in ("websocket", "h2c"):
                answer = await client.ask("/open", headers={"Connection": "Upgrade", "Upgrade": upgrade})
                assert (answer.status, answer.body) == (200, b"/open")
                assert "date" in answer.headers

    asyncio.run(test())


def test_pipelined_requests_are_worked_on_one_after_the_other() -> None:
    async def test() -> None:
        app = App()
        async with served(app) as server, connected(server.port, None) as client:
            paths = [f"/{number}" for number in range(50)]
            client.writer.write(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
            assert [(await client.answer()).body.decode() for _ in paths] == paths
            assert app.most_in_work == 1

    asyncio.run(test())


def test_answers_that_are_not_read_stop_the_requests_and_end_at_the_deadline() -> None:
    async def test() -> None:
        app = App()
        async with served(app, msgspec.structs.replace(QUICK, answer_bytes_per_second=1e9)) as server:
            async with connected(server.port, None) as client, asyncio.timeout(5):
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
                client.writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
                while app.ends[-1:] != ["CancelledError"]:
                    app.ended.clear()
                    await app.ended.wait()
            # The kernel's buffers, of about 128 kB here and up to 6 MB in the client, took some answers.
            assert len(app.ends) < 30

    asyncio.run(test())


def test_a_long_poll_ends_with_its_connection() -> None:
    async def test() -> None:
        app = App()
        async with served(app) as server, asyncio.timeout(5):
            async with connected(server.port, None) as client:
                client.writer.write(b"GET /poll HTTP/1.1\r\nHost: a\r\n\r\n")
                await app.began.wait()
            await app.ended.wait()
            assert app.ends == ["CancelledError"]

    asyncio.run(test())


def test_a_command_is_completed_after_its_connection_and_holds_its_place_until_then() -> None:
    async def test() -> None:
        app = App()
        async with served(app) as server, asyncio.timeout(5):
            async with connected(server.port, None) as client:
                client.writer.write(post("/command"))
                await app.began.wait()
            await stays("the command runs", lambda: app.ends == [] and len(server.connections) == 1, 0.05)
            app.go.set()
            await app.ended.wait()
            assert app.ends == ["done"]

    asyncio.run(test())


def test_a_command_is_completed_after_its_client_has_ended_tls() -> None:
    async def test() -> None:
        app, world = App(), World()
        listener = Listener(app, "127.0.0.1", 0, world.tls, limits=msgspec.structs.replace(LIMITS, linger=0.001))
        async with listening(unit_of(listener)) as servers, asyncio.timeout(5):
            async with connected(port_of(servers[0]), world.client_context()) as client:
                client.writer.write(post("/command"))
                await app.began.wait()
                client.writer.close()  # sends close_notify
                await stays("the command runs", lambda: app.ends == [], 0.05)
            app.go.set()
            await app.ended.wait()
            assert app.ends == ["done"]

    asyncio.run(test())


def test_a_body_that_ends_with_its_connection_ends_its_request_without_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        app = App()
        async with served(app) as server, asyncio.timeout(5):
            async with connected(server.port, None) as client:
                client.writer.write(post("/read", "Content-Length: 10", body=b"123"))
                await app.began.wait()
            await app.ended.wait()
            assert app.ends == ["CancelledError"]
            async with connected(server.port, None) as client:
                client.writer.write(post("/read", "Transfer-Encoding: chunked", body=b"0\r\nA: b\r\n\r\n"))
                assert (await client.answer()).problem.code == "malformed"

    with caplog.at_level(logging.INFO, "cascade"):
        asyncio.run(test())
    assert [line.message for line in caplog.records if line.message != "listening"] == []


def test_a_body_that_nobody_reads_closes_the_connection_after_the_answer() -> None:
    async def test() -> None:
        async with served(App()) as server:
            async with connected(server.port, None) as client:
                client.writer.write(post("/refuse", "Content-Length: 100000", body=b"x" * 50_000))
                answer = await client.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                client.writer.write(b"x" * 10_000)
                assert await rest(client) == b""
            async with connected(server.port, None) as client:
                assert "connection" not in (await client.ask("/refuse", "POST", body=b"whole")).headers
                assert (await client.ask("/again")).body == b"/again"

    asyncio.run(test())


def test_a_body_in_pieces_and_after_100_continue() -> None:
    async def test() -> None:
        async with served(App()) as server, connected(server.port, None) as client:
            client.writer.write(post("/read", "Content-Length: 100000", "Expect: 100-continue"))
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            for _ in range(100):
                client.writer.write(b"x" * 1000)
                await client.writer.drain()
            assert (await client.answer()).body == b"x" * 100_000
            chunks = b"5\r\nabcde\r\n2\r\nfg\r\n0\r\n\r\n"
            client.writer.write(post("/read", "Transfer-Encoding: chunked", body=chunks))
            assert (await client.answer()).body == b"abcdefg"

    asyncio.run(test())


def test_a_fault_of_the_application_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> Answer:
        async with served(App()) as server, connected(server.port, None) as client:
            return await client.ask("/fault")

    assert asyncio.run(test()).problem.code == "internal"
    assert [line.message for line in caplog.records if line.levelname == "ERROR"] == ["the application failed"]


SILENCES = {
    "no byte": b"",
    "an empty line": b"\r\n",
    "half a head": b"GET / HTTP/1.1\r\nHost:",
    "half a body": post("/read", "Content-Length: 100", body=b"1"),
    "half a chunk": post("/read", "Transfer-Encoding: chunked", body=b"9\r\n1"),
    "a whole request, then nothing": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a request without end of work": post("/command"),
}


@pytest.mark.slow
def test_every_silence_ends_at_the_deadline() -> None:
    async def test() -> None:
        async def silent(port: int, sent: bytes) -> None:
            async with connected(port, None) as client:
                client.writer.write(sent)
                await rest(client)

        async with served(App(), QUICK) as server, asyncio.timeout(10):
            await asyncio.gather(*(silent(server.port, sent) for sent in SILENCES.values()))
        world = World()
        async with world.serving(limits=QUICK) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)  # no handshake
            assert await reader.read() == b""
            writer.close()
            async with connected(port, world.client_context()) as client:
                assert await rest(client) == b""

    asyncio.run(test())


def test_a_client_whose_certificate_is_not_accepted_reads_the_reason() -> None:
    async def test() -> None:
        world = World()
        stranger = Pki(authority("another root")).service("fabric")
        async with world.serving() as port:
            async with connected(port, world.client_context(stranger)) as client:
                with pytest.raises(ssl.SSLError, match="ALERT_DECRYPT_ERROR"):
                    await client.ask("/open")
            old = world.client_context()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                async with connected(port, old):
                    pass

    asyncio.run(test())


async def cut(reader: asyncio.StreamReader) -> None:
    """The server closes the connection without a word."""
    async with asyncio.timeout(5):
        with pytest.raises(ConnectionError):
            while await reader.read(65536):
                pass
            raise ConnectionError


def test_the_bytes_of_tls_are_bounded() -> None:
    """Records of one byte cost the peer 22 bytes more, and these are counted."""

    async def test() -> None:
        world = World()
        async with world.serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            records = await shake_hands(reader, writer, world.client_context())
            writer.write(records.record(APPLICATION_DATA, b"GET /open HTTP/1.1\r\n"))
            for _ in range(TLS_BYTES_MAX // 22):
                writer.write(records.record(APPLICATION_DATA, b"a"))
            await cut(reader)
            writer.close()

    asyncio.run(test())


@pytest.mark.parametrize("answered", [False, True])
def test_a_flood_of_key_updates_ends_its_connection_only(answered: bool) -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as bystander:
            assert (await bystander.ask("/open")).status == 200
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            records = await shake_hands(reader, writer, world.client_context())
            updates = records.key_updates(answered=answered)
            request = b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n"
            # A few are part of TLS 1.3. A request in between allows a few more.
            for _ in range(2):
                writer.write(b"".join(islice(updates, BARE_RECORDS_MAX // 2)))
                writer.write(records.record(APPLICATION_DATA, request))
                assert await reader.read(65536)
            writer.write(b"".join(islice(updates, 10 * BARE_RECORDS_MAX)))
            await cut(reader)
            writer.close()
            assert (await bystander.ask("/open")).status == 200

    asyncio.run(test())


async def test_a_connection_that_is_evicted_before_it_has_a_transport_frees_its_place() -> None:
    places, left = Places(10), asyncio.Event()
    shared = Shared(App(), places, LIMITS, ("127.0.0.1", 0), set(), left)
    connection = Protocol(shared, ("127.0.0.1", 1), "127.0.0.1")
    assert places.count == 1
    connection.evict()
    accepted, client = socket.socketpair()
    with client:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        await asyncio.wait_for(left.wait(), 10)
    assert (places.count, shared.connections) == (0, set())
