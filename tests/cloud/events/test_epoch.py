"""`cloud.events.epoch`: the epoch begins once, and a restore raises it, also with a clock that is behind."""

from datetime import timedelta

from cloud.events.epoch import raise_epoch, state_of
from tests.cloud.events.support import START, Producer


async def test_the_epoch_of_a_new_database_is_its_time(producer: Producer) -> None:
    milliseconds = int(START.timestamp() * 1000)
    assert (await state_of(producer.store, START)).epoch == milliseconds
    assert (await state_of(producer.store, START + timedelta(days=1))).epoch == milliseconds


async def test_a_restore_raises_the_epoch(producer: Producer) -> None:
    first = (await state_of(producer.store, START)).epoch
    await raise_epoch(producer.engine, START + timedelta(hours=1))
    assert (await state_of(producer.store, START)).epoch == first + 3_600_000
    await raise_epoch(producer.engine, START)
    assert (await state_of(producer.store, START)).epoch == first + 3_600_001


async def test_a_restore_of_a_database_without_events_gives_an_epoch(producer: Producer) -> None:
    await raise_epoch(producer.engine, START)
    assert (await state_of(producer.store, START + timedelta(days=1))).epoch == int(START.timestamp() * 1000)


async def test_events_of_a_backup_without_positions_get_theirs_before_later_ones(producer: Producer) -> None:
    """A backup of PostgreSQL can have such events, and SQLite gives positions at the insert."""
    for name in "aba":
        await producer.add(name)
    await producer.forget_positions()
    await raise_epoch(producer.engine, START)
    await producer.add("a")
    assert await producer.seen() == []
    await producer.place()
    await producer.add("a")
    await producer.place()
    assert await producer.seen() == [(1, "a", 1), (2, "b", 1), (3, "a", 2), (4, "a", 3), (5, "a", 4)]
