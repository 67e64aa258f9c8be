"""Ends what was left half done: activations that nobody confirmed, and seats of revoked nodes.

Driven from rows alone, in two steps with Breakwater between them: `begin` refuses the confirm from there on and
closes the generation here, `finish` frees the seat when the issuer has closed it too. A seat is given back only if
no confirmed generation of the node is alive; that of a revoked node waits for its last lease.
"""

from datetime import datetime

import msgspec

from cloud.fabric.service.context import SYSTEM, Core
from cloud.fabric.service.nodes import statement_stream
from cloud.fabric.store.rows import ActivationRow, NodeRow
from protocol.faults import fault_point


async def begin(core: Core, row: ActivationRow) -> bool:
    """Compare-and-set to `lapsing`; False if the activation was confirmed or ended first.

    Unless a confirmed generation is alive, all up to this one are closed. Otherwise that one must live on, and this
    one is closed alone.
    """
    now = core.now()
    with fault_point("fabric.activation.lapse"):
        async with core.stores.transaction():
            if not await core.stores.activations.set_lapsing(row.id):
                return False
            node = await core.stores.nodes.find(row.node)
            generation = await core.stores.nodes.find_generation(row.node, row.generation)
            if node is None or generation is None:
                return False
            if not _has_live_generation(node):
                node = await statement_stream.end_open_generations(core, node, row.generation, now, "superseded")
            elif not statement_stream.is_closed(node, generation):
                node = await statement_stream.write_end(core, node, generation, now, "superseded")
            await core.stores.nodes.update(msgspec.structs.replace(node, wake_cursor=node.wake_cursor + 1))
            await core.audit(
                SYSTEM, "activation.lapsing", node.id, node.tenant, activation=row.id, generation=row.generation
            )
    core.wake.wake(row.node)
    core.kick()
    return True


async def finish(core: Core, row: ActivationRow) -> bool:
    """The end of a lapse, once the issuer has closed the generation. Raises IssuerUnavailable, IssuerRefused."""
    node = await core.stores.nodes.find(row.node)
    if node is None:
        return False
    if node.closed_at_issuer < row.generation:
        await core.issuer.close_generation(row.tenant, row.node, row.generation)
    with fault_point("fabric.activation.lapsed"):
        async with core.stores.transaction():
            node = await core.stores.nodes.find(row.node)
            if node is None or not await core.stores.activations.set_lapsed(row.id):
                return False
            idle = not _has_live_generation(node) and await core.stores.activations.count_live(node.id) == 0
            freed = idle and node.standing != "revoked" and await _free(core, node)
            await core.audit(
                SYSTEM,
                "activation.lapsed",
                node.id,
                node.tenant,
                activation=row.id,
                generation=row.generation,
                seat_freed=freed,
            )
    return True


async def free_seat_of_revoked(core: Core, node: NodeRow, now: datetime) -> bool:
    """Give back the seat of a revoked node whose last lease has terminated."""
    with fault_point("fabric.seat.free"):
        async with core.stores.transaction():
            fresh = await core.stores.nodes.find(node.id)
            if fresh is None or fresh.standing != "revoked" or fresh.closed_up_to != fresh.last_generation:
                return False
            if fresh.lease_until is not None and fresh.lease_until > now:
                return False
            if not await _free(core, fresh):
                return False
            await core.audit(SYSTEM, "seat.freed", fresh.id, fresh.tenant, code=fresh.code)
    return True


def _has_live_generation(node: NodeRow) -> bool:
    """Whether the confirmed generation, if there ever was one, is open."""
    return node.closed_up_to < node.current_generation


async def _free(core: Core, node: NodeRow) -> bool:
    if not await core.stores.nodes.free_seat(node.id):
        return False
    await core.stores.codes.free_seat(node.code)
    return True
