"""The authorities: rows, cross certificates, and the transitions between their states.

Rules kept here: at most one authority of a class is active; states only move forward; each change moves the counter
`authorities`, by which every replica sees it, and leaves its audit row, all in one transaction that excludes every
issuance.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.errors import Conflict
from cloud.breakwater.pkix.profiles import CaName
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.storage import ServiceEngine, Statement

AuthorityState = Literal["prepared", "active", "old", "tainted", "revoked"]

ALLOWED: dict[AuthorityState, tuple[AuthorityState, ...]] = {
    "prepared": ("active", "revoked"),
    "active": (),
    "old": ("tainted", "revoked"),
    "tainted": ("revoked",),
    "revoked": (),
}
"""What an operator may do to an authority. The active one becomes old by the activation of another, and by nothing else:
there would be none to issue."""


class AuthorityRow(msgspec.Struct, frozen=True):
    """One generation of a CA; see `tables.Authority`."""

    id: str
    ca: CaName
    number: int
    state: AuthorityState
    certificate: bytes
    key: str
    changed_at: datetime
    reason: str = ""


class CrossRow(msgspec.Struct, frozen=True):
    """The root `subject`, signed by the root `issuer`."""

    subject: str
    issuer: str
    certificate: bytes


_ROWS = Statement(
    "SELECT id, ca, number, state, certificate, key, changed_at, reason FROM authority ORDER BY ca, number LIMIT 1000"
)
_CROSSES = Statement("SELECT subject, issuer, certificate FROM cross_certificate ORDER BY id LIMIT 1000")
_REVISION = Statement("SELECT value FROM counter WHERE name = 'authorities'")
_MAKE_COUNTER = Statement("INSERT INTO counter (name, value) VALUES ({}, 0) ON CONFLICT (name) DO NOTHING")
_MOVE = Statement("UPDATE counter SET value = value + 1 WHERE name = 'authorities'")
_ADD = Statement(
    "INSERT INTO authority (id, ca, number, state, certificate, key, changed_at, reason) "
    "VALUES ({}, {}, {}, {}, {}, {}, {}, {}) ON CONFLICT (id) DO NOTHING RETURNING id"
)
_ADD_CROSS = Statement(
    "INSERT INTO cross_certificate (id, subject, issuer, certificate) VALUES ({}, {}, {}, {}) "
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_ONE = Statement("SELECT id, ca, number, state, certificate, key, changed_at, reason FROM authority WHERE id = {}")
_RETIRE_ACTIVE = Statement(
    "UPDATE authority SET state = 'old', changed_at = {}, reason = {} WHERE ca = {} AND state = 'active' RETURNING id"
)
_SET_STATE = Statement("UPDATE authority SET state = {}, changed_at = {}, reason = {} WHERE id = {}")


class AuthorityStore:
    """The queries of authorities."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def make_counters(self) -> None:
        """The rows of the counters; those that are there stay."""
        async with self._engine.transaction():
            for name in ("authorities", "revocation"):
                await self._engine.fetch(_MAKE_COUNTER, name)

    async def revision(self) -> int:
        """Moves with every change; -1 before `make_counters`."""
        row = await self._engine.fetch_one(_REVISION)
        return -1 if row is None else int(row["value"])

    async def rows(self) -> tuple[AuthorityRow, ...]:
        """Every authority, by class and number."""
        return tuple(msgspec.convert(row, AuthorityRow) for row in await self._engine.fetch(_ROWS))

    async def crosses(self) -> tuple[CrossRow, ...]:
        """Every cross certificate."""
        return tuple(msgspec.convert(row, CrossRow) for row in await self._engine.fetch(_CROSSES))

    async def adopt(self, rows: Iterable[AuthorityRow], entries: Iterable[AuditRow]) -> bool:
        """Fill an empty table; False (and nothing changed) if it is not empty."""
        async with self._engine.transaction():
            if await self._engine.fetch(_ROWS):
                return False
            for row, entry in zip(rows, entries, strict=True):
                await self._insert(row)
                await self._audit.add(entry)
            await self._engine.fetch(_MOVE)
        return True

    async def prepare(self, row: AuthorityRow, entry: AuditRow) -> bool:
        """Add a prepared authority; False if this very one is there already.

        Raises:
            Conflict: another one has its id.
        """
        async with self._engine.transaction():
            if not await self._insert(row):
                known = await self.find(row.id)
                if known is None or (known.certificate, known.key) != (row.certificate, row.key):
                    raise Conflict(f"there is another authority {row.id}")
                return False
            await self._changed(entry)
        return True

    async def add_cross(self, row: CrossRow, entry: AuditRow) -> bool:
        """Keep a cross certificate; False if there is one between these roots already."""
        async with self._engine.transaction():
            name = f"{row.subject}:{row.issuer}"
            if not await self._engine.fetch(_ADD_CROSS, name, row.subject, row.issuer, row.certificate):
                return False
            await self._changed(entry)
        return True

    async def move(self, authority: str, state: AuthorityState, reason: str, entry: AuditRow) -> bool:
        """Change a state; the active authority of a class becomes old when another is activated. False: it was so.

        Raises:
            Conflict: no such authority, or not from its state.
        """
        async with self._engine.transaction():
            row = await self.find(authority)
            if row is None:
                raise Conflict(f"there is no authority {authority}")
            if row.state == state:
                return False
            if state not in ALLOWED[row.state]:
                hint = ": activate another one first" if row.state == "active" else ""
                raise Conflict(f"{authority} is {row.state} and cannot become {state}{hint}")
            if state == "active":
                await self._engine.fetch(_RETIRE_ACTIVE, entry.at, f"replaced by {authority}", row.ca)
            await self._engine.fetch(_SET_STATE, state, entry.at, reason, authority)
            await self._changed(entry)
        return True

    async def find(self, authority: str) -> AuthorityRow | None:
        """One authority."""
        row = await self._engine.fetch_one(_ONE, authority)
        return None if row is None else msgspec.convert(row, AuthorityRow)

    async def _insert(self, row: AuthorityRow) -> bool:
        return bool(
            await self._engine.fetch(
                _ADD, row.id, row.ca, row.number, row.state, row.certificate, row.key, row.changed_at, row.reason
            )
        )

    async def _changed(self, entry: AuditRow) -> None:
        await self._engine.fetch(_MOVE)
        await self._audit.add(entry)
