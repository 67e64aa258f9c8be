"""Store: recovery cases. The key of a node covers its cases."""

from datetime import datetime

from piccolo.query.functions import Count

from cloud.fabric.store.rows import RecoveryCaseRow
from cloud.fabric.tables import RecoveryCase
from cloud.storage import Mapper, ServiceEngine, compiled, filtered, param, params
from protocol.ids import NodeId, RecoveryId, TenantId
from protocol.messages.recovery import CaseState

UNFINISHED: tuple[CaseState, ...] = ("open", "eligible", "needs_operator", "approved", "code_issued")
"""States of a case that can still change without an operator who changes a refusal."""
UNDECIDED: tuple[CaseState, ...] = ("eligible", "needs_operator", "code_issued")
"""States of a case that a person or a recovery code can still decide."""

_CASE = Mapper(RecoveryCaseRow, RecoveryCase)
_IS_UNFINISHED = RecoveryCase.state.is_in(list(UNFINISHED))

_ADD = _CASE.insert
_BY_ID = compiled(_CASE.select().where(RecoveryCase.id == param("id")))
_LATEST = compiled(
    _CASE.select().where(RecoveryCase.node == param("node")).order_by(RecoveryCase.id, ascending=False).limit(1)
)
_UNFINISHED_OF_NODE = compiled(_CASE.select().where(RecoveryCase.node == param("node"), _IS_UNFINISHED).limit(1))
_GRACES = compiled(
    RecoveryCase.select(RecoveryCase.opened_at, RecoveryCase.node)
    .where(
        RecoveryCase.tenant == param("tenant"),
        RecoveryCase.grace == param("grace"),
        RecoveryCase.opened_at > param("since"),
    )
    .order_by(RecoveryCase.opened_at),
    limit=param("limit"),
)
_REPLACED = compiled(
    _CASE.select()
    .where(
        RecoveryCase.old_ek_hash == param("ek_hash"),
        RecoveryCase.situation == "hardware-replaced",
        RecoveryCase.state != "refused",
        RecoveryCase.generation > 0,
    )
    .order_by(RecoveryCase.id, ascending=False)
    .limit(1)
)
_REPLACING = compiled(
    _CASE.select()
    .where(
        RecoveryCase.node == param("node"),
        RecoveryCase.situation == "hardware-replaced",
        RecoveryCase.state != "refused",
        RecoveryCase.old_generation >= param("number"),
        RecoveryCase.generation > 0,
    )
    .order_by(RecoveryCase.id)
    .limit(1)
)
_RETURNED = compiled(
    RecoveryCase.update(params(RecoveryCase.returned_at))
    .where(RecoveryCase.id == param("id"), RecoveryCase.returned_at.is_null())
    .returning(RecoveryCase.id)
)
_PAGE = compiled(
    _CASE.select()
    .where(
        RecoveryCase.id > param("after"),
        filtered(RecoveryCase.tenant),
        filtered(RecoveryCase.node),
        filtered(RecoveryCase.state),
    )
    .order_by(RecoveryCase.id),
    limit=param("limit"),
)
_UNDECIDED_PAGE = compiled(
    _CASE.select()
    .where(
        RecoveryCase.id > param("after"),
        filtered(RecoveryCase.tenant),
        filtered(RecoveryCase.node),
        RecoveryCase.state.is_in(list(UNDECIDED)),
    )
    .order_by(RecoveryCase.id),
    limit=param("limit"),
)
_SILENT = compiled(
    _CASE.select()
    .where(
        RecoveryCase.state == "eligible",
        RecoveryCase.silent_until.is_not_null(),
        RecoveryCase.generation == 0,
        RecoveryCase.id > param("after"),
    )
    .order_by(RecoveryCase.id),
    limit=param("limit"),
)
_OVERDUE = compiled(
    _CASE.select()
    .where(_IS_UNFINISHED, RecoveryCase.decide_by <= param("now"), RecoveryCase.id > param("after"))
    .order_by(RecoveryCase.id),
    limit=param("limit"),
)
_UPDATE = compiled(
    RecoveryCase.update(
        params(
            RecoveryCase.situation,
            RecoveryCase.state,
            RecoveryCase.needs,
            RecoveryCase.evidence,
            RecoveryCase.activation,
            RecoveryCase.ek_hash,
            RecoveryCase.old_ek_hash,
            RecoveryCase.old_generation,
            RecoveryCase.generation,
            RecoveryCase.overlap_until,
            RecoveryCase.decide_by,
            RecoveryCase.next_allowed_at,
            RecoveryCase.decided_at,
            RecoveryCase.decided_by,
            RecoveryCase.reason,
            RecoveryCase.code,
            RecoveryCase.grace,
            RecoveryCase.grace_until,
            RecoveryCase.silent_until,
        )
    ).where(RecoveryCase.id == param("id"))
)
_UNFINISHED_OF_TENANT = compiled(
    RecoveryCase.select(Count(alias="n")).where(RecoveryCase.tenant == param("tenant"), _IS_UNFINISHED)
)


