"""Store: authorities, cross certificates, and the transitions between states.

Rules: at most one authority of a class is active; states only move forward; each change moves the counter
`authorities`, by which every replica sees it, and writes its audit row, all in one transaction that excludes every
issuance.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.errors import Conflict
from cloud.breakwater.pkix.profiles import CaName
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.tables import Authority, Counter, CrossCertificate
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param, params

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


_AUTHORITY = Mapper(AuthorityRow, Authority)
_CROSS = Mapper(CrossRow, CrossCertificate)

_ADD = _AUTHORITY.insert_new
_ROWS = compiled(_AUTHORITY.select().order_by(Authority.ca, Authority.number).limit(1000))
_CROSSES = compiled(_CROSS.select().order_by(CrossCertificate.id).limit(1000))
_ONE = compiled(_AUTHORITY.select().where(Authority.id == param("id")))
_ADD_CROSS = compiled(
    insert_into(CrossCertificate)
    .on_conflict(target=CrossCertificate.id, action="DO NOTHING")
    .returning(CrossCertificate.id)
)
_RETIRE_ACTIVE = compiled(
    Authority.update({Authority.state: "old", **params(Authority.changed_at, Authority.reason)}).where(
        Authority.ca == param("ca"), Authority.state == "active"
    )
)
_SET_STATE = compiled(
    Authority.update(params(Authority.state, Authority.changed_at, Authority.reason)).where(Authority.id == param("id"))
)
_MAKE_COUNTER = compiled(insert_into(Counter, {Counter.value: 0}).on_conflict(target=Counter.name, action="DO NOTHING"))
_REVISION = compiled(Counter.select(Counter.value).where(Counter.name == "authorities"))
_MOVE = compiled(Counter.update({Counter.value: Counter.value + 1}).where(Counter.name == "authorities"))


class AuthorityStore:
    """The queries of authorities."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine
        self._audit = AuditStore(engine)

    async def make_counters(self) -> None:
        """The rows of the counters; those that are there stay."""
        async with self._engine.transaction():
            for name in ("authorities", "revocation"):
                await self._engine.fetch(_MAKE_COUNTER, name=name)

    async def revision(self) -> int:
        """Moves with every change; -1 before `make_counters`."""
        row = await self._engine.fetch_one(_REVISION)
        return -1 if row is None else int(row["value"])

    async def rows(self) -> tuple[AuthorityRow, ...]:
        """Every authority, by class and number."""
        return tuple(_AUTHORITY.read(row) for row in await self._engine.fetch(_ROWS))

    async def crosses(self) -> tuple[CrossRow, ...]:
        """Every cross certificate."""
        return tuple(_CROSS.read(row) for row in await self._engine.fetch(_CROSSES))

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
            if not await self._engine.fetch(_ADD_CROSS, id=name, **_CROSS.values(row)):
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
                replaced = f"replaced by {authority}"
                await self._engine.fetch(_RETIRE_ACTIVE, ca=row.ca, changed_at=entry.at, reason=replaced)
            await self._engine.fetch(_SET_STATE, id=authority, state=state, changed_at=entry.at, reason=reason)
            await self._changed(entry)
        return True

    async def find(self, authority: str) -> AuthorityRow | None:
        """One authority."""
        return _AUTHORITY.read_one(await self._engine.fetch_one(_ONE, id=authority))

    async def _insert(self, row: AuthorityRow) -> bool:
        return bool(await self._engine.fetch(_ADD, **_AUTHORITY.values(row)))

    async def _changed(self, entry: AuditRow) -> None:
        await self._engine.fetch(_MOVE)
        await self._audit.add(entry)
