"""The client against real listeners: servers that are refused before a byte is sent, and limits of an answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from cryptography.x509.oid import NameOID

from cloud.mtls.client import (
    AnswerUnusable,
    CheckedHandshake,
    CloudClient,
    ProblemAnswer,
    ServerRefused,
    Unreachable,
)
from cloud.mtls.server import ServerTls
from cloud.tasks.current_request import enter, new_request
from protocol.limits import RESPONSE_BODY_BYTES_MAX
from tests.cloud.mtls.contexts import context_for
from tests.cloud.pki import CLIENT, SERVER, Leaf, Pki, service_uri
from tests.cloud.world import Order, World


def test_a_service_calls_a_service_over_one_connection() -> None:
    async def test() -> None:
        world = World()
        leaf = world.pki.service("fabric")
        async with (
            world.serving() as port,
            CloudClient(f"https://localhost:{port}", context_for(world, leaf=leaf)) as client,
        ):
            for _ in range(3):
                assert (await client.call("GET", "/fabric")).body == b"fabric"
            assert (await client.call("POST", "/orders", Order(3))).into(Order) == Order(3)
            assert len(client._context.server_seen) == 1

    asyncio.run(test())


def test_an_operator_calls_with_a_token_and_no_certificate() -> None:
    async def test() -> None:
        world = World()
        async with (
            world.serving() as port,
            CloudClient(f"https://localhost:{port}", context_for(world), token="good") as client,
        ):
            assert (await client.call("GET", "/operator")).body == b"alice"
            with pytest.raises(ProblemAnswer) as caught:
                (await client.call("GET", "/refuse")).into(Order)
            assert caught.value.problem.code == "code_expired"
            with pytest.raises(AnswerUnusable, match="cannot be read"):
                (await client.call("GET", "/open")).into(Order)

    asyncio.run(test())


async def test_a_call_continues_the_trace_of_the_request_that_causes_it() -> None:
    world = World()
    async with (
        world.serving() as port,
        CloudClient(f"https://localhost:{port}", context_for(world)) as client,
    ):
        alone = await client.call("GET", "/trace")
        request = new_request([], 1)
        enter(request)
        caused = await client.call("GET", "/trace")
        for answer, trace in ((caused, request.trace), (alone, None)):
            seen, traceparent = answer.body.decode().split()
            assert seen == answer.headers["x-request-id"] != request.id
            assert (traceparent.split("-")[1] == trace) is (trace is not None)
            assert traceparent.split("-")[2] != request.span


def impostor(kind: str, pki: Pki) -> Leaf:
    subject = ((NameOID.COMMON_NAME, "x"),)
    return {
        "another service": lambda: pki.service("breakwater"),
        "issued by the nodes' CA": lambda: pki.leaf(
            pki.nodes, (service_uri("fabric"),), subject=subject, usages=(SERVER, CLIENT), dns=("localhost",)
        ),
        "another host name": lambda: pki.service("fabric", dns=("elsewhere.example",)),
        "two URI names": lambda: pki.leaf(
            pki.services, (service_uri("fabric"),) * 2, subject=subject, usages=(SERVER,), dns=("localhost",)
        ),
        "no EKU": lambda: pki.leaf(
            pki.services, (service_uri("fabric"),), subject=subject, usages=(), dns=("localhost",)
        ),
        "for clients only": lambda: pki.leaf(
            pki.services, (service_uri("fabric"),), subject=subject, usages=(CLIENT,), dns=("localhost",)
        ),
        "expired": lambda: pki.leaf(
            pki.services,
            (service_uri("fabric"),),
            subject=subject,
            usages=(SERVER,),
            dns=("localhost",),
            life=timedelta(minutes=-1),
        ),
        "not valid yet": lambda: pki.leaf(
            pki.services,
            (service_uri("fabric"),),
            subject=subject,
            usages=(SERVER,),
            dns=("localhost",),
            begins=timedelta(hours=1),
        ),
        "another root": lambda: Pki().service("fabric"),
    }[kind]()


IMPOSTORS = (
    "another service",
    "issued by the nodes' CA",
    "another host name",
    "two URI names",
    "no EKU",
    "for clients only",
    "expired",
    "not valid yet",
    "another root",
)


@asynccontextmanager
async def counting(leaf: Leaf, ca_pem: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A TLS server that records every byte after the handshake."""
    got: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(1))
        writer.transport.abort()

    tls = ServerTls(leaf.chain_pem, leaf.key, ca_pem)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls.context)
    try:
        yield server.sockets[0].getsockname()[1], got
    finally:
        server.close()


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_an_impostor_gets_no_byte(kind: str) -> None:
    async def test() -> None:
        world = World()
        async with (
            counting(impostor(kind, world.pki), world.pki.ca_pem) as (port, got),
            CloudClient(f"https://localhost:{port}", context_for(world), token="good") as client,
        ):
            with pytest.raises(ServerRefused):
                await client.call("GET", "/operator")
            assert not any(got)

    asyncio.run(test())


