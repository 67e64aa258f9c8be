"""Store: writes a revocation: its reason and time, the shard's revision, the event, the audit row.

Rule: All of this happens in the transaction of the decision, so that no CRL and no service can miss a revocation.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from piccolo.columns import Column
from piccolo.query.functions import Coalesce

from cloud.breakwater.errors import NotAdmitted, ValueRefused
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.events import EventStore
from cloud.breakwater.tables import CrlShard
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.storage import Row, ServiceEngine, compiled, param

REVOKED: dict[Column | str, Any] = {
    Certificate.state: "revoked",
    Certificate.reason: param("reason"),
    Certificate.revoked_at: Coalesce(Certificate.revoked_at, param("at")),
}
"""The columns that an UPDATE sets to revoke certificates. An orphan keeps the time of its orphaning."""
ANNOUNCED = (Certificate.serial, Certificate.shard, Certificate.service)
"""The columns that this UPDATE returns, for `announce`."""

HINT_REVOKED = "revoked"
"""Topic of the hint to the other processes: read the shards now."""

_MOVE_SHARD = compiled(CrlShard.update({CrlShard.revision: CrlShard.revision + 1}).where(CrlShard.id == param("id")))

_ONE = compiled(
    Certificate.select(Certificate.profile, Certificate.state, Certificate.service).where(
        Certificate.serial == param("serial")
    )
)
_IS_OF_A_SERVICE = (Certificate.profile == "service") & Certificate.state.is_in(["recorded", "issued", "orphaned"])
_REVOKE_ONE = compiled(
    Certificate.update(REVOKED).where(Certificate.serial == param("serial"), _IS_OF_A_SERVICE).returning(*ANNOUNCED)
)
_REVOKE_SERVICE = compiled(
    Certificate.update(REVOKED)
    .where(Certificate.service == param("service"), Certificate.not_after > param("at"), _IS_OF_A_SERVICE)
    .returning(*ANNOUNCED)
)


async def announce(engine: ServiceEngine, events: EventStore, rows: Sequence[Row]) -> None:
    """Raise the revisions of the shards, and add events of services' certificates. Other processes get a hint.

    Call this in the transaction that revoked or orphaned the certificates. `rows` have the columns `ANNOUNCED`.
    """
    for shard in sorted({row["shard"] for row in rows if row["shard"]}):
        await engine.fetch(_MOVE_SHARD, id=shard)
    await events.service_certificates(row["serial"] for row in rows if row["service"])
    if rows:
        engine.hint(HINT_REVOKED)


class RevocationWriteStore:
    """Revokes certificates of services. `GenerationStore` revokes those of nodes."""

    def __init__(self, engine: ServiceEngine, events: EventStore) -> None:
        self._engine = engine
        self._events = events
        self._audit = AuditStore(engine)

    async def revoke(self, serial: str, reason: int, at: datetime, entry: AuditRow) -> bool:
        """Revoke the certificate with the serial `serial` (hex). Return False if it was already revoked.

        Raises:
            NotAdmitted: there is no such serial.
            ValueRefused: the certificate is not a service's.
        """
        row = await self._engine.fetch_one(_ONE, serial=serial)  # these columns of a certificate never change
        if row is None:
            raise NotAdmitted("no certificate with this serial was issued here")
        if row["profile"] != "service":
            raise ValueRefused(f"a {row['profile']} certificate is not revoked by its serial: close its generation")
        async with self._engine.transaction(f"service:{row['service']}"):
            rows = await self._engine.fetch(_REVOKE_ONE, serial=serial, reason=reason, at=at)
            return bool(await self._settle(rows, entry))

    async def revoke_service(self, service: str, reason: int, at: datetime, entry: AuditRow) -> tuple[str, ...]:
        """Revoke every unexpired certificate of a service. Return the newly revoked serials."""
        async with self._engine.transaction(f"service:{service}"):
            rows = await self._engine.fetch(_REVOKE_SERVICE, service=service, reason=reason, at=at)
            return await self._settle(rows, entry)

    async def _settle(self, rows: list[Row], entry: AuditRow) -> tuple[str, ...]:
        if rows:
            await announce(self._engine, self._events, rows)
            await self._audit.add(entry)
        return tuple(sorted(row["serial"] for row in rows))
