"""Helper: compares Fabric's rows with its events, and reads events.

A test that ends leaves rows and events that agree: the latest event of each object has the state of its row. So a write
that adds no event fails the tests of its use case, whichever place it has in the code.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from cloud.fabric.store.events.bodies import code_body, node_body, statement_body, tenant_body
from cloud.fabric.store.events.facts import statement_id
from cloud.fabric.store.rows import CodeRow, GenerationRow, NodeRow, TenantRow
from cloud.fabric.tables import Code, Generation, Node, Tenant
from cloud.storage import Mapper, ServiceEngine, Statement, compiled

if TYPE_CHECKING:
    from tests.cloud.fabric.support import World

_TENANTS, _CODES, _NODES = Mapper(TenantRow, Tenant), Mapper(CodeRow, Code), Mapper(NodeRow, Node)
_GENERATIONS = Mapper(GenerationRow, Generation)
_ALL = {mapper: compiled(mapper.select()) for mapper in (_TENANTS, _CODES, _NODES, _GENERATIONS)}
_LATEST = Statement(
    """SELECT event_outbox.* FROM event_object JOIN event_outbox ON event_outbox.subject = event_object.subject
    AND event_outbox.sequence = event_object.sequence"""
)
_OF = Statement("SELECT type FROM event_outbox WHERE subject = {subject} ORDER BY sequence")
_FORGET = (Statement("DELETE FROM event_outbox"), Statement("DELETE FROM event_object"))


async def states(engine: ServiceEngine) -> dict[str, msgspec.Struct]:
    """The public state of every row, by the subject of its events."""

    async def rows(mapper: Mapper[Any]) -> list[Any]:
        return [mapper.read(row) for row in await engine.browse(_ALL[mapper])]

    found: dict[str, msgspec.Struct] = {f"tenant/{row.id}": tenant_body(row) for row in await rows(_TENANTS)}
    found |= {f"code/{row.id}": code_body(row) for row in await rows(_CODES)}
    nodes = {row.id: row for row in await rows(_NODES)}
    found |= {f"node/{row.id}": node_body(row) for row in nodes.values()}
    for row in await rows(_GENERATIONS):
        node = nodes.get(row.node)
        body = None if node is None else statement_body(row, node)
        if body is not None:
            found[f"statement/{statement_id(row.node, row.number)}"] = body
    return found


async def check_published(engine: ServiceEngine) -> None:
    """Check that the latest event of each object has the state of its row. Rows that a test has deleted have events."""
    rows = await states(engine)
    events = {row["subject"]: row for row in await engine.browse(_LATEST)}
    assert sorted(set(rows) - set(events)) == []
    for subject, body in rows.items():
        assert msgspec.json.decode(events[subject]["data"], type=type(body)) == body, subject
        assert events[subject]["tenant"] == (body.tenant if hasattr(body, "tenant") else body.id)  # type: ignore[attr-defined]  # a tenant


async def events_of(world: "World", noun: str, object_id: str) -> list[str]:
    """What happened to an object, in order: the past participles."""
    rows = await world.stores.engine.browse(_OF, subject=f"{noun}/{object_id}")
    return [str(row["type"]).split(".")[-2] for row in rows]


async def forget_events(world: "World") -> None:
    """Delete all events, as if the rows were those of a release without events."""
    for statement in _FORGET:
        await world.stores.engine.fetch(statement)
