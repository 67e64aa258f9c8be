"""Runs services in one process: start, listeners, background tasks, signals, stop.

A process runs a list of `Unit`s, one for each service. It opens them in order, serves until SIGTERM or SIGINT, and
closes them in reverse order within three seconds. On a stop, listeners accept no more connections, long polls end at
once (`Stopping`), and running requests get `GRACE_SECONDS`. If a background task ends before the stop, the process ends
with exit code 70, because a restart is better than a service without its background work. This module imports no
service and no route.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import uvicorn

from cloud.http.listener import BACKLOG, CloudHttpProtocol, plaintext_only
from cloud.mtls.server import ServerTls
from cloud.tasks.stopping import BackgroundTask, Stopping

log = logging.getLogger("cascade.server")

EXIT_OK = 0
EXIT_INTERNAL = 70
GRACE_SECONDS = 2
"""Seconds that a running request gets after the stop signal."""
KEEP_ALIVE_SECONDS = 75
"""Seconds for which an idle connection is kept. It is longer than the pause between a node's requests in an exchange,
and shorter than the time after which firewalls drop idle connections."""
HANDSHAKE_SECONDS = 10
"""Seconds for a TLS handshake. Over a satellite link it takes 3 s."""


class Listener(msgspec.Struct, frozen=True):
    """An address, and the application that answers on it.

    Without `tls` the listener is plaintext. It then answers GET and HEAD, and POST to the paths in `posts` only.
    """

    app: Any
    host: str
    port: int
    tls: ServerTls | None
    posts: tuple[str, ...] = ()


class Served(msgspec.Struct, frozen=True):
    """An open service: its listeners and its background tasks."""

    listeners: tuple[Listener, ...]
    tasks: tuple[BackgroundTask, ...] = ()


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A service that a process can run.

    `open` opens the settings and the database and makes the service's parts. It closes them after the last request. The
    listeners start after it has yielded. Applications get no ASGI lifespan events, because `open` takes their place.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[Served]]


class CloudServer(uvicorn.Server):
    """uvicorn on a bound socket. It handles no signals and never ends the process."""

    def __init__(self, listener: Listener, bound: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                listener.app if listener.tls is not None else plaintext_only(listener.app, listener.posts),
                http=CloudHttpProtocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
                backlog=BACKLOG,
            )
        )
        self._bound = bound
        self._tls = listener.tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections. Replaces uvicorn's method, which has no time limit for handshakes."""
        await self.on_tick(0)  # sets the Date header before the first answer
        server = await asyncio.get_running_loop().create_server(
            self._make_protocol,
            sock=self._bound,
            ssl=self._tls.context if self._tls is not None else None,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls is not None else None,
            ssl_shutdown_timeout=1 if self._tls is not None else None,
            backlog=BACKLOG,
        )
        self.servers = [server]
        self.started = True

    def _make_protocol(self) -> asyncio.Protocol:
        return CloudHttpProtocol(self.config, self.server_state, {})

    async def serve_until(self, stopping: Stopping) -> None:
        """Serve until the process stops, then let running requests end."""
        # uvicorn makes the text of the answers' Date header in `on_tick`: once a second.
        while not await stopping.sleep(1.0):
            await self.on_tick(0)
        await self.shutdown()

    async def start(self) -> None:
        """Load the configuration and accept connections."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup()


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


@asynccontextmanager
async def running(unit: Unit) -> AsyncIterator[Running]:
    """Open a unit and accept connections on its listeners. The unit is closed at the end, also after an exception."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(unit.open())
        servers: list[CloudServer] = []
        for listener in served.listeners:
            bound = bind(listener)
            stack.callback(bound.close)
            server = CloudServer(listener, bound)
            await server.start()
            servers.append(server)
            host, port = bound.getsockname()[:2]
            log.info(
                "listening",
                extra={"service": unit.name, "host": host, "port": port, "tls": listener.tls is not None},
            )
        yield Running(servers, served.tasks)


async def serve(
    units: Sequence[Unit], stopping: Stopping | None = None, ready: Callable[[], None] | None = None
) -> int:
    """Run units until SIGTERM, SIGINT or `stopping`, and return the exit code: 0, or 70 after a failure.

    `ready` is called once all units accept connections.
    """
    stopping = stopping or Stopping()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.request)
    status = EXIT_OK
    try:
        async with AsyncExitStack() as stack:
            opened = [(unit.name, await stack.enter_async_context(running(unit))) for unit in units]
            if ready is not None:
                ready()
            status = await _supervise(opened, stopping)
    except OSError as error:
        log.error("cannot start", extra={"error": str(error)})
        status = EXIT_INTERNAL
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    log.info("stopped", extra={"status": status})
    return status


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
