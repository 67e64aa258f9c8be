"""The stop signal ends waits, unless their own event comes first."""

import asyncio

import pytest

from cloud.tasks.stopping import Stopping


def test_stopping_waits_for_the_first() -> None:
    async def test() -> None:
        stopping, event = Stopping(), asyncio.Event()
        assert not await stopping.sleep(0.01)
        event.set()
        assert not await stopping.first(event, 60)
        stopping.request()
        assert stopping.requested
        assert await stopping.first(asyncio.Event(), 60)
        assert await stopping.sleep(60)

    asyncio.run(test())


async def test_work_is_cancelled_when_the_process_goes_down() -> None:
    stopping, begun, ended = Stopping(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(stopping.cancels(work()))
    await begun.wait()
    stopping.request()
    assert await running
    assert ended.is_set()


async def test_work_that_ends_by_itself() -> None:
    async def fails() -> None:
        raise ValueError("no serial")

    assert not await Stopping().cancels(asyncio.sleep(0))
    with pytest.raises(ValueError, match="no serial"):
        await Stopping().cancels(fails())