class RecoveryCaseStore:
    """Recovery cases."""

    def __init__(self, engine: ServiceEngine) -> None:
        self._engine = engine

    async def insert(self, row: RecoveryCaseRow) -> None:
        await self._engine.fetch(_ADD, **_CASE.values(row))

    async def find(self, case: RecoveryId) -> RecoveryCaseRow | None:
        return _CASE.read_one(await self._engine.fetch_one(_BY_ID, id=case))

    async def latest(self, node: NodeId) -> RecoveryCaseRow | None:
        """The unfinished case of a node, else its newest one. Ids of one millisecond have no order."""
        unfinished = await self._engine.fetch_one(_UNFINISHED_OF_NODE, node=node)
        return _CASE.read_one(unfinished or await self._engine.fetch_one(_LATEST, node=node))

    async def update(self, row: RecoveryCaseRow) -> None:
        """Write all columns that change. Call it in the transaction that read the row, with the key of its node."""
        await self._engine.fetch(_UPDATE, **_CASE.values(row, _UPDATE))

    async def graces(self, tenant: TenantId, since: datetime, limit: int) -> list[tuple[datetime, NodeId]]:
        """When the cases of a tenant with a grace lease were opened after `since`, and their nodes. The oldest first."""
        rows = await self._engine.fetch(_GRACES, tenant=tenant, grace=True, since=since, limit=limit)
        return [(row["opened_at"], NodeId(row["node"])) for row in rows]

    async def replaced(self, ek_hash: str) -> RecoveryCaseRow | None:
        """The newest recovery that replaced the machine with the chip `ek_hash` by another one, and was not refused."""
        return _CASE.read_one(await self._engine.fetch_one(_REPLACED, ek_hash=ek_hash))

    async def replacing(self, node: NodeId, number: int) -> RecoveryCaseRow | None:
        """The first recovery that replaced the machine of the generation `number` by another one, and was not refused."""
        return _CASE.read_one(await self._engine.fetch_one(_REPLACING, node=node, number=number))

    async def set_returned(self, case: RecoveryId, at: datetime) -> bool:
        """Store when the replaced machine first asked again. False if a time is stored already."""
        return bool(await self._engine.fetch(_RETURNED, id=case, returned_at=at))

    async def page(self, tenant: str, node: str, state: str, after: str, limit: int) -> list[RecoveryCaseRow]:
        """Cases after the id `after`, in order of id. An empty filter matches every case."""
        rows = await self._engine.browse(_PAGE, after=after, tenant=tenant, node=node, state=state, limit=limit)
        return [_CASE.read(row) for row in rows]

    async def undecided(self, tenant: str, node: str, after: str, limit: int) -> list[RecoveryCaseRow]:
        """As `page`, with the cases that a person or a recovery code can still decide."""
        rows = await self._engine.browse(_UNDECIDED_PAGE, after=after, tenant=tenant, node=node, limit=limit)
        return [_CASE.read(row) for row in rows]

    async def count_unfinished(self, tenant: TenantId) -> int:
        (row,) = await self._engine.fetch(_UNFINISHED_OF_TENANT, tenant=tenant)
        return int(row["n"])

    async def silent(self, after: str, limit: int) -> list[RecoveryCaseRow]:
        """Cases after the id `after` that wait for the silence of their node, in order of id."""
        return [_CASE.read(row) for row in await self._engine.fetch(_SILENT, after=after, limit=limit)]

    async def overdue(self, now: datetime, after: str, limit: int) -> list[RecoveryCaseRow]:
        """Unfinished cases after the id `after` whose `decide_by` has passed, in order of id."""
        rows = await self._engine.fetch(_OVERDUE, now=now, after=after, limit=limit)
        return [_CASE.read(row) for row in rows]
