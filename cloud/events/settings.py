"""Settings: how long a service keeps its events."""

from datetime import timedelta
from typing import Annotated

import msgspec

KEEP_DAYS_MIN = 7
"""A consumer that was away for a weekend and some days misses nothing. After longer it reads the snapshot."""
KEEP_DAYS_MAX = 365


class EventSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `events` of a service's settings. `keep_days` is how long the feed has an event.

    The latest event of each object stays for longer.
    """

    keep_days: Annotated[int, msgspec.Meta(ge=KEEP_DAYS_MIN, le=KEEP_DAYS_MAX)] = KEEP_DAYS_MIN

    @property
    def kept(self) -> timedelta:
        """How long the feed has an event."""
        return timedelta(days=self.keep_days)
