"""`cloud.events.doorbell`: a ring wakes its reader. Forged rings and floods cost little, and no change stays unread."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.events.doorbell import (
    FALSE_SECONDS_MAX,
    HINTS_MAX,
    POSITION,
    POSITION_MAX,
    WAKE_SECONDS,
    Doorbell,
    Missed,
    Rang,
    hint_text,
)
from cloud.storage import Location, ServiceEngine
from cloud.tasks.stopping import Stopping
from lab.postgres import database_location
from tests.cloud.engines import ENGINES
from tests.waiting import until

NOW = datetime(2026, 12, 1, tzinfo=UTC)
FLOOD = 10_000


class Reader:
    """A reader of events, with a head that the test moves. It looks at once when it is woken."""

    def __init__(self, doorbell: Doorbell, service: str = "breakwater") -> None:
        self.head = 0
        self.looks = 0
        self._woken = asyncio.Event()
        self._bell = doorbell.bell(service, self._woken.set)

    async def run(self, stopping: Stopping) -> None:
        while not await stopping.first(self._woken):
            self._woken.clear()
            self.looks += 1
            self._bell.seen(self.head)


class Topic:
    """Takes the hints of a topic."""

    def __init__(self, doorbell: Doorbell, name: str) -> None:
        self.took: list[str] = []
        self.missed = 0
        doorbell.on_hint(name, self.took.append, self._missed)

    async def _missed(self) -> None:
        self.missed += 1


@asynccontextmanager
async def opened(location: Location) -> AsyncIterator[ServiceEngine]:
    engine = ServiceEngine("breakwater")
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def listening(*doorbells: Doorbell, readers: tuple[Reader, ...] = ()) -> AsyncIterator[None]:
    """Run doorbells, and return when each has its connection."""
    stopping = Stopping()
    connected = [Topic(doorbell, "connected") for doorbell in doorbells]
    async with asyncio.TaskGroup() as tasks:
        for doorbell in doorbells:
            tasks.create_task(doorbell.run(stopping))
        for reader in readers:
            tasks.create_task(reader.run(stopping))
        await until("the connections", lambda: all(topic.missed for topic in connected))
        await until("the first looks", lambda: all(reader.looks for reader in readers))
        try:
            yield
        finally:
            stopping.request()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ServiceEngine]:
    async with opened(tmp_path / "database.sqlite") as made:
        yield made


@pytest.fixture(params=ENGINES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return database_location(request.param, "breakwater", tmp_path)


async def test_a_ring_wakes_the_readers_of_every_replica(location: Location) -> None:
    """SQLite has one process, which hears itself."""
    async with opened(location) as one, opened(location) as other:
        first, second = Doorbell(one, lambda: NOW), Doorbell(other, lambda: NOW)
        reader = Reader(first if isinstance(location, Path) else second)
        async with listening(first, second, readers=(reader,)):
            looks = reader.looks
            reader.head = 5
            first.ring("breakwater", 5)
            first.ring("fabric", 9)
            await until("the look", lambda: reader.looks > looks)


async def test_what_was_seen_and_what_cannot_be_wakes_nobody(engine: ServiceEngine) -> None:
    doorbell = Doorbell(engine, lambda: NOW)
    reader = Reader(doorbell)
    async with listening(doorbell, readers=(reader,)):
        reader.head = 7
        doorbell.rang("breakwater", 7)
        await until("the look", lambda: reader.looks == 2)
        for position in (-1, 0, 6, 7, POSITION_MAX + 1):
            doorbell.rang("breakwater", position)
        for text in ("", "breakwater", "breakwater x", "breakwater -8", "breakwater " + "9" * 40, "breakwater ٣"):
            engine.hint(hint_text(POSITION, text))
        doorbell.rang("breakwater", 8)
        await until("the look after the last ring", lambda: reader.looks >= 3)
        assert reader.looks == 3


async def test_a_flood_of_false_rings_wakes_rarely_and_is_said_once(
    engine: ServiceEngine, caplog: pytest.LogCaptureFixture
) -> None:
    doorbell = Doorbell(engine, lambda: NOW)
    reader = Reader(doorbell)
    async with listening(doorbell, readers=(reader,)):
        began = asyncio.get_running_loop().time()

        def flooded() -> bool:
            for number in range(100):
                doorbell.rang("breakwater", 1_000_000 + number)
            return bool(caplog.records) and reader.looks > 5

        await until("the line in the log", flooded)
        assert reader.looks <= 3 + (asyncio.get_running_loop().time() - began) / WAKE_SECONDS
        looks = reader.looks
        reader.head = 3
        doorbell.rang("breakwater", 3)
        await until("the look at the true position", lambda: reader.looks > looks)
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.__dict__["kind"] for record in said] == ["position"]


async def test_a_true_ring_ends_the_pauses(engine: ServiceEngine) -> None:
    doorbell = Doorbell(engine, lambda: NOW)
    bell = doorbell.bell("breakwater", lambda: None)
    for _ in range(20):
        bell.rang(100)
        bell._fire()
        bell.close()
        bell.seen(0)
        bell.seen(0)
    loop = asyncio.get_running_loop()
    assert bell._ready_at > loop.time() + FALSE_SECONDS_MAX / 2
    bell.rang(100)
    bell._fire()
    bell.close()
    bell.seen(100)
    assert bell._ready_at < loop.time() + FALSE_SECONDS_MAX / 2


async def test_a_ring_during_a_look_is_not_false(engine: ServiceEngine, caplog: pytest.LogCaptureFixture) -> None:
    """The look has begun before the ring, so it may have read the head before."""
    doorbell = Doorbell(engine, lambda: NOW)
    bell = doorbell.bell("breakwater", lambda: None)
    bell.rang(5)
    bell._fire()
    bell.seen(4)
    bell.seen(5)
    assert caplog.records == []
    bell.close()


async def test_topics_share_one_connection(engine: ServiceEngine, caplog: pytest.LogCaptureFixture) -> None:
    doorbell = Doorbell(engine, lambda: NOW)
    nodes, revoked = Topic(doorbell, "nodes"), Topic(doorbell, "revoked")
    async with listening(doorbell):
        for text in ("nodes one two", "revoked", "forged text"):
            engine.hint(text)
        await until("the hints", lambda: (nodes.took, revoked.took) == (["one two"], [""]))
    assert (nodes.missed, revoked.missed) == (1, 1)
    assert [record.__dict__["topic"] for record in caplog.records] == ["forged"]


async def test_of_a_flood_of_hints_the_rest_counts_as_lost(engine: ServiceEngine) -> None:
    doorbell = Doorbell(engine, lambda: NOW)
    nodes, revoked = Topic(doorbell, "nodes"), Topic(doorbell, "revoked")
    async with listening(doorbell):
        for number in range(FLOOD):
            engine.hint(f"nodes {number}")
        await until("the look at everything", lambda: nodes.missed == 2)
        assert HINTS_MAX <= len(nodes.took) <= 3 * HINTS_MAX
        assert (revoked.missed, revoked.took) == (1, [])


class Wire:
    """Another way for rings, as an adapter of NATS is one."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, int]] = []
        self.rang: Rang | None = None

    def ring(self, service: str, position: int) -> None:
        self.rung.append((service, position))

    async def listen(self, rang: Rang, missed: Missed, stopping: Stopping) -> None:
        self.rang = rang
        await missed()
        await stopping.wait()


async def test_further_ways_carry_the_same_rings(engine: ServiceEngine) -> None:
    wire = Wire()
    doorbell = Doorbell(engine, lambda: NOW, wire)
    reader = Reader(doorbell, "fabric")
    async with listening(doorbell, readers=(reader,)):
        doorbell.ring("breakwater", 4)
        assert wire.rung == [("breakwater", 4)]
        looks = reader.looks
        assert wire.rang is not None
        wire.rang("fabric", 9)
        await until("the look", lambda: reader.looks > looks)
