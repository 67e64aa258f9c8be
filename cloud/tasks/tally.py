"""Pure: counts of events by key, each within a period of its own. For bounds per caller that a process keeps in memory.

It refuses nothing: whoever counts compares the count with a bound. Losing it at a restart gives every key a new period.
"""

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K", bound=Hashable)


class Counted(msgspec.Struct, frozen=True):
    """How many events of a key there were since its period began."""

    since: datetime
    count: int


class Tally(Generic[K]):
    """Counts events. The period of a key begins with the key's first event, and the count ends with the period.

    It has room for `keys_max` keys. `add` counts beyond that; `has_room` says whether a key would be one too many.
    A period that would begin in the future is over: the clock has been set back.
    """

    def __init__(self, period: timedelta, keys_max: int) -> None:
        self._period = period
        self._keys_max = keys_max
        self._counts: OrderedDict[K, Counted] = OrderedDict()
        """By the beginning of the period, so that the first key is the first to end."""

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: K, now: datetime) -> int:
        """The events of the running period."""
        counted = self._running(key, now)
        return 0 if counted is None else counted.count

    def add(self, key: K, now: datetime) -> int:
        """Count an event; returns how many there are in the running period, this one included."""
        counted = self._running(key, now)
        if counted is None:
            self._counts.pop(key, None)
            counted = Counted(now, 0)
        self._counts[key] = Counted(counted.since, counted.count + 1)
        return counted.count + 1

    def time_left(self, key: K, now: datetime) -> timedelta:
        """Until the running period of the key ends; zero if none is running."""
        counted = self._running(key, now)
        return timedelta(0) if counted is None else counted.since + self._period - now

    def has_room(self, key: K) -> bool:
        """Whether the key is counted already, or there is room for it; `end_all` makes room."""
        return key in self._counts or len(self._counts) < self._keys_max

    def time_until_room(self, now: datetime) -> timedelta:
        """Until `end_all` makes room for one more key; zero if there is room."""
        if len(self._counts) < self._keys_max:
            return timedelta(0)
        return self.time_left(next(iter(self._counts)), now)

    def end(self, key: K, now: datetime | None = None) -> Counted | None:
        """Drop the key if its period is over, or in any case without `now`; returns what was dropped."""
        counted = self._counts.get(key)
        if counted is None or (now is not None and self._runs(counted, now)):
            return None
        return self._counts.pop(key)

    def end_all(self, now: datetime | None = None) -> list[tuple[K, Counted]]:
        """Drop the keys whose period is over, or all without `now`; returns what was dropped."""
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
