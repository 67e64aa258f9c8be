"""Benchmarks: events from the commit at the producer to the effect at the follower, on both engines.

Producer and follower have databases of their own, with durable commits. The outbox, the sequencer, the feed and the
follower are the real ones, in this process. The answers of the feed are encoded and decoded as on the wire, and no
bytes go over a network: mutual TLS costs about a millisecond for each poll, not for each event.

The floor of the rate is the bare driver: it inserts and updates the same rows, with a commit for each change at the
producer and a commit for each batch at the follower. It checks nothing and decides nothing.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec

from benchmarks.figures import Figure, median, progress
from benchmarks.host import Postgres
from benchmarks.world import World
from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import PATH_CHANGES, Event
from cloud.events.doorbell import Doorbell
from cloud.events.follower import Follower
from cloud.events.parts import EventParts, make_event_parts
from cloud.events.settings import EventSettings
from cloud.mtls.client import Answer, CloudClient
from cloud.storage import Location, PostgresLocation, ServiceEngine, Statement
from cloud.storage.migrate import ensure_migrated
from cloud.tasks.stopping import Stopping
from lab.postgres import ROLE
from node.clock import utc_now

PRODUCER, CONSUMER = "breakwater", "fabric"
EVENTS = 4000
WRITERS = 8
OBJECTS = 500
BATCH = 500
"""Events of one batch, as the sequencer and the feed have them at most."""
FLOOR_EVENTS = 1500
DELAYS = 300
DELAY_PAUSE_SECONDS = 0.02
UNHEARD = 20
"""Events that are measured without a doorbell. Each waits up to a second."""
WAIT_SECONDS_MAX = 120.0
FLOOR_NAME = "the bare driver: the same rows inserted and updated, with the same commits"
COPY = "CREATE TABLE copy (subject VARCHAR(128) PRIMARY KEY, sequence BIGINT, value TEXT)"
_KEEP = Statement(
    "INSERT INTO copy (subject, sequence, value) VALUES ({subject}, {sequence}, {value}) "
    "ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, value = excluded.value"
)
STATE_TEXT = "x" * 400
"""A body of about the size of a node's state."""


class State(msgspec.Struct, frozen=True):
    """The body of the events."""

    value: str


NOUN = EventNoun(service=PRODUCER, noun="thing", body=State, pasts=("changed",))


class Feed:
    """The client of a follower: it asks the parts of a replica of the producer in this process."""

    def __init__(self, parts: EventParts) -> None:
        self._parts = parts

    def __call__(self) -> CloudClient:
        return cast(CloudClient, self)

    async def call(self, _method: str, path: str, *, seconds: float) -> Answer:
        parts = urlsplit(path)
        values = {name: value[0] for name, value in parse_qs(parts.query).items()}
        body: msgspec.Struct
        if parts.path == PATH_CHANGES:
            body = await self._parts.change_feed.after(values["cursor"], float(values["wait"]))
        else:
            body = await self._parts.snapshots.page(values.get("after", ""), int(values["limit"]))
        return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(body))


class Copying:
    """Effects that keep the state of each object, and the time at which each event took effect."""

    nouns: Sequence[EventNoun] = (NOUN,)
    ignored: Iterable[str] = ()
    keys: Sequence[str] = ("copy",)

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    def hear(self, event: Event, body: object) -> None:
        """Keep nothing in memory."""

    async def apply(self, event: Event, body: object) -> None:
        await self._engine.fetch(_KEEP, subject=event.subject, sequence=event.sequence, value=cast(State, body).value)

    async def absent(self, subject: str) -> None:
        """The benchmark's producer forgets no object."""


class Replica:
    """One process of the producer: its parts over an engine of its own, and its background tasks."""

    def __init__(self, engine: ServiceEngine, poll_seconds: float | None = None) -> None:
        self.engine = engine
        self.parts = make_event_parts(engine, PRODUCER, utc_now, os.urandom, EventSettings(), poll_seconds)
        self.doorbell = Doorbell(engine, utc_now)

    async def add(self, number: int) -> None:
        """Commit a change with its event."""
        thing = f"{number % OBJECTS:05d}"
        async with self.engine.transaction(f"thing:{thing}"):
            await self.parts.outbox.add("thing", thing, "changed", State(STATE_TEXT))


@asynccontextmanager
async def _opened(service: str, location: Location) -> AsyncIterator[ServiceEngine]:
    engine = ServiceEngine(service)
    engine.configure(location)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _running(*work: Callable[[Stopping], Awaitable[None]]) -> AsyncIterator[None]:
    """Run background tasks until the block ends."""
    stopping = Stopping()
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(_run(each, stopping))
        try:
            yield
        finally:
            stopping.request()


async def _run(work: Callable[[Stopping], Awaitable[None]], stopping: Stopping) -> None:
    await work(stopping)


def _has(follower: Follower, position: int) -> bool:
    return follower.position >= position


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not reached():  # noqa: ASYNC110  the follower sets no event, because nothing else waits for it
            await asyncio.sleep(0.0005)


