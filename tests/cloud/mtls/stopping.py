"""A stop signal that lets a background task run a number of rounds without waiting."""

import asyncio

from cloud.tasks.stopping import Stopping


class StopAfter(Stopping):
    """Ends each wait of the task at once, and stops the task after `waits` waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits = waits
        self.asked: list[float] = []
        self.wanted: list[bool] = []

    async def first(self, event: asyncio.Event | None, seconds: float | None = None) -> bool:
        assert seconds is not None, "the renewal waits with a bound"
        self.asked.append(seconds)
        self.wanted.append(event is not None and event.is_set())
        self.waits -= 1
        return self.waits < 0
