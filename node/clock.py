"""The node's clocks. The only file of the node that reads one; everything else takes a time or a callable."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""What is handed to everything that needs the time."""


def utc_now() -> datetime:
    """The wall clock, aware. It may be wrong, and may step: judge leases by `node.licensing.verdict`, not by it."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds since some start, never backwards; does not count while the machine sleeps."""
    return time.monotonic()
