"""Use case: operators list the nodes that get no new lease after a restore or a rebuild, and accept them."""

from dataclasses import dataclass
from typing import get_args

import msgspec

from cloud.fabric import schemas
from cloud.fabric.bodies.restored import AcceptNode, Hold, Waiting
from cloud.fabric.errors import Conflict, Invalid, NotFound
from cloud.fabric.service import views
from cloud.fabric.service.acting import Acting
from cloud.fabric.service.audit_log import AuditLog, operator_actor
from cloud.fabric.service.input_checks import check_text
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.operators.filters import ListFilters
from cloud.fabric.service.ports import Now
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import NodeRow
from cloud.fabric.wake import WakeRoom
from cloud.http.guard import Operator
from protocol.ids import NodeId

HOLDS: dict[str, Hold] = {"conflicting": "conflicting", "unconfirmed": "unconfirmed"}


@dataclass(frozen=True, kw_only=True)
class Holds:
    """Lists and accepts nodes that get no new lease. `epoch` is the installation's epoch."""

    epoch: int
    now: Now
    acting: Acting
    audit: AuditLog
    nodes: NodeStore
    filters: ListFilters
    statement_stream: StatementStream
    wake_room: WakeRoom

    async def page(self, state: str, tenant: str, cursor: str, limit: int) -> schemas.Page[schemas.Node]:
        """A page of the nodes in a state, the oldest first. Raises Invalid, NotFound."""
        await self.filters.check(tenant=tenant)
        after, count = views.read_cursor(cursor), views.read_limit(limit) + 1
        if state == "unpresented":
            rows = await self.nodes.unpresented(self.epoch, tenant, after, count)
        elif state in HOLDS:
            rows = await self.nodes.held(HOLDS[state], tenant, after, count)
        else:
            raise Invalid(f"state: must be one of {', '.join(get_args(Waiting))}")
        return views.page([views.node(row) for row in rows], [row.id for row in rows], limit)

    async def accept(self, operator: Operator, node_id: NodeId, body: AcceptNode) -> schemas.Node:
        """Give the node leases as usual, the next one at once. A repeat changes nothing.

        A conflicting node has shown a lease that is later than the suspension in the restored database, so such a
        suspension ends. Raises NotFound, Invalid, Conflict.
        """
        check_text("reason", body.reason)
        async with self.acting.transaction(operator, node_key(node_id)):
            node = await self.nodes.find(node_id)
            if node is None:
                raise NotFound("no such node")
            state = self._state(node)
            if not state:
                return views.node(node)
            if state != body.state:
                raise Conflict(f"the node is {state}, not {body.state}")
            node = await self._accepted(node)
            await self.audit.write(
                operator_actor(operator),
                "node.accepted",
                node.id,
                node.tenant,
                state=state,
                reason=body.reason,
                standing=node.standing,
                seq=node.seq,
            )
        self.wake_room.wake(node_id)
        return views.node(node)

    def _state(self, node: NodeRow) -> str:
        """The state of the node; empty if it gets leases as usual."""
        return node.hold or ("unpresented" if node.presented_epoch < self.epoch else "")

    async def _accepted(self, node: NodeRow) -> NodeRow:
        now = self.now()
        if node.hold == "conflicting" and node.standing == "suspended":
            node = msgspec.structs.replace(node, standing="active", standing_reason="", standing_at=now)
        node = msgspec.structs.replace(node, hold="", hold_at=None, presented_epoch=self.epoch)
        for generation in await self.nodes.open_generations(node.id, node.last_generation):
            if generation.state == "confirmed" and not is_closed(node, generation):
                node, _ = await self.statement_stream.write_current(node, generation, now)
        await self.nodes.update(node, "accepted", wakes=True)
        return node
