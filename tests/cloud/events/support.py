"""Shared by the tests of events: engines over a database of Breakwater, a body, and events as they are read."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from cloud.events.outbox import Outbox
from cloud.events.parts import EventParts, make_event_parts
from cloud.events.settings import EventSettings
from cloud.events.store.outbox import OutboxStore
from cloud.storage import Location, ServiceEngine, Statement

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SERVICE = "breakwater"
UNPLACED = Statement("UPDATE event_outbox SET position = NULL")
ROWS = Statement("SELECT * FROM event_outbox ORDER BY number LIMIT 100000")


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def forward(self, delta: timedelta) -> None:
        self.at += delta


class State(msgspec.Struct, frozen=True):
    """The body of the tests' events."""

    value: str


class Producer:
    """The parts of a producer over an open engine: one replica."""

    def __init__(self, engine: ServiceEngine, clock: Clock | None = None, poll_seconds: float | None = None) -> None:
        self.engine = engine
        self.clock = clock or Clock()
        self.parts: EventParts = make_event_parts(
            engine, SERVICE, self.clock, os.urandom, EventSettings(), poll_seconds
        )
        self.outbox: Outbox = self.parts.outbox
        self.store = OutboxStore(engine)

    async def add(self, object_id: str, value: str = "", *, tenant: str = "") -> None:
        """Commit one event of an object, in a transaction of its own."""
        async with self.engine.transaction(f"thing:{object_id}"):
            await self.outbox.add("thing", object_id, "changed", State(value), tenant=tenant)

    async def place(self) -> None:
        """Give every committed event a position."""
        await self.parts.sequencer.run_once()

    async def forget_positions(self) -> None:
        """Take the positions from all events, as in a process that died before it had given them."""
        await self.engine.fetch(UNPLACED)

    async def committed(self) -> list[tuple[int, str, int]]:
        """Number, object and sequence of every committed event, in the order of the inserts."""
        rows = await self.engine.fetch(ROWS)
        return [(row["number"], row["subject"].removeprefix("thing/"), row["sequence"]) for row in rows]

    async def seen(self) -> list[tuple[int, str, int]]:
        """Position, object and sequence of every event that has a position, in order."""
        rows = await self.store.after(0, 100_000)
        return [(row.position or 0, row.subject.removeprefix("thing/"), row.sequence) for row in rows]


@asynccontextmanager
async def opened(location: Location) -> AsyncIterator[ServiceEngine]:
    """An open engine over a database."""
    engine = ServiceEngine(SERVICE)
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()
