"""HTTP/1.1 from unknown callers: limited in time and size, and read-only without TLS."""

import asyncio

import pytest

from tests.cloud.world import Connection, World, connected
from tests.waiting import stays


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    ],
    ids=["noise", "bad header", "connect"],
)
def test_what_is_not_http_gets_a_problem(request_bytes: bytes) -> None:
    async def test(client: Connection) -> None:
        client.writer.write(request_bytes)
        assert (await client.answer()).problem.code in ("malformed", "not_found")

    run_with_client(test)


def test_an_endless_head_is_cut() -> None:
    async def test(client: Connection) -> None:
        client.writer.write(b"GET /open HTTP/1.1\r\n" + b"X-Filler: " + b"x" * 20_000)
        assert (await client.answer()).problem.code == "too_large"

    run_with_client(test)


def test_an_upgrade_is_not_taken() -> None:
    async def test(client: Connection) -> None:
        answer = await client.ask(
            "/open",
            headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="},
        )
        assert (answer.status, answer.body) == (200, b"anonymous")

    run_with_client(test)


def run_with_client(test: object) -> None:
    async def body() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            await test(client)  # type: ignore[operator]

    asyncio.run(body())


def test_a_plaintext_listener_only_reads() -> None:
    async def test() -> None:
        world = World()
        async with world.serving(tls=False) as port, connected(port, None) as client:
            assert (await client.ask("/open")).status == 200
            refused = await client.ask("/orders", "POST", body=b'{"count": 1}')
            assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
            assert "server" not in refused.headers

    asyncio.run(test())


@pytest.mark.slow
def test_a_connection_without_a_request_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.http.listener.REQUEST_SECONDS_MAX", 0.2)

    async def test() -> None:
        world = World()
        async with world.serving() as port:
            async with connected(port, world.client_context()) as silent, asyncio.timeout(3):
                assert await silent.reader.read() == b""
            async with connected(port, world.client_context()) as slow, asyncio.timeout(3):
                slow.writer.write(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                assert b"200 OK" not in await slow.reader.read()
            async with connected(port, world.client_context()) as good:
                assert (await good.ask("/open")).status == 200
                await stays("the connection is open", lambda: not good.reader.at_eof(), 0.4)
                assert (await good.ask("/open")).status == 200

    asyncio.run(test())
