"""Store: one-time secrets for the enrolment of services.

It stores hashes, never secrets. Rule: A single SQL statement binds a secret to the first request that uses it. So of
two simultaneous requests, even on different replicas, exactly one is bound.
"""

from datetime import datetime

import msgspec
from piccolo.query.functions import Coalesce

from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.tables import Enrolment, IssuedCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, missing, param
from protocol.faults import fault_point


class EnrolmentRow(msgspec.Struct, frozen=True):
    """The record of a secret; see `tables.Enrolment`. `csr_sha256` is empty until the secret is bound to a request."""

    id: str
    service: str
    secret_hash: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    csr_sha256: str


_ENROLMENT = Mapper(EnrolmentRow, Enrolment)

_ADD = _ENROLMENT.insert
_BY_HASH = compiled(_ENROLMENT.select().where(Enrolment.secret_hash == param("secret_hash")))
_NEWEST = compiled(_ENROLMENT.select().order_by(Enrolment.id, ascending=False), limit=param("count"))
_BIND = compiled(
    Enrolment.update(
        {Enrolment.used_at: Coalesce(Enrolment.used_at, param("now")), Enrolment.csr_sha256: param("csr_sha256")}
    )
    .where(
        Enrolment.id == param("id"),
        Enrolment.expires_at > param("now"),
        (Enrolment.csr_sha256 == "") | (Enrolment.csr_sha256 == param("csr_sha256")),
    )
    .returning(Enrolment.id)
)
_GIVE_BACK = compiled(
    Enrolment.update({Enrolment.used_at: None, Enrolment.csr_sha256: ""}).where(
        Enrolment.id == param("id"),
        Enrolment.csr_sha256 == param("csr_sha256"),
        missing(
            IssuedCertificate.select(IssuedCertificate.serial).where(
                IssuedCertificate.caller == param("caller"), IssuedCertificate.service == Enrolment.service
            )
        ),
    )
)
_END = compiled(
    Enrolment.update({Enrolment.expires_at: param("now")})
    .where(Enrolment.id == param("id"), Enrolment.expires_at > param("now"))
    .returning(Enrolment.id)
)


class EnrolmentStore:
    """The queries of enrolments."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def add(self, row: EnrolmentRow, entry: AuditRow) -> None:
        """Store the record of a new secret."""
        async with self._engine.transaction(row.id):
            await self._engine.fetch(_ADD, **_ENROLMENT.values(row))
            await self._audit.add(entry)

    async def find(self, secret_hash: str) -> EnrolmentRow | None:
        """Return the record with this hash of a secret; None if there is none."""
        return _ENROLMENT.read_one(await self._engine.fetch_one(_BY_HASH, secret_hash=secret_hash))

    async def newest(self, count: int) -> tuple[EnrolmentRow, ...]:
        """Return the newest `count` records, newest first."""
        return tuple(_ENROLMENT.read(row) for row in await self._engine.fetch(_NEWEST, count=count))

    async def bind(self, enrolment: str, csr_sha256: str, entry: AuditRow) -> bool:
        """Bind a secret to a request, given by the CSR's hash.

        Returns True if the secret is now bound to this request, also after a repeat. Returns False if the secret has
        expired or is bound to another request.
        """
        with fault_point("breakwater.enrolment.bind"):
            async with self._engine.transaction(enrolment):
                bound = await self._engine.fetch(_BIND, id=enrolment, csr_sha256=csr_sha256, now=entry.at)
                if bound:
                    await self._audit.add(entry)
        return bool(bound)

    async def give_back(self, enrolment: str, csr_sha256: str, caller: str) -> None:
        """Undo the binding of a refused request. Changes nothing if there is a record of an issuance for `caller`."""
        with fault_point("breakwater.enrolment.release"):
            await self._engine.fetch(_GIVE_BACK, id=enrolment, csr_sha256=csr_sha256, caller=caller)

    async def end(self, enrolment: str, entry: AuditRow) -> bool:
        """Let a secret expire now. Return False if it had expired or does not exist."""
        async with self._engine.transaction(enrolment):
            ended = bool(await self._engine.fetch(_END, id=enrolment, now=entry.at))
            if ended:
                await self._audit.add(entry)
        return ended

    async def audit(self, entry: AuditRow) -> None:
        """Write the audit entry of a refusal."""
        await self._audit.add(entry)
