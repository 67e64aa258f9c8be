"""Store: the rows that were written before Fabric published events, and how far a walk over them has come."""

from typing import Literal, get_args

from cloud.fabric.store.events.facts import Facts
from cloud.fabric.store.keys import code_key, node_key, tenant_key
from cloud.fabric.store.rows import CodeRow, GenerationRow, NodeRow, TenantRow
from cloud.fabric.tables import Code, Generation, Installation, Node, Tenant
from cloud.storage import Mapper, ServiceEngine, compiled, insert_into, param

Kind = Literal["tenant", "code", "node", "statement"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""The nouns in the order of the walk."""
DONE = "done"
NAME = "first_events"
"""The row of the installation with the place of the walk: `KIND ID`, the last object with an event; or `done`."""

_TENANT = Mapper(TenantRow, Tenant)
_CODE = Mapper(CodeRow, Code)
_NODE = Mapper(NodeRow, Node)
_GENERATION = Mapper(GenerationRow, Generation)

_IDS = {
    "tenant": compiled(
        Tenant.select(Tenant.id).where(Tenant.id > param("after")).order_by(Tenant.id), limit=param("n")
    ),
    "code": compiled(Code.select(Code.id).where(Code.id > param("after")).order_by(Code.id), limit=param("n")),
    "node": compiled(Node.select(Node.id).where(Node.id > param("after")).order_by(Node.id), limit=param("n")),
    "statement": compiled(
        Generation.select(Generation.id).where(Generation.id > param("after")).order_by(Generation.id),
        limit=param("n"),
    ),
}
_TENANT_BY_ID = compiled(_TENANT.select().where(Tenant.id == param("id")))
_GENERATION_BY_ID = compiled(_GENERATION.select().where(Generation.id == param("id")))
_NODE_BY_ID = compiled(_NODE.select().where(Node.id == param("id")))
# Seats and the mode of a node change without the key of the row. So the row itself is locked, by an UPDATE without effect.
_LOCK_CODE = compiled(Code.update({Code.id: Code.id}).where(Code.id == param("id")).returning(*Code.all_columns()))
_LOCK_NODE = compiled(Node.update({Node.id: Node.id}).where(Node.id == param("id")).returning(*Node.all_columns()))
_PLACE = compiled(Installation.select(Installation.value).where(Installation.name == param("name")))
_SET_PLACE = compiled(
    insert_into(Installation).on_conflict(target=Installation.name, action="DO UPDATE", values=[Installation.value])
)


def key_of(kind: Kind, object_id: str) -> str:
    """The key of the transaction that records an object."""
    match kind:
        case "tenant":
            return tenant_key(object_id)
        case "code":
            return code_key(object_id)
        case _:
            return node_key(object_id.partition(".")[0])


class FirstEventStore:
    """Objects in the order of their ids, and the place of the walk over them."""

    def __init__(self, engine: ServiceEngine, facts: Facts) -> None:
        self._engine = engine
        self._facts = facts

    async def place(self) -> str:
        """The place of the walk: `KIND ID`, `done`, or empty before the walk."""
        row = await self._engine.fetch_one(_PLACE, name=NAME)
        return "" if row is None else bytes(row["value"]).decode()

    async def set_place(self, place: str) -> None:
        await self._engine.fetch(_SET_PLACE, name=NAME, value=place.encode())

    async def ids(self, kind: Kind, after: str, limit: int) -> list[str]:
        """The next ids of a kind, in order. A statement has the id of its generation."""
        return [str(row["id"]) for row in await self._engine.fetch(_IDS[kind], after=after, n=limit)]

    async def record(self, kind: Kind, object_id: str) -> None:
        """Add the event `recorded` of an object, in the transaction that `key_of` names."""
        match kind:
            case "tenant":
                tenant = _TENANT.read_one(await self._engine.fetch_one(_TENANT_BY_ID, id=object_id))
                if tenant is not None:
                    await self._facts.tenant(tenant, "recorded")
            case "code":
                code = _CODE.read_one(await self._engine.fetch_one(_LOCK_CODE, id=object_id))
                if code is not None:
                    await self._facts.code(code, "recorded")
            case "node":
                node = _NODE.read_one(await self._engine.fetch_one(_LOCK_NODE, id=object_id))
                if node is not None:
                    await self._facts.node(node, "recorded")
            case "statement":
                await self._record_statement(object_id)

    async def _record_statement(self, generation: str) -> None:
        row = _GENERATION.read_one(await self._engine.fetch_one(_GENERATION_BY_ID, id=generation))
        node = None if row is None else _NODE.read_one(await self._engine.fetch_one(_NODE_BY_ID, id=row.node))
        if row is not None and node is not None:
            await self._facts.statement(row, node, "recorded")
