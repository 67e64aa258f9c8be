"""`cloud.http.exchange`: the answers that an application may send, and long polls."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cloud.http.exchange import LONG_POLL, Exchange, long_poll
from cloud.http.request_reader import Head


class Wire:
    """A connection that keeps the written bytes."""

    def __init__(self, *, body_is_complete: bool = True) -> None:
        self.written = b""
        self.allowed: list[float] = []
        self._complete = body_is_complete

    async def body(self) -> tuple[bytes, bool]:
        return b"", True

    async def gone(self) -> None:
        return

    async def write(self, data: bytes) -> None:
        self.written += data

    def skip_body(self) -> bool:
        return self._complete

    def allow(self, seconds: float) -> None:
        self.allowed.append(seconds)


def exchange(wire: Wire, method: str = "GET", target: bytes = b"/") -> Exchange:
    head = Head(method, target, "1.1", [(b"host", b"a")], 0, keep_alive=True, expects_continue=False)
    return Exchange(head, wire, 1000)


def answered(
    status: int, headers: Sequence[tuple[bytes, bytes]], *bodies: bytes, method: str = "GET", wire: Wire | None = None
) -> tuple[list[bytes], bytes]:
    """Send one answer, and return its lines and the body."""
    wire = wire or Wire()

    async def send() -> None:
        it = exchange(wire, method)
        await it.send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, 1):
            await it.send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})
        assert it.complete

    asyncio.run(send())
    head, _, body = wire.written.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), body


def test_an_answer_has_a_date_and_its_length() -> None:
    lines, body = answered(200, [(b"content-length", b"3")], b"a", b"bc")
    assert (lines[0], lines[3:], body) == (b"HTTP/1.1 200 OK", [b"content-length: 3"], b"abc")
    assert lines[1].startswith(b"date: ")
    assert lines[2].startswith(b"x-request-id: ")


def test_an_answer_to_head_has_the_length_alone() -> None:
    lines, body = answered(200, [(b"content-length", b"3")], b"abc", method="HEAD")
    assert (lines[-1], body) == (b"content-length: 3", b"")


def test_an_answer_before_the_end_of_the_body_ends_the_connection() -> None:
    lines, _ = answered(204, [], b"", wire=Wire(body_is_complete=False))
    assert lines[-1] == b"connection: close"


def test_an_application_can_end_the_connection_and_cannot_keep_it() -> None:
    async def kept(value: bytes, wire: Wire) -> bool:
        it = exchange(wire)
        headers = [(b"content-length", b"0"), (b"Connection", value)]
        await it.send({"type": "http.response.start", "status": 429, "headers": headers})
        await it.send({"type": "http.response.body", "body": b""})
        return it.keep_alive

    closed, upgraded, unread = Wire(), Wire(), Wire(body_is_complete=False)
    assert not asyncio.run(kept(b"close", closed))
    assert closed.written.count(b"onnection") == 1
    assert closed.written.endswith(b"\r\nconnection: close\r\n\r\n")
    assert asyncio.run(kept(b"upgrade", upgraded))
    assert b"onnection" not in upgraded.written
    assert not asyncio.run(kept(b"keep-alive", unread))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], b"abc"),
        ([(b"content-length", b"2")], b"abc"),
        ([(b"content-length", b"4")], b"abc"),
        ([(b"content-length", b"3"), (b"a", b"b\r\nc: d")], b"abc"),
        ([(b"content-length", b"3"), (b"a b", b"c")], b"abc"),
    ],
    ids=["no length", "too long", "too short", "a line end in a value", "a blank in a name"],
)
def test_an_answer_that_would_be_read_differently_is_not_sent(headers: Any, body: bytes) -> None:
    with pytest.raises(RuntimeError):
        answered(200, headers, body)


def test_a_large_answer_has_more_time() -> None:
    wire = Wire()
    answered(200, [(b"content-length", b"2000")], b"x" * 2000, wire=wire)
    assert wire.allowed == [2.0]


def test_a_second_answer_is_a_fault() -> None:
    async def test() -> None:
        it = exchange(Wire())
        start = {"type": "http.response.start", "status": 204}
        with pytest.raises(RuntimeError):
            await it.send({"type": "http.response.body"})
        await it.send(start)
        with pytest.raises(RuntimeError):
            await it.send(start)
        await it.send({"type": "http.response.body"})
        with pytest.raises(RuntimeError):
            await it.send({"type": "http.response.body"})

    asyncio.run(test())


def test_the_scope_has_the_path_decoded_and_raw() -> None:
    scope = exchange(Wire(), target=b"/a%20b?c=%20").scope(("192.0.2.1", 5), ("192.0.2.2", 443), {"tls": object()})
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%20")
    assert (scope["scheme"], scope["client"], scope["server"]) == ("https", ("192.0.2.1", 5), ("192.0.2.2", 443))


def test_a_long_poll_adds_its_wait_and_can_be_cancelled_meanwhile() -> None:
    wire = Wire()
    it = exchange(wire)
    with long_poll({"extensions": {LONG_POLL: it}}, 60):
        assert it.polling
    assert (wire.allowed, it.polling) == ([60], False)
    with long_poll({"extensions": None}, 60):
        pass


def test_after_the_body_comes_the_end_of_the_connection() -> None:
    async def test() -> list[str]:
        it = exchange(Wire())
        return [(await it.receive())["type"] for _ in range(2)]

    assert asyncio.run(test()) == ["http.request", "http.disconnect"]
