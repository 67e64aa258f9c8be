"""`cloud.events.nats.rings`: rings over a real server wake the readers of other processes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.events.nats import rings as ringing
from cloud.events.nats.connection import connected
from cloud.events.nats.rings import NatsRings
from cloud.tasks.stopping import Stopping
from lab.nats import NatsServer
from tests.cloud.events.nats.support import access_of
from tests.waiting import until

NOW = datetime(2026, 12, 1, tzinfo=UTC)


class Listener:
    """What one process hears."""

    def __init__(self, server: NatsServer, service: str) -> None:
        self.rings = NatsRings(access_of(server, service), lambda: NOW)
        self.heard: list[tuple[str, int]] = []
        self.missed = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        stopping = Stopping()

        async def missed() -> None:
            self.missed += 1

        task = asyncio.create_task(
            self.rings.listen(lambda service, position: self.heard.append((service, position)), missed, stopping)
        )
        try:
            yield
        finally:
            stopping.request()
            await task


async def test_a_ring_reaches_the_other_services(server: NatsServer) -> None:
    fabric, breakwater = Listener(server, "fabric"), Listener(server, "breakwater")
    fabric.rings.ring("fabric", 1)
    async with fabric.listening(), breakwater.listening():
        await until("both connections", lambda: fabric.rings.is_connected and breakwater.rings.is_connected)
        assert (fabric.missed, breakwater.missed) == (1, 1)
        for position in (2, 3):
            fabric.rings.ring("fabric", position)
        await until("the ring", lambda: breakwater.heard)
    # The first was rung without a connection, the second was replaced before it was sent.
    assert breakwater.heard == [("fabric", 3)]


async def test_other_texts_are_ignored(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    breakwater = Listener(server, "breakwater")
    async with breakwater.listening():
        await until("the connection", lambda: breakwater.rings.is_connected)
        async with connected(access_of(server, "fabric")) as link:
            for text in (b"", b"x", b"-1", b"9" * 20, b"5"):
                await link.say("cascade_rings.fabric", text)
        await until("the good ring", lambda: breakwater.heard)
    assert breakwater.heard == [("fabric", 5)]
    said = [record for record in caplog.records if record.levelno == logging.WARNING and "doorbell" in record.message]
    assert len(said) == 1


async def test_after_a_loss_of_the_server_readers_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ringing, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(ringing, "BACK_OFF_SECONDS_FIRST", 0.02)
    server = NatsServer(tmp_path)
    listener = Listener(server, "fabric")
    async with listener.listening():
        await asyncio.to_thread(server.start)
        await until("the connection", lambda: listener.missed == 1)
        server.kill()
        await until("the loss", lambda: not listener.rings.is_connected)
        await asyncio.to_thread(server.start)
        await until("the next connection", lambda: listener.missed == 2)
    server.kill()
