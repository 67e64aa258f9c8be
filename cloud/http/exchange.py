"""Adapter: one HTTP request and its answer, as an ASGI application sees them.

The answer's head and the first piece of its body are written together. An answer states its length; the application
sends no answer of unknown length.
"""

import http
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

from cloud.clock import utc_now
from cloud.http.request_reader import Head
from cloud.tasks.current_request import new_request

LONG_POLL = "cascade.long_poll"
"""Key of the ASGI scope's extensions. Its value is the exchange."""
_NAME_FORBIDDEN = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_VALUE_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}


class Wire(Protocol):
    """Port: the connection of an exchange."""

    async def body(self) -> tuple[bytes, bool]:
        """Return the next bytes of the request's body, and whether they are the last. Wait for them if necessary."""

    async def gone(self) -> None:
        """Wait until the connection is closed."""

    async def write(self, data: bytes) -> None:
        """Write bytes of the answer, and return once the kernel has taken all of them."""

    def skip_body(self) -> bool:
        """Drop the bytes of the body that have arrived. Return False if more of them are to come."""

    def allow(self, seconds: float) -> None:
        """Move the deadline of the request."""


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_continues",
        "_delivered",
        "_head",
        "_left",
        "_pending",
        "_rate",
        "_wire",
        "complete",
        "keep_alive",
        "polling",
        "request",
        "started",
    )

    def __init__(self, head: Head, wire: Wire, bytes_per_second: float) -> None:
        self._head = head
        self._wire = wire
        self._rate = bytes_per_second
        self._continues = head.expects_continue
        self._delivered = False
        self._pending = b""
        self._left = 0
        self.request = new_request(head.headers, int(utc_now().timestamp() * 1000))
        """The id of the request, and its place in a trace."""
        self.keep_alive = head.keep_alive
        self.polling = False
        """Whether the application waits in a long poll. The wait ends with the connection."""
        self.started = False
        """Whether the application has sent the head of its answer."""
        self.complete = False
        """Whether the whole answer has been written."""

    async def receive(self) -> dict[str, Any]:
        """Return the next ASGI event: a piece of the body, or `http.disconnect` once the connection is closed."""
        if self._delivered:
            await self._wire.gone()
            return {"type": "http.disconnect"}
        if self._continues:
            self._continues = False
            await self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        piece, self._delivered = await self._wire.body()
        return {"type": "http.request", "body": piece, "more_body": not self._delivered}

    async def send(self, event: Any) -> None:
        """Take an ASGI event of the answer, and return once the kernel has taken its bytes."""
        if event["type"] == "http.response.start":
            if self.started:
                raise RuntimeError("the answer has begun already")
            self._pending = self._start(event["status"], list(event.get("headers", ())))
            self.started = True
            return
        if not self.started or self.complete:
            raise RuntimeError("a part of an answer was sent outside the answer")
        body = b"" if self._head.method == "HEAD" else event.get("body", b"")
        self._left -= len(body)
        more = event.get("more_body", False)
        if self._left < 0 or (self._left > 0 and not more):
            raise RuntimeError("the answer has not its stated length")
        data, self._pending = self._pending + body, b""
        if data:
            await self._wire.write(data)
        self.complete = not more

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of the answer."""
        lines = [_STATUS_LINES[status], b"date: ", _date(int(utc_now().timestamp()))]
        lines += (b"\r\nx-request-id: ", self.request.id.encode("ascii"), b"\r\n")
        length: int | None = None
        for name, value in headers:
            if _NAME_FORBIDDEN.search(name) or _VALUE_FORBIDDEN.search(value):
                raise RuntimeError("a header of the answer has a forbidden character")
            field = name.lower()
            if field == b"connection":
                # The listener writes this header. The application can only end the connection.
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            if field == b"content-length":
                length = int(value)
            lines += (name, b": ", value, b"\r\n")
        if self._head.method == "HEAD" or status in (204, 304):
            length = 0
        if length is None:
            raise RuntimeError("the answer has no Content-Length")
        self._left = length
        self._wire.allow(length / self._rate)
        if not self._wire.skip_body():
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    @contextmanager
    def long_poll(self, seconds: float) -> Iterator[None]:
        """See `long_poll` of this module."""
        self.polling = True
        self._wire.allow(seconds)
        try:
            yield
        finally:
            self.polling = False

    def scope(self, address: tuple[str, int], local: tuple[str, int], extensions: dict[str, Any]) -> dict[str, Any]:
        """Return the ASGI scope of the request."""
        path, _, query = self._head.target.partition(b"?")
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._head.version,
            "method": self._head.method,
            "scheme": "https" if extensions else "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._head.headers,
            "server": local,
            "client": address,
            "state": {},
            "extensions": {**extensions, LONG_POLL: self},
        }


@contextmanager
def long_poll(scope: Any, seconds: float) -> Iterator[None]:
    """Run a long poll: move the request's deadline by `seconds`, and cancel the block when the connection closes.

    `scope` is the ASGI scope. The block must only wait and read. A command would be cancelled halfway.
    """
    exchange = (scope.get("extensions") or {}).get(LONG_POLL)
    if not isinstance(exchange, Exchange):
        yield
        return
    with exchange.long_poll(seconds):
        yield


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """Return the value of the Date header (RFC 9110 section 6.6.1)."""
    return formatdate(second, usegmt=True).encode("ascii")
