"""Adapter: one HTTP exchange over a connection of the local socket.

`node.local.server` imports this module when the agent is READY. HTTP's parser compiles its expressions at the import,
which takes a twentieth of the agent's start.
"""

import logging
import select
from contextlib import suppress

import h11
import msgspec
import trio

from node.local.connections import Connection
from node.local.messages import PATH_IMPORT, Answer, Handler, LocalProblem, Request, problem
from node.local.place import is_privileged
from protocol.limits import AIRGAP_CARRIED_BYTES_MAX

log = logging.getLogger("cascadia.socket")

REQUEST_BYTES_MAX = 16 * 1024
READ_BYTES = 16 * 1024
"""Most bytes that are read at once."""
BUSY_SECONDS_MAX = 0.5
GONE_CHECK_SECONDS = 0.25
"""Pause between two checks whether a client that ended its own side has closed its connection."""


class Exchanges:
    """Reads requests and sends the answers of `handler`.

    Args:
        handler: the function that answers a request.
        request_seconds: bound of reading a request, and of sending an answer.
        command_seconds: bound of the handler.
    """

    def __init__(self, handler: Handler, request_seconds: float, command_seconds: float) -> None:
        self._handler = handler
        self._request_seconds = request_seconds
        self._command_seconds = command_seconds

    async def serve(self, stream: trio.SocketStream, connection: Connection, scope: trio.CancelScope) -> None:
        """Serve one connection, and close it. If `scope` is cancelled, the client gets the answer that the agent is busy."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        # These errors are the client's: it has gone, or does not read its answer.
        gone = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.LocalProtocolError)
        async with stream:
            with scope, suppress(*gone):
                await self._exchange(stream, http, connection)
            if scope.cancelled_caught and http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                busy = problem(503, "busy", "too many connections are open, so the longest idle one was closed")
                with suppress(*gone), trio.move_on_after(BUSY_SECONDS_MAX):
                    await stream.send_all(_encoded(http, busy, head_only=False))

    async def _exchange(self, stream: trio.SocketStream, http: h11.Connection, connection: Connection) -> None:
        head: h11.Request | None = None
        try:
            with trio.fail_after(self._request_seconds):
                head, body = await _read_request(http, stream, privileged=is_privileged(connection.user))
            if head is None:
                return
            # A question is answered at once, or waits for a change: then its connection may be closed for another.
            connection.busy = head.method != b"GET"
            found = await self._answer_unless_gone(stream, head, body, connection.user)
            connection.busy = False
            if found is None:
                return
            answer = found
        except h11.RemoteProtocolError as error:
            answer = problem(error.error_status_hint, "malformed", "the request cannot be read")
        except trio.TooSlowError:
            answer = problem(408, "too_slow", "the request did not come in time")
        head_only = head is not None and head.method == b"HEAD"
        try:
            with trio.fail_after(self._request_seconds):
                await stream.send_all(_encoded(http, answer, head_only=head_only))
        finally:
            answer.sent()

    async def _answer_unless_gone(
        self, stream: trio.SocketStream, head: h11.Request, body: bytes, user: int
    ) -> Answer | None:
        """The handler's answer. None if the client closed its connection before, while its question waited."""
        if head.method != b"GET":
            return await self._answer(head, body, user)
        answer: Answer | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await _until_gone(stream)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            answer = await self._answer(head, body, user)
            nursery.cancel_scope.cancel()
        return answer

    async def _answer(self, head: h11.Request, body: bytes, user: int) -> Answer:
        """The handler's answer. A fault of the handler becomes a 500, so that the agent keeps running."""
        request = Request(head.method.decode(), head.target.decode(), is_privileged(user), body, user)
        try:
            with trio.move_on_after(self._command_seconds):
                answer = await self._handler(request)
                msgspec.json.encode(answer.body)
                return answer
        except Exception as error:
            log.error("cannot answer %s %s because of a fault", request.method, request.path, exc_info=error)
            return problem(500, "internal", "the agent cannot answer because of a fault; see its log")
        return problem(504, "timeout", "the agent did not finish in time")


async def _until_gone(stream: trio.SocketStream) -> None:
    """Wait until the client has closed its connection. A client may end its own side alone, and still read."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(READ_BYTES):
            pass
    hung_up = select.poll()
    hung_up.register(stream.socket, 0)
    while not hung_up.poll(0):  # noqa: ASYNC110 (no event of trio tells a hang-up from a half-closed side)
        await trio.sleep(GONE_CHECK_SECONDS)


async def _read_request(
    connection: h11.Connection, stream: trio.SocketStream, *, privileged: bool
) -> tuple[h11.Request | None, bytes]:
    """Head and body of the request. The head is None if the client closed the connection.

    A privileged request to PATH_IMPORT may have a long body. The body of every other request is dropped.
    """
    head: h11.Request | None = None
    body, received, most = b"", 0, REQUEST_BYTES_MAX
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(READ_BYTES)
            received += len(data)
            if received > most:
                raise h11.RemoteProtocolError("the request is too long", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
            if privileged and event.target == PATH_IMPORT.encode():
                most = REQUEST_BYTES_MAX + AIRGAP_CARRIED_BYTES_MAX
        elif isinstance(event, h11.Data):
            body += event.data if most > REQUEST_BYTES_MAX else b""
        elif isinstance(event, h11.EndOfMessage):
            return head, body
        elif isinstance(event, h11.ConnectionClosed):
            return None, b""


def _encoded(connection: h11.Connection, answer: Answer, *, head_only: bool) -> bytes:
    body = msgspec.json.encode(answer.body) + b"\n"
    kind = b"application/problem+json" if isinstance(answer.body, LocalProblem) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    if answer.allow:
        headers.append((b"allow", ", ".join(answer.allow).encode()))
    data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")