class _Databases:
    """Migrated databases of one engine."""

    def __init__(self, world: World, postgres: Postgres | None) -> None:
        self._folder = world.directory / "events"
        self._folder.mkdir(exist_ok=True)
        self._postgres = postgres

    async def make(self, service: str, name: str) -> Location:
        location: Location
        if self._postgres is None:
            location = self._folder / f"{name}.sqlite"
        else:
            location = PostgresLocation(host=str(self._postgres.socket), name=await self._created(), user=ROLE)
        await ensure_migrated(service, location)
        return location

    async def _created(self) -> str:
        assert self._postgres is not None
        return await asyncio.to_thread(self._postgres.create)


async def _rate(databases: _Databases) -> float:
    """Events a second, from the first change until the last effect is durable."""
    there = await databases.make(PRODUCER, "rate-producer")
    here = await databases.make(CONSUMER, "rate-consumer")
    async with _opened(PRODUCER, there) as producing, _opened(CONSUMER, here) as consuming:
        await consuming.run_ddl(COPY)
        replica = Replica(producing)
        follower = Follower(
            consuming, PRODUCER, Feed(replica.parts), Copying(consuming), now=utc_now, entropy=os.urandom
        )
        await follower.load()
        numbers = iter(range(EVENTS))

        async def write() -> None:
            for number in numbers:
                await replica.add(number)

        async with _running(*replica.parts.tasks(), follower.run):
            await _until(lambda: follower.is_answered)
            began = time.perf_counter()
            await asyncio.gather(*(write() for _ in range(WRITERS)))
            await _until(partial(_has, follower, EVENTS))
            return EVENTS / (time.perf_counter() - began)


_COUNT = """INSERT INTO event_object (subject, sequence) VALUES ({0}, 1)
    ON CONFLICT (subject) DO UPDATE SET sequence = event_object.sequence + 1"""
_ADD = """INSERT INTO event_outbox (position, id, type, subject, sequence, time, tenant, traceparent, data)
    VALUES (NULL, {0}, {1}, {2}, {3}, {4}, '', '', {5})"""
_PLACE = "UPDATE event_outbox SET position = number WHERE position IS NULL"
_APPLIED = """INSERT INTO event_applied (key, epoch, sequence) VALUES ({0}, 1, {1})
    ON CONFLICT (key) DO UPDATE SET sequence = excluded.sequence"""
_COPIED = """INSERT INTO copy (subject, sequence, value) VALUES ({0}, {1}, {2})
    ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, value = excluded.value"""
_STATEMENTS = (_COUNT, _ADD, _APPLIED, _COPIED)
_CURSOR = (
    "INSERT INTO event_cursor (producer, cursor, epoch, position) VALUES ('p', {0}, 1, 1) "
    "ON CONFLICT (producer) DO UPDATE SET cursor = excluded.cursor"
)


