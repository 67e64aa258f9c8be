"""Adapter: HTTP server on the unix socket that licensed software and the command line use.

Every local user who reaches the socket can read, because the terms of a licence are no secret to the software on the
machine. Commands (`POST`) are for root and the agent's own user; the kernel names the caller (SO_PEERCRED). One
connection carries one request. Answers are computed for each request and never stored.

The server never stops accepting. `node.local.connections` decides which idle connection is closed when places are
short. The socket is made again when its file is gone; if systemd has made it, the agent ends. No system call of the event loop waits for a disk.
"""

import importlib
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from node.clock import utc_now
from node.conditions import Conditions
from node.local.connections import PLACES, PLACES_PRIVILEGED, Connection, Table
from node.local.messages import Handler
from node.local.place import (
    GATES,
    GATES_NAME,
    OPEN,
    PUBLIC,
    GatesSocketUnusable,
    Kind,
    Place,
    SocketLost,
    SocketUnusable,
    is_privileged,
    listen,
    secure,
    user_of,
)

if TYPE_CHECKING:
    from node.local.exchange import Exchanges

log = logging.getLogger("cascadia.socket")

REQUEST_SECONDS_MAX = 10.0
COMMAND_SECONDS_MAX = 120.0
"""A renewal signs with the TPM twice and calls the cloud three times."""
CHECK_SECONDS = 3.0
"""Pause between two checks of the socket's file. Licensed software bridges 60 seconds (`valid_until`)."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Pause after the system could not give a connection, because it lacks descriptors or memory."""


class _Server:
    """The connections of one socket."""

    def __init__(self, exchanges: "Exchanges", user_of: Callable[[trio.socket.SocketType], int]) -> None:
        self._exchanges = exchanges
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
        try:
            await self._exchanges.serve(stream, connection, scope)
        except Exception as error:
            log.error("cannot serve a connection because of a fault", exc_info=error)
        finally:
            self._tables[is_privileged(connection.user)].remove(connection)


async def _exchanges(handler: Handler, request_seconds: float, command_seconds: float) -> "Exchanges":
    """Import HTTP's parser, in a thread the first time. Connections wait meanwhile."""
    if "node.local.exchange" not in sys.modules:
        await trio.to_thread.run_sync(importlib.import_module, "node.local.exchange")
    from node.local.exchange import Exchanges

    return Exchanges(handler, request_seconds, command_seconds)


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
    """Answer until cancelled. A failing client ends its own exchange and nothing else. Raises SocketLost.

    Args:
        place: the socket that listens. When its file is gone or replaced, another socket is made at the path.
        handler: the function that answers a request.
        conditions: get a condition while the socket cannot be made or other users can replace it.
        request_seconds: bound of reading a request, and of sending an answer.
        command_seconds: bound of the handler.
        check_seconds: pause between two checks of the socket's file.
        user_of: the user of a connection's other side.
    """
    server = _Server(await _exchanges(handler, request_seconds, command_seconds), user_of)
    conditions = Conditions(utc_now) if conditions is None else conditions
    async with trio.open_nursery() as nursery:
        while True:
            async with place.listener() as listener, trio.open_nursery() as accepting:
                accepting.start_soon(server.accept, listener, nursery)
                place = await _replacement(place, conditions, check_seconds)
                accepting.cancel_scope.cancel()


class Serving:
    """One of the agent's sockets and its server. `run` can run again after it failed, and then makes the socket again.

    `passed` are the descriptors that systemd has passed.
    """

    def __init__(
        self, path: Path, handler: Handler, conditions: Conditions, passed: Sequence[int] = (), kind: Kind = PUBLIC
    ) -> None:
        """Make the socket, or take the passed one. Raises SocketLost.

        Raises SocketUnusable for the public socket. `run` tries again to make the one of the gates.
        """
        self._path = path
        self._handler = handler
        self._conditions = conditions
        self._passed = passed
        self._kind = kind
        self._place: Place | None = None
        try:
            self._place = listen(path, passed, kind)
        except SocketUnusable as error:
            if kind == PUBLIC:
                raise
            _report_unusable(kind, error, conditions)

    async def run(self) -> None:
        """Answer until cancelled. While the socket cannot be made, there is a condition. Raises SocketLost."""
        place, self._place = self._place, None
        while place is None:
            try:
                place = await trio.to_thread.run_sync(
                    listen, self._path, self._passed, self._kind, abandon_on_cancel=True
                )
            except SocketUnusable as error:
                _report_unusable(self._kind, error, self._conditions)
                await trio.sleep(CHECK_SECONDS)
        self._conditions.clear(self._kind.error.code)
        try:
            await serve(place, self._handler, self._conditions)
        finally:
            # Closed already, unless the server failed before it listened.
            place.socket.close()


def servings(
    path: Path, handler: Handler, conditions: Conditions, passed: Sequence[int] = ()
) -> dict[str, Callable[[], Awaitable[None]]]:
    """The agent's sockets: name of a background task -> the task. Raises SocketUnusable for the public one; SocketLost.

    The gates have a socket of their own, with its own queue in the kernel and its own places.
    """
    public = Serving(path, handler, conditions, passed)
    gates = Serving(path.with_name(GATES_NAME), handler, conditions, passed, GATES)
    return {"socket": public.run, "gates socket": gates.run}


def _report_unusable(kind: Kind, error: SocketUnusable, conditions: Conditions) -> None:
    if kind == GATES:
        error = GatesSocketUnusable(error.text, next_step=error.next)
    if conditions.report_error(error):
        log.error("%s; trying again", error)


async def _replacement(place: Place, conditions: Conditions, check_seconds: float) -> Place:
    """Wait until the socket's file is gone or replaced, and make the socket again. Raises SocketLost."""
    limiter = trio.CapacityLimiter(1)  # of the socket alone, because the state's disk may be frozen

    def check() -> Place:
        try:
            if place.is_present():
                return msgspec.structs.replace(place, weaknesses=secure(place.path))
        except OSError as error:
            raise SocketUnusable(f"cannot check the socket {place.path}: {error.strerror}") from error
        if place.is_passed:
            raise SocketLost(f"cannot go on: the socket {place.path} is gone, or another file is in its place")
        return listen(place.path, kind=place.kind)

    _report(place, conditions)
    while True:
        await trio.sleep(check_seconds)
        try:
            found = await trio.to_thread.run_sync(check, abandon_on_cancel=True, limiter=limiter)
        except SocketUnusable as error:
            _report_unusable(place.kind, error, conditions)
            continue
        conditions.clear(place.kind.error.code)
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
