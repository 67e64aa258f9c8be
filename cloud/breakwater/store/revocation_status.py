"""Store: what is revoked: the status of one serial, and the feed of services' serials. It writes nothing.

A place in the feed is drawn under its counter's lock, so a reader who has read up to a place misses none before it.
"""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.tables import Counter, IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, param

FEED_PAGE = 500
"""Entries of one answer: 60 kB."""


class SerialStatus(msgspec.Struct, frozen=True):
    """What is on record of a serial. Without a shard nothing is ever said of it (sessions, responders)."""

    state: Literal["recorded", "issued", "revoked", "orphaned"]
    authority: str
    shard: str
    revoked_at: datetime | None
    reason: int


class FeedRow(msgspec.Struct, frozen=True):
    """A revoked certificate of a service, at its place in the feed. `serial` is hex."""

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
    """The queries over one engine."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def status(self, serial: str) -> SerialStatus | None:
        """What is on record of a serial; None for one that was never drawn here."""
        return _STATUS_OF.read_one(await self._engine.fetch_one(_STATUS, serial=serial))

    async def feed(self, after: int, now: datetime) -> tuple[FeedRow, ...]:
        """The next entries after a place that have not expired, at most `FEED_PAGE`."""
        return tuple(_FEED_ROW.read(row) for row in await self._engine.fetch(_FEED, after=after, now=now))

    async def head(self) -> int:
        """The newest place of the feed."""
        row = await self._engine.fetch_one(_HEAD)
        return 0 if row is None else int(row["value"])
