"""A small HTTP/1.1 client over kept-alive TLS, and a run of ready-made requests through it.

Not a client for anything else: it reads only what these servers answer. It is cheap, so that on two cores the
server is the limit. Every answer is read whole and must be a 200.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.world import cpu_seconds
from demo.stage import StepFailed

CONNECTIONS = 4
WARM_UP = 40
ANSWER_SECONDS_MAX = 30.0


class Load(msgspec.Struct, frozen=True):
    """A run of requests: how many, how long, and what they cost the server's process."""

    count: int
    wall_seconds: float
    server_seconds: float
    answers: tuple[bytes, ...]

    @property
    def per_second(self) -> float:
        return self.count / self.wall_seconds

    @property
    def per_server_second(self) -> float:
        return self.count / self.server_seconds

    @property
    def server_ms(self) -> float:
        return self.server_seconds / self.count * 1000


def post(path: str, body: object) -> bytes:
    """The bytes of a POST with a JSON body."""
    content = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nhost: cascade\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: cascade\r\n\r\n".encode()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def ask(self, request: bytes) -> bytes:
        self._writer.write(request)
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(size)
        if not head.startswith(b"http/1.1 200 "):
            raise StepFailed(f"the server answered {head[9:12].decode()}: {body[:500].decode(errors='replace')}")
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
    context: Callable[[], ssl.SSLContext],
    connections: int = CONNECTIONS,
    warm_up: int = WARM_UP,
) -> Load:
    """Send all over `connections` kept-alive connections. The first `warm_up` requests are not counted."""

    async def work() -> Load:
        pool = [await _Connection.open(port, context()) for _ in range(connections)]
        answers: list[bytes] = []

        async def drain(connection: _Connection, queue: list[bytes]) -> None:
            while queue:
                answers.append(await connection.ask(queue.pop()))

        async def all_of(batch: Sequence[bytes]) -> None:
            queue = list(reversed(batch))
            async with asyncio.TaskGroup() as group:
                for connection in pool:
                    group.create_task(drain(connection, queue))

        try:
            await all_of(requests[:warm_up])
            cpu, began = cpu_seconds(pid), time.perf_counter()
            await all_of(requests[warm_up:])
            wall, spent = time.perf_counter() - began, cpu_seconds(pid) - cpu
        finally:
            for connection in pool:
                await connection.close()
        return Load(len(requests) - warm_up, wall, spent, tuple(answers))

    return asyncio.run(work())


def handshakes(count: int, *, pid: int, port: int, context: Callable[[], ssl.SSLContext], request: bytes) -> Load:
    """One request on a new connection each time, one after the other."""

    async def work() -> Load:
        shared = context()
        cpu, began = cpu_seconds(pid), time.perf_counter()
        for _ in range(count):
            connection = await _Connection.open(port, shared)
            await connection.ask(request)
            await connection.close()
        return Load(count, time.perf_counter() - began, cpu_seconds(pid) - cpu, ())

    return asyncio.run(work())
