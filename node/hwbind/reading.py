"""Adapter: reads the fingerprint's components in a thread, with a deadline.

Reads of /sys can last for ever when a disk or a driver hangs. A session needs the TPM's proof, not the fingerprint, and
must reach the cloud. So after the deadline the last complete reading of this process is used, or `UNREAD`, which decides
nothing. At most one thread reads; a stuck one is left behind, and takes no thread from other work.
"""

import logging
from collections.abc import Callable

import trio
from trio.lowlevel import RunVar

from node.hwbind.fingerprint import UNREAD, Components, read_components

log = logging.getLogger("cascadia.hardware")

READ_SECONDS_MAX = 5.0
"""A reading takes some milliseconds. This leaves time for a disk that has to spin up."""


class _Reader:
    """The limiter of the reading thread, and the last complete reading."""

    def __init__(self) -> None:
        self.limiter = trio.CapacityLimiter(1)
        self.last: Components | None = None


_reader: RunVar[_Reader | None] = RunVar("fingerprint_reader", default=None)


async def components_in_time(
    read: Callable[[], Components] | None = None, seconds_max: float = READ_SECONDS_MAX
) -> Components:
    """The components now; after `seconds_max` without an answer of the system, those of the last reading.

    `read` is `read_components` by default.
    """
    reader = _reader.get()
    if reader is None:
        reader = _Reader()
        _reader.set(reader)
    with trio.move_on_after(seconds_max):
        reader.last = await trio.to_thread.run_sync(
            read or read_components, abandon_on_cancel=True, limiter=reader.limiter
        )
        return reader.last
    log.warning("cannot read the hardware's identifiers: the system did not answer within %g s", seconds_max)
    return reader.last or UNREAD
