"""Adapter: a log with a bound. What a stranger can cause again and again gets one line a kind and period.

A kind is a short text, for example the name of a fault. The first event of a kind is logged at once. The events after
it are counted, and the first line of the next period says how many they were. So a flood is visible, and fills no disk.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.tasks.tally import Tally

PERIOD = timedelta(minutes=1)
KINDS_MAX = 100
"""Kinds that are counted at one time. Further ones count together, as `OTHER`."""
OTHER = "other"


class BoundedLog:
    """Logs warnings, at most one a kind and period."""

    def __init__(self, log: logging.Logger, now: Callable[[], datetime], period: timedelta = PERIOD) -> None:
        self._log = log
        self._now = now
        self._tally = Tally[str](period, KINDS_MAX)

    def warn(self, kind: str, message: str, **extra: object) -> None:
        """Log `message`, unless one of this kind was logged in this period. `left_out` counts those left out before."""
        now = self._now()
        ended = self._tally.end(kind, now)
        if not self._tally.has_room(kind):
            self._tally.end_all(now)
        if not self._tally.has_room(kind):
            kind = OTHER
            ended = self._tally.end(kind, now)
        if self._tally.add(kind, now) == 1:
            left_out = 0 if ended is None else ended.count - 1
            self._log.warning(message, extra={"kind": kind, "left_out": left_out, **extra})
