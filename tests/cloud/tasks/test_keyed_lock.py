"""`cloud.tasks.keyed_lock`: each key has one holder at a time."""

import asyncio

import pytest

from cloud.tasks.keyed_lock import KeyedLock


async def test_a_key_has_one_holder_at_a_time_and_other_keys_do_not_wait() -> None:
    lock: KeyedLock[str] = KeyedLock()
    inside: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    async def hold(key: str) -> None:
        async with lock.holding(key):
            inside[key] += 1
            most[key] = max(most[key], inside[key])
            assert len(lock) <= 2
            await asyncio.sleep(0)
            inside[key] -= 1

    async with lock.holding("a"), asyncio.timeout(5):
        await hold("b")
    async with asyncio.timeout(5):
        await asyncio.gather(*(hold(key) for key in "ab" * 20))
    assert most == {"a": 1, "b": 1}


async def test_a_key_without_a_holder_takes_no_memory() -> None:
    lock: KeyedLock[str] = KeyedLock()
    with pytest.raises(ValueError, match="a fault"):
        async with lock.holding("a"):
            raise ValueError("a fault")
    assert len(lock) == 0
    async with lock.holding("a"):
        assert len(lock) == 1


async def test_a_cancelled_waiter_delays_no_other() -> None:
    lock: KeyedLock[str] = KeyedLock()

    async def hold() -> None:
        async with lock.holding("a"):
            pass

    async with lock.holding("a"):
        waiting = [asyncio.create_task(hold()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await waiting[1]
    assert waiting[0].cancelled()
    assert len(lock) == 0
