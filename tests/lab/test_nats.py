"""`lab.nats`: a real server, which keeps what it has acknowledged."""

import asyncio
from pathlib import Path

from cloud.events.nats.connection import Access, Message, connected
from cloud.events.nats.settings import NatsSettings
from cloud.events.nats.stream import declare_stream
from lab.nats import NatsServer, nats_server
from lab.processes import accepts


async def test_an_acknowledged_message_outlives_a_crash(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    access = Access(server.url, server.ca_file, server.credentials("fabric"), "fabric")
    await asyncio.to_thread(server.start)
    async with connected(access) as link:
        await declare_stream(link, NatsSettings(url=server.url, stream_bytes=1024 * 1024))
        assert await link.store([Message("cascade.t.fabric.n.p.1", "evt_1", b"{}")]) == 1
    server.kill()
    await asyncio.to_thread(server.start)
    try:
        async with connected(access) as link:
            assert (await link.ask("STREAM.INFO.CASCADE_EVENTS", {}))["state"]["messages"] == 1
    finally:
        server.stop()


def test_the_server_ends_with_the_block(tmp_path: Path) -> None:
    with nats_server(tmp_path) as server:
        assert accepts(server.port)
    assert not accepts(server.port)