def _values(number: int) -> tuple[list[object], list[object]]:
    """The values of a change's two statements."""
    subject = f"thing/{number % OBJECTS:05d}"
    body = msgspec.json.encode(State(STATE_TEXT))
    return [subject], [f"evt_{number:026d}", NOUN.types[0], subject, number // OBJECTS + 1, utc_now(), body]


def _applied(number: int) -> tuple[list[object], list[object]]:
    subject, sequence = f"thing/{number % OBJECTS:05d}", number // OBJECTS + 1
    return [f"{PRODUCER}/{subject}", sequence], [subject, sequence, STATE_TEXT]


def _bare_sqlite(there: Path, here: Path) -> float:
    def connected(path: Path) -> sqlite3.Connection:
        made = sqlite3.connect(path, isolation_level=None)
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")
        return made

    sql = [text.format(*"??????") for text in _STATEMENTS]
    producing, consuming = connected(there), connected(here)
    consuming.execute(COPY)
    began = time.perf_counter()
    for number in range(FLOOR_EVENTS):
        counted, event = _values(number)
        event[4] = str(event[4])
        producing.execute("BEGIN IMMEDIATE")
        producing.execute(sql[0], counted)
        producing.execute(sql[1], event)
        producing.execute("COMMIT")
        if number % BATCH == BATCH - 1:
            producing.execute(_PLACE)
            consuming.execute("BEGIN IMMEDIATE")
            for each in range(number + 1 - BATCH, number + 1):
                for text, values in zip(sql[2:], _applied(each), strict=True):
                    consuming.execute(text, values)
            consuming.execute(_CURSOR.format("?"), [str(number)])
            consuming.execute("COMMIT")
    seconds = time.perf_counter() - began
    producing.close()
    consuming.close()
    return FLOOR_EVENTS / seconds


async def _bare_postgres(there: PostgresLocation, here: PostgresLocation) -> float:
    async def connected(location: PostgresLocation) -> asyncpg.Connection:
        return await asyncpg.connect(host=location.host, user=location.user, database=location.name)

    marks = [f"${number}" for number in range(1, 7)]
    sql = [text.format(*marks) for text in _STATEMENTS]
    writers = [await connected(there) for _ in range(WRITERS)]
    consuming = await connected(here)
    await consuming.execute(COPY)
    numbers = iter(range(FLOOR_EVENTS))

    async def write(connection: asyncpg.Connection) -> None:
        for number in numbers:
            counted, event = _values(number)
            async with connection.transaction():
                await connection.execute(sql[0], *counted)
                await connection.execute(sql[1], *event)

    began = time.perf_counter()
    await asyncio.gather(*map(write, writers))
    for first in range(0, FLOOR_EVENTS, BATCH):
        await writers[0].execute(f"{_PLACE} AND number <= {first + BATCH}")
        async with consuming.transaction():
            for each in range(first, first + BATCH):
                for text, values in zip(sql[2:], _applied(each), strict=True):
                    await consuming.execute(text, *values)
            await consuming.execute(_CURSOR.format("$1"), str(first))
    seconds = time.perf_counter() - began
    for connection in (*writers, consuming):
        await connection.close()
    return FLOOR_EVENTS / seconds


async def _floor(databases: _Databases) -> float:
    there = await databases.make(PRODUCER, "floor-producer")
    here = await databases.make(CONSUMER, "floor-consumer")
    if isinstance(there, PostgresLocation) and isinstance(here, PostgresLocation):
        return await _bare_postgres(there, here)
    assert isinstance(there, Path)
    assert isinstance(here, Path)
    return await asyncio.to_thread(_bare_sqlite, there, here)


async def _delays(databases: _Databases, *, rings: bool, count: int, pause: float) -> list[float]:
    """Milliseconds from the commit of a change to the commit of its effect, one change after the other.

    The change is committed by one replica of the producer, and the follower polls another one. On SQLite there is one
    replica only.
    """
    name = f"delay-{'rings' if rings else 'silent'}"
    there = await databases.make(PRODUCER, f"{name}-producer")
    here = await databases.make(CONSUMER, f"{name}-consumer")
    async with (
        _opened(PRODUCER, there) as writing, _opened(PRODUCER, there) as serving, _opened(CONSUMER, here) as consuming,
    ):  # fmt: skip
        await consuming.run_ddl(COPY)
        writer = Replica(writing)
        server = Replica(serving) if isinstance(there, PostgresLocation) else writer
        follower = Follower(
            consuming, PRODUCER, Feed(server.parts), Copying(consuming), now=utc_now, entropy=os.urandom
        )
        await follower.load()
        replicas = {id(each): each for each in (writer, server)}.values()
        tasks = [*(task for each in replicas for task in each.parts.tasks()), follower.run]
        if rings:
            for each in replicas:
                each.parts.connect(each.doorbell)
            tasks += [each.doorbell.run for each in replicas]
        found = []
        async with _running(*tasks):
            await _until(lambda: follower.is_answered)
            for number in range(count):
                await asyncio.sleep(pause * (1 + number % 7 / 7))
                await writer.add(number)
                committed = time.perf_counter()
                await _until(partial(_has, follower, number + 1))
                found.append((time.perf_counter() - committed) * 1000)
        return found


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _delay_figures(name: str, values: Sequence[float], note: str) -> list[Figure]:
    return [
        Figure(name=f"commit to effect, {name}, median", value=median(values), unit="ms", note=note),
        Figure(name=f"commit to effect, {name}, 99th percentile", value=_percentile(values, 0.99), unit="ms"),
    ]


async def _measure(databases: _Databases, engine: str) -> list[Figure]:
    floor = await _floor(databases)
    rate = await _rate(databases)
    heard = await _delays(databases, rings=True, count=DELAYS, pause=DELAY_PAUSE_SECONDS)
    figures = [
        Figure(
            name=f"events through outbox and follower, {engine}", value=rate, unit="/s", floor=floor,
            floor_name=FLOOR_NAME, note=f"{EVENTS:,} events of {OBJECTS} objects by {WRITERS} writers",
        ),
        *_delay_figures(f"{engine}, doorbell" if engine == "PostgreSQL" else engine, heard, ""),
    ]  # fmt: skip
    if engine == "PostgreSQL":
        unheard = await _delays(databases, rings=False, count=UNHEARD, pause=0.1)
        figures += _delay_figures(f"{engine}, no doorbell", unheard, "the other replica looks every second")
    return figures


def on_sqlite(world: World) -> list[Figure]:
    """Measure events on SQLite: one process, so no doorbell is needed."""
    progress(f"events on SQLite: {EVENTS} events, the bare driver, and {DELAYS} delays")
    return asyncio.run(_measure(_Databases(world, None), "SQLite"))


def on_postgresql(world: World) -> list[Figure]:
    """Measure events on PostgreSQL, with two replicas of the producer, with and without the doorbell."""
    progress(f"events on PostgreSQL: {EVENTS} events, the bare driver, and {DELAYS} delays")
    postgres = Postgres()
    try:
        return asyncio.run(_measure(_Databases(world, postgres), "PostgreSQL"))
    finally:
        postgres.stop()
