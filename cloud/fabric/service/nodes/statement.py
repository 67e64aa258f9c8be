"""Use case: the node's current statement, and the long poll that says when it changes."""

from datetime import datetime

from cloud.fabric.errors import CertificateRefused, Conflict
from cloud.fabric.service.context import Core, check_nonce_form
from cloud.fabric.service.nodes import statement_stream
from cloud.fabric.service.published_trust import adoption
from cloud.fabric.store.rows import GenerationRow, NodeRow
from cloud.http.guard import ClosedAnswer
from cloud.mtls.peer import NodePeer
from protocol.faults import fault_point
from protocol.ids import NodeId
from protocol.messages.sessions import Ask, Events, StatementAnswer


async def load(core: Core, peer: NodePeer) -> tuple[NodeRow, GenerationRow]:
    node = await core.stores.nodes.find(peer.node)
    generation = await core.stores.nodes.find_generation(peer.node, peer.generation)
    if node is None or generation is None or node.tenant != peer.tenant:
        raise CertificateRefused("this node or generation is not known here")
    return node, generation


async def statement(core: Core, peer: NodePeer, ask: Ask) -> StatementAnswer:
    """The node's current statement; a due lease is signed anew. Raises Invalid, GenerationClosed, Conflict."""
    check_nonce_form(ask.nonce)
    node, generation = await load(core, peer)
    now = core.now()
    if statement_stream.is_closed(node, generation):
        raise statement_stream.closed(core, generation, ask.nonce, now)
    if generation.state == "offered":
        raise Conflict("this generation is not confirmed yet")
    adoption.note(core, generation, ask.trust_version)
    generation = await refreshed(core, node, generation, ask.presented, now)
    return statement_stream.answer(core, generation, ask.nonce, now)


async def refreshed(core: Core, node: NodeRow, generation: GenerationRow, token: str, now: datetime) -> GenerationRow:
    """The confirmed generation with a statement that is not due; no write if the stored one will do."""
    presented = statement_stream.presented_seq(core, token, node, generation)
    if not statement_stream.needs_signing(generation, presented, node.seq, now, core.belief.order):
        return generation
    with fault_point("fabric.statement.refresh"):
        async with core.stores.transaction():
            fresh = await core.stores.nodes.find(node.id)
            current = await core.stores.nodes.find_generation(node.id, generation.number)
            if fresh is None or current is None or statement_stream.is_closed(fresh, current):
                return current or generation
            if not statement_stream.needs_signing(current, presented, fresh.seq, now, core.belief.order):
                return current
            fresh, current = await statement_stream.write_current(core, fresh, current, now, presented)
            await core.stores.nodes.update(fresh)
    return current


async def events(core: Core, peer: NodePeer, known: int, seconds: float) -> Events:
    """The node's cursor: at once when it differs from `known`, else after a change or the time."""
    _, generation = await load(core, peer)
    if generation.state == "offered":
        raise Conflict("this generation is not confirmed yet")

    async def cursor() -> int:
        return await core.stores.nodes.cursor(peer.node) or 0

    return Events(await core.wake.wait(NodeId(peer.node), known, seconds, cursor))


async def closed_answer(core: Core, peer: NodePeer) -> ClosedAnswer:
    """For the guard: the revocation of a closed generation. No freshness: it is final, and nobody gave a nonce."""
    generation = await core.stores.nodes.find_generation(peer.node, peer.generation)
    return ClosedAnswer(statement=generation.statement if generation is not None else "")
