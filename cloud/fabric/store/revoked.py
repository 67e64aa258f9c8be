"""Queries on the services' certificates that must not be believed, as heard from Breakwater."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from cloud.contracts.breakwater import RevokedSerial
from cloud.fabric.tables import ENGINE
from cloud.storage import Statement
from protocol.faults import fault_point

_ALL = Statement("SELECT serial, feed, not_after FROM revoked_service ORDER BY not_after DESC LIMIT 100000")
_ADD = Statement(
    "INSERT INTO revoked_service (serial, feed, not_after) VALUES ({}, {}, {}) "
    "ON CONFLICT (serial) DO UPDATE SET feed = excluded.feed"
)
_FORGET = Statement("DELETE FROM revoked_service WHERE not_after <= {}")


async def read_all() -> list[RevokedSerial]:
    """Every serial that is kept; those that live longest first, should there be more than any cloud has."""
    return [msgspec.convert(row, RevokedSerial) for row in await ENGINE.fetch(_ALL)]


async def add(entries: Sequence[RevokedSerial]) -> None:
    """Keep entries; one that is there already is no harm."""
    with fault_point("fabric.revoked.store"):
        async with ENGINE.transaction():
            for entry in entries:
                await ENGINE.fetch(_ADD, entry.serial, entry.feed, entry.not_after)


async def forget(now: datetime) -> None:
    """Drop what has expired."""
    with fault_point("fabric.revoked.forget"):
        await ENGINE.fetch(_FORGET, now)
