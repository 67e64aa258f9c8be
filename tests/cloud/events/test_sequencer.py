"""`cloud.events.sequencer`: positions have no gaps and become visible in the order of commits, over two replicas."""

import asyncio
import logging
from unittest.mock import patch

import pytest

from cloud.events.sequencer import Sequencer
from cloud.events.store import outbox as store
from cloud.storage import Location, ServiceEngine, StorageError
from cloud.tasks.stopping import Stopping
from tests.cloud.events.support import ROWS, Producer, State, opened
from tests.waiting import until


async def test_an_open_transaction_delays_its_own_event_only(location: Location) -> None:
    """On SQLite other transactions wait for the writer. Events that were committed before are readable meanwhile."""
    async with opened(location) as first, opened(location) as second:
        one, other = Producer(first), Producer(second)
        is_file = first.engine_type == "sqlite"
        await other.add("before")
        async with first.transaction("thing:slow"):
            await one.outbox.add("thing", "slow", "changed", State("slow"))
            if not is_file:
                await other.add("fast")
                await other.add("fast")
                await other.place()
            seen = await other.seen()
        assert seen == [(1, "before", 1)] if is_file else [(1, "before", 1), (2, "fast", 1), (3, "fast", 2)]
        await other.place()
        assert await one.seen() == [*seen, (len(seen) + 1, "slow", 1)]


async def test_two_replicas_number_each_event_once(location: Location) -> None:
    async with opened(location) as first, opened(location) as second:
        is_file = first.engine_type == "sqlite"
        replicas = [Producer(first), Producer(first if is_file else second)]

        async def work(producer: Producer, name: str) -> None:
            for _ in range(20):
                await producer.add(name)
                await producer.add("shared")
                await producer.place()

        await asyncio.gather(*(work(replicas[n % 2], f"own{n}") for n in range(4)))
        await replicas[0].place()
        seen = await replicas[1].seen()
        assert [position for position, _, _ in seen] == list(range(1, 161))
        for name, count in (("own0", 20), ("own3", 20), ("shared", 80)):
            assert [sequence for _, each, sequence in seen if each == name] == list(range(1, count + 1))


async def test_more_events_than_a_batch(location: Location) -> None:
    async with opened(location) as engine:
        producer = Producer(engine)
        sequencer = Sequencer(engine, producer.store, batch=3)
        heads: list[int] = []
        sequencer.on_advance(lambda head, _: heads.append(head))
        async with engine.transaction("thing:many"):
            for _ in range(7):
                await producer.outbox.add("thing", "many", "changed", State(""))
        await sequencer.run_once()
        assert [sequence for _, _, sequence in await producer.seen()] == [*range(1, 8)]
        assert heads == [7] if engine.commits_in_order else [3, 6, 7]
        assert sequencer.head == 7


async def test_the_task_runs_after_a_commit_and_sees_other_processes(location: Location) -> None:
    async with opened(location) as first, opened(location) as second:
        one, other = Producer(first, None, 0.02), Producer(second)
        seen: list[tuple[int, bool]] = []
        one.parts.sequencer.on_advance(lambda head, is_ours: seen.append((head, is_ours)))
        stopping = Stopping()
        task = asyncio.create_task(one.parts.sequencer.run(stopping))
        await one.add("a")
        await until("the own event", lambda: seen == [(1, True)])
        await other.add("b")
        await other.place()
        await until("the event of the other process", lambda: len(seen) == 2)
        assert seen[1][0] == 2
        stopping.request()
        await task


async def test_a_database_that_fails_is_named_once_and_tried_again(
    location: Location, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(location) as engine:
        producer = Producer(engine)
        tries = 0

        async def head(_: store.OutboxStore) -> int:
            nonlocal tries
            tries += 1
            producer.parts.sequencer.wake()
            if tries < 4:
                raise StorageError("the disk is full")
            return 7

        stopping = Stopping()
        producer.parts.sequencer.on_advance(lambda _head, _is_ours: stopping.request())
        with patch.object(store.OutboxStore, "head", head), caplog.at_level(logging.WARNING):
            await producer.parts.sequencer.run(stopping)
        assert [record.message for record in caplog.records] == ["cannot give positions to events"]
        assert tries == 5  # and once more at the end


async def test_a_row_in_the_outbox_keeps_its_position(producer: Producer) -> None:
    engine: ServiceEngine = producer.engine
    await producer.add("a")
    await producer.place()
    before = await engine.fetch(ROWS)
    await producer.place()
    assert await engine.fetch(ROWS) == before


async def test_the_last_commits_get_positions_when_the_process_stops(location: Location) -> None:
    async with opened(location) as engine:
        producer, stopping = Producer(engine, None, 3600.0), Stopping()
        task = asyncio.create_task(producer.parts.sequencer.run(stopping))
        await producer.add("a")
        stopping.request()
        await task
        assert await producer.seen() == [(1, "a", 1)]
