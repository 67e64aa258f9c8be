"""Connections of the client: retired ones end with their last call, and cancelled handshakes leave none open."""

import asyncio

import pytest

from cloud.mtls.client import (
    CloudClient,
    ServerRefused,
    Unreachable,
    client_context,
)
from cloud.mtls.server import ServerTls
from tests.cloud.mtls.contexts import context_for
from tests.cloud.pki import Pki
from tests.cloud.world import World


def test_a_call_on_its_way_outlives_another_trust() -> None:
    async def test() -> None:
        pki, asked, go = Pki(), asyncio.Event(), asyncio.Event()
        leaf = pki.service("fabric")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await reader.read()  # until the client closes
            writer.close()

        world = World(pki)
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=ServerTls(leaf.chain_pem, leaf.key, pki.ca_pem).context
        )
        port = server.sockets[0].getsockname()[1]
        async with server, CloudClient(f"https://localhost:{port}", context_for(world)) as client:
            call = asyncio.create_task(client.call("GET", "/open"))
            await asked.wait()
            met = client.server
            assert met == leaf.certificate
            await client.reconnect(context_for(world))
            forgotten = client.server
            assert forgotten is None
            go.set()
            assert (await call).body == b"ok"
            assert (await client.call("GET", "/open")).status == 200
            await client.reconnect(client_context(b"", context_for(world).server_check))
            with pytest.raises(ServerRefused):
                await client.call("GET", "/open")

    asyncio.run(test())


def test_a_handshake_that_is_given_up_leaves_no_connection_behind() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                pass
            ended.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with CloudClient(f"https://127.0.0.1:{port}", context_for(World())) as client:
                with pytest.raises(Unreachable):
                    await client.call("GET", "/open", seconds=0.1)
                async with asyncio.timeout(5):
                    await ended.wait()

    asyncio.run(test())
