"""Kills at every fault point of events: nothing is lost, nothing is counted twice, and the order per object is kept.

Each kill is one of the whole process. `make drills PART=events-walk` has the same under load, with two replicas.
"""

import asyncio
import os
import signal
from datetime import timedelta

import pytest

from cloud.events.epoch import state_of
from cloud.storage import Location
from protocol import faults
from protocol.faults import Stage
from tests.cloud.events.support import Clock, Producer, opened

POINTS = ("events.epoch.begin", "events.event.add", "events.position.place", "events.outbox.purge")


def produce(location: Location, point: str, stage: Stage) -> None:
    """In a process of its own: begin the epoch, commit events, place them, purge, and die at the point."""

    def die(name: str, at: Stage) -> None:
        if (name, at) == (point, stage):
            os.kill(os.getpid(), signal.SIGKILL)

    async def work() -> None:
        async with opened(location) as engine:
            producer = Producer(engine, Clock())
            for name in "aab":
                await producer.add(name)
            await producer.place()
            await state_of(producer.store, producer.clock())
            producer.clock.forward(timedelta(days=8))
            await producer.parts.retention.run_once()

    if point == "events.position.place":  # the commit of another process, whose event has no position
        asyncio.run(_unplaced(location))
    faults.install(die)
    asyncio.run(work())


async def _unplaced(location: Location) -> None:
    async with opened(location) as engine:
        producer = Producer(engine, Clock())
        await producer.add("a")
        await producer.forget_positions()


def killed(location: Location, point: str, stage: Stage) -> bool:
    """Whether a process that produces events is killed at the point."""
    pid = os.fork()
    if pid == 0:
        try:
            produce(location, point, stage)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_producer_loses_nothing(location: Location, point: str, stage: Stage) -> None:
    assert killed(location, point, stage)
    asyncio.run(_check(location))


async def _check(location: Location) -> None:
    """The next process goes on where the killed one was."""
    async with opened(location) as engine:
        producer = Producer(engine, Clock())
        before = {name: sequence for _, name, sequence in await producer.committed()}
        for name in "abc":
            await producer.add(name)
        await producer.place()
        seen = await producer.seen()
        assert len({position for position, _, _ in seen}) == len(seen)
        assert {name: sequence for _, name, sequence in seen} == {name: before.get(name, 0) + 1 for name in "abc"}
        head = await producer.store.head()
        purged = (await state_of(producer.store, producer.clock())).purged
        assert [position for position, _, _ in seen if position > purged] == list(range(purged + 1, head + 1))
