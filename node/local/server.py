"""Adapter: HTTP server on the unix socket that licensed software and the command line use.

Every local user who reaches the socket can read, because the terms of a licence are no secret to the software on the
machine. Commands (`POST`) are for root and the agent's own user; the kernel names the caller (SO_PEERCRED). One
connection carries one request. Answers are computed for each request and never stored.

The server never stops accepting. `node.local.connections` decides which idle connection is closed when places are
short. The socket is made again when its file is gone. No system call of the event loop waits for a disk.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import h11
import msgspec
import trio

from node.clock import utc_now
from node.conditions import Conditions
from node.local.connections import PLACES, PLACES_PRIVILEGED, Connection, Table
from node.local.place import OPEN, Place, SocketUnusable, is_privileged, listen, secure, user_of

log = logging.getLogger("cascadia.socket")

REQUEST_SECONDS_MAX = 10.0
REQUEST_BYTES_MAX = 16 * 1024
COMMAND_SECONDS_MAX = 120.0
"""A renewal signs with the TPM twice and calls the cloud three times."""
CHECK_SECONDS = 3.0
"""Pause between two checks of the socket's file. Licensed software bridges 60 seconds (`valid_until`)."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Pause after the system could not give a connection, because it lacks descriptors or memory."""
BUSY_SECONDS_MAX = 0.5


class Request(msgspec.Struct, frozen=True):
    """A request as the routes see it. `privileged`: the caller is root or the agent's own user."""

    method: str
    path: str
    privileged: bool


class Answer(msgspec.Struct, frozen=True):
    """Status and body of an answer. `allow` has the methods of the path, for a 405."""

    status: int
    body: msgspec.Struct
    allow: tuple[str, ...] = ()


class LocalProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A refusal or a failure (RFC 9457)."""

    title: str
    """Cause, for people."""
    status: int
    """HTTP status."""
    code: str
    """Code of the cause, for programs. Codes are never renamed."""
    next: str = ""
    """Next step, for people."""
    exit_code: int = 0
    """Exit code of the command of `cascadia` that made the request. Missing if the code alone decides."""


Handler = Callable[[Request], Awaitable[Answer]]


def problem(status: int, code: str, title: str) -> Answer:
    """An answer that refuses or reports a failure."""
    return Answer(status, LocalProblem(title=title, status=status, code=code))


async def _read_request(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    """The head of the request. Its body is read up to a bound and dropped. None if the client closed the connection."""
    head: h11.Request | None = None
    received = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(4096)
            received += len(data)
            if received > REQUEST_BYTES_MAX:
                raise h11.RemoteProtocolError("the request is too long", error_status_hint=413)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.EndOfMessage):
            return head
        elif isinstance(event, h11.ConnectionClosed):
            return None


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


class _Server:
    """The connections of one socket, and the limits of their exchanges."""

    def __init__(
        self,
        handler: Handler,
        request_seconds: float,
        command_seconds: float,
        user_of: Callable[[trio.socket.SocketType], int],
    ) -> None:
        self._handler = handler
        self._request_seconds = request_seconds
        self._command_seconds = command_seconds
        self._user_of = user_of
        self._tables = {True: Table(PLACES_PRIVILEGED), False: Table(PLACES)}

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Accept connections until cancelled, and serve each one in the nursery."""
        while True:
            stream = await self._accepted(listener)
            user = self._user_of(stream.socket)
            scope = trio.CancelScope()
            connection = Connection(user, scope.cancel)
            if self._tables[is_privileged(user)].admit(connection):
                nursery.start_soon(self._serve_one, stream, connection, scope)
            else:
                await trio.aclose_forcefully(stream)

    async def _accepted(self, listener: trio.SocketListener) -> trio.SocketStream:
        """The next connection. While the system lacks descriptors or memory, idle connections are closed."""
        is_logged = False
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                for table in self._tables.values():
                    table.make_room(-1)
                if not is_logged:
                    log.warning("cannot accept a connection at the socket: %s; trying again", error.strerror)
                is_logged = True
                await trio.sleep(ACCEPT_PAUSE_SECONDS)

    async def _serve_one(self, stream: trio.SocketStream, connection: Connection, scope: trio.CancelScope) -> None:
        h11_connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        # These errors are the client's: it has gone, or does not read its answer.
        gone = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.LocalProtocolError)
        try:
            async with stream:
                with scope, suppress(*gone):
                    await self._exchange(stream, h11_connection, connection)
                if scope.cancelled_caught and h11_connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    busy = problem(503, "busy", "too many connections are open, so the longest idle one was closed")
                    with suppress(*gone), trio.move_on_after(BUSY_SECONDS_MAX):
                        await stream.send_all(_encoded(h11_connection, busy, head_only=False))
        except Exception as error:
            log.error("cannot serve a connection because of a fault", exc_info=error)
        finally:
            self._tables[is_privileged(connection.user)].remove(connection)

    async def _exchange(self, stream: trio.SocketStream, http: h11.Connection, connection: Connection) -> None:
        head: h11.Request | None = None
        try:
            with trio.fail_after(self._request_seconds):
                head = await _read_request(http, stream)
            if head is None:
                return
            connection.busy = True
            answer = await self._answer(head, connection.user)
            connection.busy = False
        except h11.RemoteProtocolError as error:
            answer = problem(error.error_status_hint, "malformed", "the request cannot be read")
        except trio.TooSlowError:
            answer = problem(408, "too_slow", "the request did not come in time")
        head_only = head is not None and head.method == b"HEAD"
        with trio.fail_after(self._request_seconds):
            await stream.send_all(_encoded(http, answer, head_only=head_only))

    async def _answer(self, head: h11.Request, user: int) -> Answer:
        """The handler's answer. A fault of the handler becomes a 500, so that the agent keeps running."""
        request = Request(head.method.decode(), head.target.decode(), is_privileged(user))
        try:
            with trio.move_on_after(self._command_seconds):
                answer = await self._handler(request)
                msgspec.json.encode(answer.body)
                return answer
        except Exception as error:
            log.error("cannot answer %s %s because of a fault", request.method, request.path, exc_info=error)
            return problem(500, "internal", "the agent cannot answer because of a fault; see its log")
        return problem(504, "timeout", "the agent did not finish in time")


