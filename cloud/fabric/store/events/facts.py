"""Store: adds the event of each change of a tenant, node, code or statement, in the transaction of the change.

Rules: Only stores call it, in the method that writes the row, so no use case can forget an event. The method first writes
the row and so locks it, then adds the event with the row as it is now. So the events of an object have the order of its
changes. A column that no body has changes without an event.
"""

from typing import Protocol

import msgspec

from cloud.contracts.fabric_events import CodePast, NodePast, StatementPast, TenantPast
from cloud.fabric.store.events.bodies import code_body, node_body, statement_body, tenant_body
from cloud.fabric.store.rows import CodeRow, GenerationRow, NodeRow, TenantRow
from cloud.storage import TransactionMisuse
from protocol.ids import NodeId


class Adds(Protocol):
    """Port: adds an event to the outbox, in the caller's transaction."""

    async def add(self, noun: str, object_id: str, past: str, body: msgspec.Struct, *, tenant: str) -> None:
        """Add the event "`noun` was `past`". `body` is the public state of the object after the change."""


class NoOutbox:
    """The outbox of stores that write no tenant, node, code or statement: those of commands on the host."""

    async def add(self, noun: str, object_id: str, past: str, body: msgspec.Struct, *, tenant: str) -> None:
        """Raises TransactionMisuse."""
        raise TransactionMisuse(f"these stores have no outbox, so they cannot change {noun} {object_id}")


class Facts:
    """Adds Fabric's events to an outbox."""

    def __init__(self, outbox: Adds) -> None:
        self._outbox = outbox

    async def tenant(self, row: TenantRow, past: TenantPast) -> None:
        """A tenant has changed."""
        await self._outbox.add("tenant", row.id, past, tenant_body(row), tenant=row.id)

    async def node(self, row: NodeRow, past: NodePast) -> None:
        """A node has changed."""
        await self._outbox.add("node", row.id, past, node_body(row), tenant=row.tenant)

    async def code(self, row: CodeRow, past: CodePast) -> None:
        """An activation code has changed."""
        await self._outbox.add("code", row.id, past, code_body(row), tenant=row.tenant)

    async def statement(self, row: GenerationRow, node: NodeRow, past: StatementPast) -> None:
        """A generation of `node` has another statement. Nothing is added before the first one."""
        body = statement_body(row, node)
        if body is not None:
            await self._outbox.add("statement", statement_id(row.node, row.number), past, body, tenant=node.tenant)


def statement_id(node: NodeId, number: int) -> str:
    """The id of a generation's statement in events. A subject of NATS has no dots in its parts."""
    return f"{node}-{number}"
