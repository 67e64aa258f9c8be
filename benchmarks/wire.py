"""Adapter: a small HTTP/1.1 client over kept-alive connections, with or without TLS, that sends prepared requests.

It is no general client: it reads only the answers of these servers. It is cheap, so the server is the limit on two
cores. It reads every answer whole, and each must have the status 200.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.world import cpu_seconds
from lab.processes import StepFailed

CONNECTIONS = 4
WARM_UP = 40
ANSWER_SECONDS_MAX = 30.0
QUIET_SECONDS = 1.0
QUIET_CPU_SECONDS = 0.05
"""A server that uses no more CPU time than this in QUIET_SECONDS is idle. Its background tasks use less."""

Context = ssl.SSLContext | None
Meter = Callable[[], float]


def _nothing() -> float:
    return 0.0


class Load(msgspec.Struct, frozen=True):
    """A run of requests: their number, the seconds, and the CPU time of the server and of its database."""

    count: int
    wall_seconds: float
    server_seconds: float
    behind_seconds: float
    answers: tuple[bytes, ...]

    @property
    def per_second(self) -> float:
        return self.count / self.wall_seconds

    @property
    def per_server_second(self) -> float:
        return self.count / self.server_seconds

    @property
    def per_cpu_second(self) -> float:
        return self.count / (self.server_seconds + self.behind_seconds)

    @property
    def server_ms(self) -> float:
        return self.server_seconds / self.count * 1000

    @property
    def behind_ms(self) -> float:
        return self.behind_seconds / self.count * 1000


class Lane(msgspec.Struct, frozen=True):
    """The TLS context of a connection and the queue of its requests. Connections may share a queue."""

    context: Context
    requests: list[bytes]


def message(path: str, content: bytes, content_type: str, **headers: str) -> bytes:
    """The bytes of a POST."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"content-type: {content_type}", f"content-length: {len(content)}"]
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: cascade", *lines, "", ""]).encode() + content


def post(path: str, body: object) -> bytes:
    """The bytes of a POST with a JSON body."""
    return message(path, msgspec.json.encode(body), "application/json")


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: cascade\r\n\r\n".encode()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, context: Context) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def ask(self, request: bytes) -> bytes:
        self._writer.write(request)
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            if b"transfer-encoding: chunked" in head:
                body = await self._chunks()
            else:
                size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await self._reader.readexactly(size)
        if not head.startswith(b"http/1.1 200 "):
            raise StepFailed(f"the server answered {head[9:12].decode()}: {body[:500].decode(errors='replace')}")
        return body

    def send(self, request: bytes) -> None:
        """Send a request without waiting for its answer."""
        self._writer.write(request)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)
        return body

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # the server closed first; every answer was read before


def run(
    requests: Sequence[bytes],
    *,
    pid: int,
    port: int,
    context: Callable[[], Context],
    connections: int = CONNECTIONS,
    warm_up: int = WARM_UP,
    behind: Meter = _nothing,
) -> Load:
    """Send all requests over `connections` kept-alive connections. The first `warm_up` are not counted."""
    contexts = [context() for _ in range(connections)]
    first, rest = list(reversed(requests[:warm_up])), list(reversed(requests[warm_up:]))
    return run_lanes(
        [Lane(each, rest) for each in contexts],
        [Lane(each, first) for each in contexts],
        pid=pid,
        port=port,
        behind=behind,
    )


def run_lanes(lanes: Sequence[Lane], warm_up: Sequence[Lane], *, pid: int, port: int, behind: Meter = _nothing) -> Load:
    """Send each lane's requests over one kept-alive connection. Those of `warm_up` go first and are not counted."""

    async def work() -> Load:
        pool = [await _Connection.open(port, lane.context) for lane in lanes]
        answers: list[bytes] = []

        async def drain(connection: _Connection, queue: list[bytes]) -> None:
            while queue:
                answers.append(await connection.ask(queue.pop()))

        async def all_of(batch: Sequence[Lane]) -> None:
            async with asyncio.TaskGroup() as group:
                for connection, lane in zip(pool, batch, strict=True):
                    group.create_task(drain(connection, lane.requests))

        try:
            await all_of(warm_up)
            warm = len(answers)
            spent, spent_behind, began = cpu_seconds(pid), behind(), time.perf_counter()
            await all_of(lanes)
            wall = time.perf_counter() - began
            spent, spent_behind = cpu_seconds(pid) - spent, behind() - spent_behind
        finally:
            for connection in pool:
                await connection.close()
        return Load(len(answers) - warm, wall, spent, spent_behind, tuple(answers))

    return asyncio.run(work())


def handshakes(count: int, *, pid: int, port: int, context: Context, request: bytes) -> Load:
    """Send each request on a new connection, one after the other."""

    async def work() -> Load:
        cpu, began = cpu_seconds(pid), time.perf_counter()
        for _ in range(count):
            connection = await _Connection.open(port, context)
            await connection.ask(request)
            await connection.close()
        return Load(count, time.perf_counter() - began, cpu_seconds(pid) - cpu, 0.0, ())

    return asyncio.run(work())


def held(lanes: Sequence[Lane], *, pid: int, port: int, measure: Callable[[], float]) -> float:
    """Send one request on each lane's connection, and return `measure()` while the server holds all of them.

    The answers are not read, so they must be short, or the requests long polls. The server has taken all requests when
    its CPU time no longer grows.
    """

    async def work() -> float:
        pool = [await _Connection.open(port, lane.context) for lane in lanes]
        try:
            for connection, lane in zip(pool, lanes, strict=True):
                connection.send(lane.requests[0])
            spent = -1.0
            while cpu_seconds(pid) - spent > QUIET_CPU_SECONDS:
                spent = cpu_seconds(pid)
                await asyncio.sleep(QUIET_SECONDS)
            return measure()
        finally:
            for connection in pool:
                connection.abort()

    return asyncio.run(work())
