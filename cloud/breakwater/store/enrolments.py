"""The one-time secrets of services that enrol: rows in, rows out, and the one statement that makes a secret single-use.

Knows hashes only, never a secret. Rule: a secret is bound to the first request that shows it, in one statement, so
that of two requests at once, on whichever replicas, one is bound and the other is not.
"""

from datetime import datetime

import msgspec

from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.storage import ServiceEngine, Statement
from protocol.faults import fault_point


class EnrolmentRow(msgspec.Struct, frozen=True):
    """A secret's record; see `tables.Enrolment`. `csr_sha256` is empty until it is bound."""

    id: str
    service: str
    secret_hash: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    csr_sha256: str


_ADD = Statement(
    "INSERT INTO enrolment (id, service, secret_hash, created_by, created_at, expires_at, csr_sha256) "
    "VALUES ({}, {}, {}, {}, {}, {}, '')"
)
_BY_HASH = Statement(
    "SELECT id, service, secret_hash, created_by, created_at, expires_at, used_at, csr_sha256 "
    "FROM enrolment WHERE secret_hash = {}"
)
_NEWEST = Statement(
    "SELECT id, service, secret_hash, created_by, created_at, expires_at, used_at, csr_sha256 "
    "FROM enrolment ORDER BY id DESC LIMIT {}"
)
_BIND = Statement(
    "UPDATE enrolment SET used_at = COALESCE(used_at, {}), csr_sha256 = {} WHERE id = {} AND expires_at > {} "
    "AND (csr_sha256 = '' OR csr_sha256 = {}) RETURNING id"
)
_GIVE_BACK = Statement(
    "UPDATE enrolment SET used_at = NULL, csr_sha256 = '' WHERE id = {} AND csr_sha256 = {} "
    "AND NOT EXISTS (SELECT 1 FROM certificate WHERE caller = {} AND service = enrolment.service)"
)
_END = Statement("UPDATE enrolment SET expires_at = {} WHERE id = {} AND expires_at > {} RETURNING id")


class EnrolmentStore:
    """The queries of enrolments."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def add(self, row: EnrolmentRow, entry: AuditRow) -> None:
        """Keep a new secret's record."""
        async with self._engine.transaction(row.id):
            await self._engine.fetch(
                _ADD, row.id, row.service, row.secret_hash, row.created_by, row.created_at, row.expires_at
            )
            await self._audit.add(entry)

    async def find(self, secret_hash: str) -> EnrolmentRow | None:
        """The record of a secret."""
        row = await self._engine.fetch_one(_BY_HASH, secret_hash)
        return None if row is None else msgspec.convert(row, EnrolmentRow)

    async def newest(self, count: int) -> tuple[EnrolmentRow, ...]:
        """The newest records, newest first."""
        return tuple(msgspec.convert(row, EnrolmentRow) for row in await self._engine.fetch(_NEWEST, count))

    async def bind(self, enrolment: str, csr_sha256: str, entry: AuditRow) -> bool:
        """Bind a secret to a request; True also for the request that it is bound to. False: expired, or another's."""
        with fault_point("breakwater.enrolment.bind"):
            async with self._engine.transaction(enrolment):
                now = entry.at
                bound = await self._engine.fetch(_BIND, now, csr_sha256, enrolment, now, csr_sha256)
                if bound:
                    await self._audit.add(entry)
        return bool(bound)

    async def give_back(self, enrolment: str, csr_sha256: str, caller: str) -> None:
        """Undo a binding whose request was refused. Nothing changes once `caller` has a record of an issuance."""
        with fault_point("breakwater.enrolment.release"):
            await self._engine.fetch(_GIVE_BACK, enrolment, csr_sha256, caller)

    async def end(self, enrolment: str, entry: AuditRow) -> bool:
        """Let a secret expire now; False if it had, or there is none."""
        async with self._engine.transaction(enrolment):
            ended = bool(await self._engine.fetch(_END, entry.at, enrolment, entry.at))
            if ended:
                await self._audit.add(entry)
        return ended

    async def audit(self, entry: AuditRow) -> None:
        """Write down a refusal."""
        await self._audit.add(entry)
