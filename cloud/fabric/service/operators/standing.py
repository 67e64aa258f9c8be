"""Operators change a node's standing: durable here first, then driven to Breakwater until it is done there."""

import msgspec

from cloud.fabric import schemas
from cloud.fabric.errors import NotFound
from cloud.fabric.licensing.standing import Change, after, closes
from cloud.fabric.service import views
from cloud.fabric.service.context import Core, check_text, operator_actor
from cloud.fabric.service.nodes import statement_stream
from cloud.fabric.store.rows import NodeRow
from cloud.http.guard import Operator
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.signed.statements import RevocationReason


async def change(core: Core, operator: Operator, node_id: NodeId, what: Change, reason: str) -> schemas.Node:
    """Suspend, resume, revoke or release; a repeat changes nothing. Raises NotFound, Conflict, Invalid."""
    check_text("reason", reason)
    node = await _find(core, node_id)
    if _is_done(node, what):
        return views.node(node)
    with fault_point("fabric.standing.commit"):
        async with core.stores.transaction():
            node = await _find(core, node_id)
            if _is_done(node, what):
                return views.node(node)
            node = await _changed(core, node, what, reason)
            await core.audit(
                operator_actor(operator),
                f"node.{what}",
                node.id,
                node.tenant,
                reason=reason,
                generation=node.current_generation,
                seq=node.seq,
            )
    core.wake.wake(node.id)
    core.kick()
    return views.node(node)


async def _find(core: Core, node_id: NodeId) -> NodeRow:
    node = await core.stores.nodes.find(node_id)
    if node is None:
        raise NotFound("no such node")
    return node


def _is_done(node: NodeRow, what: Change) -> bool:
    """Whether it is a repeat. A revoked node may have a readmission on its way, which another revoke ends."""
    if after(node.standing, what) != node.standing:
        return False
    return not (closes(what) and node.closed_up_to < node.last_generation)


async def _changed(core: Core, node: NodeRow, what: Change, reason: str) -> NodeRow:
    now = core.now()
    node = msgspec.structs.replace(
        node,
        standing=after(node.standing, what),
        standing_reason="" if what == "resume" else reason,
        standing_at=now,
        wake_cursor=node.wake_cursor + 1,
    )
    if what in ("revoke", "release"):
        why: RevocationReason = "released" if what == "release" else "revoked"
        node = await statement_stream.end_open_generations(core, node, node.last_generation, now, why)
        if what == "release" and await core.stores.nodes.free_seat(node.id):
            await core.stores.codes.free_seat(node.code)
            node = msgspec.structs.replace(node, seat_held=False)
    else:
        for generation in await core.stores.nodes.open_generations(node.id, node.last_generation):
            if generation.state == "confirmed":
                node, _ = await statement_stream.write_current(core, node, generation, now)
    await core.stores.nodes.update(node)
    return node