def test_a_server_revoked_meanwhile_is_refused_at_the_next_call() -> None:
    async def test() -> None:
        world = World()
        async with world.serving() as port, CloudClient(f"https://localhost:{port}", context_for(world)) as client:
            await client.call("GET", "/open")
            world.revoked.add(world.server_leaf.certificate.serial_number)
            with pytest.raises(ServerRefused, match="revoked"):
                await client.call("GET", "/open")
            renewed = world.pki.service("fabric")
            world.tls.reload(renewed.chain_pem, renewed.key)
            assert (await client.call("GET", "/open")).status == 200

    asyncio.run(test())


def test_a_renewed_client_certificate() -> None:
    async def test() -> None:
        world = World()
        old, new = world.pki.service("fabric"), world.pki.service("fabric")
        world.revoked.add(old.certificate.serial_number)
        async with (
            world.serving() as port,
            CloudClient(f"https://localhost:{port}", context_for(world, leaf=old)) as client,
        ):
            assert (await client.call("GET", "/fabric")).status == 403
            await client.reconnect(context_for(world, leaf=new))
            assert (await client.call("GET", "/fabric")).status == 200

    asyncio.run(test())


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * (RESPONSE_BODY_BYTES_MAX + 1))
    await reader.read()  # until the client has given up


async def _silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client has given up


async def _dripping(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("behave", "error", "seconds"),
    [(_endless, AnswerUnusable, 30.0), (_silent, Unreachable, 0.3), (_dripping, Unreachable, 0.3)],
    ids=["endless", "silent", "dripping"],
)
def test_an_answer_is_bounded(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    error: type[Exception],
    seconds: float,
) -> None:
    async def test() -> None:
        world = World()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            try:
                await behave(reader, writer)
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=world.tls.context)
        port = server.sockets[0].getsockname()[1]
        async with CloudClient(f"https://localhost:{port}", context_for(world)) as client:
            with pytest.raises(error):
                await client.call("GET", "/", seconds=seconds)
        server.close()

    asyncio.run(test())


def test_no_server_listens() -> None:
    async def test() -> None:
        async with CloudClient("https://localhost:1", context_for(World())) as client:
            with pytest.raises(Unreachable, match="cannot reach https://localhost:1"):
                await client.call("GET", "/")

    asyncio.run(test())


def test_the_environment_s_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async def test() -> None:
        world = World()
        async with world.serving() as port, CloudClient(f"https://localhost:{port}", context_for(world)) as client:
            assert (await client.call("GET", "/open")).status == 200

    asyncio.run(test())


def test_a_context_without_a_check_connects_nowhere() -> None:
    async def test() -> None:
        world = World()
        context = world.client_context()
        context.sslobject_class = CheckedHandshake
        async with world.serving() as port:
            with pytest.raises(ssl.SSLCertVerificationError, match="no server check"):
                await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")

    asyncio.run(test())
