"""Adapter: one connection of a listener, from its first byte to its last.

One class holds the whole rule for unknown callers:

- Every byte outside a body is counted: TLS handshake and records, request line, headers, frames of chunks.
- One request is in work at a time. Later bytes wait in a small buffer, then in the kernel.
- One deadline covers a request from its first byte to the last byte of its answer. A long poll adds its wait, and an
  answer adds the time that a slow line needs for it.
- The end of a connection ends its request if that waits for the client or in a long poll. A command is completed. The
  connection keeps its place (`cloud.http.places`) until then.

It reads the connection's `TlsSession` once and puts it into the scope of every request. It never upgrades a connection.
Its refusals are problem documents. It has no routes and admits no peers.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from cloud.http.exchange import Exchange
from cloud.http.places import Places
from cloud.http.problems import plain_answer
from cloud.http.request_reader import Head, RequestReader, RequestRefused
from cloud.mtls.peer import TLS_EXTENSION, TlsSession
from cloud.mtls.server_stream import BARE_RECORDS_MAX, ServerStream
from cloud.tasks.current_request import enter
from protocol.problems import Code

log = logging.getLogger("cascade.listener")

TLS_BYTES_MAX = 32 * 1024
"""Bytes that TLS adds to one request, or to the connection before its first. Our clients' handshakes have 2 to 4 kB."""
BUFFERED_BYTES_MAX = 32 * 1024
"""Bytes of a connection that are read ahead of the application. The connection is not read while there are more."""
_WRITE_BYTES = 64 * 1024
"""Bytes of an answer that are encrypted at once."""
_READ_BUFFER = memoryview(bytearray(32 * 1024))
"""All connections read into this buffer: the event loop fills it, and `buffer_updated` copies it before it returns."""

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class Limits(msgspec.Struct, frozen=True):
    """The times of a connection, in seconds."""

    handshake: float = 10
    """From the accepted connection to the end of the TLS handshake. Over a satellite link it takes 3 s."""
    request: float = 30
    """From the first byte of a request to the last byte of its answer. Enough for 64 kB at 20 kbit/s. A connection
    that sends no byte is closed after the same time."""
    idle: float = 75
    """Between two requests. It is longer than the pause between a node's requests in an exchange, and shorter than the
    time after which firewalls drop idle connections."""
    linger: float = 1
    """After the last answer, for the peer to read it. Bytes that arrive are dropped. A socket that is closed with
    unread bytes would destroy the answer."""
    answer_bytes_per_second: float = 2500
    """Slowest line on which a whole answer arrives. The deadline is later by this time for each byte."""


LIMITS = Limits()


class Shared(msgspec.Struct):
    """The parts that the connections of one listener share."""

    app: AsgiApp
    places: Places
    limits: Limits
    local: tuple[str, int]
    connections: "set[Connection]"
    closed: asyncio.Event
    """Set whenever a connection has left `connections`."""


