"""Adapter: the connections of an HTTP/1.1 client over TLS, on asyncio, with httptools' parser.

Each connection has at most one request in work, and is used again when the answer has arrived whole. A connection is
closed at once after a failure, a cancellation or bytes that no request asked for. Nothing is retried, redirected,
decompressed or read from the environment. The caller limits the time.
"""

import asyncio
import os
import select
import socket
import ssl
from collections.abc import Mapping

import httptools
import msgspec

CONNECTIONS_MAX = 32
"""Connections of one pool at the same time. Further requests wait for a connection."""
KEEP_ALIVE_SECONDS = 60.0
"""Age from which an idle connection is not used again. The servers keep it for 75 s, so the client gives it up
first."""
ADDRESS_SECONDS = 1.0
"""Seconds for a TCP connection to one address of a name, if the name has further addresses."""
OVERHEAD_BYTES_MAX = 64 * 1024
"""Bytes of an answer outside its body: status lines, headers, frames of chunks, trailers. The services send less than
1 kB."""


class AnswerTooLarge(Exception):
    """An answer has more bytes than the client reads."""


class NotHttp(Exception):
    """The bytes of an answer are not HTTP/1.1."""


class RawAnswer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body of an answer. Equal headers are joined by commas."""

    status: int
    headers: dict[str, str]
    body: bytes


class Address(msgspec.Struct, frozen=True):
    """The host name and port to connect to. `authority` is both as the header `Host` has them."""

    host: str
    port: int
    authority: str


class Connection(asyncio.Protocol):
    """One connection. httptools calls the methods that begin with `on_`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, body_bytes_max: int) -> None:
        self.idle_since = 0.0
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the socket is closed."""
        self._loop = loop
        self._body_bytes_max = body_bytes_max
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[RawAnswer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll: select.poll | None = None
        self._received = 0
        self._begin()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._body_bytes = 0

    async def ask(self, request: bytes) -> RawAnswer:
        """Send a request and return its whole answer. The connection is closed if the wait is cancelled.

        Raises OSError (ssl.SSLError is one), AnswerTooLarge, NotHttp.
        """
        if self._transport is None or self._transport.is_closing() or self._waiter is not None:
            raise ConnectionError("the connection is not free")
        waiter: asyncio.Future[RawAnswer] = self._loop.create_future()
        self._waiter = waiter
        self._received = 0
        self._begin()
        self._transport.write(request)
        try:
            return await waiter
        except BaseException:  # also for a cancellation: the answer may still arrive
            self.abort()
            raise
        finally:
            self._waiter = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is not closed and not about to close."""
        return self._transport is not None and not self._transport.is_closing()

    def is_usable(self, now: float) -> bool:
        """Whether another request can be sent: the connection is not too old, and the server has sent nothing since.

        The second check finds a connection that the server has closed before the event loop reads the end.
        """
        if not self.is_open or now > self.idle_since + KEEP_ALIVE_SECONDS:
            return False
        return self._poll is None or not self._poll.poll(0)

    def abort(self) -> None:
        """Close the socket at the loop's next turn, without a closing handshake."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport
        plain = transport.get_extra_info("socket")
        if plain is not None:
            self._poll = select.poll()
            self._poll.register(plain.fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # bytes that no request asked for
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(error.__context__ if isinstance(error.__context__, AnswerTooLarge) else NotHttp(str(error)))
        else:
            if self._received - self._body_bytes > OVERHEAD_BYTES_MAX:
                self._fail(AnswerTooLarge(f"it has more than {OVERHEAD_BYTES_MAX} bytes outside its body"))

    def on_message_begin(self) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # a second answer

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._body_bytes_max:
            raise AnswerTooLarge(f"it is larger than {self._body_bytes_max} bytes")
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer (RFC 9110 section 15.2); the final one follows
            self._begin()
            return
        if self._waiter is None or self._waiter.done():
            return
        if not self._parser.should_keep_alive():
            self.abort()
        parts = self._parts
        self._waiter.set_result(RawAnswer(status, self._headers, parts[0] if len(parts) == 1 else b"".join(parts)))

    def _fail(self, error: BaseException) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
        self.abort()


class Pool:
    """The connections of one TLS context to one server. A retired pool is closed when its last request ends."""

    def __init__(
        self, address: Address, context: ssl.SSLContext, *, connect_seconds: float, body_bytes_max: int
    ) -> None:
        self._address = address
        self._context = context
        self._connect_seconds = connect_seconds
        self._body_bytes_max = body_bytes_max
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._requests = 0
        self._is_retired = False

    async def ask(self, request: bytes) -> RawAnswer:
        """Send a request over a free connection, or a new one, and return its answer.

        Raises OSError (ssl.SSLError and TimeoutError are such errors), AnswerTooLarge, NotHttp.
        """
        self._requests += 1
        try:
            async with self._slots:
                connection = self._free() or await self._connect()
                answer = await connection.ask(request)
                if connection.is_open:
                    connection.idle_since = asyncio.get_running_loop().time()
                    self._idle.append(connection)
                return answer
        finally:
            self._requests -= 1
            if self._is_retired and self._requests == 0:
                self._abort_all()

    def _free(self) -> Connection | None:
        """Take the connection that was used last. Connections that cannot be used any more are closed."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable(now):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                plain = await connect_tcp(self._address.host, self._address.port)
        except TimeoutError as error:
            raise ConnectionError(f"no connection within {self._connect_seconds:g} s") from error
        connection = Connection(loop, self._body_bytes_max)
        await loop.create_connection(
            lambda: connection,
            sock=plain,
            ssl=self._context,
            server_hostname=self._address.host,
            ssl_handshake_timeout=self._connect_seconds,
        )
        self._open.add(connection)
        connection.closed.add_done_callback(lambda _: self._forget(connection))
        return connection

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _abort_all(self) -> None:
        for connection in self._open:
            connection.abort()

    async def retire(self) -> None:
        """Close the connections now, or when the last request ends. No new request may begin afterwards."""
        self._is_retired = True
        if self._requests == 0:
            await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Running requests fail."""
        self._is_retired = True
        closing = [connection.closed for connection in self._open]
        self._abort_all()
        if closing:
            await asyncio.wait(closing)


async def connect_tcp(host: str, port: int) -> socket.socket:
    """Connect to the first address of the name that accepts. The caller limits the time.

    Raises OSError with the failure of each address.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failures = []
    for number, (family, kind, protocol, _, address) in enumerate(found, 1):
        # asyncio sets TCP_NODELAY only if the socket names the protocol.
        plain = socket.socket(family, kind, protocol)
        try:
            plain.setblocking(False)
            async with asyncio.timeout(ADDRESS_SECONDS if number < len(found) else None):
                await loop.sock_connect(plain, address)
            return plain
        except OSError as error:
            plain.close()
            failures.append(f"{address[0]}: {os.strerror(error.errno) if error.errno else 'no answer'}")
        except BaseException:  # also for a cancellation
            plain.close()
            raise
    raise ConnectionError("; ".join(failures) or "the name has no address")


def request_bytes(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return the bytes of a request.

    Raises:
        ValueError: the method, the target, or a header has a character that would end its line or field.
    """
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    # Each line is one text of printable ASCII. So no value can add a header or a request.
    if not head.replace("\r\n", "").isprintable() or not head.isascii() or head.count("\r\n") != len(lines) - 1:
        raise ValueError("a request's method, target and headers are printable ASCII")
    if method.count(" ") or target.count(" ") or not target.startswith("/"):
        raise ValueError("a request's target is a path without spaces")
    return head.encode("ascii") + b"\r\n\r\n" + (body or b"")
