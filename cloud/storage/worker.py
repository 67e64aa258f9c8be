"""Process state: the thread that waits for the disk, and a wait that a cancellation cannot interrupt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(outcome: asyncio.Future[T]) -> T:
    """Wait for the outcome and return it, even if this task is cancelled meanwhile.

    A cancellation is raised afterwards.
    """
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.shield(outcome)
        except asyncio.CancelledError as caught:
            cancelled = caught
        except BaseException:  # noqa: BLE001  it is the outcome, and is raised below
            break
    if cancelled is not None:
        raise cancelled from outcome.exception()
    return outcome.result()


class Job:
    """A call for the worker's thread, with its result and the function that takes it in the event loop."""

    __slots__ = ("call", "error", "result", "then")

    def __init__(self, call: Callable[[], Any], then: Callable[[Any, BaseException | None], None]) -> None:
        self.call = call
        self.then = then
        self.result: Any = None
        self.error: BaseException | None = None

    def answer(self) -> None:
        """Pass the result on. Runs in the event loop."""
        self.then(self.result, self.error)


class Worker:
    """One thread that runs calls in order and passes their results to the event loop.

    It costs half as much as an executor.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.result = job.call()
            except BaseException as error:  # noqa: BLE001  the task that waits for it handles it
                job.error = error
            self._loop.call_soon_threadsafe(job.answer)
            del job

    def submit(self, call: Callable[[], T], then: Callable[[T, BaseException | None], None]) -> None:
        """Run `call` in the thread, then `then` in the event loop. No task owns the call, so none can cancel it."""
        self._jobs.put(Job(call, then))

    async def settle(self, call: Callable[[], T]) -> T:
        """Run `call` to its end, even if this task is cancelled meanwhile. A cancellation is raised afterwards."""
        outcome: asyncio.Future[T] = self._loop.create_future()

        def then(result: T, error: BaseException | None) -> None:
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        self.submit(call, then)
        return await settled(outcome)

    def stop(self) -> None:
        """End the thread after the queued calls."""
        self._jobs.put(None)
        self._thread.join()
