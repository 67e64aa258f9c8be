"""Hostile clients without a certificate, a witness of their cost to a process, and a bystander.

`ATTACKS` is the table. Each attack opens connections, sends its bytes and leaves the connections open. `size` scales
the attack: 1 is enough to pass a bound, more is for the drill.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lab.cloud import Cloud
from tests.simulators.tls_records import shake_hands
from tests.system.support.wire import PORTS, Service

HOSTILE, BYSTANDER = "127.0.0.3", "127.0.0.2"
"""Addresses that the clients connect from. All of 127.0.0.0/8 is loopback."""
ASK_SECONDS = 0.1
"""Pause of the bystander, who sends two requests each time. `PROBES` gives an address 20 permits a second."""
HEAD = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /v1/node/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Cost(msgspec.Struct, frozen=True):
    """What a process holds: memory in MiB, file descriptors, and the lines of its log so far."""

    mebibytes: float
    descriptors: int
    lines: int

    def since(self, before: "Cost") -> "Cost":
        return Cost(self.mebibytes - before.mebibytes, self.descriptors - before.descriptors, self.lines - before.lines)


def cost_of(pid: int, log: Path) -> Cost:
    """The cost of a process now."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kibibytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return Cost(kibibytes / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), len(log.read_bytes().splitlines()))


def any_server() -> ssl.SSLContext:
    """A client's TLS context that checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Link:
    """One connection of a hostile client. It reads only if asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes, seconds: float = 1.0) -> bool:
        """Send bytes. Return False if the server closes the connection or does not take them within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                self.writer.write(data)
                await self.writer.drain()
        except (OSError, TimeoutError):
            return False
        return True

    async def closed(self, seconds: float = 5.0) -> bytes:
        """Read until the server closes the connection. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read()
            except OSError:
                return b""


