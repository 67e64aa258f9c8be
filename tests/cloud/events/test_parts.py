"""`cloud.events.parts`: a producer with its tasks delivers an event from commit to feed."""

import asyncio

from cloud.events.parts import SERVICES
from cloud.process.serve import task_name
from cloud.tasks.stopping import Stopping
from tests.cloud.events.support import Producer


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


async def test_the_routes_find_their_parts(producer: Producer) -> None:
    assert producer.parts.services() == {name: getattr(producer.parts, name) for name in SERVICES}


async def _run(task: object, stopping: Stopping) -> None:
    assert callable(task)
    await task(stopping)
