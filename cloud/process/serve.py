"""Wiring: runs services in one process: start, listeners, background tasks, signals, stop.

A process runs a list of `Unit`s, one for each service. It opens them in order, serves until SIGTERM or SIGINT, and
closes them in reverse order within three seconds. On a stop, listeners accept no more connections, long polls end at
once (`Stopping`), and running requests get `GRACE_SECONDS`. If a background task ends before the stop, the process ends
with exit code 70, because a restart is better than a service without its background work. This module imports no
service and no route.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec

from cloud.http.listener import LIMITS, Connection, Limits, Shared
from cloud.http.places import Places, connections_max
from cloud.http.plaintext import plaintext_only
from cloud.http.readiness import Readiness
from cloud.mtls.server import ServerTls
from cloud.process.notify import Reporting, reports
from cloud.tasks.source import source_of
from cloud.tasks.stopping import BackgroundTask, Stopping

log = logging.getLogger("cascade.server")

EXIT_OK = 0
EXIT_INTERNAL = 70
GRACE_SECONDS = 2
"""Seconds that a running request gets after the stop signal."""
CANCEL_SECONDS = 0.3
"""Seconds that a cancelled request gets to end."""
BACKLOG = 2048
"""Connections that the kernel queues while the event loop is busy."""
ACCEPTS_AT_ONCE = 16
"""Connections that are accepted before the event loop turns to those that are open."""
ACCEPT_PAUSE_SECONDS = 0.2
"""Seconds without new connections after the process had no file descriptor left for one."""
SOCKET_BUFFER_BYTES = 64 * 1024
"""Bytes of a connection that the kernel buffers in each direction (Linux books twice as much). Without this limit a
peer that sends or requests without reading can fill 4 to 6 MiB."""
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener(msgspec.Struct, frozen=True):
    """An address, and the application that answers on it.

    Without `tls` the listener is plaintext. It then answers GET and HEAD, and POST to the paths in `posts` only.
    """

    app: Any
    host: str
    port: int
    tls: ServerTls | None
    posts: tuple[str, ...] = ()
    limits: Limits = LIMITS


class Served(msgspec.Struct, frozen=True):
    """An open service: its listeners, its background tasks, and its readiness if it has dependencies."""

    listeners: tuple[Listener, ...]
    tasks: tuple[BackgroundTask, ...] = ()
    readiness: Readiness | None = None


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service that a process can run.

    `open` opens the settings and the database and makes the service's parts. It closes them after the last request. The
    listeners start after it has yielded. Applications get no ASGI lifespan events, because `open` takes their place.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[Served]]


class CloudServer:
    """Accepts the connections of one listener. It handles no signals and never ends the process."""

    def __init__(self, listener: Listener, bound: socket.socket, places: Places) -> None:
        host, port = bound.getsockname()[:2]
        self._bound = bound
        self._tls = listener.tls
        self._shared = Shared(
            app=listener.app if listener.tls is not None else plaintext_only(listener.app, listener.posts),
            places=places,
            limits=listener.limits,
            local=(host, port),
            connections=set(),
            closed=asyncio.Event(),
        )
        self._opening: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port of the listener."""
        return self._shared.local[1]

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open or whose request has not ended yet."""
        return self._shared.connections

    def start(self) -> None:
        """Accept connections from now on."""
        self._bound.listen(BACKLOG)
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._bound.fileno(), self._accept)

    def _accept(self) -> None:
        """Accept some of the connections that wait in the kernel."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                accepted, peer = self._bound.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._shared.places.shed()
                    loop.remove_reader(self._bound.fileno())
                    self._pause = loop.call_later(ACCEPT_PAUSE_SECONDS, self._resume)
                    return
                continue  # The client has ended this connection already.
            address = source_of(peer[0])
            if not self._shared.places.admit(address):
                accepted.close()
                continue
            accepted.setblocking(False)
            connection = Connection(self._shared, peer[:2], address, self._tls.context if self._tls else None)
            task = loop.create_task(_open(connection, accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def serve_until(self, stopping: Stopping) -> None:
        """Serve until the process stops, then let running requests end."""
        await stopping.wait()
        await self.close(GRACE_SECONDS)

    async def close(self, grace_seconds: float = 0) -> None:
        """Accept no more connections, and close all. Running requests get `grace_seconds`, then they are cancelled."""
        if self._bound.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._bound.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._bound.close()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in list(self._shared.connections):
            connection.stop()
        await self._emptied(grace_seconds)
        for connection in list(self._shared.connections):
            connection.evict()
        await self._emptied(CANCEL_SECONDS)

    async def _emptied(self, seconds: float) -> None:
        """Wait until all connections are closed and their requests have ended, at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._shared.connections:
                    self._shared.closed.clear()
                    await self._shared.closed.wait()


async def _open(connection: Connection, accepted: socket.socket) -> None:
    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)


def bind(listener: Listener) -> socket.socket:
    """Bind a listener's address and return the socket.

    Raises:
        OSError: the address is in use or does not belong to this machine; the message names it.
    """
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the socket names the protocol. Without TCP_NODELAY every answer waits 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit these.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        bound.bind((listener.host, listener.port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot listen on {listener.host}:{listener.port}: {error.strerror}") from error
    bound.setblocking(False)
    return bound


class Running(msgspec.Struct, frozen=True):
    """An open unit whose listeners accept connections."""

    servers: list[CloudServer]
    tasks: tuple[BackgroundTask, ...]
    readiness: Readiness | None = None


@asynccontextmanager
async def running(unit: Unit, places: Places | None = None) -> AsyncIterator[Running]:
    """Open a unit and accept connections on its listeners. The unit is closed at the end, also after an exception.

    `places` counts the connections of the process.
    """
    places = places or Places(connections_max())
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(unit.open())
        servers: list[CloudServer] = []
        for listener in served.listeners:
            bound = bind(listener)
            stack.callback(bound.close)
            server = CloudServer(listener, bound, places)
            server.start()
            stack.push_async_callback(server.close)
            servers.append(server)
            host, port = bound.getsockname()[:2]
            log.info(
                "listening",
                extra={"service": unit.name, "host": host, "port": port, "tls": listener.tls is not None},
            )
        yield Running(servers, served.tasks, served.readiness)


async def serve(
    units: Sequence[Unit], stopping: Stopping | None = None, ready: Callable[[], None] | None = None
) -> int:
    """Run units until SIGTERM, SIGINT or `stopping`, and return the exit code: 0, or 70 after a failure.

    `ready` is called once all units accept connections. From then on the state is reported to systemd.
    """
    stopping = stopping or Stopping()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.request)
    status = EXIT_OK
    try:
        async with AsyncExitStack() as stack:
            places = Places(connections_max())
            opened = [(unit.name, await stack.enter_async_context(running(unit, places))) for unit in units]
            if ready is not None:
                ready()
            status = await _supervise(opened, stopping)
    except OSError as error:
        log.error("cannot start", extra={"error": error.strerror or str(error), "next": _next_step(error)})
        status = EXIT_INTERNAL
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    log.info("stopped", extra={"status": status})
    return status


def _next_step(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Stop the other program at this address, or change the address under [[listeners]] in the settings."
    return "`cascade config check` shows all faults of the installation, each with the next step."


async def _supervise(opened: Sequence[tuple[str, Running]], stopping: Stopping) -> int:
    """Wait for the stop, and return the exit code. It is 70 if a server or a background task ended before the stop."""
    serving = [
        asyncio.create_task(server.serve_until(stopping), name="listener")
        for _, unit in opened
        for server in unit.servers
    ]
    background = [
        asyncio.create_task(_call(task, stopping), name=f"{name}/{task_name(task)}")
        for name, unit in opened
        for task in unit.tasks
    ]
    services = [Reporting(name, unit.readiness) for name, unit in opened if unit.readiness is not None]
    background += [
        asyncio.create_task(_call(task, stopping), name=f"systemd/{task_name(task)}") for task in reports(services)
    ]
    stop = asyncio.create_task(stopping.wait(), name="stop")
    status = EXIT_OK
    done, _ = await asyncio.wait([*serving, *background, stop], return_when=asyncio.FIRST_COMPLETED)
    if not stopping.requested:
        for task in done:
            status = EXIT_INTERNAL
            error = None if task.cancelled() else task.exception()
            log.error("a background task ended before the stop", extra={"task": task.get_name()}, exc_info=error)
    stopping.request()
    await asyncio.wait([*serving, *background, stop], timeout=GRACE_SECONDS + 0.5)
    for task in (*serving, *background, stop):
        task.cancel()
    for result in await asyncio.gather(*serving, *background, return_exceptions=True):
        if isinstance(result, Exception) and status == EXIT_OK:
            status = EXIT_INTERNAL
            log.error("a background task failed during the stop", exc_info=result)
    return status


def task_name(task: BackgroundTask) -> str:
    """Return a task's name for logs: the class and the method, or the function."""
    owner = getattr(task, "__self__", None)
    name = getattr(task, "__name__", "task")
    return name if owner is None else f"{type(owner).__name__}.{name}"


async def _call(task: BackgroundTask, stopping: Stopping) -> None:
    await task(stopping)
