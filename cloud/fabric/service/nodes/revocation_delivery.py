"""Use case: record that a closed generation asked and received its revocation.

A superseded generation that still asks is a sign of a clone: its key is in the node's chip, or in a copy of the chip,
and the node's machine uses a later generation. A machine whose disk was restored from a backup asks in the same way.
"""

from dataclasses import dataclass
from datetime import datetime

from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.rows import GenerationRow, NodeRow
from protocol.ids import NodeSpiffeId


def is_superseded(node: NodeRow, generation: GenerationRow) -> bool:
    """Whether the generation was in force until the confirm of a later one. A lapsed activation never was in force."""
    return generation.confirmed_at is not None and generation.number < node.current_generation


@dataclass(frozen=True, kw_only=True)
class RevocationDelivery:
    """Writes the first delivery of a revocation, and the last time at which a superseded generation asked."""

    trust_domain: str
    audit: AuditLog
    nodes: NodeStore

    async def write(self, node: NodeRow, generation: GenerationRow, at: datetime) -> None:
        """Store that the closed generation asked at `at`. The audit gets one entry a kind and generation.

        Call it inside a transaction. `node` is the row as it was when the generation asked.
        """
        superseded = is_superseded(node, generation)
        if superseded:
            await self.nodes.set_superseded_asked(node.id, generation.number, at)
        if not await self.nodes.set_revocation_delivered(node.id, generation.number, at):
            return
        actor = str(NodeSpiffeId(self.trust_domain, node.tenant, node.id))
        await self.audit.write(
            actor, "revocation.delivered", node.id, node.tenant, generation=generation.number, seq=generation.seq
        )
        if superseded:
            await self.audit.write(
                actor,
                "node.superseded_asked",
                node.id,
                node.tenant,
                generation=generation.number,
                current_generation=node.current_generation,
            )
