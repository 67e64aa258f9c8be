"""The queue for keys inside one process: order of arrival, no lost key after a cancellation."""

import asyncio

import pytest

from cloud.storage.key_queue import KeyQueue
from tests.cloud.storage_sample.support import turns


async def test_a_key_is_passed_on_in_the_order_of_arrival() -> None:
    queue, order = KeyQueue(), []

    async def hold(name: str) -> None:
        await queue.take(("a", "b"))
        order.append(name)
        await asyncio.sleep(0)
        queue.give(("a", "b"))

    await queue.take(("a",))
    waiting = [asyncio.create_task(hold(name)) for name in ("first", "second", "third")]
    await turns()
    await queue.take(("c",))  # another key is free
    assert order == []
    queue.give(("a", "c"))
    await asyncio.gather(*waiting)
    assert order == ["first", "second", "third"]
    assert len(queue) == 0


@pytest.mark.parametrize("is_passed", [False, True])
async def test_a_cancelled_waiter_passes_its_keys_on(is_passed: bool) -> None:
    queue = KeyQueue()
    await queue.take(("b",))
    first = asyncio.create_task(queue.take(("a", "b")))
    await turns()
    second = asyncio.create_task(queue.take(("a",)))
    await turns()
    if is_passed:
        queue.give(("b",))  # the first waiter has the key, and has not run since
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    if not is_passed:
        queue.give(("b",))
    queue.give(("a",))
    assert len(queue) == 0
