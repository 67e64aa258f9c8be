"""Confirm and refresh: what a node gets over its session (sections 5 and 6 of the design).

Confirming is one transaction: activation, generation, standing and statement of the new one, revocations of all
before it. A refresh usually writes nothing; the stored statement is the answer and the freshness is made anew.
"""

from datetime import datetime

import msgspec

from cloud.fabric import store
from cloud.fabric.errors import CertificateRefused, Conflict
from cloud.fabric.service import adoption, stream
from cloud.fabric.service.core import Core, check_nonce_form
from cloud.fabric.standing import after_confirm
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow
from cloud.guard import ClosedAnswer
from cloud.peer import NodePeer
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.sessions import Ask, Events, StatementAnswer


async def _load(peer: NodePeer) -> tuple[NodeRow, GenerationRow]:
    node = await store.nodes.find(peer.node)
    generation = await store.nodes.find_generation(peer.node, peer.generation)
    if node is None or generation is None or node.tenant != peer.tenant:
        raise CertificateRefused("this node or generation is not known here")
    return node, generation


async def confirm(core: Core, peer: NodePeer, ask: Ask) -> StatementAnswer:
    """Make the caller's generation the node's; idempotent. Raises Invalid, GenerationClosed, Conflict."""
    check_nonce_form(ask.nonce)
    _, generation = await _load(peer)
    if generation.state == "offered":
        generation = await _commit(core, peer, ask)
    if generation.state == "offered":
        raise Conflict("the activation of this generation has ended")
    return await statement(core, peer, ask)


async def _commit(core: Core, peer: NodePeer, ask: Ask) -> GenerationRow:
    with fault_point("fabric.confirm.commit"):
        async with store.transaction():
            node, generation = await _load(peer)
            now = core.now()
            if stream.is_closed(node, generation) or generation.state == "confirmed":
                return generation
            activation = await store.activations.find_by_generation(node.id, generation.number)
            code = None if activation is None else await store.codes.find(activation.code)
            if activation is None or code is None or not await store.activations.set_confirmed(activation.id):
                raise Conflict("the activation of this generation has ended or lapses")
            presented = stream.presented_seq(core, ask.presented, node, generation)
            node = await stream.end_open_generations(core, node, generation.number - 1, now, "superseded")
            node = _taken_over(node, activation, code, generation.number, now)
            generation = msgspec.structs.replace(generation, state="confirmed", confirmed_at=now)
            node, generation = await stream.write_current(core, node, generation, now, presented)
            await store.nodes.update(node)
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


async def statement(core: Core, peer: NodePeer, ask: Ask) -> StatementAnswer:
    """The node's current statement; a due lease is signed anew. Raises Invalid, GenerationClosed, Conflict."""
    check_nonce_form(ask.nonce)
    node, generation = await _load(peer)
    now = core.now()
    if stream.is_closed(node, generation):
        raise stream.closed(core, generation, ask.nonce, now)
    if generation.state == "offered":
        raise Conflict("this generation is not confirmed yet")
    adoption.note(core, generation, ask.trust_version)
    generation = await refreshed(core, node, generation, ask.presented, now)
    return stream.answer(core, generation, ask.nonce, now)


async def refreshed(core: Core, node: NodeRow, generation: GenerationRow, token: str, now: datetime) -> GenerationRow:
    """The confirmed generation with a statement that is not due; no write if the stored one will do."""
    presented = stream.presented_seq(core, token, node, generation)
    if not stream.needs_signing(generation, presented, node.seq, now, core.belief.order):
        return generation
    with fault_point("fabric.statement.refresh"):
        async with store.transaction():
            fresh = await store.nodes.find(node.id)
            current = await store.nodes.find_generation(node.id, generation.number)
            if fresh is None or current is None or stream.is_closed(fresh, current):
                return current or generation
            if not stream.needs_signing(current, presented, fresh.seq, now, core.belief.order):
                return current
            fresh, current = await stream.write_current(core, fresh, current, now, presented)
            await store.nodes.update(fresh)
    return current


async def events(core: Core, peer: NodePeer, known: int, seconds: float) -> Events:
    """The node's cursor: at once when it differs from `known`, else after a change or the time."""
    _, generation = await _load(peer)
    if generation.state == "offered":
        raise Conflict("this generation is not confirmed yet")

    async def cursor() -> int:
        return await store.nodes.cursor(peer.node) or 0

    return Events(await core.wake.wait(NodeId(peer.node), known, seconds, cursor))


async def closed_answer(core: Core, peer: NodePeer) -> ClosedAnswer:
    """For the guard: the revocation of a closed generation. No freshness: it is final, and nobody gave a nonce."""
    generation = await store.nodes.find_generation(peer.node, peer.generation)
    return ClosedAnswer(statement=generation.statement if generation is not None else "")
