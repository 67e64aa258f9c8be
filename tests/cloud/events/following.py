"""Shared by the tests of followers: a client that asks a producer in this process, and effects that record events."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import parse_qs, urlsplit

import msgspec

from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import PATH_CHANGES, Changes, Event, SnapshotPage
from cloud.events.follower import Follower, SnapshotNeeded
from cloud.http.problems import Refusal
from cloud.mtls.client import Answer, CallError, CloudClient, ProblemAnswer
from cloud.storage import Location, Row, ServiceEngine, Statement
from tests.cloud.events.support import SERVICE, Clock, Producer, State

THING = EventNoun(service=SERVICE, noun="thing", body=State, pasts=("changed",))
APPLIED = Statement("SELECT key, epoch, sequence FROM event_applied ORDER BY key LIMIT 100000")
CURSOR = Statement("SELECT cursor FROM event_cursor LIMIT 1")
KEEP = Statement(
    "INSERT INTO effect (subject, epoch, sequence, value) VALUES ({subject}, {epoch}, {sequence}, {value})"
)
KEPT = Statement("SELECT subject, epoch, sequence, value FROM effect ORDER BY number LIMIT 1000000")
_MAKE = {
    "sqlite": "CREATE TABLE effect (number INTEGER PRIMARY KEY, subject TEXT, epoch BIGINT, sequence BIGINT, value TEXT)",
    "postgres": "CREATE TABLE effect (number BIGSERIAL PRIMARY KEY, subject TEXT, epoch BIGINT, sequence BIGINT, value TEXT)",
}


ABSENT = "absent"
"""The value of an object that the producer does not know any more."""


def wrong_order(rows: Sequence[Row]) -> list[str]:
    """What is wrong with applications of events, in order: an event twice, or an older one after a newer one."""
    newest: dict[str, tuple[int, int]] = {}
    wrong = []
    for row in rows:
        if row["value"] == ABSENT:
            newest.pop(row["subject"], None)
            continue
        number = (int(row["epoch"]), int(row["sequence"]))
        if number <= newest.get(row["subject"], (0, 0)):
            wrong.append(f"{row['subject']}: {number} after {newest[row['subject']]}")
        newest[row["subject"]] = number
    return wrong


class Wire:
    """A client of a producer in this process. A test can stop it, and change its answers."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.asked: list[str] = []
        self.failing: CallError | None = None
        self.changes: Callable[[Changes], Changes] = lambda answer: answer
        self.page: Callable[[SnapshotPage], SnapshotPage] = lambda page: page

    def __call__(self) -> CloudClient:
        return cast(CloudClient, self)

    async def call(self, method: str, path: str, *, seconds: float) -> Answer:
        assert method == "GET"
        self.asked.append(path)
        if self.failing is not None:
            raise self.failing
        parts = urlsplit(path)
        values = {name: value[0] for name, value in parse_qs(parts.query).items()}
        try:
            body: Changes | SnapshotPage
            if parts.path == PATH_CHANGES:
                wait = float(values["wait"])
                assert seconds > wait
                body = self.changes(await self.producer.parts.change_feed.after(values["cursor"], wait))
            else:
                page = await self.producer.parts.snapshots.page(values.get("after", ""), int(values["limit"]))
                body = self.page(page)
        except Refusal as refusal:
            raise ProblemAnswer(refusal.document()) from refusal
        return Answer(200, {"content-type": "application/json"}, msgspec.json.encode(body))

    @property
    def snapshots(self) -> int:
        """How many snapshots were begun."""
        return sum("snapshot?after=&" in path for path in self.asked)


class Recorded:
    """Effects that store every application in the table `effect`, in the transaction of the follower."""

    def __init__(self, engine: ServiceEngine) -> None:
        self.nouns: Sequence[EventNoun] = (THING,)
        self.ignored: Iterable[str] = ("secret",)
        self.keys: Sequence[str] = ("effects",)
        self.heard: list[tuple[str, str]] = []
        self.broken: Exception | None = None
        self._engine = engine

    def hear(self, event: Event, body: object) -> None:
        assert isinstance(body, State)
        self.heard.append((event.subject, body.value))

    async def apply(self, event: Event, body: object) -> None:
        assert isinstance(body, State)
        await self._engine.fetch(
            KEEP, subject=event.subject, epoch=event.epoch, sequence=event.sequence, value=body.value
        )
        if self.broken is not None:
            raise self.broken

    async def absent(self, subject: str) -> None:
        await self._engine.fetch(KEEP, subject=subject, epoch=0, sequence=0, value=ABSENT)


class Replica:
    """One process of a service that follows the producer."""

    def __init__(self, engine: ServiceEngine, producer: Producer) -> None:
        self.engine = engine
        self.wire = Wire(producer)
        self.effects = Recorded(engine)
        self.follower = Follower(engine, SERVICE, self.wire, self.effects, now=Clock(), entropy=bytes)

    async def steps(self, count: int = 1) -> None:
        """Run steps that do not fail."""
        for _ in range(count):
            await self.follower.refresh()

    async def applied(self) -> list[tuple[str, str]]:
        """Object and value of each application, in order."""
        return [(row["subject"].removeprefix("thing/"), row["value"]) for row in await self.engine.fetch(KEPT)]

    async def rows(self) -> list[Row]:
        """Every application, in order."""
        return await self.engine.fetch(KEPT)

    async def states(self) -> dict[str, str]:
        """The last value of each object; objects that are absent are left out."""
        last = {row["subject"]: row["value"] for row in await self.rows()}
        return {subject: value for subject, value in last.items() if value != ABSENT}

    async def converges(self, steps_max: int = 10) -> None:
        """Run steps, as `run` does, until the process has heard everything."""
        for _ in range(steps_max):
            try:
                count = await self.follower.refresh()
            except SnapshotNeeded:
                continue
            if count == 0:
                return
        raise AssertionError(f"not up to date after {steps_max} steps")

    async def cursor(self) -> str:
        """The stored cursor; empty before the first."""
        row = await self.engine.fetch_one(CURSOR)
        return "" if row is None else str(row["cursor"])


async def make_effects(engine: ServiceEngine) -> None:
    """Make the table `effect`."""
    await engine.run_ddl(_MAKE[engine.engine_type])


@asynccontextmanager
async def following(location: Location, producer: Producer, *, is_new: bool = False) -> AsyncIterator[Replica]:
    """Open one process of the following service over its database. `is_new` makes the table of effects."""
    engine = ServiceEngine("fabric")
    engine.configure(location)
    await engine.open()
    try:
        if is_new:
            await make_effects(engine)
        replica = Replica(engine, producer)
        await replica.follower.load()
        yield replica
    finally:
        await engine.close()
