"""Adapter: the HTTP client of the agent, over a TLS context of `node.link.transport`.

`node.link.api` imports this module when the first connection to the cloud is open. The import takes a seventh of the
agent's start, and a machine without its cloud starts without it.
"""

import logging
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore
import httpx
import trio
from httpcore._backends.trio import TrioStream  # the library opens no connection over a socket that is open already

from node.link.connect import CONNECT_SECONDS_MAX, Answer, AnswerTooLong, LinkFailed, NoAnswer, Opened, open_tcp
from node.link.transport import causes, verification_failure

ANSWER_SECONDS_MAX = 30.0
"""The answer to an activation proof takes about a second; it waits for two commits and a certificate."""
KEEPALIVE_SECONDS = 5.0
"""An idle connection stays open for the requests of one exchange, not until the next heartbeat slot."""


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


def http_client(context: ssl.SSLContext, base_url: str, opened: Opened | None = None) -> httpx.AsyncClient:
    """An HTTP client with this context. It ignores proxies and CA files of the environment, and follows no redirect.

    Args:
        context: the TLS context.
        base_url: the server.
        opened: a connection to the server, for the first request.
    """
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    # Only the pool takes the network backend as an argument; the transport does not.
    transport._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001 (see above)
        ssl_context=context,
        max_connections=4,
        max_keepalive_connections=2,
        keepalive_expiry=KEEPALIVE_SECONDS,
        network_backend=_Backend(opened),
    )
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
    )


async def exchange(
    client: httpx.AsyncClient,
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
        client: the client of the server.
        method: the method of the request.
        path: its path and query.
        headers: its headers.
        body: its body; None for none.
        connect_seconds_max: bound of each step of opening a connection, in seconds.
        seconds_max: bound of each wait for the answer, in seconds. The caller bounds the total.
        bytes_max: bound of the body of the answer, in bytes.

    Raises LinkFailed, ServerIdentityError, AnswerTooLong, NoAnswer; TimeoutError if a wait was too long.
    """
    # The library logs every request at INFO. The agent logs the events that matter itself.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    timeout = httpx.Timeout(seconds_max, connect=connect_seconds_max)
    content = b""
    try:
        # No compression: a small compressed answer could expand to any size.
        sent = {"accept-encoding": "identity", **headers}
        async with client.stream(method, path, content=body, headers=sent, timeout=timeout) as response:
            async for chunk in response.aiter_raw():
                content += chunk[: bytes_max + 1 - len(content)]
                if len(content) > bytes_max:
                    # This ends the iteration with an error. A `break` would leave the library's generators open.
                    await response.aclose()
    except (httpx.HTTPError, httpx.StreamError) as error:
        if len(content) > bytes_max:
            raise AnswerTooLong(f"the answer is longer than {bytes_max} bytes") from error
        unproven = verification_failure(error)
        if unproven is not None:
            raise unproven from error
        if isinstance(error, httpx.TimeoutException):
            raise TimeoutError from error
        raise NoAnswer(str(error) or type(error).__name__) from error
    if len(content) > bytes_max:
        raise AnswerTooLong(f"the answer is longer than {bytes_max} bytes")
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, content)


def _tls_reason(error: BaseException) -> str:
    """OpenSSL's reason, such as `WRONG_VERSION_NUMBER`; or the end of the connection."""
    for cause in causes(error):
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.lower().replace("_", " ")
    return "the server ended the connection"
