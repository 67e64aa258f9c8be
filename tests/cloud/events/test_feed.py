"""`cloud.events.feed`: events in order, the long poll, and cursors that the feed cannot go on from."""

import asyncio
from datetime import timedelta

import pytest

from cloud.contracts.events import Changes
from cloud.events.epoch import raise_epoch
from cloud.events.feed import ChangeFeed
from cloud.http.problems import Refusal
from cloud.tasks.stopping import Stopping
from tests.cloud.events.support import SERVICE, Producer, State
from tests.waiting import until


def positions(changes: Changes) -> list[int]:
    return [event.position for event in changes.events]


async def refused(producer: Producer, cursor: str) -> str:
    with pytest.raises(Refusal) as caught:
        await producer.parts.change_feed.after(cursor, 0)
    return caught.value.code


async def test_events_come_once_and_in_order(producer: Producer) -> None:
    feed = ChangeFeed(producer.store, SERVICE, producer.clock, events_max=4)
    empty = await feed.after("", 0)
    assert (empty.events, empty.head) == ((), 0)
    async with producer.engine.transaction("thing:a"):
        for _ in range(7):
            await producer.outbox.add("thing", "a", "changed", State("x"), tenant="ten_1")
    await producer.place()
    first = await feed.after(empty.cursor, 0)
    second = await feed.after(first.cursor, 0)
    assert len(first.events) == 4
    assert positions(first) + positions(second) == [*range(1, 8)]
    assert first.head == second.head == 7
    assert (await feed.after(second.cursor, 0)).events == ()
    event = first.events[0]
    assert (event.source, event.subject, event.tenant) == ("/breakwater", "thing/a", "ten_1")
    assert (event.epoch, event.sequence, bytes(event.data)) == (first.epoch, 1, b'{"value":"x"}')
    assert await feed.after(first.cursor, 0) == second


async def test_a_poll_ends_with_the_next_event(producer: Producer) -> None:
    stopping = Stopping()
    task = asyncio.create_task(producer.parts.sequencer.run(stopping))
    start = await producer.parts.change_feed.after("", 0)
    poll = asyncio.create_task(producer.parts.change_feed.after(start.cursor, 60))
    await producer.add("a")
    assert positions(await poll) == [1]
    assert (await producer.parts.change_feed.after((await poll).cursor, 0.01)).events == ()
    stopping.request()
    await task


async def test_polls_end_when_the_process_stops(producer: Producer) -> None:
    stopping = Stopping()
    feed = producer.parts.change_feed
    task = asyncio.create_task(feed.close_at_stop(stopping))
    start = await feed.after("", 0)
    poll = asyncio.create_task(feed.after(start.cursor, 60))
    await asyncio.sleep(0)
    stopping.request()
    assert (await poll).events == ()
    assert (await feed.after(start.cursor, 60)).cursor == start.cursor
    await until("the end of the task", task.done)


async def test_cursors_from_which_the_feed_cannot_go_on(producer: Producer) -> None:
    await producer.add("a")
    await producer.place()
    current = (await producer.parts.change_feed.after("", 0)).cursor
    service, epoch, _ = current.split(".")
    assert await refused(producer, f"fabric.{epoch}.1") == "cursor_foreign"
    assert await refused(producer, "1") == "cursor_foreign"
    assert await refused(producer, f"{service}.{epoch}.2") == "cursor_gone"
    assert await refused(producer, f"{service}.{int(epoch) - 1}.1") == "cursor_gone"
    await raise_epoch(producer.engine, producer.clock())
    assert await refused(producer, current) == "cursor_gone"
    assert (await producer.parts.change_feed.after("", 0)).epoch > int(epoch)


async def test_a_cursor_before_purged_events_is_gone(producer: Producer) -> None:
    for name in "aab":
        await producer.add(name)
    await producer.place()
    begin = (await producer.parts.change_feed.after("", 0)).cursor.rpartition(".")[0]
    producer.clock.forward(timedelta(days=8))
    await producer.add("c")
    await producer.place()
    await producer.parts.retention.run_once()
    for position in (0, 1, 2):
        assert await refused(producer, f"{begin}.{position}") == "cursor_gone"
    assert await refused(producer, "") == "cursor_gone"
    assert positions(await producer.parts.change_feed.after(f"{begin}.3", 0)) == [4]
