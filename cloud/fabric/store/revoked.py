"""Store: revoked certificates of services, as Breakwater's feed reported them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cloud.contracts.breakwater import RevokedSerial
from cloud.fabric.store.keys import REVOKED
from cloud.fabric.tables import RevokedService
from cloud.storage import ServiceEngine, compiled, insert_into, param
from protocol.faults import fault_point

_ALL = compiled(RevokedService.select().order_by(RevokedService.not_after, ascending=False).limit(100_000))
_ADD = compiled(
    insert_into(RevokedService).on_conflict(
        target=RevokedService.serial, action="DO UPDATE", values=[RevokedService.feed]
    )
)
_FORGET = compiled(RevokedService.delete().where(RevokedService.not_after <= param("now")))


class RevokedStore:
    """The revoked certificates of services."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def read_all(self) -> list[RevokedSerial]:
        """All stored serials, those that expire last first. At most 100,000, more than any cloud has."""
        return [msgspec.convert(row, RevokedSerial) for row in await self._engine.fetch(_ALL)]

    async def add(self, entries: Sequence[RevokedSerial]) -> None:
        """Store entries. An entry that is stored already gets the new feed position."""
        with fault_point("fabric.revoked.store"):
            async with self._engine.transaction(REVOKED):
                for entry in entries:
                    await self._engine.fetch(_ADD, serial=entry.serial, feed=entry.feed, not_after=entry.not_after)

    async def forget(self, now: datetime) -> None:
        """Delete the entries of certificates that have expired at `now`."""
        with fault_point("fabric.revoked.forget"):
            await self._engine.fetch(_FORGET, now=now)
