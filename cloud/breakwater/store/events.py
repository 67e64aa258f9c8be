"""Store: what Breakwater publishes as events, in the transaction of each change, and once for what existed before.

Rules: A body is read from the rows in the transaction that changed them. The seeding reads an object under the key of
its changes, so that its event is not older than one of a change.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from cloud.breakwater.tables import Authority, Closing, Counter, Generation
from cloud.breakwater.tables import IssuedCertificate as Certificate
from cloud.contracts.breakwater import REASON_NAMES
from cloud.contracts.breakwater_events import (
    AUTHORITY,
    CLOSED_MAX,
    GENERATIONS,
    IDENTITY,
    SERVICE_CERTIFICATE,
    AuthorityPast,
    AuthorityV1,
    GenerationsPast,
    GenerationsV1,
    IdentityV1,
    ServiceCertificatePast,
    ServiceCertificateV1,
)
from cloud.events.outbox import Outbox
from cloud.events.tables import EventObject
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param
from protocol.ids import NodeId, ServiceName, TenantId

AUTHORITIES = "authorities"
"""The key of all authorities. Their changes are rare; a record of a certificate reads under it, shared."""
BREAKWATER: ServiceName = "breakwater"
"""The id of Breakwater's own identity among the objects of events."""
IDENTITY_NUMBER = "identity"
"""The counter with the number of the services CA whose certificate was published last."""
SEEDED = "events_seeded"
"""The counter that says that every object from before the events has its first event."""
SEED_OBJECTS = 50
"""Objects that one step of the seeding reads."""


class _ServiceCertificate(msgspec.Struct, frozen=True):
    serial: str
    service: ServiceName
    not_after: datetime
    revoked_at: datetime
    reason: int


_AUTHORITY = Mapper(AuthorityV1, Authority)
_REVOKED = Mapper(_ServiceCertificate, Certificate)
_IS_REVOKED = (
    (Certificate.profile == "service")
    & Certificate.state.is_in(["revoked", "orphaned"])
    & Certificate.revoked_at.is_not_null()
)

_ONE_AUTHORITY = compiled(_AUTHORITY.select().where(Authority.id == param("id")))
_ALL_AUTHORITIES = compiled(Authority.select(Authority.id).order_by(Authority.id).limit(1000))
_ACTIVE = compiled(
    Authority.select(Authority.number).where(
        Authority.id == param("id"), Authority.ca == "services", Authority.state == "active"
    )
)
_ONE_CERTIFICATE = compiled(_REVOKED.select().where(Certificate.serial == param("serial"), _IS_REVOKED))
_CERTIFICATES = compiled(
    Certificate.select(Certificate.serial, Certificate.service)
    .where(Certificate.serial > param("after"), _IS_REVOKED)
    .order_by(Certificate.serial)
    .limit(SEED_OBJECTS)
)
_CLOSED_UP_TO = compiled(Closing.select(Closing.tenant, Closing.closed_up_to).where(Closing.node == param("node")))
_CLOSED = compiled(
    Generation.select(Generation.tenant, Generation.generation)
    .where(
        Generation.node == param("node"),
        Generation.generation > param("closed_up_to"),
        Generation.closed_at.is_not_null(),
    )
    .order_by(Generation.generation, ascending=False)
    .limit(CLOSED_MAX)
)
_CLOSED_UP_TO_NODES = compiled(
    Closing.select(Closing.node).where(Closing.node > param("after")).order_by(Closing.node).limit(SEED_OBJECTS)
)
_CLOSED_ALONE_NODES = compiled(
    Generation.select(Generation.node)
    .distinct()
    .where(Generation.node > param("after"), Generation.closed_at.is_not_null())
    .order_by(Generation.node)
    .limit(SEED_OBJECTS)
)
_HAS_EVENT = compiled(EventObject.select(EventObject.subject).where(EventObject.subject == param("subject")))
_COUNTER = compiled(Counter.select(Counter.value).where(Counter.name == param("name")))
_SET_COUNTER = compiled(
    insert_into(Counter).on_conflict(target=Counter.name, action="DO UPDATE", values=[Counter.value])
)


