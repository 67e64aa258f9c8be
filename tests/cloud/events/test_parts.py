"""`cloud.events.parts`: a producer with its tasks delivers an event from commit to feed."""

import asyncio

import pytest

from cloud.clock import utc_now
from cloud.events.doorbell import Doorbell
from cloud.events.parts import SERVICES
from cloud.process.serve import task_name
from cloud.tasks.stopping import Stopping
from lab.postgres import postgres_database
from tests.cloud.events.support import SERVICE, Producer, opened


async def test_the_tasks_deliver_events_and_end(producer: Producer) -> None:
    parts, stopping = producer.parts, Stopping()
    assert [task_name(task) for task in parts.tasks()] == ["Sequencer.run", "ChangeFeed.close_at_stop", "events purge"]
    tasks = [asyncio.create_task(_run(task, stopping)) for task in parts.tasks()]
    start = await parts.change_feed.after("", 0)
    poll = asyncio.create_task(parts.change_feed.after(start.cursor, 60))
    await producer.add("a")
    assert [event.subject for event in (await poll).events] == ["thing/a"]
    stopping.request()
    await asyncio.gather(*tasks)


@pytest.mark.slow
async def test_a_doorbell_wakes_the_polls_of_the_other_replica() -> None:
    """Neither replica looks by itself within the time of the test."""
    location = await asyncio.to_thread(postgres_database, SERVICE)
    async with opened(location) as first, opened(location) as second:
        stopping, replicas, tasks = Stopping(), [Producer(engine, None, 3600.0) for engine in (first, second)], []
        for replica in replicas:
            doorbell = Doorbell(replica.engine, utc_now)
            replica.parts.connect(doorbell)
            tasks += [asyncio.create_task(_run(task, stopping)) for task in (*replica.parts.tasks(), doorbell.run)]
        cursor = (await replicas[1].parts.change_feed.after("", 0)).cursor
        for number in range(1, 4):
            poll = asyncio.create_task(replicas[1].parts.change_feed.after(cursor, 60))
            await replicas[0].add("a")
            changes = await poll
            assert [event.position for event in changes.events] == [number]
            cursor = changes.cursor
        stopping.request()
        await asyncio.gather(*tasks)


async def test_the_routes_find_their_parts(producer: Producer) -> None:
    assert producer.parts.services() == {name: getattr(producer.parts, name) for name in SERVICES}


async def _run(task: object, stopping: Stopping) -> None:
    assert callable(task)
    await task(stopping)
