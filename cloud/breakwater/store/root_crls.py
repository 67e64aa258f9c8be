"""Store: the CRLs of roots. A CRL is added only over a lower number of the same root."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.tables import RootCrl
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param


class RootCrlRow(msgspec.Struct, frozen=True):
    """A CRL of the root `authority`. `data` is its DER, `entries` the number of revoked certificates in it."""

    authority: str
    number: int
    this_update: datetime
    next_update: datetime
    entries: int
    data: bytes


_ROOT_CRL = Mapper(RootCrlRow, RootCrl)
_ADD = compiled(insert_into(RootCrl))
_NEWEST = compiled(
    _ROOT_CRL.select().where(RootCrl.authority == param("authority")).order_by(RootCrl.number, ascending=False).limit(1)
)


class RootCrlStore:
    """The queries of roots' CRLs."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def newest(self, authority: str) -> RootCrlRow | None:
        """Return the CRL of a root with the highest number; None if there is none."""
        return _ROOT_CRL.read_one(await self._engine.fetch_one(_NEWEST, authority=authority))

    async def add(self, row: RootCrlRow, entry: AuditRow, check: Callable[[RootCrlRow], None]) -> bool:
        """Store a CRL and its audit entry. Return False if the root has one with this number or a higher one.

        `check` gets the published CRL, inside the transaction. Its exception is raised, and nothing is stored.
        """
        async with self._engine.transaction(f"root crl {row.authority}"):
            before = await self.newest(row.authority)
            if before is not None:
                if before.number >= row.number:
                    return False
                check(before)
            await self._engine.fetch(_ADD, id=f"{row.authority}:{row.number}", **_ROOT_CRL.values(row))
            await self._audit.add(entry)
        return True
