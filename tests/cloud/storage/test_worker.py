"""The worker thread: calls run in order, results return to the loop, and a cancellation interrupts no call."""

import asyncio
import threading

import pytest

from cloud.storage.worker import Worker, settled


async def test_calls_run_in_order_in_one_thread_and_end_in_the_loop() -> None:
    worker, ends, threads = Worker("test"), list[int](), set[int]()
    all_ended = asyncio.Event()

    def call(number: int) -> int:
        threads.add(threading.get_ident())
        return number

    def then(result: int, error: BaseException | None) -> None:
        assert error is None
        assert threading.get_ident() not in threads
        ends.append(result)
        if len(ends) == 5:
            all_ended.set()

    for number in range(5):
        worker.submit(lambda number=number: call(number), then)  # type: ignore[misc]  # binds the number now
    await all_ended.wait()
    worker.stop()
    assert ends == [0, 1, 2, 3, 4]
    assert len(threads) == 1


async def test_an_error_is_raised_where_its_call_is_waited_for() -> None:
    worker = Worker("test")

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await worker.settle(fail)
    assert await worker.settle(lambda: "next") == "next"
    worker.stop()


async def test_a_cancelled_task_ends_after_its_call() -> None:
    worker, begun, may_end = Worker("test"), threading.Event(), threading.Event()
    done: list[str] = []

    def call() -> None:
        begun.set()
        may_end.wait(10)
        done.append("call")

    task = asyncio.create_task(worker.settle(call))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["call"]
    worker.stop()


async def test_a_cancellation_carries_the_error_that_it_met() -> None:
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(settled(outcome))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    outcome.set_exception(OSError("full"))
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_stopped_worker_has_run_what_was_queued() -> None:
    worker, done = Worker("test"), list[int]()
    for number in range(3):
        worker.submit(lambda number=number: done.append(number), lambda *_: None)  # type: ignore[misc]  # as above
    await asyncio.to_thread(worker.stop)
    assert done == [0, 1, 2]
