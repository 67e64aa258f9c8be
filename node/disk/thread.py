"""Adapter: runs work that may wait for the disk in a worker thread, so that the agent's loop never waits for a disk.

A disk that is frozen, slow or away makes a system call last for ever. The loop that answers the socket and the signals
must not make such a call. Work runs one piece at a time, in the order in which it was asked for.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import trio
from trio.lowlevel import RunVar

from node.errors import NodeError
from node.exits import Exit

T = TypeVar("T")

_limiter: RunVar[trio.CapacityLimiter | None] = RunVar("disk_limiter", default=None)

DISK_SECONDS_MAX = 10.0
"""How long a contact with the cloud waits for one piece of disk work: half of the settling time. A disk that spins up,
or an SD card that is busy, takes some seconds."""


class DiskSilent(NodeError):
    """The disk of the state directory has not finished a piece of work in time. The work may still finish."""

    exit = Exit.TRY_AGAIN
    code = "disk_silent"
    next = "Check the disk and the mount of the state directory. A running agent goes on in memory and tries again."

    def __init__(self, seconds: float) -> None:
        super().__init__(f"cannot use the state directory: its disk did not answer within {seconds:g} s")


async def on_disk(work: Callable[[], T], *, seconds_max: float = math.inf) -> T:
    """Do `work` in a worker thread and return its result, or raise its error. Raises DiskSilent after `seconds_max`.

    Only disk work uses the limiter of these threads, so a frozen disk takes no thread from the TPM or the network. On
    cancellation, or after `seconds_max`, `on_disk` returns at once, and the work ends by itself: it must be harmless
    when its result is dropped.
    """
    limiter = _limiter.get()
    if limiter is None:
        limiter = trio.CapacityLimiter(1)
        _limiter.set(limiter)
    with trio.move_on_after(seconds_max):
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
    raise DiskSilent(seconds_max)