async def serve(
    place: Place,
    handler: Handler,
    conditions: Conditions | None = None,
    *,
    request_seconds: float = REQUEST_SECONDS_MAX,
    command_seconds: float = COMMAND_SECONDS_MAX,
    check_seconds: float = CHECK_SECONDS,
    user_of: Callable[[trio.socket.SocketType], int] = user_of,
) -> None:
    """Answer until cancelled. A failing client ends its own exchange and nothing else.

    Args:
        place: the socket that listens. When its file is gone or replaced, another socket is made at the path.
        handler: the function that answers a request.
        conditions: get a condition while the socket cannot be made or other users can replace it.
        request_seconds: bound of reading a request, and of sending an answer.
        command_seconds: bound of the handler.
        check_seconds: pause between two checks of the socket's file.
        user_of: the user of a connection's other side.
    """
    server = _Server(handler, request_seconds, command_seconds, user_of)
    conditions = Conditions(utc_now) if conditions is None else conditions
    async with trio.open_nursery() as nursery:
        while True:
            async with place.listener() as listener, trio.open_nursery() as accepting:
                accepting.start_soon(server.accept, listener, nursery)
                place = await _replacement(place, conditions, check_seconds)
                accepting.cancel_scope.cancel()


class Serving:
    """The agent's socket and its server. `run` can run again after it failed, and then makes the socket again."""

    def __init__(self, path: Path, handler: Handler, conditions: Conditions) -> None:
        """Make the socket. Raises SocketUnusable."""
        self._path = path
        self._handler = handler
        self._conditions = conditions
        self._place: Place | None = listen(path)

    async def run(self) -> None:
        """Answer until cancelled. Raises SocketUnusable if the socket cannot be made again."""
        place, self._place = self._place, None
        if place is None:
            place = await trio.to_thread.run_sync(listen, self._path, abandon_on_cancel=True)
        try:
            await serve(place, self._handler, self._conditions)
        finally:
            # Closed already, unless the server failed before it listened.
            place.socket.close()


async def _replacement(place: Place, conditions: Conditions, check_seconds: float) -> Place:
    """Wait until the socket's file is gone or replaced, and make the socket again."""
    limiter = trio.CapacityLimiter(1)  # of the socket alone, because the state's disk may be frozen

    def check() -> Place:
        try:
            if place.is_present():
                return msgspec.structs.replace(place, weaknesses=secure(place.path))
        except OSError as error:
            raise SocketUnusable(f"cannot check the socket {place.path}: {error.strerror}") from error
        return listen(place.path)

    _report(place, conditions)
    while True:
        await trio.sleep(check_seconds)
        try:
            found = await trio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=limiter)
        except SocketUnusable as error:
            if conditions.report_error(error):
                log.error("%s; trying again", error)
            continue
        conditions.clear(SocketUnusable.code)
        _report(found, conditions)
        if found.identity != place.identity:
            log.warning("the socket %s was gone; it is there again", place.path)
            return found


def _report(place: Place, conditions: Conditions) -> None:
    """Report how other users can replace the socket. A directory that was tightened is reported until the next start."""
    found = {weakness.code: weakness for weakness in reversed(place.weaknesses)}
    for weakness in found.values():
        if conditions.report(weakness.code, weakness.text, weakness.next):
            log.warning("%s", weakness.text)
    if OPEN not in found:
        conditions.clear(OPEN)
