"""Confirm and refresh: what a node gets over its session (sections 5 and 6 of the design).

Confirming is one transaction: activation, generation, standing and statement of the new one, revocations of all
before it. A refresh usually writes nothing; the stored statement is the answer and the freshness is made anew.
"""

from datetime import datetime

import msgspec

from cloud.fabric.errors import Conflict
from cloud.fabric.licensing.standing import after_confirm
from cloud.fabric.service.context import Core, check_nonce_form
from cloud.fabric.service.nodes import statement_stream
from cloud.fabric.service.nodes.statement import load, statement
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow
from cloud.mtls.peer import NodePeer
from protocol.faults import fault_point
from protocol.messages.sessions import Ask, StatementAnswer


async def confirm(core: Core, peer: NodePeer, ask: Ask) -> StatementAnswer:
    """Make the caller's generation the node's; idempotent. Raises Invalid, GenerationClosed, Conflict."""
    check_nonce_form(ask.nonce)
    _, generation = await load(core, peer)
    if generation.state == "offered":
        generation = await _commit(core, peer, ask)
    if generation.state == "offered":
        raise Conflict("the activation of this generation has ended")
    return await statement(core, peer, ask)


async def _commit(core: Core, peer: NodePeer, ask: Ask) -> GenerationRow:
    with fault_point("fabric.confirm.commit"):
        async with core.stores.transaction():
            node, generation = await load(core, peer)
            now = core.now()
            if statement_stream.is_closed(node, generation) or generation.state == "confirmed":
                return generation
            activation = await core.stores.activations.find_by_generation(node.id, generation.number)
            code = None if activation is None else await core.stores.codes.find(activation.code)
            if activation is None or code is None or not await core.stores.activations.set_confirmed(activation.id):
                raise Conflict("the activation of this generation has ended or lapses")
            presented = statement_stream.presented_seq(core, ask.presented, node, generation)
            node = await statement_stream.end_open_generations(core, node, generation.number - 1, now, "superseded")
            node = _taken_over(node, activation, code, generation.number, now)
            generation = msgspec.structs.replace(generation, state="confirmed", confirmed_at=now)
            node, generation = await statement_stream.write_current(core, node, generation, now, presented)
            await core.stores.nodes.update(node)
            await core.audit(
                str(peer.spiffe),
                "activation.confirmed",
                node.id,
                node.tenant,
                activation=activation.id,
                code=code.id,
                generation=generation.number,
                standing=node.standing,
                seq=node.seq,
            )
    core.wake.wake(node.id)
    core.kick()
    return generation


def _taken_over(node: NodeRow, activation: ActivationRow, code: CodeRow, number: int, now: datetime) -> NodeRow:
    """The node as the activation's code wants it, in the standing that the node brings."""
    standing = after_confirm(node.standing)
    changed = standing != node.standing
    return msgspec.structs.replace(
        node,
        standing=standing,
        standing_reason="" if changed else node.standing_reason,
        standing_at=now if changed else node.standing_at,
        current_generation=number,
        tier=activation.tier,
        profile=code.profile,
        entitlements=code.entitlements,
        lease=code.lease,
        wake_cursor=node.wake_cursor + 1,
        confirmed_at=now,
    )
