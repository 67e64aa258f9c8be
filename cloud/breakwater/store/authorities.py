"""Store: authorities, their states, and cross-certificates.

Rules: At most one authority of a class is active. States only move forward. Each change raises the counter
`authorities`, which every replica polls, and writes an audit row. The change, the counter and the audit row are one
transaction, which excludes every issuance.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from cloud.breakwater.errors import Conflict
from cloud.breakwater.pkix.profiles import CaName
from cloud.breakwater.store.audit import AuditRow, AuditStore
from cloud.breakwater.store.events import AUTHORITIES, EventStore
from cloud.breakwater.tables import Authority, Counter, CrossCertificate
from cloud.contracts.breakwater_events import AuthorityPast
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param, params

AuthorityState = Literal["prepared", "active", "old", "tainted", "revoked"]

ALLOWED: dict[AuthorityState, tuple[AuthorityState, ...]] = {
    "prepared": ("active", "revoked"),
    "active": (),
    "old": ("tainted", "revoked"),
    "tainted": ("revoked",),
    "revoked": (),
}
"""The changes of state that an operator may make. The active authority only becomes old when another is activated,
so that one authority can always issue."""


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
    """A cross-certificate (DER) of the root `subject`, signed by the root `issuer`."""

    subject: str
    issuer: str
    certificate: bytes


_PASTS: dict[AuthorityState, AuthorityPast] = {
    "active": "activated",
    "tainted": "tainted",
    "revoked": "revoked",
}
"""What an event says of an authority that an operator has moved to a state of `ALLOWED`."""

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
    Authority.update({Authority.state: "old", **params(Authority.changed_at, Authority.reason)})
    .where(Authority.ca == param("ca"), Authority.state == "active")
    .returning(Authority.id)
)
_SET_STATE = compiled(
    Authority.update(params(Authority.state, Authority.changed_at, Authority.reason)).where(Authority.id == param("id"))
)
_MAKE_COUNTER = compiled(insert_into(Counter, {Counter.value: 0}).on_conflict(target=Counter.name, action="DO NOTHING"))
_REVISION = compiled(Counter.select(Counter.value).where(Counter.name == "authorities"))
_MOVE = compiled(Counter.update({Counter.value: Counter.value + 1}).where(Counter.name == "authorities"))
_PROVE = compiled(
    Counter.update({Counter.value: Counter.value + 1}).where(Counter.name == "readiness").returning(Counter.name)
)


class AuthorityStore:
    """The queries of authorities."""

    def __init__(self, engine: ServiceEngine, events: EventStore) -> None:
        self._engine = engine
        self._events = events
        self._audit = AuditStore(engine)

    async def make_counter(self) -> None:
        """Make the row of the counter. An existing row stays unchanged."""
        await self._engine.fetch(_MAKE_COUNTER, name="authorities")

    async def prove_writable(self) -> None:
        """Count the counter `readiness` up. No code reads it. Raises StorageError if the database stores nothing."""
        if not await self._engine.fetch(_PROVE):
            await self._engine.fetch(_MAKE_COUNTER, name="readiness")

    async def revision(self) -> int:
        """Return the counter of changes to authorities; -1 before `make_counter`."""
        row = await self._engine.fetch_one(_REVISION)
        return -1 if row is None else int(row["value"])

    async def rows(self) -> tuple[AuthorityRow, ...]:
        """Return every authority, ordered by class and number."""
        return tuple(_AUTHORITY.read(row) for row in await self._engine.fetch(_ROWS))

    async def crosses(self) -> tuple[CrossRow, ...]:
        """Return every cross-certificate."""
        return tuple(_CROSS.read(row) for row in await self._engine.fetch(_CROSSES))

    async def adopt(self, rows: Iterable[AuthorityRow], entries: Iterable[AuditRow]) -> bool:
        """Fill the empty table. Return False and change nothing if it is not empty."""
        async with self._engine.transaction(AUTHORITIES):
            if await self._engine.fetch(_ROWS):
                return False
            for row, entry in zip(rows, entries, strict=True):
                await self._insert(row)
                await self._events.authority(row.id, "recorded")
                await self._audit.add(entry)
            await self._engine.fetch(_MOVE)
        return True

    async def prepare(self, row: AuthorityRow, entry: AuditRow) -> bool:
        """Add a prepared authority. Return False if the same certificate and key exist under this id.

        Raises:
            Conflict: another certificate or key has this id.
        """
        async with self._engine.transaction(AUTHORITIES):
            if not await self._insert(row):
                known = await self.find(row.id)
                if known is None or (known.certificate, known.key) != (row.certificate, row.key):
                    raise Conflict(f"the id {row.id} belongs to another certificate or key")
                return False
            await self._events.authority(row.id, "prepared")
            await self._changed(entry)
        return True

    async def add_cross(self, row: CrossRow, entry: AuditRow) -> bool:
        """Store a cross-certificate. Return False if these two roots already have one."""
        async with self._engine.transaction(AUTHORITIES):
            name = f"{row.subject}:{row.issuer}"
            if not await self._engine.fetch(_ADD_CROSS, id=name, **_CROSS.values(row)):
                return False
            await self._changed(entry)
        return True

    async def move(self, authority: str, state: AuthorityState, reason: str, entry: AuditRow) -> bool:
        """Change the state of an authority. Return False if it has this state already.

        If the new state is `active`, the active authority of the class becomes `old`.

        Raises:
            Conflict: there is no such authority, or `ALLOWED` forbids the change.
        """
        async with self._engine.transaction(AUTHORITIES):
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
                for retired in await self._engine.fetch(
                    _RETIRE_ACTIVE, ca=row.ca, changed_at=entry.at, reason=replaced
                ):
                    await self._events.authority(retired["id"], "replaced")
            await self._engine.fetch(_SET_STATE, id=authority, state=state, changed_at=entry.at, reason=reason)
            await self._events.authority(authority, _PASTS[state])
            await self._changed(entry)
        return True

    async def find(self, authority: str) -> AuthorityRow | None:
        """Return an authority; None if there is none with this id."""
        return _AUTHORITY.read_one(await self._engine.fetch_one(_ONE, id=authority))

    async def _insert(self, row: AuthorityRow) -> bool:
        return bool(await self._engine.fetch(_ADD, **_AUTHORITY.values(row)))

    async def _changed(self, entry: AuditRow) -> None:
        await self._engine.fetch(_MOVE)
        await self._audit.add(entry)
