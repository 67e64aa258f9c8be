"""Pure functions: token buckets by key, for limits that a process keeps in memory.

A bucket holds `burst` permits and gets one more every `seconds`. A request takes permits from a chain of buckets: of
its caller first, then of the caller's tenant, then of the whole service. Rule: a caller or tenant that has used more
than half of its own bucket may use only half of the buckets further up. So callers that use much leave the other half,
and all that comes in again, to callers that use little. Time is an argument, in seconds of any clock.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

import msgspec

KEYS_MAX = 50_000
"""Keys of one table, in about 10 MB."""
_ROUNDING = 1e-6
"""Seconds by which rounding may change a time. A shorter wait is no wait."""


class Rate(msgspec.Struct, frozen=True):
    """A bucket's size, and the seconds after which it gets one more permit."""

    burst: int
    seconds: float

    def times(self, factor: float) -> "Rate":
        """Return a rate that gives `factor` times as many permits."""
        return self if factor == 1.0 else Rate(int(self.burst * factor), self.seconds / factor)

    @property
    def half(self) -> "Rate":
        """The rate that gives half as many permits."""
        return Rate(self.burst // 2, self.seconds * 2)

    def within(self, seconds: float) -> float:
        """Return the most permits that a bucket of this rate gives in any period of this length."""
        return self.burst + seconds / self.seconds


class Buckets:
    """The buckets of one level, by key. They begin full.

    The table keeps the `keys_max` keys that were used last. A bucket that the table forgets is full again. A clock that
    was set back by more than the time to fill a bucket fills it.
    """

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        """The time at which a bucket is full again if nothing is taken. The key that was used last is at the end."""

    def __len__(self) -> int:
        return len(self._full_at)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._full_at

    def used(self, key: Hashable, rate: Rate, now: float) -> float:
        """Return how many permits are missing in the bucket, from 0 to the rate's burst."""
        until_full = self._full_at.get(key, now) - now
        if until_full <= 0 or until_full > rate.burst * rate.seconds + _ROUNDING:
            return 0.0
        return min(until_full / rate.seconds, float(rate.burst))

    def wait(self, key: Hashable, rate: Rate, now: float, kept: float = 0.0) -> float:
        """Return the seconds until one permit can be taken and `kept` stay. It is zero if it can be taken now."""
        seconds = (self.used(key, rate, now) + 1 + kept - rate.burst) * rate.seconds
        return seconds if seconds > _ROUNDING else 0.0

    def catch_up(self, key: Hashable, rate: Rate, taken_at: Iterable[float], now: float) -> None:
        """Take the permits that were taken at these times, in order, unless they are counted already.

        The times come from rows that each permit leaves. So a restart or another replica gives a key nothing more.
        """
        recorded = Buckets()
        for at in taken_at:
            recorded.take(key, rate, at)
        missing = recorded.used(key, rate, now) - self.used(key, rate, now)
        if missing > 0:
            self.take(key, rate, now, missing)

    def take(self, key: Hashable, rate: Rate, now: float, permits: float = 1.0) -> None:
        """Take permits, at most as many as there are."""
        used = min(self.used(key, rate, now) + permits, float(rate.burst))
        self._full_at[key] = now + used * rate.seconds
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._keys_max:
            self._full_at.popitem(last=False)


class Level(msgspec.Struct, frozen=True):
    """One bucket of a chain: its table, its key and its rate."""

    buckets: Buckets
    key: Hashable
    rate: Rate


def admit(levels: Sequence[Level], now: float) -> float:
    """Take one permit from every level, or nothing. Return 0 if it was taken, otherwise the seconds to wait.

    The first level is the caller's own bucket.
    """
    modest, wait = True, 0.0
    for level in levels:
        kept = 0.0 if modest else level.rate.burst / 2
        wait = max(wait, level.buckets.wait(level.key, level.rate, now, kept))
        used = level.buckets.used(level.key, level.rate, now)
        modest = modest and used + 1 <= max(1.0, level.rate.burst / 2)
    if wait > 0:
        return wait
    for level in levels:
        level.buckets.take(level.key, level.rate, now)
    return 0.0
