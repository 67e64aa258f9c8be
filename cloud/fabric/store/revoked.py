"""Store: revoked certificates of services, as Breakwater's feed reported them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cloud.contracts.breakwater import RevokedSerial
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
        """Every serial that is kept; those that live longest first, should there be more than any cloud has."""
        return [msgspec.convert(row, RevokedSerial) for row in await self._engine.fetch(_ALL)]

    async def add(self, entries: Sequence[RevokedSerial]) -> None:
        """Keep entries; one that is there already is no harm."""
        with fault_point("fabric.revoked.store"):
            async with self._engine.transaction():
                for entry in entries:
                    await self._engine.fetch(_ADD, serial=entry.serial, feed=entry.feed, not_after=entry.not_after)

    async def forget(self, now: datetime) -> None:
        """Drop what has expired."""
        with fault_point("fabric.revoked.forget"):
            await self._engine.fetch(_FORGET, now=now)
