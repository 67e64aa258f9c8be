"""Store: reads the status of one serial, and the revocation feed of services' serials.

Numbers of the feed are assigned under the lock of the feed's counter. So a reader that has read up to a number has
missed no lower number.
"""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.tables import Counter, IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, param

FEED_PAGE = 500
"""Entries in one answer. They have 60 kB."""


class SerialStatus(msgspec.Struct, frozen=True):
    """The recorded status of a serial. `shard` is empty for sessions and responders, which have no public status."""

    state: Literal["recorded", "issued", "revoked", "orphaned"]
    authority: str
    shard: str
    revoked_at: datetime | None
    reason: int


class FeedRow(msgspec.Struct, frozen=True):
    """A revoked certificate of a service. `feed` is its number in the feed, `serial` is hex."""

    feed: int
    serial: str
    not_after: datetime
    reason: int


_STATUS_OF = Mapper(SerialStatus, IssuedCertificate)
_FEED_ROW = Mapper(FeedRow, IssuedCertificate)

_STATUS = compiled(_STATUS_OF.select().where(IssuedCertificate.serial == param("serial")))
_FEED = compiled(
    _FEED_ROW.select()
    .where(IssuedCertificate.feed > param("after"), IssuedCertificate.not_after > param("now"))
    .order_by(IssuedCertificate.feed)
    .limit(FEED_PAGE)
)
_HEAD = compiled(Counter.select(Counter.value).where(Counter.name == "revocation"))


class RevocationStatusStore:
    """The queries of status and feed."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def status(self, serial: str) -> SerialStatus | None:
        """Return the status of a serial (hex); None if there is no record."""
        return _STATUS_OF.read_one(await self._engine.fetch_one(_STATUS, serial=serial))

    async def feed(self, after: int, now: datetime) -> tuple[FeedRow, ...]:
        """Return the first `FEED_PAGE` entries after the number `after` whose certificates end after `now`."""
        return tuple(_FEED_ROW.read(row) for row in await self._engine.fetch(_FEED, after=after, now=now))

    async def head(self) -> int:
        """Return the highest number in the feed; 0 if it is empty."""
        row = await self._engine.fetch_one(_HEAD)
        return 0 if row is None else int(row["value"])
