"""Adapter: the HTTP/1.1 side of a listener, over uvicorn's httptools protocol.

It reads the connection's `TlsSession` once and puts it into the scope of every request. It limits the bytes of a
request's head and the time of a whole request; uvicorn does neither. It never upgrades a connection, because an
upgraded connection would leave this class and lose its peer. Its refusals are problem documents. It has no routes and
admits no peers.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cloud.http.problems import Refusal, plain_answer
from cloud.mtls.peer import TLS_EXTENSION, TlsSession, tls_session
from protocol.problems import CONTENT_TYPE

HEAD_BYTES_MAX = 16 * 1024
"""Bytes of request line and headers. A node's are below 1 kB, an operator's below 2 kB. One read (256 kB) can exceed
the limit before it is checked."""
REQUEST_SECONDS_MAX = 30
"""Seconds from the start of the connection or request to the request's last byte. Enough for 64 kB at 20 kbit/s."""
BACKLOG = 2048
"""Connections that the kernel queues while the event loop is busy."""

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class CloudHttpProtocol(HttpToolsProtocol):
    """The HTTP protocol of one connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._tls = TlsSession(None)
        self._head_bytes = 0
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._tls = tls_session(transport.get_extra_info)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse("too_large", f"request line and headers are limited to {HEAD_BYTES_MAX} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TLS_EXTENSION: self._tls}  # type: ignore[dict-item]  # not typed by uvicorn
        self._arm()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP. uvicorn calls this method."""
        self._refuse("malformed", "this is not a valid HTTP/1.1 request")

    def _refuse(self, code: Any, detail: str) -> None:
        self.transport.write(plain_answer(code, detail))
        self.transport.close()

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(REQUEST_SECONDS_MAX, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing when a client offers an upgrade."""


def plaintext_only(app: AsgiApp, posts: tuple[str, ...] = ()) -> AsgiApp:
    """Restrict an application for a plaintext listener: it gets GET and HEAD, and POST to the paths in `posts`.

    Those paths answer with signed documents (OCSP) and carry out no command. Any other request is answered 405.
    """

    async def read_only(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or _may_be_plain(scope, posts):
            await app(scope, receive, send)
            return
        refusal = Refusal("method_not_allowed", "this listener is read-only")
        body = msgspec.json.encode(refusal.document())
        allow = b"POST" if scope["path"] in posts else b"GET, HEAD"
        headers = [
            (b"content-type", CONTENT_TYPE.encode("ascii")),
            (b"allow", allow),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 405, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return read_only


def _may_be_plain(scope: Any, posts: tuple[str, ...]) -> bool:
    return scope["method"] in ("GET", "HEAD") or (scope["method"] == "POST" and scope["path"] in posts)
