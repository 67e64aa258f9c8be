"""Adapter: HTTP server on the unix socket that licensed software and the command line use.

Every local user who reaches the socket can read, because the terms of a licence are no secret to the software on the
machine. Commands (`POST`) are for root and the agent's own user; the kernel names the caller (SO_PEERCRED). One
connection carries one request. Answers are computed for each request and never stored.
"""

import errno
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import msgspec
import trio

from node.errors import NodeError
from node.exits import Exit

REQUEST_SECONDS_MAX = 10.0
REQUEST_BYTES_MAX = 16 * 1024
CONNECTIONS_MAX = 64
"""Local programs ask once a minute. More connections wait in the socket's backlog and use no descriptors."""
CONNECTIONS_PER_USER_MAX = 16
"""A user who holds connections open leaves room for the programs of other users."""
BACKLOG = 1024
"""Connections that wait in the kernel. A non-blocking client is refused when they are full."""
COMMAND_SECONDS_MAX = 120.0
"""A renewal signs with the TPM twice and calls the cloud three times."""


class SocketUnusable(NodeError):
    """The socket cannot be made at the path in the settings."""

    exit = Exit.USAGE
    code = "socket_unusable"
    next = "Check the setting `socket`, its directory, and who owns it."


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


class LocalProblem(msgspec.Struct, frozen=True):
    """A refusal or a failure (RFC 9457)."""

    title: str
    """Cause, for people."""
    status: int
    """HTTP status."""
    code: str
    """Code of the cause, for programs. Codes are never renamed."""


Handler = Callable[[Request], Awaitable[Answer]]

_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_PAUSE_SECONDS = 0.1
_PEERCRED = struct.Struct("3i")


def problem(status: int, code: str, title: str) -> Answer:
    """An answer that refuses or reports a failure."""
    return Answer(status, LocalProblem(title=title, status=status, code=code))


def listen(path: Path) -> trio.SocketListener:
    """A listening socket at `path` that every local user can reach. A socket left by a crash is replaced.

    The caller holds the state lock, so no other agent of this state listens. Raises SocketUnusable.
    """
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        raw.bind(str(fresh))
        fresh.chmod(0o666)
        raw.listen(BACKLOG)
        # The rename is atomic: clients find the old socket, which refuses them, or the new one.
        fresh.rename(path)
    except OSError as error:
        raw.close()
        raise SocketUnusable(f"cannot listen at {path}: {error.strerror or error}") from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))


def _user(stream: trio.SocketStream) -> int:
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    _, uid, _ = _PEERCRED.unpack(credentials)
    return int(uid)


def _privileged(user: int) -> bool:
    return user in (0, os.geteuid())


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


async def _send(connection: h11.Connection, stream: trio.SocketStream, answer: Answer, *, head_only: bool) -> None:
    body = msgspec.json.encode(answer.body) + b"\n"
    kind = b"application/problem+json" if isinstance(answer.body, LocalProblem) else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    if answer.allow:
        headers.append((b"allow", ", ".join(answer.allow).encode()))
    data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)


async def _exchange(
    stream: trio.SocketStream, user: int, handler: Handler, request_seconds: float, command_seconds: float
) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
    head: h11.Request | None = None
    try:
        with trio.fail_after(request_seconds):
            head = await _read_request(connection, stream)
        if head is None:
            return
        request = Request(head.method.decode(), head.target.decode(), _privileged(user))
        with trio.move_on_after(command_seconds) as scope:
            answer = await handler(request)
        if scope.cancelled_caught:
            answer = problem(504, "timeout", "the agent did not finish in time")
    except h11.RemoteProtocolError as error:
        answer = problem(error.error_status_hint, "malformed", "the request cannot be read")
    except trio.TooSlowError:
        answer = problem(408, "too_slow", "the request did not come in time")
    with trio.fail_after(request_seconds):
        await _send(connection, stream, answer, head_only=head is not None and head.method == b"HEAD")


async def serve(
    listener: trio.SocketListener,
    handler: Handler,
    *,
    request_seconds: float = REQUEST_SECONDS_MAX,
    command_seconds: float = COMMAND_SECONDS_MAX,
) -> None:
    """Answer until cancelled. A failing client ends its own exchange and nothing else."""
    slots = trio.Semaphore(CONNECTIONS_MAX)
    held: Counter[int] = Counter()

    async def one(stream: trio.SocketStream, user: int) -> None:
        try:
            async with stream:
                await _exchange(stream, user, handler, request_seconds, command_seconds)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, h11.LocalProtocolError):
            return
        finally:
            held[user] -= 1
            slots.release()

    async with listener, trio.open_nursery() as nursery:
        while True:
            await slots.acquire()
            stream = await _accept(listener)
            user = _user(stream)
            if held[user] >= CONNECTIONS_PER_USER_MAX and not _privileged(user):
                await trio.aclose_forcefully(stream)
                slots.release()
                continue
            held[user] += 1
            nursery.start_soon(one, stream, user)


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    """The next connection. It waits while the system lacks descriptors or memory, as trio's server does."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            await trio.sleep(ACCEPT_PAUSE_SECONDS)
