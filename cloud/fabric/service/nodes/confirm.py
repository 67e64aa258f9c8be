"""Use case: a node confirms its activation over its first session.

One transaction changes the state of activation and generation, sets the standing of the node, signs the first
statement of the generation, and signs a revocation for each earlier open generation.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.errors import Conflict
from cloud.fabric.licensing.standing import after_confirm
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.input_checks import check_nonce_form
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement import Statements
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import ActivationRow, CodeRow, GenerationRow, NodeRow
from cloud.fabric.wake import WakeRoom
from cloud.mtls.peer import NodePeer
from protocol.faults import fault_point
from protocol.messages.sessions import Ask, StatementAnswer


@dataclass(frozen=True, kw_only=True)
class Confirmations:
    """Makes the generation of an activation the node's current one."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    codes: CodeStore
    nodes: NodeStore
    statements: Statements
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground

    async def confirm(self, peer: NodePeer, ask: Ask) -> StatementAnswer:
        """Make the caller's generation the current one, and return its statement. Idempotent.

        Raises Invalid, NodeUnknown, GenerationClosed, Conflict.
        """
        check_nonce_form(ask.nonce)
        _, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
        if generation.state == "offered":
            generation = await self._commit(peer, ask)
        if generation.state == "offered":
            raise Conflict("the activation of this generation has ended")
        return await self.statements.statement(peer, ask)

    async def _commit(self, peer: NodePeer, ask: Ask) -> GenerationRow:
        with fault_point("fabric.confirm.commit"):
            async with self.transaction():
                node, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
                now = self.now()
                if is_closed(node, generation) or generation.state == "confirmed":
                    return generation
                activation = await self.activations.find_by_generation(node.id, generation.number)
                code = None if activation is None else await self.codes.find(activation.code)
                if activation is None or code is None or not await self.activations.set_confirmed(activation.id):
                    raise Conflict("the activation of this generation has ended, or was not confirmed in time")
                presented = self.statement_stream.presented_seq(ask.presented, node, generation)
                node = await self.statement_stream.end_open_generations(node, generation.number - 1, now, "superseded")
                node = _taken_over(node, activation, code, generation.number, now)
                generation = msgspec.structs.replace(generation, state="confirmed", confirmed_at=now)
                node, generation = await self.statement_stream.write_current(node, generation, now, presented)
                await self.nodes.update(node)
                await self.audit.write(
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
        self.wake_room.wake(node.id)
        self.wake_background()
        return generation


def _taken_over(node: NodeRow, activation: ActivationRow, code: CodeRow, number: int, now: datetime) -> NodeRow:
    """The node after the confirm: tier from the activation, licence from its code. A suspended node stays suspended."""
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
