"""Benchmark: the memory of connected nodes, as the server's RSS over some hundred idle connections, and its floor.

The floor is a process with nothing but OpenSSL: it accepts the same number of connections of the same client, and
keeps each as a socket with its TLS state.
"""

import asyncio
import contextlib
import multiprocessing
import socket
import ssl
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks import wire
from benchmarks.figures import Aim, Figure, median, progress
from benchmarks.floor import self_signed
from benchmarks.host import returning_memory
from benchmarks.world import World, memory_kib
from node.exchanges.session import Credentials, open_session
from node.hwbind.tpm import Tpm
from node.licensing.boot_time import machine_clocks
from node.licensing.hardware import HardwareCheck
from node.link import transport

CONNECTIONS = 500
WARM_UP = 50
"""Connections before the first reading. They fill caches and the allocator's free lists."""
SETTLE_SECONDS = 1.0
FLOOR_HANDSHAKES = 200

GIB_KIB = 1024 * 1024

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def idle_connections(world: World) -> list[Figure]:
    """Measure the memory of connected nodes. The floor is the same number of connections in bare OpenSSL."""
    world.installed()
    world.cloud_up()
    progress(f"idle-connections: {CONNECTIONS} with a session, as many in a long poll, and bare OpenSSL")
    context, roots = _session(world)
    floor = floor_kib_each(context, roots, world.directory)
    name = "OpenSSL's state of the same connections, in a process that does nothing else"
    idle, polling = (
        kib_each(_restarted(world), world.cloud.port, context(), wire.get(path), answered=answered)
        for path, answered in (("/healthz", True), ("/v1/node/events?cursor=0&wait=240", False))
    )
    return [
        Figure(
            name="idle connection of a node", value=idle, unit="KiB", floor=floor, floor_name=name,
            aim=Aim(64, "value", unit="KiB"), note=f"{GIB_KIB / idle:,.0f} a GiB",
        ),
        Figure(
            name="connection in its wake channel", value=polling, unit="KiB", floor=floor, floor_name=name,
            note=f"{GIB_KIB / polling:,.0f} a GiB",
        ),
    ]  # fmt: skip


def _session(world: World) -> tuple[Callable[[], ssl.SSLContext], bytes]:
    """Return TLS client contexts with the certificate of one new session, and the trusted roots in DER."""
    tpm = Tpm(world.chip.tcti)
    try:
        licence = world.state.load_licence(HardwareCheck(tpm), machine_clocks())
        trust = licence.trust.value

        async def work() -> Credentials:
            return (
                await open_session(trust, licence.identity, tpm, licence.time.window, licence.presented)
            ).credentials

        credentials = trio.run(work)
    finally:
        tpm.close()

    def context() -> ssl.SSLContext:
        made = transport.client_context(trust.bundle, "fabric", licence.time.window)
        credentials.key.use(made, credentials.chain)
        return made

    return context, b"".join(trust.bundle.roots)


def _restarted(world: World) -> int:
    """Start the cloud again, for a measurement of memory, and return its process id."""
    world.cloud.down()
    with returning_memory():
        return world.cloud_up()


def kib_each(pid: int, port: int, context: ssl.SSLContext, request: bytes, *, answered: bool) -> float:
    """Return the KiB of the server's RSS for each connection that has sent `request` and stays open.

    With `answered` each connection reads an answer before it idles. Without, the server still works on the request.
    """

    async def one() -> Opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(request)
        if answered:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
        return reader, writer

    async def work() -> float:
        held = [await one() for _ in range(WARM_UP)]
        await asyncio.sleep(SETTLE_SECONDS)
        before, _ = memory_kib(pid)
        held += [await one() for _ in range(CONNECTIONS)]
        await asyncio.sleep(SETTLE_SECONDS)
        after, _ = memory_kib(pid)
        ended = sum(reader.at_eof() or reader.exception() is not None for reader, _ in held)
        for _, writer in held:
            writer.transport.abort()
        if ended:
            raise RuntimeError(f"the server closed {ended} of {len(held)} connections")
        return (after - before) / CONNECTIONS

    return asyncio.run(work())


def floor_kib_each(client: Callable[[], ssl.SSLContext], client_cas: bytes, scratch: Path) -> float:
    """Return the KiB of a bare OpenSSL server for each connection of the client. `client_cas` is DER or PEM.

    The server is no fork of this process: connections would fill the memory that this process has freed.
    """
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe()
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = spawned.Process(target=_bare_server, args=(listening, client_cas, scratch, theirs))
    with returning_memory():
        server.start()
    try:
        context = client()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        held = []
        readings = []
        for count in (WARM_UP, CONNECTIONS):
            for _ in range(count):
                plain = socket.create_connection(listening.getsockname())
                held.append(context.wrap_socket(plain))
                held[-1].send(b"a")
                ours.recv()
            readings.append(memory_kib(server.pid or 0)[0])
    finally:
        server.kill()
        server.join()
        listening.close()
    for each in held:
        each.close()
    return (readings[1] - readings[0]) / CONNECTIONS


def floor_handshake_ms(client: ssl.SSLContext, client_cas: bytes, scratch: Path) -> float:
    """Return the CPU time of OpenSSL's server side of a handshake, with reading the client's certificate.

    Both sides run in this process, over memory. A chain may end at any of the CAs, so no signature of a CA is verified.
    """
    served = _server_context(client_cas, scratch)
    served.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return median([_handshake_seconds(served, client) for _ in range(FLOOR_HANDSHAKES)]) * 1000


def _handshake_seconds(served: ssl.SSLContext, context: ssl.SSLContext) -> float:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    began = time.thread_time()
    server = served.wrap_bio(to_server, to_client, server_side=True)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    spent = time.thread_time() - began
    client.do_handshake()
    began = time.thread_time()
    server.do_handshake()
    server.getpeercert(binary_form=True)
    return spent + time.thread_time() - began


def _bare_server(listening: socket.socket, client_cas: bytes, scratch: Path, said: Connection) -> None:
    held, context = [], _server_context(client_cas, scratch)
    while True:
        accepted, _ = listening.accept()
        held.append(context.wrap_socket(accepted, server_side=True))
        said.send(held[-1].recv(1))


def _server_context(client_cas: bytes, scratch: Path) -> ssl.SSLContext:
    """A TLS 1.3 context with a certificate of its own that verifies clients as the listeners do."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed("floor", key, timedelta(hours=1)).sign(key, hashes.SHA256())
    path = scratch / "floor.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=client_cas)
    context.load_cert_chain(path)
    return context
