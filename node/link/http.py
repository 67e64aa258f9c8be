"""Adapter: an HTTP/1.1 client over h11, for one server. The agent uses it for the cloud, and `cascadia` for the agent.

`exchange` makes one exchange over an open connection. `Client` opens connections and keeps them for the next request.
The rules of both:

- Nothing is retried. Only the caller knows whether a repeat is safe. The end of an idle connection is noticed before
  the connection is used.
- A body and a head have a bound. A connection is kept only after a complete answer, and closed in every other case.
- There are no redirects, proxies, cookies, compression or HTTP/2, and no variable of the environment has an effect.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Self

import h11
import msgspec
import trio

HEAD_BYTES_MAX = 100 * 1024
"""Bound of the head of an answer."""
READ_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 4
"""Requests of one client that run at the same time. The agent has two: a contact and a long poll."""
IDLE_CONNECTIONS_MAX = 2
KEEPALIVE_SECONDS = 5.0
"""An idle connection stays open for the requests of one exchange, not until the next heartbeat slot."""

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class ExchangeFailed(Exception):
    """The connection ended before a complete answer, or the answer is not HTTP/1.1."""


class AnswerTooLong(ExchangeFailed):
    """The body of the answer is longer than the caller allows."""


class Request(msgspec.Struct, frozen=True):
    """A request. `path` begins with "/" and has the query. `headers` have no `host` and no `content-length`."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case; of a repeated header the last value) and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """An open connection to a server, and the state of HTTP on it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.idle_since = 0.0

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket of the connection."""
        stream = self.stream
        return stream.transport_stream.socket if isinstance(stream, trio.SSLStream) else stream.socket

    def usable(self, now: float) -> bool:
        """Whether an idle connection can carry another request: it is not old, and the server has sent nothing."""
        return now - self.idle_since < KEEPALIVE_SECONDS and not self.socket.is_readable()

    def reusable(self) -> bool:
        """Whether the exchange is complete. The connection is then ready for the next request."""
        if not (self.http.our_state is h11.DONE and self.http.their_state is h11.DONE):
            return False
        self.http.start_next_cycle()
        return True

    async def close(self) -> None:
        """Close the connection at once. It never waits for the server."""
        await trio.aclose_forcefully(self.stream)


async def exchange(connection: Connection, host: str, request: Request, body_bytes_max: int) -> Answer:
    """Send a request and receive its answer. The caller bounds the time, and closes the connection after an error.

    Args:
        connection: an open connection without a running exchange.
        host: the value of the `Host` header.
        request: the request.
        body_bytes_max: bound of the body of the answer.

    Raises AnswerTooLong, ExchangeFailed.
    """
    headers = [("host", host), *request.headers.items()]
    if request.body is not None:
        headers.append(("content-length", str(len(request.body))))
    try:
        data = connection.http.send(h11.Request(method=request.method, target=request.path, headers=headers)) or b""
        if request.body:
            data += connection.http.send(h11.Data(data=request.body)) or b""
        data += connection.http.send(h11.EndOfMessage()) or b""
        # A server may refuse a request before it has read all of it, and close its side. Its answer still counts.
        with suppress(trio.BrokenResourceError):
            await connection.stream.send_all(data)
        return await _receive(connection, body_bytes_max)
    except (h11.LocalProtocolError, h11.RemoteProtocolError) as error:
        raise ExchangeFailed(str(error) or type(error).__name__) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ExchangeFailed("the connection broke") from error


async def _receive(connection: Connection, body_bytes_max: int) -> Answer:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.http.next_event()
        if event is h11.NEED_DATA:
            data = bytes(await connection.stream.receive_some(READ_BYTES_MAX))
            if not data and head is None:
                raise ExchangeFailed("the server disconnected without an answer")
            connection.http.receive_data(data)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > body_bytes_max:
                raise AnswerTooLong(f"the answer is longer than {body_bytes_max} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            return Answer(head.status_code, headers, bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            raise ExchangeFailed("the answer is not one that the request asked for")


class Client:
    """Requests to one server, over connections that `connect` opens.

    A connection stays open for the next request, for `KEEPALIVE_SECONDS`.
    """

    def __init__(self, connect: Callable[[float], Awaitable[Stream]], host: str) -> None:
        """Opens nothing yet.

        Args:
            connect: opens a connection within some seconds, or raises.
            host: the value of the `Host` header.
        """
        self._connect = connect
        self._host = host
        self._idle: list[Connection] = []
        self._places = trio.Semaphore(CONNECTIONS_MAX)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections. The caller cancels running requests, which close their own connections."""
        while self._idle:
            await _close(self._idle.pop())

    async def request(
        self, request: Request, *, connect_seconds_max: float, answer_seconds_max: float, body_bytes_max: int
    ) -> Answer:
        """Make one exchange, over an idle connection or another one.

        Args:
            request: the request.
            connect_seconds_max: bound of each step of opening a connection, in seconds.
            answer_seconds_max: bound of the exchange over the open connection, in seconds.
            body_bytes_max: bound of the body of the answer.

        Raises trio.TooSlowError, AnswerTooLong, ExchangeFailed, and the errors of `connect`.
        """
        async with self._places:
            connection = await self._reuse() or Connection(await self._connect(connect_seconds_max))
            kept = False
            try:
                with trio.fail_after(answer_seconds_max):
                    answer = await exchange(connection, self._host, request, body_bytes_max)
                kept = connection.reusable() and len(self._idle) < IDLE_CONNECTIONS_MAX
                return answer
            finally:
                if kept:
                    connection.idle_since = trio.current_time()
                    self._idle.append(connection)
                else:
                    await _close(connection)

    async def _reuse(self) -> Connection | None:
        """The idle connection that was used last; None without a usable one. Unusable ones are closed."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(trio.current_time()):
                return connection
            await _close(connection)
        return None


async def _close(connection: Connection) -> None:
    with trio.CancelScope(shield=True):  # shielded: closing a socket never waits
        await connection.close()
