"""Store: what others have revoked: certificates of services, generations of nodes without a row, serials of CRLs.

Breakwater's events report certificates of services. A node that is reconstructed from its certificate and statement is
compared with the closed generations and with the serial numbers of imported CRLs.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from cloud.fabric.tables import ClosedNode, RevokedService
from cloud.fabric.tables import RevokedSerial as ImportedSerial
from cloud.mtls.revoked import RevokedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param
from protocol.faults import fault_point
from protocol.ids import NodeId, TenantId

_REVOKED_OF = Mapper(RevokedCertificate, RevokedService)
_ALL = compiled(_REVOKED_OF.select().order_by(RevokedService.not_after, ascending=False).limit(100_000))
_FORGET = compiled(RevokedService.delete().where(RevokedService.not_after <= param("now")))


class RevokedStore:
    """The revoked certificates of services."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def read_all(self) -> list[RevokedCertificate]:
        """All stored serials, those that expire last first. At most 100,000, more than any cloud has."""
        return [_REVOKED_OF.read(row) for row in await self._engine.fetch(_ALL)]

    async def add(self, entry: RevokedCertificate) -> None:
        """Store an entry in the transaction of its event, unless it is stored already."""
        await self._engine.fetch(_REVOKED_OF.insert_new, **_REVOKED_OF.values(entry))

    async def forget(self, now: datetime) -> None:
        """Delete the entries of certificates that have expired at `now`."""
        with fault_point("fabric.revoked.forget"):
            await self._engine.fetch(_FORGET, now=now)


Source = Literal["breakwater", "import"]


class ClosedRow(msgspec.Struct, frozen=True):
    """Closed generations of a node: all up to `closed_up_to`, and those in `closed`. `source` says who reported them."""

    node: NodeId
    tenant: TenantId
    closed_up_to: int
    closed: tuple[int, ...]
    source: Source
    at: datetime

    def includes(self, generation: int) -> bool:
        """Whether the generation is closed."""
        return generation <= self.closed_up_to or generation in self.closed


_CLOSED = Mapper(ClosedRow, ClosedNode)
_FIND = compiled(_CLOSED.select().where(ClosedNode.node == param("node")))
_SET = compiled(
    insert_into(ClosedNode).on_conflict(
        target=ClosedNode.node,
        action="DO UPDATE",
        values=[ClosedNode.closed_up_to, ClosedNode.closed, ClosedNode.source, ClosedNode.at],
    )
)
_SERIAL = compiled(ImportedSerial.select(ImportedSerial.serial).where(ImportedSerial.serial == param("serial")))
_ANY_SERIAL = compiled(ImportedSerial.select(ImportedSerial.serial).limit(1))
_ADD_SERIAL = compiled(
    insert_into(ImportedSerial)
    .on_conflict(target=ImportedSerial.serial, action="DO NOTHING")
    .returning(ImportedSerial.serial)
)


class ClosedStore:
    """Closed generations of unknown nodes, and serial numbers of revoked certificates."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def find(self, node: NodeId) -> ClosedRow | None:
        """The closed generations of a node; None if none is known."""
        return _CLOSED.read_one(await self._engine.fetch_one(_FIND, node=node))

    async def add(self, row: ClosedRow) -> bool:
        """Add closed generations to those that are known. False if they were known. No generation opens again."""
        known = await self.find(row.node)
        merged = row
        if known is not None:
            merged = msgspec.structs.replace(
                row,
                closed_up_to=max(known.closed_up_to, row.closed_up_to),
                closed=tuple(sorted({*known.closed, *row.closed})),
            )
            if (merged.closed_up_to, merged.closed) == (known.closed_up_to, known.closed):
                return False
        with fault_point("fabric.closed.store"):
            await self._engine.fetch(_SET, **_CLOSED.values(merged))
        return True

    async def has_serial(self, serial: str) -> bool:
        """Whether an imported CRL has the certificate with this serial number (lower-case hex)."""
        return await self._engine.fetch_one(_SERIAL, serial=serial) is not None

    async def has_serials(self) -> bool:
        """Whether a serial number is stored."""
        return await self._engine.fetch_one(_ANY_SERIAL) is not None

    async def add_serials(self, serials: Iterable[str], at: datetime) -> int:
        """Store serial numbers (lower-case hex). Returns how many are new."""
        added = 0
        for serial in serials:
            added += bool(await self._engine.fetch(_ADD_SERIAL, serial=serial, at=at))
        return added
