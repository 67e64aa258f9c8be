"""Disk work in a worker thread: the loop goes on meanwhile, pieces run in order, a frozen piece can be abandoned."""

import threading

import pytest
import trio
import trio.testing

from node.disk.thread import DiskSilent, on_disk


async def test_the_result_and_the_error_of_the_work_come_back() -> None:
    assert await on_disk(lambda: 7) == 7
    with pytest.raises(OSError, match="gone"):
        await on_disk(_fails)


def _fails() -> None:
    raise OSError("gone")


async def test_the_loop_goes_on_while_the_disk_is_frozen(nursery: trio.Nursery) -> None:
    thawed = threading.Event()
    done: list[str] = []

    def first() -> None:
        thawed.wait(10)
        done.append("first")

    nursery.start_soon(on_disk, first)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(on_disk, lambda: done.append("second"))
    await trio.testing.wait_all_tasks_blocked()
    assert done == []
    thawed.set()
    await on_disk(lambda: done.append("third"))
    assert done[0] == "first"
    assert set(done) == {"first", "second", "third"}


async def test_frozen_work_is_abandoned_on_cancellation() -> None:
    thawed = threading.Event()
    try:
        with trio.move_on_after(0.01) as scope:
            await on_disk(lambda: thawed.wait(10))
        assert scope.cancelled_caught
    finally:
        thawed.set()


async def test_work_that_takes_too_long_is_reported_and_may_still_finish() -> None:
    thawed = threading.Event()
    done = threading.Event()

    def slow() -> None:
        thawed.wait(10)
        done.set()

    with pytest.raises(DiskSilent, match=r"within 0\.01 s"):
        await on_disk(slow, seconds_max=0.01)
    # The next piece waits for the frozen piece, and has its own bound.
    with pytest.raises(DiskSilent):
        await on_disk(lambda: None, seconds_max=0.01)
    thawed.set()
    assert await on_disk(done.is_set, seconds_max=10)
