"""A small HTTP/1.1 client over kept-alive connections, with TLS or without, and a run of ready-made requests.

Not a client for anything else: it reads only what these servers answer. It is cheap, so that on two cores the
server is the limit. Every answer is read whole and must be a 200.
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

Context = ssl.SSLContext | None
Meter = Callable[[], float]


def _nothing() -> float:
    return 0.0


class Load(msgspec.Struct, frozen=True):
    """A run of requests: how many, how long, and what they cost the server's process and those behind it."""

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
    """A connection's context, and the requests for it, which it may share with others: each takes the next."""

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
            return  # closed by the other side first; every answer was read by then


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
    """Send all over `connections` kept-alive connections. The first `warm_up` requests are not counted."""
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
    """Empty each lane over one kept-alive connection, those of `warm_up` uncounted before, over the same ones."""

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


def handshakes(count: int, *, pid: int, port: int, context: Callable[[], Context], request: bytes) -> Load:
    """One request on a new connection each time, one after the other."""

    async def work() -> Load:
        shared = context()
        cpu, began = cpu_seconds(pid), time.perf_counter()
        for _ in range(count):
            connection = await _Connection.open(port, shared)
            await connection.ask(request)
            await connection.close()
        return Load(count, time.perf_counter() - began, cpu_seconds(pid) - cpu, 0.0, ())

    return asyncio.run(work())
