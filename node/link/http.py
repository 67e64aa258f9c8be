"""Adapter: the HTTP client of the agent, over a TLS context of `node.link.transport`.

`node.link.api` imports this module when the first connection to the cloud is open, so a machine without its cloud starts
without it. The agent needs connections and messages. So it uses httpcore without httpx, which would keep 2 MiB of memory
for redirects, cookies, passwords and URLs of every form.
"""

import re
import ssl
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpcore
import trio
from httpcore._backends.trio import TrioStream  # the library opens no connection over a socket that is open already

from node.link.connect import CONNECT_SECONDS_MAX, Answer, AnswerTooLong, LinkFailed, NoAnswer, Opened, open_tcp
from node.link.transport import causes, verification_failure

KEEPALIVE_SECONDS = 5.0
"""An idle connection stays open for the requests of one exchange, not until the next heartbeat slot."""
_FAILURES = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
)
"""The library's errors of an exchange without an answer. They have no common base."""


class _Stream(httpcore.AsyncNetworkStream):
    """A connection of the library. Unlike the library's, it is closed when its handshake is cancelled."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read, self.write, self.aclose = inner.read, inner.write, inner.aclose  # type: ignore[method-assign]  # passed on
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]  # passed on

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
                await self._inner.aclose()
            raise
        except httpcore.ConnectTimeout as error:
            raise LinkFailed("timed_out", f"the TLS handshake took longer than {timeout:g} s") from error
        except httpcore.ConnectError as error:
            if verification_failure(error) is not None:
                raise
            raise LinkFailed("tls_failed", f"the TLS handshake failed ({_tls_reason(error)})") from error


class _Backend(httpcore.AsyncNetworkBackend):
    """Opens the connections of a client. The first one is `opened`, if no other request took it."""

    def __init__(self, opened: Opened | None) -> None:
        self._opened = opened

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = self._opened.take() if self._opened is not None else None
        if stream is None:
            stream = await open_tcp(host, port, CONNECT_SECONDS_MAX if timeout is None else timeout)
        return _Stream(TrioStream(stream))


class Client:
    """The connections to one server, and the exchanges over them."""

    def __init__(self, context: ssl.SSLContext, base_url: str, opened: Opened | None = None) -> None:
        """Make a client. It follows no redirect, keeps no cookie, and reads nothing of the environment.

        Args:
            context: the TLS context.
            base_url: the server, with a path if that of each request begins with it.
            opened: a connection to the server, for the first request.
        """
        parts = urlsplit(base_url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        # The library would leave out the brackets of an IPv6 address. Its zone means nothing to a server (RFC 6874).
        self._named = re.sub("%25[^]]*", "", parts.netloc)
        self._path = parts.path.rstrip("/")
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=4,
            max_keepalive_connections=2,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_Backend(opened),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        connect_seconds_max: float,
        seconds_max: float,
        bytes_max: int,
    ) -> Answer:
        """Make one exchange.

        Args:
            method: the method of the request.
            path: its path and query.
            headers: its headers.
            body: its body; None for none.
            connect_seconds_max: bound of each step of opening a connection, in seconds.
            seconds_max: bound of each wait for the answer, in seconds. The caller bounds the total.
            bytes_max: bound of the body of the answer, in bytes.

        Raises LinkFailed, ServerIdentityError, AnswerTooLong, NoAnswer; TimeoutError if a wait was too long.
        """
        url = httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=self._path + path)
        # No compression: a small compressed answer could expand to any size.
        sent = {"host": self._named, "accept-encoding": "identity", **headers}
        if method != "GET":
            sent["content-length"] = str(len(body or b""))
        waits = {"connect": connect_seconds_max, "read": seconds_max, "write": seconds_max, "pool": seconds_max}
        content = b""
        try:
            async with self._pool.stream(
                method, url, headers=[*sent.items()], content=body, extensions={"timeout": waits}
            ) as response:
                async for chunk in response.aiter_stream():
                    content += chunk[: bytes_max + 1 - len(content)]
                    if len(content) > bytes_max:
                        # This ends the iteration with an error. A `break` would leave the library's generators open.
                        await response.aclose()
        except _FAILURES as error:
            if len(content) > bytes_max:
                raise AnswerTooLong(f"the answer is longer than {bytes_max} bytes") from error
            unproven = verification_failure(error)
            if unproven is not None:
                raise unproven from error
            if isinstance(error, httpcore.TimeoutException):
                raise TimeoutError from error
            raise NoAnswer(str(error) or type(error).__name__) from error
        if len(content) > bytes_max:
            raise AnswerTooLong(f"the answer is longer than {bytes_max} bytes")
        answered = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status, answered, content)


def _tls_reason(error: BaseException) -> str:
    """OpenSSL's reason, such as `WRONG_VERSION_NUMBER`; or the end of the connection."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.lower().replace("_", " ")
    return "the server ended the connection"