class Crowd:
    """The connections of the hostile clients of one cloud. They are closed at the end of the block."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._context = any_server()
        self.links: list[Link] = []

    async def link(self, service: Service, *, tls: bool, reads: bool = True) -> Link:
        """A new connection. With `reads` False its bytes stay in the kernel."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self._cloud.port + PORTS[service],
            ssl=self._context if tls else None,
            local_addr=(HOSTILE, 0),
            limit=2**24,
        )
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        self.links.append(Link(reader, writer))
        return self.links[-1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.links:
            link.writer.transport.abort()
        self.links.clear()


class Bystander:
    """An honest client at another address: one kept-alive connection, and new ones."""

    def __init__(self, cloud: Cloud) -> None:
        self._port = cloud.port + PORTS["fabric"]
        self._context = any_server()
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.answered = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=self._context, local_addr=(BYSTANDER, 0), server_hostname="a"
        )

    async def ask(self) -> None:
        """Send one request over the kept connection and one over a new one. Raises if either is not answered 200."""
        if self._kept is None:
            self._kept = await self._connect()
        fresh = await self._connect()
        async with asyncio.timeout(10):
            for reader, writer in (self._kept, fresh):
                writer.write(HEAD + b"\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
                self.answered += 1
        fresh[1].close()

    async def ask_during(self, attack: asyncio.Future[None]) -> None:
        """Ask again and again until the attack ends. Raises as `ask`, and as the attack."""
        while not attack.done():
            await self.ask()
            await asyncio.wait({attack}, timeout=ASK_SECONDS)
        await attack

    async def close(self) -> None:
        if self._kept is not None:
            self._kept[1].close()
            with suppress(OSError):
                await self._kept[1].wait_closed()


Attack = Callable[[Crowd, int], Awaitable[None]]


async def _unread(crowd: Crowd, size: int, service: Service, request: bytes, *, tls: bool) -> None:
    links = [await crowd.link(service, tls=tls, reads=False) for _ in range(6)]
    await asyncio.gather(*(link.send(request * (4000 * size), 1.0 * size) for link in links))


async def pipelined_unread(crowd: Crowd, size: int) -> None:
    """Requests one after the other over TLS, whose answers are never read."""
    await _unread(crowd, size, "fabric", b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", tls=True)


async def pipelined_unread_plain(crowd: Crowd, size: int) -> None:
    """The same on the plaintext listener, for a large answer."""
    await _unread(crowd, size, "repository", b"GET /tuf/metadata/1.root.json HTTP/1.1\r\nHost: a\r\n\r\n", tls=False)


async def trailers(crowd: Crowd, size: int) -> None:
    """Trailers without end."""
    for tls in (True, False):
        link = await crowd.link("fabric" if tls else "pki", tls=tls)
        head = CHUNKED if tls else CHUNKED.replace(b"/v1/node/sessions", b"/ocsp")
        await link.send(head + b"2\r\n{}\r\n0\r\n" + b"X-Trailer: xxxxxxxxxxxxxxxxxxxxxxxx\r\n" * (100_000 * size))
        await link.closed()


async def header_flood(crowd: Crowd, size: int) -> None:
    """A head without end, in one line and in many."""
    for line in (b"X: " + b"x" * 2**20, b"x:\r\n" * 2**18):
        for _ in range(2 * size):
            link = await crowd.link("fabric", tls=True)
            await link.send(HEAD + line)
            await link.closed()


async def chunk_frames(crowd: Crowd, size: int) -> None:
    """Chunks of one byte, and extensions of chunks."""
    for chunk in (b"1\r\n{\r\n", b"1;" + b"e" * 200 + b"\r\n{\r\n"):
        for _ in range(2 * size):
            link = await crowd.link("fabric", tls=True)
            await link.send(CHUNKED + chunk * 20_000)
            await link.closed()


REFUSED = (
    b"GET /\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    HEAD + b"Host: b\r\n\r\n",
    HEAD + b"A: b\r\n folded\r\n\r\n",
    HEAD + b"A: \x00\r\n\r\n",
    HEAD + b"A: \x1b[2J\r\n\r\n",
    HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    CHUNKED + b"-1\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
)
"""Bytes of which each is refused, and the connection closed."""


async def refused_bytes(crowd: Crowd, size: int) -> None:
    """Requests that two readers could read differently."""
    for _ in range(size):
        for sent in REFUSED:
            for tls in (True, False):
                link = await crowd.link("fabric" if tls else "repository", tls=tls)
                await link.send(sent)
                answer = await link.closed()
                assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 405")), (sent, answer[:100])
                assert answer.count(b"HTTP/1.1 4") == 1, (sent, answer)


async def handshakes_without_end(crowd: Crowd, size: int) -> None:
    """Connections that begin a handshake and say no more, and connections that send other bytes."""
    for number in range(30 * size):
        link = await crowd.link("fabric", tls=False)
        await link.send(b"\x16\x03\x01\x02\x00\x01" if number % 2 else b"GET / HTTP/1.1\r\n\r\n")


async def slow_requests(crowd: Crowd, size: int) -> None:
    """A lone CRLF, half a head, half a body, a body after 100-continue that never comes."""
    for _ in range(5 * size):
        for sent in (
            b"\r\n",
            HEAD,
            POST + b"Content-Length: 60000\r\n\r\n{",
            POST + b"Expect: 100-continue\r\nContent-Length: 60000\r\n\r\n",
            CHUNKED + b"fff0\r\n{",
        ):
            link = await crowd.link("fabric", tls=True)
            await link.send(sent)


async def slow_readers(crowd: Crowd, size: int) -> None:
    """One request for the largest answer on each of many connections, and nothing read."""
    for _ in range(20 * size):
        link = await crowd.link("repository", tls=False, reads=False)
        await link.send(b"GET /tuf/metadata/1.root.json HTTP/1.1\r\nHost: a\r\n\r\n")


async def half_closed(crowd: Crowd, size: int) -> None:
    """Clients that close their sending side in the middle of a request, and after it."""
    for _ in range(5 * size):
        for sent in (b"", HEAD, POST[:-2], HEAD + b"\r\n"):
            link = await crowd.link("repository", tls=False)
            await link.send(sent)
            link.writer.write_eof()
            await link.closed()


async def upgrades(crowd: Crowd, size: int) -> None:
    """Offers to leave HTTP/1.1, which are answered as plain requests, then silence."""
    for _ in range(3 * size):
        for offer in (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
        ):
            link = await crowd.link("fabric", tls=True)
            await link.send(HEAD + offer + b"\r\n")
            assert (await link.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")


async def key_updates(crowd: Crowd, size: int) -> None:
    """Key updates of TLS 1.3, which the server shall answer with its own."""
    for _ in range(3 * size):
        link = await crowd.link("fabric", tls=False)
        records = await shake_hands(link.reader, link.writer, any_server())
        await link.send(b"".join(islice(records.key_updates(answered=True), 1000)))
        await link.closed()


async def connection_flood(crowd: Crowd, size: int) -> None:
    """More connections than the process may have file descriptors."""
    for number in range(500 * size):
        with suppress(OSError):
            await crowd.link("fabric" if number % 2 else "pki", tls=False)


ATTACKS: dict[str, Attack] = {
    each.__name__.replace("_", "-"): each
    for each in (
        pipelined_unread,
        pipelined_unread_plain,
        trailers,
        header_flood,
        chunk_frames,
        refused_bytes,
        handshakes_without_end,
        slow_requests,
        slow_readers,
        half_closed,
        upgrades,
        key_updates,
        connection_flood,
    )
}