class Connection(asyncio.BufferedProtocol):
    """One connection, which holds a place of the process. Without `context` it is plaintext."""

    def __init__(
        self, shared: Shared, peer: tuple[str, int], address: str, context: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self.certified = False
        self._shared = shared
        self._limits = shared.limits
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._stream = None if context is None else ServerStream(context)
        self._extensions: dict[str, Any] = {}
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader()
        self._tls_bytes = 0
        self._between = context is None
        """Whether no byte of the next request has arrived."""
        self._closing = self._lost = self._paused = False
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._more: asyncio.Future[None] | None = None
        """The application waits for more of the body."""
        self._drained: asyncio.Future[None] | None = None
        """The peer has to read before more can be written."""
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        shared.places.take(self)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._shared.connections.add(self)
        if self._closing:  # The connection was evicted between its acceptance and this call.
            self._transport.abort()
            return
        self._arm(self._limits.request if self._stream is None else self._limits.handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._closing = True
        for waiting in (self._more, self._drained):
            if waiting is not None and not waiting.done():
                waiting.cancel()
        if self._task is None:
            self._release()
        elif self._exchange is not None and self._exchange.polling:
            self._task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            return
        if self._between:
            self._between = False
            self._arm(self._limits.request)
        data = bytes(_READ_BUFFER[:nbytes])
        if self._stream is not None:
            data = self._decrypt(self._stream, data)
        self._reader.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """End the connection. A client that sends no more gets no more."""
        return False

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        self._read_or_pause()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        self._read_or_pause()

    # Called by the server.

    def stop(self) -> None:
        """Close the connection now, or after the request that is being worked on."""
        if self._exchange is not None and self._task is not None:
            self._exchange.keep_alive = False
        else:
            self.evict()

    def evict(self) -> None:
        """Close the connection at once. Its request is cancelled."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()

    @property
    def working(self) -> bool:
        """Whether a request of the connection has not ended yet."""
        return self._task is not None

    # Bytes.

    def _decrypt(self, stream: ServerStream, data: bytes) -> bytes:
        """Return the decrypted bytes. The end of TLS, with or without an error, ends the connection."""
        was_established = stream.established
        try:
            plain = stream.receive(data)
        except ssl.SSLError:
            self._flush(stream)
            self._finish(say=False)
            return b""
        self._flush(stream)
        self._tls_bytes += len(data) - len(plain)
        if self._tls_bytes > TLS_BYTES_MAX or stream.bare_records > BARE_RECORDS_MAX:
            self.evict()
        elif stream.ended:
            self._finish()
        elif stream.established and not was_established:
            session = TlsSession(stream.certificate())
            self._extensions = {TLS_EXTENSION: session}
            self._shared.places.works(self)
            self.certified = session.certificate_der is not None
            self._shared.places.waits(self)
            self._between = not plain
            self._arm(self._limits.request)
        return plain

    def _flush(self, stream: ServerStream) -> None:
        data = stream.outgoing()
        if data and self._transport is not None:
            self._transport.write(data)

    def _put(self, data: bytes | memoryview) -> None:
        if self._stream is None:
            if self._transport is not None:
                self._transport.write(data)
        else:
            self._stream.send(data)
            self._flush(self._stream)

    def _read_or_pause(self) -> None:
        """Read the connection, unless the peer does not read or has sent more than it should."""
        paused = not self._closing and (self._drained is not None or self._reader.buffered >= BUFFERED_BYTES_MAX)
        if paused != self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = paused
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Requests.

    def _advance(self) -> None:
        """Begin the next request if its head is complete, or give the application more of the body."""
        if self._task is not None:
            if self._more is not None and not self._more.done():
                self._more.set_result(None)
        elif not self._closing:
            try:
                head = self._reader.head()
            except RequestRefused as refused:
                self._refuse(refused.code, refused.detail)
            else:
                if head is not None:
                    self._begin(head)
        self._read_or_pause()

    def _begin(self, head: Head) -> None:
        self._shared.places.works(self)
        self._exchange = Exchange(head, self, self._limits.answer_bytes_per_second)
        self._task = self._loop.create_task(self._run(self._exchange))
        self._task.add_done_callback(self._ended)

    async def _run(self, exchange: Exchange) -> None:
        enter(exchange.request)
        scope = exchange.scope(self._peer, self._shared.local, self._extensions)
        try:
            await self._shared.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            # A bug in the application ends this request and its connection. Other connections go on.
            log.exception("the application failed", exc_info=error, extra={"path": scope["path"]})
        if not exchange.complete and not self._closing:
            exchange.keep_alive = False
            if exchange.started:
                self.evict()
            else:
                self._put(plain_answer("internal"))

    def _ended(self, task: asyncio.Task[None]) -> None:
        exchange = self._exchange
        self._task = self._exchange = None
        if self._lost:
            self._release()
            return
        if self._transport is not None and not self._transport.is_closing():
            self._shared.places.waits(self)
        if self._closing:
            self._arm(self._limits.linger)
            return
        if task.cancelled() or exchange is None:
            self.evict()
        elif not exchange.keep_alive or not self._reader.complete:
            self._finish()
        else:
            self._reader.next_request()
            self._tls_bytes = 0
            if self._stream is not None:
                self._stream.bare_records = 0
            self._between = self._reader.buffered == 0
            self._arm(self._limits.idle if self._between else self._limits.request)
            self._advance()

    def _refuse(self, code: Code, detail: str) -> None:
        self._put(plain_answer(code, detail))
        self._finish()

    # The port `Wire` of the exchange.

    async def body(self) -> tuple[bytes, bool]:
        """Return the next bytes of the request's body, and whether they are the last. Wait for them if necessary."""
        while True:
            try:
                piece = self._reader.body()
            except RequestRefused as refused:
                self._refuse(refused.code, refused.detail)
                raise asyncio.CancelledError from refused
            self._read_or_pause()
            if piece or self._reader.complete:
                return piece, self._reader.complete
            self._more = self._loop.create_future()
            await self._waited(self._more)

    async def gone(self) -> None:
        """Wait until the connection is closed. The waiting task is cancelled then."""
        while not self._lost:
            self._more = self._loop.create_future()
            await self._more

    async def write(self, data: bytes) -> None:
        """Write bytes of the answer, and return once the kernel has taken all of them."""
        view = memoryview(data)
        for begin in range(0, len(data), _WRITE_BYTES):
            if self._closing:
                return
            self._put(view[begin : begin + _WRITE_BYTES])
            if self._drained is not None:
                await self._waited(self._drained)

    async def _waited(self, client: asyncio.Future[None]) -> None:
        """Wait for the client. Meanwhile the connection may be closed for another."""
        if self._lost:
            raise asyncio.CancelledError
        self._shared.places.waits(self)
        try:
            await client
        finally:
            self._shared.places.works(self)

    def skip_body(self) -> bool:
        """Drop the bytes of the body that have arrived. Return False if more of them are to come."""
        try:
            self._reader.body()
        except RequestRefused:
            return False
        return self._reader.complete

    def allow(self, seconds: float) -> None:
        """Move the deadline of the request by `seconds`. A long poll without a connection is cancelled."""
        self._arm(self._deadline - self._loop.time() + seconds)
        if self._lost and self._task is not None and self._exchange is not None and self._exchange.polling:
            self._task.cancel()

    # Times and ends.

    def _arm(self, seconds: float) -> None:
        """Set the deadline. A timer that fires too early stays: `_expire` sets it again."""
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        left = self._deadline - self._loop.time()
        if left > 0:
            self._arm(left)
        elif self._between and self._task is None and not self._closing:
            self._finish()
        else:
            self.evict()

    def _finish(self, *, say: bool = True) -> None:
        """Close the connection after the bytes written so far. Wait for the peer to close its side.

        `say` is False after an alert, which takes the place of close_notify. A request in work keeps its deadline.
        """
        if self._closing or self._transport is None:
            return
        self._closing = True
        if self._stream is not None and say:
            if self._stream.established:
                self._stream.close()
            self._flush(self._stream)
        if self._stream is not None and self._stream.ended:
            self._transport.close()
        elif not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:  # The peer has reset the connection.
                self._transport.abort()
        self._read_or_pause()
        if self._task is None:
            self._arm(self._limits.linger)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shared.connections.discard(self)
        self._shared.closed.set()
        self._shared.places.release(self)
