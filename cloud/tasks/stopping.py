"""Process state: the stop signal of a process, and waits that end with it."""

import asyncio
from collections.abc import Awaitable, Callable

BackgroundTask = Callable[["Stopping"], Awaitable[None]]
"""Work that a service does without a request. The task ends when the process stops, and not before."""


class Stopping:
    """The stop signal of one process. Background tasks and long polls wait for it together with their own event."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        """Whether the process is stopping."""
        return self._event.is_set()

    def request(self) -> None:
        """Stop the process. Repeated calls have no effect."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the process stops."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Sleep for `seconds`, or until the process stops. Return True if it is stopping."""
        return await self.first(None, seconds)

    async def first(self, event: asyncio.Event | None, seconds: float | None = None) -> bool:
        """Wait for `event`, the stop of the process, or `seconds` (None: any time), whichever comes first.

        Return True if it is stopping.
        """
        waits = [asyncio.ensure_future(self._event.wait())]
        if event is not None:
            waits.append(asyncio.ensure_future(event.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._event.is_set()

    async def cancels(self, work: Awaitable[object]) -> bool:
        """Await `work`, but cancel it when the process stops. Return True if it was cancelled.

        Raises the exceptions of `work`.
        """
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return False
            return True
        finally:
            stop.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
