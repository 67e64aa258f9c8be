"""Background task: repeat one piece of work."""

import logging
from collections.abc import Awaitable, Callable

from cloud.tasks.stopping import BackgroundTask, Stopping

log = logging.getLogger("cascade.tasks")


def every(
    seconds: float, name: str, work: Callable[[], Awaitable[object]], outlives: tuple[type[Exception], ...] = ()
) -> BackgroundTask:
    """Make a background task that waits `seconds`, does `work`, and repeats both until the process stops.

    The task logs exceptions of the types `outlives` and continues. Any other exception ends the task. `name` is the
    task's name in logs.
    """

    async def repeat(stopping: Stopping) -> None:
        while not await stopping.sleep(seconds):
            try:
                await work()
            except outlives as error:
                log.error("background work failed", extra={"work": name, "error": str(error)})

    repeat.__name__ = name
    return repeat
