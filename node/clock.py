"""Adapter: the node's clocks. No other module of the node reads a clock; each takes a time or a callable."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Seconds = Callable[[], float]
"""A callable that returns seconds since an arbitrary start."""
Clock = Callable[[], datetime]
"""A callable that returns the time now, aware."""


def utc_now() -> datetime:
    """The wall clock's time in UTC, aware. The clock may be wrong, and may step.

    Leases and certificates are judged at trusted time (`node.licensing.trusted_time`), which allows for a wrong clock.
    """
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds since the boot, without the time asleep (CLOCK_MONOTONIC). The value never falls."""
    return time.monotonic()


def asleep_seconds() -> float:
    """Seconds for which the machine has slept since its boot.

    The value is the difference of CLOCK_BOOTTIME and CLOCK_MONOTONIC (clock_gettime(2)). Between two sleeps it varies
    by some microseconds, because the two clocks are read one after the other.
    """
    boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot - time.clock_gettime(time.CLOCK_MONOTONIC)
