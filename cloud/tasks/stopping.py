"""Building block of background tasks: the stop signal of a process, and waits that end with it."""

import asyncio
from collections.abc import Awaitable, Callable

BackgroundTask = Callable[["Stopping"], Awaitable[None]]
"""What a service does by itself while the process runs. It ends when the process goes down, and never before."""


class Stopping:
    """The stop signal of one process. Background tasks and long polls wait for it beside their own event."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        """Whether the process is going down."""
        return self._event.is_set()

    def request(self) -> None:
        """Have the process go down. A repeat is harmless."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until the process goes down."""
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Sleep, but no longer than the process lives. True if it is going down."""
        return await self.first(None, seconds)

    async def first(self, event: asyncio.Event | None, seconds: float) -> bool:
        """Wait for `event`, the end of the process or the time, whichever is first. True if it is going down."""
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
        """Await `work`, but cancel it when the process goes down. True if it was cancelled. Raises what `work` raises."""
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
