"""Process state: the set of revoked service certificates, which is read at every request.

The certificates come from Breakwater's events (`cloud.events.follower`). The service's own database stores them, so that
a restarted service refuses revoked peers before Breakwater answers. An entry stays until its certificate has expired,
whatever Breakwater says later.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta

import msgspec

PRUNE_SECONDS = 3600.0
"""Seconds between two removals of expired entries."""
KEPT_AFTER = timedelta(days=30)
"""How long an entry stays after the end of its certificate. The clock of this process may be ahead, but by less than the
life of a service certificate (seven days), or it would not accept Breakwater's. So no valid certificate is forgotten."""


class RevokedCertificate(msgspec.Struct, frozen=True):
    """A revoked certificate: its serial in hex, and its end."""

    serial: str
    not_after: datetime


class RevokedSet:
    """The set of revoked service certificates.

    `load` returns the stored entries. `forget` deletes those that have expired at a time.
    """

    def __init__(
        self,
        *,
        load: Callable[[], Awaitable[Iterable[RevokedCertificate]]],
        forget: Callable[[datetime], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._load = load
        self._forget = forget
        self._now = now
        self._ends: dict[int, datetime] = {}

    def __contains__(self, serial: int) -> bool:
        return serial in self._ends

    def __len__(self) -> int:
        return len(self._ends)

    async def load(self) -> None:
        """Add the stored entries. Called before the service listens. Raises StorageError."""
        for entry in await self._load():
            self.add(entry)

    def add(self, entry: RevokedCertificate) -> None:
        """Add an entry. It takes effect at once. Raises ValueError if the serial is not hexadecimal."""
        self._ends[int(entry.serial, 16)] = entry.not_after.astimezone(UTC)

    async def prune(self) -> None:
        """Remove entries that expired `KEPT_AFTER` ago. Raises StorageError."""
        before = self._now() - KEPT_AFTER
        self._ends = {serial: end for serial, end in self._ends.items() if end > before}
        await self._forget(before)
