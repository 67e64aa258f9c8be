"""The stop signal of a process, and the waits that end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

BackgroundTask = Callable[["Stopping"], Awaitable[None]]


class Stopping:
    """The word that the process is going down; background tasks and long polls wait for it beside their own event."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Say it; more than once is harmless."""
        self._event.set()

    async def wait(self) -> None:
        """Until it is said."""
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
