"""Adapter: runs work that may wait for the disk in a worker thread, so that the agent's loop never waits for a disk.

A disk that is frozen, slow or away makes a system call last for ever. The loop that answers the socket and the signals
must not make such a call. Work runs one piece at a time, in the order in which it was asked for.
"""

from collections.abc import Callable
from typing import TypeVar

import trio
from trio.lowlevel import RunVar

T = TypeVar("T")

_limiter: RunVar[trio.CapacityLimiter | None] = RunVar("disk_limiter", default=None)


async def on_disk(work: Callable[[], T]) -> T:
    """Do `work` in a worker thread and return its result, or raise its error.

    The thread's limiter is of the disk alone, so a frozen disk takes no thread from the TPM or the network. On
    cancellation `on_disk` returns at once, and the work ends by itself: it must be harmless when its result is dropped.
    """
    limiter = _limiter.get()
    if limiter is None:
        limiter = trio.CapacityLimiter(1)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
