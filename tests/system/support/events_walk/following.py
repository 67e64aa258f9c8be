"""The processes of the walk that follow: replicas that kill themselves at random, and what they have applied.

A follower asks the producer's feed in its own process, over the producer's database. Its effect writes one row for each
applied event, so the rows say what was applied, how often and in which order.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec

from cloud.clock import utc_now
from cloud.contracts.event_nouns import EventNoun
from cloud.contracts.events import Event
from cloud.events.follower import Follower
from cloud.storage import Location, Row, ServiceEngine, Statement, StorageError
from cloud.storage.database import open_database
from cloud.tasks.stopping import Stopping
from protocol import faults
from protocol.faults import Stage
from tests.cloud.events.following import ABSENT, KEEP, KEPT, Wire, make_effects
from tests.cloud.events.support import Producer
from tests.system.support.events_walk.producing import SERVICE, Change, parts_over
from tests.waiting import until

FOLLOWER = "fabric"
THING = EventNoun(service=SERVICE, noun="thing", body=Change, pasts=("changed",))
KILL_ONE_IN = 15
"""A follower dies at one of so many passages of its fault points, before or after the step."""


class Kept:
    """Effects that write one row for each event."""

    def __init__(self, engine: ServiceEngine) -> None:
        self.nouns: Sequence[EventNoun] = (THING,)
        self.ignored: Iterable[str] = ()
        self.keys: Sequence[str] = ("effects",)
        self._engine = engine

    def hear(self, event: Event, body: object) -> None:
        """Keep nothing in memory."""

    async def apply(self, event: Event, body: object) -> None:
        row = cast(Change, body).row
        await self._engine.fetch(KEEP, subject=event.subject, epoch=event.epoch, sequence=event.sequence, value=row)

    async def absent(self, subject: str) -> None:
        await self._engine.fetch(KEEP, subject=subject, epoch=0, sequence=0, value=ABSENT)


def prepare(own: Location) -> None:
    """Make the table of the effects."""

    async def work() -> None:
        async with open_database(FOLLOWER, own) as engine:
            await make_effects(engine)

    asyncio.run(work())


def replica(producer: Location, own: Location, stop: Path, *, dies: bool) -> None:
    """The program of a follower: follow until the file `stop` exists, or the process kills itself."""
    if dies:
        faults.install(_dies)

    async def work() -> None:
        async with open_database(SERVICE, producer) as theirs, open_database(FOLLOWER, own) as engine:
            stopping, parts = Stopping(), parts_over(theirs)
            wire = Wire(cast(Producer, SimpleNamespace(parts=parts)))
            follower = Follower(engine, SERVICE, wire, Kept(engine), now=utc_now, entropy=os.urandom)
            await follower.load()
            looking = asyncio.create_task(parts.sequencer.run(stopping))
            task = asyncio.create_task(follower.run(stopping))
            await until("the end of the walk", stop.exists, 3600)
            stopping.request()
            await asyncio.gather(task, looking)

    asyncio.run(work())


def mortal(producer: Location, own: Location, stop: Path) -> None:
    """A follower that kills itself at random."""
    replica(producer, own, stop, dies=True)


def immortal(producer: Location, own: Location, stop: Path) -> None:
    """A follower that ends with the walk."""
    replica(producer, own, stop, dies=False)


def _dies(name: str, stage: Stage) -> None:
    del stage
    if name in POINTS and random.randrange(KILL_ONE_IN) == 0:
        os.kill(os.getpid(), signal.SIGKILL)


POINTS = ("events.batch.apply", "events.page.apply", "events.absent.apply", "events.snapshot.finish")

_LATEST = Statement(
    "SELECT o.subject AS subject, o.data AS data FROM event_object AS n JOIN event_outbox AS o "
    "ON o.subject = n.subject AND o.sequence = n.sequence LIMIT 1000000"
)
_HAS_CURSOR = Statement("SELECT producer FROM event_cursor LIMIT 1")
_COUNT = Statement("SELECT count(*) AS count FROM event_outbox")


async def produced(producer: Location) -> tuple[dict[str, str], int]:
    """The latest change of each object, and the number of events."""
    async with open_database(SERVICE, producer) as engine:
        states = {
            str(row["subject"]): msgspec.json.decode(bytes(row["data"]), type=Change).row
            for row in await engine.browse(_LATEST)
        }
        (count,) = await engine.browse(_COUNT)
        return states, int(count["count"])


async def applied(own: Location) -> list[Row]:
    """Every applied event, in order."""
    async with open_database(FOLLOWER, own) as engine:
        return await engine.browse(KEPT)


async def is_equal(producer: Location, own: Location) -> bool:
    """Whether the last applied change of each object is the producer's latest. False before the first snapshot.

    It is also false while a database is away.
    """
    try:
        async with open_database(FOLLOWER, own) as engine:
            if not await engine.fetch(_HAS_CURSOR):
                return False
        states, _ = await produced(producer)
        last = {str(row["subject"]): str(row["value"]) for row in await applied(own)}
    except StorageError:
        return False
    return {subject: value for subject, value in last.items() if value != ABSENT} == states
