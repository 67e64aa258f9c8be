"""`cloud.events.retention`: old events go, but never the latest of an object, and never one that was not replaced."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.events.retention import Retention
from lab.postgres import sqlite_database
from tests.cloud.events.support import ROWS, SERVICE, START, Producer, opened


async def kept(producer: Producer) -> list[tuple[str, int]]:
    rows = await producer.engine.fetch(ROWS)
    return [(row["subject"].removeprefix("thing/"), row["sequence"]) for row in rows]


async def test_an_event_goes_when_a_newer_one_is_as_old(producer: Producer) -> None:
    for name in "aab":
        await producer.add(name)
    producer.clock.forward(timedelta(days=6))
    await producer.add("a")
    await producer.place()
    await producer.parts.retention.run_once()
    assert await kept(producer) == [("a", 1), ("a", 2), ("b", 1), ("a", 3)]
    producer.clock.forward(timedelta(days=1, seconds=1))
    await producer.parts.retention.run_once()
    assert await kept(producer) == [("a", 2), ("b", 1), ("a", 3)]
    producer.clock.forward(timedelta(days=7))
    await producer.parts.retention.run_once()
    assert await kept(producer) == [("b", 1), ("a", 3)]
    assert producer.parts.retention.deleted == 2


async def test_many_events_go_in_batches(producer: Producer) -> None:
    retention = Retention(producer.store, timedelta(days=7), producer.clock, batch=3, batches_max=2)
    for _ in range(9):
        await producer.add("a")
    await producer.place()
    producer.clock.forward(timedelta(days=8))
    await retention.run_once()
    assert await kept(producer) == [("a", sequence) for sequence in (6, 7, 8, 9)]
    await retention.run_once()
    assert await kept(producer) == [("a", 9)]


async def test_a_new_position_follows_the_highest_one_after_a_purge(producer: Producer) -> None:
    for name in "ab":
        await producer.add(name)
    await producer.place()
    producer.clock.forward(timedelta(days=8))
    await producer.parts.retention.run_once()
    await producer.add("a")
    await producer.place()
    assert await producer.seen() == [(1, "a", 1), (2, "b", 1), (3, "a", 2)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), min_size=1, max_size=25))
def test_the_latest_event_of_each_object_stays(
    tmp_path_factory: pytest.TempPathFactory, days: list[tuple[str, int]]
) -> None:
    """Also when events arrive with clocks that are set back."""

    async def body() -> None:
        async with opened(sqlite_database(SERVICE, tmp_path_factory.mktemp("purge"))) as engine:
            producer = Producer(engine)
            latest: dict[str, int] = {}
            for name, day in days:
                producer.clock.at = START + timedelta(days=day)
                await producer.add(name)
                latest[name] = latest.get(name, 0) + 1
            head = await producer.store.head()
            producer.clock.at = START + timedelta(days=9)
            await producer.parts.retention.run_once()
            found = await kept(producer)
            assert set(latest.items()) <= set(found)
            assert await producer.store.head() == head
            state = await producer.store.state()
            above = [row for row in await producer.seen() if state is not None and row[0] > state.purged]
            assert [position for position, _, _ in above] == list(range(head - len(above) + 1, head + 1))

    asyncio.run(body())
