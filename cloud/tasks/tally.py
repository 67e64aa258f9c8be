"""Pure functions: count events by key and period, for limits per caller that a process keeps in memory.

The module refuses nothing: its callers compare the counts with their limits. After a restart of the process, every key
begins a new period.
"""

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)


class Counted(msgspec.Struct, frozen=True):
    """The number of events of a key since its period began."""

    since: datetime
    count: int


class Tally(Generic[K]):
    """Counts events by key. The period of a key begins with its first event. The count ends with the period.

    There is room for `keys_max` keys. `add` counts beyond that; callers ask `has_room` first. If the clock is set back
    to before the beginning of a period, the period is over.
    """

    def __init__(self, period: timedelta, keys_max: int) -> None:
        self._period = period
        self._keys_max = keys_max
        self._counts: OrderedDict[K, Counted] = OrderedDict()
        """In the order in which the periods began, so that the first key's period ends first."""

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: K, now: datetime) -> int:
        """Return the number of events of the key in its current period."""
        counted = self._running(key, now)
        return 0 if counted is None else counted.count

    def add(self, key: K, now: datetime) -> int:
        """Count an event, and return the number of events in the key's current period, including this event."""
        counted = self._running(key, now)
        if counted is None:
            self._counts.pop(key, None)
            counted = Counted(now, 0)
        self._counts[key] = Counted(counted.since, counted.count + 1)
        return counted.count + 1

    def time_left(self, key: K, now: datetime) -> timedelta:
        """Return the time until the key's current period ends. It is zero if the key has no current period."""
        counted = self._running(key, now)
        return timedelta(0) if counted is None else counted.since + self._period - now

    def has_room(self, key: K) -> bool:
        """Return True if the key is counted already, or if there is room for it. `end_all` makes room."""
        return key in self._counts or len(self._counts) < self._keys_max

    def end(self, key: K, now: datetime | None = None) -> Counted | None:
        """Remove the key if its period is over, and return its count. Without `now`, remove it in any case.

        Returns None if no key was removed.
        """
        counted = self._counts.get(key)
        if counted is None or (now is not None and self._runs(counted, now)):
            return None
        return self._counts.pop(key)

    def end_all(self, now: datetime | None = None) -> list[tuple[K, Counted]]:
        """Remove the keys whose period is over, and return their counts. Without `now`, remove all keys."""
        ended: list[tuple[K, Counted]] = []
        while self._counts:
            key = next(iter(self._counts))
            counted = self.end(key, now)
            if counted is None:
                break
            ended.append((key, counted))
        return ended

    def _running(self, key: K, now: datetime) -> Counted | None:
        counted = self._counts.get(key)
        return counted if counted is not None and self._runs(counted, now) else None

    def _runs(self, counted: Counted, now: datetime) -> bool:
        return counted.since <= now < counted.since + self._period
