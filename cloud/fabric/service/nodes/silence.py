"""Use case: a node must be silent before another machine gets its grace lease.

The fingerprint that makes a case eligible is the machine's own report. Whether the node still runs, Fabric sees itself: an
agent that is online asks for its statement in each heartbeat slot, and holds the wake channel open. So the case waits for
a time, which the tenant's policy sets. A contact of the node in this time ends the grace, and a person or a code decides.
After an outage of Fabric the time begins again (`cloud.fabric.service.uptime`).
"""

from dataclasses import dataclass

import msgspec

from cloud.audit import SYSTEM
from cloud.fabric.service.audit_log import AuditLog
from cloud.fabric.service.ports import Now, Transaction
from cloud.fabric.service.uptime import Uptime
from cloud.fabric.store.activations import ActivationStore
from cloud.fabric.store.keys import node_key, recovery_key
from cloud.fabric.store.nodes import NodeStore
from cloud.fabric.store.recovery_cases import RecoveryCaseStore
from cloud.fabric.store.rows import ActivationRow, GenerationRow, NodeRow, RecoveryCaseRow
from protocol.ids import NodeSpiffeId


@dataclass(frozen=True, kw_only=True)
class Silences:
    """Notices contacts of nodes that must be silent, and lets machines go on after the silence."""

    trust_domain: str
    now: Now
    transaction: Transaction
    audit: AuditLog
    activations: ActivationStore
    nodes: NodeStore
    cases: RecoveryCaseStore
    uptime: Uptime

    async def heard(self, node: NodeRow, generation: GenerationRow) -> None:
        """The node has made a contact with its current generation. The case that waits for its silence gets no grace."""
        if node.silent_until is None or generation.number != node.current_generation:
            return
        async with self.transaction(node_key(node.id)):
            fresh, case = await self.nodes.find(node.id), await self.cases.latest(node.id)
            if fresh is None or fresh.silent_until is None or generation.number != fresh.current_generation:
                return
            await self.nodes.update(msgspec.structs.replace(fresh, silent_until=None), "changed", since=fresh)
            if case is None or case.silent_until is None or case.generation or case.state != "eligible":
                return
            now = self.now()
            reason = f"the node was online at {now:%Y-%m-%d %H:%M:%S} UTC, while this machine asked for it"
            await self.cases.update(
                msgspec.structs.replace(case, state="needs_operator", grace=False, silent_until=None, reason=reason)
            )
            await self.audit.write(
                str(NodeSpiffeId(self.trust_domain, node.tenant, node.id)),
                "recovery.node_online",
                case.id,
                node.tenant,
                node=node.id,
                generation=generation.number,
            )

    async def let_on(self, row: ActivationRow) -> None:
        """Let a waiting activation go on if its node has been silent. The machine goes on when it repeats its proof."""
        case = await self.cases.find(row.recovery)
        if case is None or row.state != "pending" or not self._is_over(case):
            return
        async with self.transaction(recovery_key(case.tenant), node_key(case.node)):
            case, fresh = await self.cases.find(row.recovery), await self.activations.find(row.id)
            if case is None or fresh is None or fresh.state != "pending" or case.activation != row.id:
                return
            if self._is_over(case):
                await self.activations.set_decided(msgspec.structs.replace(fresh, state="approved"))
                await self.audit.write(
                    SYSTEM, "recovery.node_silent", case.id, case.tenant, node=case.node, activation=row.id
                )

    def _is_over(self, case: RecoveryCaseRow) -> bool:
        """Whether the case waits for nothing but the end of the silence, and the end has passed."""
        if case.state != "eligible" or case.silent_until is None:
            return False
        return self.now() >= self.uptime.end_of(case.silent_until)
