"""Store: reads the status of one serial."""

from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.tables import IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, param


class SerialStatus(msgspec.Struct, frozen=True):
    """The recorded status of a serial. `shard` is empty for sessions and responders, which have no public status."""

    state: Literal["recorded", "issued", "revoked", "orphaned"]
    authority: str
    shard: str
    revoked_at: datetime | None
    reason: int


_STATUS_OF = Mapper(SerialStatus, IssuedCertificate)

_STATUS = compiled(_STATUS_OF.select().where(IssuedCertificate.serial == param("serial")))


class RevocationStatusStore:
    """The queries of the status."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def status(self, serial: str) -> SerialStatus | None:
        """Return the status of a serial (hex); None if there is no record."""
        return _STATUS_OF.read_one(await self._engine.fetch_one(_STATUS, serial=serial))
