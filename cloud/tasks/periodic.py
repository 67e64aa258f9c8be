"""Background tasks that do one piece of work again and again."""

import logging
from collections.abc import Awaitable, Callable

from cloud.tasks.stopping import BackgroundTask, Stopping

log = logging.getLogger("cascade.tasks")


def every(
    seconds: float, name: str, work: Callable[[], Awaitable[object]], outlives: tuple[type[Exception], ...] = ()
) -> BackgroundTask:
    """A background task that waits `seconds`, does `work`, and so on until the process goes down.

    It logs the exceptions in `outlives`, and does the work again at its next time. Any other exception ends the task.
    """

    async def repeat(stopping: Stopping) -> None:
        while not await stopping.sleep(seconds):
            try:
                await work()
            except outlives as error:
                log.error("background work failed", extra={"work": name, "error": str(error)})

    repeat.__name__ = name
    return repeat
