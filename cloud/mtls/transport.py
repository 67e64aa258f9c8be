"""Adapter: the client's connections, over httpx and httpcore. Every connection is closed, also after a cancellation."""

import ssl
from typing import Any

import httpcore
import httpx

CONNECTIONS_MAX = 32
"""Connections of one client at the same time. Further calls wait for a connection."""
KEEP_ALIVE_SECONDS = 60.0
"""Seconds for which the client keeps an idle connection. The servers keep it for 75 s, so the client closes it
first."""


class ClosingStream(httpcore.AsyncNetworkStream):
    """A TCP connection before its TLS handshake. It is closed if the handshake fails for any reason.

    The library closes it after an error, but not after a time-out or a cancellation. The event loop would then keep the
    socket until the process ends.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # also for a cancellation
            await self._stream.aclose()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


class _ClosingBackend(httpcore.AnyIOBackend):
    """Makes connections as the library does, but as `ClosingStream`s."""

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        return ClosingStream(await super().connect_tcp(*args, **kwargs))


class ClosingTransport(httpx.AsyncHTTPTransport):
    """The library's transport, with a pool over our backend. The library has no parameter for the backend."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=CONNECTIONS_MAX,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_ClosingBackend(),
        )


class ConnectionSet:
    """The connections of one TLS context. A retired set is closed when its last call ends."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self._calls = 0
        self._retired = False

    async def retire(self) -> None:
        """Close the connections now, or when the last call ends. No new call may begin afterwards."""
        self._retired = True
        if self._calls == 0:
            await self.http.aclose()

    async def __aenter__(self) -> None:
        self._calls += 1

    async def __aexit__(self, *_: object) -> None:
        self._calls -= 1
        if self._retired and self._calls == 0:
            await self.http.aclose()
