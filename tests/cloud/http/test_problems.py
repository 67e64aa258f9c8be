"""Bad input over a real listener: each gets a problem document with a stable code."""

import asyncio
import json

import pytest

from protocol.limits import REQUEST_BODY_BYTES_MAX
from tests.cloud.world import Answer, Connection, World, connected

JSON = {"Content-Type": "application/json"}
BODIES: list[tuple[bytes, dict[str, str], int, str]] = [
    (b'{"count": 3}', {}, 200, ""),
    (b'{"count": 3}', {"Content-Type": "application/json; charset=utf-8"}, 200, ""),
    (b'{"count": 3', {}, 400, "malformed"),
    (b"", {}, 400, "malformed"),
    (b"\xff\xfe", {}, 400, "malformed"),
    (b'{"count": 3, "label": ' + b"[" * 20_000, {}, 422, "invalid"),
    (b'{"count": "3"}', {}, 422, "invalid"),
    (b'{"count": 3.5}', {}, 422, "invalid"),
    (b'{"count": 3, "extra": 1}', {}, 422, "invalid"),
    (b'{"label": "x"}', {}, 422, "invalid"),
    (b"[]", {}, 422, "invalid"),
    (b'{"count": 3}', {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    (b"count=3", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    (b"{" + b" " * REQUEST_BODY_BYTES_MAX + b"}", {}, 413, "too_large"),
]


def ask(path: str, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
    async def test() -> Answer:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            return await client.ask(path, method, headers, body)

    return asyncio.run(test())


@pytest.mark.parametrize(("body", "headers", "status", "code"), BODIES)
def test_bodies(body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    answer = ask("/orders", "POST", headers, body)
    assert answer.status == status, answer.body
    if code:
        assert answer.problem.code == code
        assert answer.problem.next
        assert answer.headers["cache-control"] == "no-store"
    else:
        assert json.loads(answer.body) == {"count": 3, "label": ""}


def test_invalid_names_the_field() -> None:
    assert "$.count" in ask("/orders", "POST", body=b'{"count": "3"}').problem.detail


def test_an_endless_chunked_body_is_cut() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            client.writer.write(
                b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(3):
                client.writer.write(b"%x\r\n" % REQUEST_BODY_BYTES_MAX + b" " * REQUEST_BODY_BYTES_MAX + b"\r\n")
            assert (await client.answer()).problem.code == "too_large"

    asyncio.run(test())


def test_unknown_paths_methods_and_parameters() -> None:
    assert ask("/absent").problem.code == "not_found"
    answer = ask("/open", "DELETE")
    assert (answer.status, answer.problem.code) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
    assert ask("/things/1?limit=2").body == b"3"
    assert ask("/things/1?limit=x").problem.code == "invalid"
    assert ask("/things/x").problem.code == "not_found"


def test_a_refusal_carries_its_detail_and_a_fault_nothing(caplog: pytest.LogCaptureFixture) -> None:
    refusal = ask("/refuse").problem
    assert (refusal.code, refusal.detail, refusal.status) == ("code_expired", "it was for last week", 403)
    answer = ask("/fault")
    assert (answer.status, answer.problem.code, answer.problem.detail) == (500, "internal", "")
    assert b"swordfish" not in answer.body
    assert any("RuntimeError" in (record.exc_text or str(record.exc_info)) for record in caplog.records)


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


def test_a_database_that_is_away_is_no_fault_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("/away")
    assert (answer.status, answer.problem.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert b"10.0.0.9" not in answer.body
    (record,) = [record for record in caplog.records if record.name == "cascade.web"]
    assert record.exc_info is None
