"""Kills at every fault point of a follower: the next process applies what is left, once and in order.

Each kill is one of the whole process. `make drills PART=events-walk` has the same under load, with two replicas.
"""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cloud.events.epoch import raise_epoch
from cloud.storage import Location
from lab.postgres import database_location
from protocol import faults
from protocol.faults import Stage
from tests.cloud.engines import ENGINES
from tests.cloud.events.following import following, wrong_order
from tests.cloud.events.support import Clock, Producer, State, opened

POINTS = ("events.batch.apply", "events.page.apply", "events.absent.apply", "events.snapshot.finish")


@pytest.fixture(params=ENGINES)
def locations(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Location, Location]:
    """The databases of a producer and of a follower, of the same engine."""
    for name in ("producer", "follower"):
        (tmp_path / name).mkdir()
    return (
        database_location(request.param, "breakwater", tmp_path / "producer"),
        database_location(request.param, "fabric", tmp_path / "follower"),
    )


async def lose(producer: Producer, name: str) -> None:
    """Have the producer restored from a backup that does not have an object."""
    for table in ("object", "outbox"):
        await producer.engine.run_ddl(f"DELETE FROM event_{table} WHERE subject = 'thing/{name}'")  # noqa: S608  a constant
    producer.clock.forward(timedelta(seconds=5))
    await raise_epoch(producer.engine, producer.clock())


async def story(locations: tuple[Location, Location], *, is_new: bool) -> None:
    """Read the snapshot, follow events, and read the snapshot of a restored producer that has lost an object."""
    async with opened(locations[0]) as engine, following(locations[1], Producer(engine), is_new=is_new) as replica:
        producer = replica.wire.producer
        for name in ("a", "b", "lost"):
            await producer.add(name, "1")
        await producer.place()
        await replica.converges()
        for change in ("a", "c", "a"):
            await producer.add(change, "2")
        await producer.place()
        await replica.converges()
        await lose(producer, "lost")
        await replica.converges()


def killed(locations: tuple[Location, Location], point: str, stage: Stage) -> bool:
    """Whether a process that follows is killed at the point."""

    def die(name: str, at: Stage) -> None:
        if (name, at) == (point, stage):
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        try:
            faults.install(die)
            asyncio.run(story(locations, is_new=True))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_the_next_process_applies_the_rest_once(
    locations: tuple[Location, Location], point: str, stage: Stage
) -> None:
    assert killed(locations, point, stage)
    asyncio.run(_check(locations))


async def _check(locations: tuple[Location, Location]) -> None:
    async with opened(locations[0]) as engine, following(locations[1], Producer(engine, Clock())) as replica:
        producer = replica.wire.producer
        await producer.add("b", "last")
        await producer.place()
        await replica.converges()
        page = await producer.parts.snapshots.page("", 100)
        known = {event.subject: msgspec.json.decode(event.data, type=State).value for event in page.events}
        assert await replica.states() == known
        assert wrong_order(await replica.rows()) == []
        assert replica.follower.position == replica.follower.head == await producer.store.head()
