"""Whole processes: several listeners, one stop, long polls that end, and background tasks that must not end."""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, cast

import pytest
from litestar import get

from cloud.http.app import Wired, make_app
from cloud.http.guard import ANONYMOUS, Guard
from cloud.http.places import Places
from cloud.process.logs import configure_logging
from cloud.process.serve import (
    ACCEPT_PAUSE_SECONDS,
    EXIT_INTERNAL,
    EXIT_OK,
    CloudServer,
    Listener,
    Served,
    Unit,
    bind,
    serve,
    task_name,
)
from cloud.tasks.periodic import every
from cloud.tasks.stopping import Stopping
from tests.cloud.world import Connection, World, connected

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, sys
from tests.cloud.process.test_serve import process
sys.exit(asyncio.run(process(*sys.argv[1:])))
"""


@get("/poll", opt={"peers": (ANONYMOUS,)})
async def poll_route(stopping: Wired[Stopping]) -> str:
    return "stopping" if await stopping.first(asyncio.Event(), 60) else "quiet"


@get("/stuck", opt={"peers": (ANONYMOUS,)})
async def stuck_route() -> None:
    await asyncio.Event().wait()


@get("/quick", opt={"peers": (ANONYMOUS,)})
async def quick_route() -> str:
    return "quick"


async def process(behaviour: str) -> int:
    """The child process: a TLS unit, a plaintext unit, and a background task that does what the test asks for."""
    configure_logging()
    world = World()
    stopping = Stopping()
    guard = Guard(trust=lambda: world.trust, checks=world, now=world.now)
    app = make_app((poll_route, stuck_route, quick_route), guard, services={"stopping": stopping})

    @asynccontextmanager
    async def opened(served: Served) -> AsyncIterator[Served]:
        logging.getLogger("test").info("opened")
        yield served
        logging.getLogger("test").info("closed")

    async def background(stop: Stopping) -> None:
        if behaviour == "crash":
            await stop.sleep(0.2)
            raise RuntimeError("the relay broke")
        if behaviour == "return":
            return
        if behaviour == "deaf":
            await asyncio.Event().wait()
        await stop.wait()

    units = [
        Unit(name="one", open=partial(opened, Served((Listener(app, "127.0.0.1", 0, world.tls),), (background,)))),
        Unit(name="two", open=partial(opened, Served((Listener(app, "127.0.0.1", 0, None),)))),
    ]
    return await serve(units, stopping)


@contextmanager
def child(behaviour: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, behaviour],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen[str]) -> list[int]:
    """Wait until the process listens, and return the ports in order."""
    assert process.stderr is not None
    ports: list[int] = []
    while len(ports) < 2:
        line = json.loads(process.stderr.readline())
        if line["message"] == "listening":
            ports.append(line["port"])
    return ports


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_long_polls_at_once_and_stuck_requests_soon(number: signal.Signals) -> None:
    with child("good") as process:
        ports = ready(process)

        async def test() -> None:
            async with connected(ports[1], None) as polling, connected(ports[1], None) as idle:
                assert (await idle.ask("/quick")).body == b"quick"
                asked = asyncio.create_task(polling.ask("/poll"))
                while not asked.done() and not await _is_waiting(idle):
                    pass
                process.send_signal(number)
                # The poll was ended and answered. A poll that is cut after the grace period has no body.
                assert (await asked).body == b"stopping"

        asyncio.run(test())
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        messages = [json.loads(line)["message"] for line in errors.splitlines()]
        assert messages[-3:] == ["closed", "closed", "stopped"]


async def _is_waiting(idle: Connection) -> bool:
    """A later request that was answered shows that the poll before it has reached the application."""
    return (await idle.ask("/quick")).status == 200


def test_a_stuck_request_is_cut() -> None:
    with child("deaf") as process:
        ports = ready(process)

        async def test() -> None:
            async with connected(ports[1], None) as stuck, connected(ports[1], None) as idle:
                asked = asyncio.create_task(stuck.ask("/stuck"))
                await _is_waiting(idle)
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 20)
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError, TimeoutError, AssertionError)):
                    assert (await asked).status == 200

        asyncio.run(test())
        assert process.returncode == 0


@pytest.mark.parametrize("behaviour", ["crash", "return"])
def test_a_task_that_ends_brings_all_down(behaviour: str) -> None:
    with child(behaviour) as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == EXIT_INTERNAL
    lines = [json.loads(line) for line in errors.splitlines()]
    ended = [line for line in lines if line["message"] == "a background task ended before the stop"]
    assert [line["task"] for line in ended] == ["one/background"]
    assert ("the relay broke" in ended[0].get("error", "")) == (behaviour == "crash")
    assert [line["message"] for line in lines].count("closed") == 2


def test_two_units_of_one_name_both_run() -> None:
    """Two replicas of a service can run in one process."""

    async def test() -> None:
        stopping, ran = Stopping(), set[int]()

        def unit(number: int) -> Unit:
            async def task(stop: Stopping) -> None:
                ran.add(number)
                if len(ran) == 2:
                    stop.request()
                await stop.wait()

            @asynccontextmanager
            async def opened() -> AsyncIterator[Served]:
                yield Served((), (task,))

            return Unit(name="fabric", open=opened)

        async with asyncio.timeout(5):
            assert await serve([unit(1), unit(2)], stopping) == EXIT_OK
        assert ran == {1, 2}

    asyncio.run(test())


def test_a_taken_port_is_named_and_everything_opened_is_closed() -> None:
    async def test() -> None:
        world = World()
        taken = bind(Listener(world.app(), "127.0.0.1", 0, None))
        taken.listen()
        port = taken.getsockname()[1]
        events: list[str] = []

        @asynccontextmanager
        async def opened() -> AsyncIterator[Served]:
            events.append("open")
            try:
                yield Served((Listener(world.app(), "127.0.0.1", port, None),))
            finally:
                events.append("close")

        unit = Unit(name="x", open=opened)
        assert await serve([unit]) == EXIT_INTERNAL
        assert events == ["open", "close"]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind(Listener(world.app(), "127.0.0.1", port, None))
        taken.close()

    asyncio.run(test())


def test_answers_do_not_wait_for_the_kernel() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, connected(port, world.client_context()) as client:
            took: list[float] = []
            for _ in range(50):
                begun = time.monotonic()
                await client.ask("/open")
                took.append(time.monotonic() - begun)
            # With Nagle's algorithm, every answer waits for the peer's delayed acknowledgement, 40 ms.
            assert min(took) < 0.03

    asyncio.run(test())


class Follower:
    async def run(self, stopping: Stopping) -> None:
        await stopping.wait()


def test_a_task_is_logged_by_its_class_and_method() -> None:
    assert task_name(Follower().run) == "Follower.run"
    assert task_name(every(1, "purge", Follower)) == "purge"  # type: ignore[arg-type]  # never called


class Descriptors:
    """A listening socket. The first calls of `accept` fail, because the process has no file descriptor left."""

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound
        self.failures = 0
        self.failed_at: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    def accept(self) -> tuple[socket.socket, Any]:
        if len(self.failed_at) < self.failures:
            self.failed_at.append(time.monotonic())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._bound.accept()


def test_without_a_file_descriptor_the_oldest_connection_is_closed_and_accepting_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        world, places = World(), Places(1000)
        guard = Guard(trust=lambda: world.trust, checks=world, now=world.now)
        listener = Listener(make_app((quick_route,), guard), "127.0.0.1", 0, None)
        bound = Descriptors(bind(listener))
        server = CloudServer(listener, cast(socket.socket, bound), places)
        server.start()
        async with AsyncExitStack() as stack:
            first, second, third = [await stack.enter_async_context(connected(server.port, None)) for _ in range(3)]
            for client in (first, second, third):
                assert (await client.ask("/quick")).status == 200
            bound.failures = 2
            # This connection waits in the kernel until both failures are over.
            fourth = await stack.enter_async_context(connected(server.port, None))
            for client in (third, fourth):
                assert (await client.ask("/quick")).status == 200
            assert [await client.reader.read() for client in (first, second)] == [b"", b""]
        before, after = bound.failed_at
        assert after - before >= ACCEPT_PAUSE_SECONDS * 0.9
        await server.close()

    asyncio.run(test())
    assert [record.getMessage() for record in caplog.records] == [
        "too many connections: closed those that waited longest, or refused new ones"
    ]
