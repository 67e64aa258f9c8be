"""Use case: a node hands its seat back over its session, as `cascade node release` does for an operator.

The release closes every generation of the node, with a signed revocation of the reason `released`, and frees the seat.
A suspended node keeps its standing, so an activation that follows is suspended too: a release never ends a suspension.

Some callers may not decide about the node, and an operator releases it instead: one of several suspected holders of its
key, a machine on a grace lease whose recovery is not approved, and a generation that is not confirmed.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec

from cloud.fabric.errors import Conflict, SessionOutdated
from cloud.fabric.licensing.standing import after
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.input_checks import check_nonce_form
from cloud.fabric.service.nodes.known import load
from cloud.fabric.service.nodes.statement_stream import StatementStream, is_closed
from cloud.fabric.service.ports import Now, Transaction, WakeBackground
from cloud.fabric.store.codes import CodeStore
from cloud.fabric.store.keys import node_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from cloud.fabric.wake import WakeRoom
from cloud.mtls.peer import NodePeer
from protocol.faults import fault_point
from protocol.limits import CLOCK_SKEW
from protocol.messages.sessions import Ask, StatementAnswer

REASON = "handed back by the machine"
"""The reason of the standing and of the audit entry."""


async def hand_back(stream: StatementStream, codes: CodeStore, node: NodeRow, now: datetime) -> NodeRow:
    """Close every generation with the reason `released`, and free the seat. Returns the changed row, not stored yet.

    Call it inside a transaction in which `node` was read.
    """
    node = await stream.end_open_generations(node, node.last_generation, now, "released")
    if node.seat_held:
        await codes.free_seat(node.code)
        node = msgspec.structs.replace(node, seat_held=False)
    return node


@dataclass(frozen=True, kw_only=True)
class Releases:
    """Releases nodes at their own request."""

    now: Now
    transaction: Transaction
    audit: AuditLog
    codes: CodeStore
    nodes: NodeStore
    statement_stream: StatementStream
    wake_room: WakeRoom
    wake_background: WakeBackground

    async def release(self, peer: NodePeer, ask: Ask) -> StatementAnswer:
        """Release the caller's node, and return the revocation of its generation.

        A repeat gets the same revocation: in the answer, or in the refusal of a closed generation. Raises Invalid,
        NodeUnknown, GenerationClosed, Conflict, SessionOutdated.
        """
        check_nonce_form(ask.nonce)
        with fault_point("fabric.release.commit"):
            async with self.transaction(node_key(peer.node)):
                node, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
                now = self.now()
                if is_closed(node, generation):
                    raise self.statement_stream.closed(generation, ask.nonce, now)
                _check_entitled(peer, node, generation)
                if node.standing != "suspended":
                    node = msgspec.structs.replace(
                        node, standing=after(node.standing, "release"), standing_reason=REASON, standing_at=now
                    )
                node = await hand_back(self.statement_stream, self.codes, node, now)
                await self.nodes.update(node, "released", wakes=True)
                await self.audit.write(
                    str(peer.spiffe),
                    "node.release",
                    node.id,
                    node.tenant,
                    reason=REASON,
                    generation=generation.number,
                    seq=node.seq,
                )
        self.wake_room.wake(node.id)
        self.wake_background()
        _, generation = await load(self.nodes, peer.tenant, peer.node, peer.generation)
        return self.statement_stream.answer(generation, ask.nonce, now)


def _check_entitled(peer: NodePeer, node: NodeRow, generation: GenerationRow) -> None:
    """Check that this machine may decide about the node. Raises Conflict, SessionOutdated."""
    if generation.state != "confirmed":
        raise Conflict("this generation is not confirmed yet")
    if node.clone_cause:
        raise Conflict("a clone of this node is suspected, so an operator decides about it")
    if generation.grace_until is not None:
        raise Conflict("the recovery of this machine is not approved yet, so an operator decides about the node")
    if generation.sessions_from is not None and peer.not_before + CLOCK_SKEW < generation.sessions_from:
        raise SessionOutdated("this session was opened before a clone of the node was suspected, or settled")