class EventStore:
    """Adds Breakwater's events. Each method except those of the seeding is called in an open transaction."""

    def __init__(self, engine: ServiceEngine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox

    async def authority(self, authority: str, past: AuthorityPast) -> None:
        """Report the state of an authority."""
        body = _AUTHORITY.read_one(await self._engine.fetch_one(_ONE_AUTHORITY, id=authority))
        if body is not None:
            await self._outbox.add(AUTHORITY.noun, authority, past, body)

    async def service_certificates(self, serials: Iterable[str], past: ServiceCertificatePast = "revoked") -> None:
        """Report revoked certificates of services. Serials (hex) of other certificates are left out."""
        for serial in sorted(serials):
            row = _REVOKED.read_one(await self._engine.fetch_one(_ONE_CERTIFICATE, serial=serial))
            if row is None:
                continue
            body = ServiceCertificateV1(
                serial=row.serial,
                service=row.service,
                not_after=row.not_after,
                revoked_at=row.revoked_at,
                reason=REASON_NAMES[row.reason],
            )
            await self._outbox.add(SERVICE_CERTIFICATE.noun, serial, past, body)

    async def generations(self, node: str, past: GenerationsPast = "closed") -> None:
        """Report the closed generations of a node."""
        closing = await self._engine.fetch_one(_CLOSED_UP_TO, node=node)
        closed_up_to = 0 if closing is None else int(closing["closed_up_to"])
        rows = await self._engine.fetch(_CLOSED, node=node, closed_up_to=closed_up_to)
        tenant = str((closing or rows[0])["tenant"])
        body = GenerationsV1(
            node=NodeId(node),
            tenant=TenantId(tenant),
            closed_up_to=closed_up_to,
            closed=tuple(sorted(int(row["generation"]) for row in rows)),
        )
        await self._outbox.add(GENERATIONS.noun, node, past, body, tenant=tenant)

    async def identity(self, authority: str, key_id: str) -> bool:
        """Report the CA of Breakwater's own certificate, in a transaction of its own.

        Only the active CA is reported, and only once. So a replica whose certificate is of the CA before reports
        nothing. Returns False if nothing was reported.
        """
        async with self._engine.transaction(AUTHORITIES):
            row = await self._engine.fetch_one(_ACTIVE, id=authority)
            if row is None or await self._counter(IDENTITY_NUMBER) == row["number"]:
                return False
            body = IdentityV1(service=BREAKWATER, authority=authority, issuer=key_id)
            await self._outbox.add(IDENTITY.noun, BREAKWATER, "renewed", body)
            await self._engine.fetch(_SET_COUNTER, name=IDENTITY_NUMBER, value=row["number"])
        return True

    async def is_seeded(self) -> bool:
        """Whether every object from before the events has its first event."""
        return await self._counter(SEEDED) > 0

    async def set_seeded(self) -> None:
        """Store that the seeding has ended."""
        await self._engine.fetch(_SET_COUNTER, name=SEEDED, value=1)

    async def seed_authorities(self) -> None:
        """Add the first events of authorities."""
        async with self._engine.transaction(AUTHORITIES):
            for row in await self._engine.fetch(_ALL_AUTHORITIES):
                if await self._lacks(AUTHORITY.noun, row["id"]):
                    await self.authority(row["id"], "recorded")

    async def seed_service_certificates(self, after: str) -> str:
        """Add the first events of the next revoked certificates of services. Return the last serial; empty at the end."""
        found = await self._engine.fetch(_CERTIFICATES, after=after)
        for row in found:
            async with self._engine.transaction(f"service:{row['service']}"):
                if await self._lacks(SERVICE_CERTIFICATE.noun, row["serial"]):
                    await self.service_certificates([row["serial"]], "recorded")
        return str(found[-1]["serial"]) if found else ""

    async def seed_generations(self, after: str) -> str:
        """Add the first events of the next nodes with closed generations. Return the last node; empty at the end."""
        rows = [
            *await self._engine.fetch(_CLOSED_UP_TO_NODES, after=after),
            *await self._engine.fetch(_CLOSED_ALONE_NODES, after=after),
        ]
        nodes = sorted({str(row["node"]) for row in rows})[:SEED_OBJECTS]
        if nodes:
            async with self._engine.transaction(*(f"node:{node}" for node in nodes)):
                for node in nodes:
                    if await self._lacks(GENERATIONS.noun, node):
                        await self.generations(node, "recorded")
        return nodes[-1] if nodes else ""

    async def _lacks(self, noun: str, object_id: str) -> bool:
        return not await self._engine.fetch(_HAS_EVENT, subject=f"{noun}/{object_id}")

    async def _counter(self, name: str) -> int:
        row = await self._engine.fetch_one(_COUNTER, name=name)
        return 0 if row is None else int(row["value"])
