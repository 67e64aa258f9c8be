"""Queries on the services' certificates that must not be believed, as heard from Breakwater."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cloud.contracts.breakwater import RevokedSerial
from cloud.storage import ServiceEngine, Statement
from protocol.faults import fault_point

_ALL = Statement("SELECT serial, feed, not_after FROM revoked_service ORDER BY not_after DESC LIMIT 100000")
_ADD = Statement(
    "INSERT INTO revoked_service (serial, feed, not_after) VALUES ({}, {}, {}) "
    "ON CONFLICT (serial) DO UPDATE SET feed = excluded.feed"
)
_FORGET = Statement("DELETE FROM revoked_service WHERE not_after <= {}")


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
                    await self._engine.fetch(_ADD, entry.serial, entry.feed, entry.not_after)

    async def forget(self, now: datetime) -> None:
        """Drop what has expired."""
        with fault_point("fabric.revoked.forget"):
            await self._engine.fetch(_FORGET, now)
